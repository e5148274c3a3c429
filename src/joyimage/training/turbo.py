"""The loss of a turbo adapter: one step of the student covers several guided steps of its teacher.

The teacher is the model without the adapter, with guidance. From a noise level to the next one of the student's few,
it takes several steps; the student, without guidance, learns the one velocity that leads to the same place. The target
is a function of where both start, not one of many images that the noise could become, so it is not blurred.

Source: progressive distillation, arXiv 2202.00512, with guidance, arXiv 2210.03142, in one stage and for velocities.

Dimension key: B batch, C channels, H and W latent rows and columns.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from joyimage.model.adapters.recipe import SamplingRecipe
from joyimage.pipeline.guidance import combine
from joyimage.training.adapter_loss import Batch, predict_velocity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from joyimage.training.config import TrainingConfig
    from joyimage.training.features import FeatureCache, Features


class Distillation:
    """Pairs of a student's step and its teacher's steps.

    Args:
        transformer: The transformer with the student's adapter, which is the only one; without it, it is the teacher.
        recipe: How the student will be sampled.
        teacher_steps: Steps of the teacher over all noise levels, a multiple of the student's.
        teacher_guidance: The teacher's guidance scale; 1 is without guidance.
        own_share: Share of the batches in which the student goes through all of its steps from pure noise; in the
            others it learns one step, which starts between pure noise and the images of the training pairs.
        precision: bfloat16 computes under autocast, float32 as it is.
    """

    def __init__(
        self,
        transformer: Any,
        recipe: SamplingRecipe,
        *,
        teacher_steps: int,
        teacher_guidance: float,
        own_share: float,
        precision: torch.dtype,
    ) -> None:
        self._transformer = transformer
        self._guidance = teacher_guidance
        self._own_share = own_share
        self._precision = precision
        self._levels = noise_levels(teacher_steps, recipe.shift)
        stride = teacher_steps // recipe.num_inference_steps
        # The teacher's noise levels that each of the student's steps lies between, as their numbers.
        self._spans = [(first, first + stride) for first in range(0, teacher_steps, stride)]
        squares = [(self._levels[first] - self._levels[last]) ** 2 for first, last in self._spans]
        # An error of a velocity moves the latents by the step's length, so that is what its square is weighted with.
        self._weights = [square * len(squares) / sum(squares) for square in squares]

    @classmethod
    def of(cls, config: TrainingConfig, pipe: Any, precision: torch.dtype) -> Distillation:
        """Return the distillation that a config asks for; what it leaves open is the checkpoint's own."""
        turbo = config.turbo
        assert turbo is not None
        scale = turbo.teacher_guidance
        return cls(
            pipe.transformer,
            recipe_for(config, pipe),
            teacher_steps=turbo.teacher_steps,
            teacher_guidance=pipe.config["default_guidance_scale"] if scale is None else scale,
            own_share=turbo.own_share,
            precision=precision,
        )

    @property
    def num_steps(self) -> int:
        """Steps of the student."""
        return len(self._spans)

    def draw_step(self, generator: torch.Generator) -> int | None:
        """Draw which of its steps the student learns; None where it learns all of them, each where its own steps led.

        Args:
            generator: Source of the draws; processes that share a batch's forwards have to draw alike.
        """
        step = int(torch.randint(self.num_steps, (), generator=generator))
        return None if float(torch.rand((), generator=generator)) < self._own_share else step

    def losses(
        self, features: Sequence[Features], noise: Tensor, step: int | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the parts of a batch's loss, whose sum it is, each with its value without gradient.

        Call `backward` on each part before the next one: their graphs are then never in memory together.

        Args:
            features: Features of each pair.
            noise: `[B, C, 1, H, W]`, fp32, on the training device.
            step: Number of the student's step, from 0, which starts between pure noise and the pairs' images; None
                goes through all of its steps from pure noise.
        """
        cond = Batch.collate(features, [False] * len(features), noise.device)
        uncond = Batch.collate(features, [True] * len(features), noise.device)
        if step is not None:
            start = torch.lerp(cond.target, noise, self._levels[self._spans[step][0]])
            yield self._compare(start, cond, uncond, step)[:2]
            return
        latents = noise
        for number in range(self.num_steps):
            loss, value, latents = self._compare(latents, cond, uncond, number)
            yield loss / self.num_steps, value / self.num_steps

    def _compare(
        self, start: Tensor, cond: Batch, uncond: Batch, number: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of one of the student's steps, its value, and the latents that the step leads to."""
        first, last = self._spans[number]
        length = self._levels[first] - self._levels[last]
        end = self._teach(start, cond, uncond, range(first, last))
        velocity = self._velocity(start, cond, first)
        # A velocity is a change per noise level.
        expected = (start - end) / length
        loss = self._weights[number] * (velocity - expected).square().mean()
        return loss, loss.detach(), start - length * velocity.detach()

    def _teach(self, latents: Tensor, cond: Batch, uncond: Batch, numbers: range) -> Tensor:
        """Return the latents after some steps of the teacher, without gradient."""
        with torch.no_grad(), _without_adapter(self._transformer):
            for number in numbers:
                velocity = self._velocity(latents, cond, number)
                if self._guidance > 1:
                    other = self._velocity(latents, uncond, number)
                    velocity = combine(velocity[:, None], other[:, None], self._guidance)[:, 0]
                latents = latents - (self._levels[number] - self._levels[number + 1]) * velocity
        return latents

    def _velocity(self, latents: Tensor, batch: Batch, number: int) -> Tensor:
        """Return the velocity at one of the teacher's noise levels, in fp32."""
        sigma = torch.full((len(latents),), self._levels[number], device=latents.device)
        return predict_velocity(self._transformer, batch, latents, sigma, self._precision).float()


def recipe_for(config: TrainingConfig, pipe: Any) -> SamplingRecipe:
    """Return how the adapter of a config will be sampled; what it leaves open is the checkpoint's own.

    Args:
        config: The run, with its section `turbo`.
        pipe: The pipeline.
    """
    turbo = config.turbo
    assert turbo is not None
    shift = float(pipe.scheduler.config.shift) if turbo.shift is None else turbo.shift
    return SamplingRecipe(num_inference_steps=turbo.num_inference_steps, guidance_scale=1.0, shift=shift)


def noise_levels(num_steps: int, shift: float) -> list[float]:
    """Return the noise levels of the schedule "jd", from 1 to 0; a multiple of the steps has all of them, too.

    Args:
        num_steps: Number of steps, one less than levels.
        shift: Shift of the levels.
    """
    levels = [1 - number / num_steps for number in range(num_steps + 1)]
    return [shift * level / (1 + (shift - 1) * level) for level in levels]


def measure_distillation(
    distillation: Distillation, cache: FeatureCache, keys: Sequence[str], noise: Sequence[Tensor]
) -> dict[str, float]:
    """Return the mean loss of held-out pairs in each of the student's steps, which start where its own ones led.

    Args:
        distillation: Student and teacher.
        cache: Has the pairs' features.
        keys: Hashes of the pairs.
        noise: Noise of each pair, `[C, 1, H, W]`, the same at every validation.
    """
    sums: dict[str, float] = {}
    with torch.no_grad():
        for key, drawn in zip(keys, noise, strict=True):
            features = [cache.read(key)]
            for number, (_, loss) in enumerate(distillation.losses(features, drawn[None], None), 1):
                sums[f"loss@step{number}"] = sums.get(f"loss@step{number}", 0.0) + float(loss)
    return {name: value / len(keys) for name, value in sums.items()}


@contextmanager
def _without_adapter(transformer: Any) -> Iterator[None]:
    """Switch the adapter off inside the `with`: what remains is the teacher."""
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()
