"""The loop: predict, guide, step.

Dimension key: B outputs, C latent channels, H, W latent rows and columns, L text tokens, D text width.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from joyimage.acceleration.forward_cache import ForwardCache
from joyimage.acceleration.settings import caches_forwards, runs_in_inference
from joyimage.acceleration.streaming import run_together
from joyimage.acceleration.weight_layouts import weight_layouts
from joyimage.compat.diffusers import follow_decision, reset_step_caches, share_decision
from joyimage.pipeline.conditioning import TextStates
from joyimage.pipeline.guidance import Guidance, can_batch_branches, pad_texts
from joyimage.pipeline.latents import select_outputs, split_outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from joyimage.pipeline.base import JoyImagePipeline
    from joyimage.pipeline.callbacks import StepCallback
    from joyimage.pipeline.conditioning import Conditioning
    from joyimage.pipeline.latents import References
    from joyimage.pipeline.schedule import Scheduler


def denoise(
    pipe: JoyImagePipeline,
    latents: Tensor,
    references: list[References],
    conditioning: Conditioning,
    callback: StepCallback,
) -> Tensor:
    """Turn noise into the target, in the steps that the scheduler is set to.

    Args:
        pipe: Holds transformer, scheduler, progress bar, guidance scale and the interrupt flag; callbacks may
            change the latter two.
        latents: Noise, `[B, 1, C, 1, H, W]`.
        references: From `group_references`.
        conditioning: States of the prompts; without the unconditional branch there is no guidance.
        callback: Runs after each step.

    Returns:
        The target's latents, `[B, 1, C, 1, H, W]`.
    """
    scheduler, transformer = cast("Scheduler", pipe.scheduler), pipe.transformer
    timesteps = scheduler.timesteps
    scheduler.set_begin_index(0)  # so that it need not search its list, which waits for the device
    dtype = transformer.dtype  # found by a walk over all modules, so once
    conditioning = conditioning.to(dtype)  # the parts may have different precisions
    latents, references = _share_draws(pipe, latents, [group.to(dtype) for group in references])
    predictor, batched = _prepare(pipe, latents, references, conditioning)
    guidance = Guidance(pipe.preset)
    with (
        weight_layouts(transformer) as layouts,
        cast("Any", pipe).progress_bar(total=len(timesteps)) as progress_bar,
    ):
        for step, timestep in enumerate(timesteps):
            pipe.current_timestep = timestep
            predictor.cache.begin(step)

            targets = predictor.split(latents[:, 0].to(dtype))
            predictor.follow_decisions(targets)
            guided = guidance.begin(predictor.sigmas[step], is_on=pipe.do_classifier_free_guidance)
            forwards = _plan_forwards(conditioning, guided=guided, batched=batched)
            calls = [partial(predictor.predict, targets, branches) for branches in forwards]
            velocities = [
                velocity.to(latents.dtype)
                for found in _run(pipe, calls, like=latents.to(dtype))
                for velocity in found
            ]
            velocity = guidance.combine(velocities, pipe.guidance_scale)

            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]

            latents, conditioning = callback.run(pipe, step, timestep, latents, conditioning)
            if callback.function is not None:
                layouts.check()  # it may have changed weights
            if pipe.processes is not None:
                latents = pipe.processes.share(latents)
                pipe.follow(pipe.processes, like=latents)
            if pipe.halving is not None:
                estimate = latents - predictor.sigmas[step + 1] * velocity
                rows = pipe.halving.choose_rows(pipe, step, len(timesteps), estimate)
                if rows is not None:
                    latents, conditioning = latents[rows], conditioning.select(rows)
                    references = select_outputs(references, rows)
                    guidance.select(rows)
                    reset_step_caches(transformer)  # they hold all candidates
                    predictor, batched = _prepare(pipe, latents, references, conditioning)
            progress_bar.update()
            if pipe.interrupt:
                break
    pipe.current_timestep = None
    return latents


def _share_draws(
    pipe: JoyImagePipeline, latents: Tensor, references: list[References]
) -> tuple[Tensor, list[References]]:
    """Return noise and references as process 0 has drawn them, where several share the edit."""
    processes = pipe.processes
    if processes is None:
        return latents, references
    processes.meet()
    latents = processes.share(latents)
    return latents, [
        replace(group, items=[processes.share(item) for item in group.items]) for group in references
    ]


def _prepare(
    pipe: JoyImagePipeline, latents: Tensor, references: list[References], conditioning: Conditioning
) -> tuple[_Predictor, bool]:
    """Return what predicts these outputs, and whether both guidance branches share a forward."""
    scheduler, transformer = cast("Scheduler", pipe.scheduler), pipe.transformer
    if pipe.preset.reuses_steps:
        references = split_outputs(
            references
        )  # each output decides for itself, so that a batch equals its single runs
    is_shared_by_branch = pipe.processes is not None and not pipe.processes.runs_all_branches
    batched = not is_shared_by_branch and can_batch_branches(transformer, latents[:, 0], references)
    all_branches = _plan_forwards(conditioning, guided=True, batched=batched)
    cache = ForwardCache(
        transformer,
        scheduler.timesteps,
        num_branches=len(all_branches),
        is_untouched=pipe.processes is None and runs_in_inference(transformer),
    )
    predictor = _Predictor(
        pipe=pipe,
        references=references,
        cache=cache,
        sigmas=[float(sigma) for sigma in scheduler.sigmas.cpu()],
    )
    for branches in all_branches:
        predictor.prepare(latents[:, 0], branches)
    return predictor, batched


def _run(pipe: JoyImagePipeline, calls: list[Callable[[], list[Tensor]]], like: Tensor) -> list[list[Tensor]]:
    """Run the forwards of a step.

    Each runs on a process of its own where several share the edit. On one, they run side by side where weights are
    streamed, unless a step cache tells them apart.
    """
    transformer = pipe.transformer
    if pipe.processes is not None:
        return pipe.processes.run(calls, like=like)
    if transformer.is_cache_enabled:  # its context is that of the whole model, not of a thread
        return [call() for call in calls]
    return run_together(transformer, calls)


def _context(branch: str, group: int) -> str:
    """Return the name under which step caches hold the state of a branch and group."""
    return branch if group == 0 else f"{branch} {group}"


def _plan_forwards(conditioning: Conditioning, *, guided: bool, batched: bool) -> list[dict[str, TextStates]]:
    """Return the branches of each forward of a step."""
    branches = conditioning.branches(guided=guided)
    return [branches] if batched else [{name: text} for name, text in branches.items()]


@dataclass
class _Predictor:
    """Run guidance branches through the transformer, one forward per group of outputs.

    Attributes:
        pipe: The pipeline.
        references: References of each group of outputs.
        cache: What the forwards of the loop share.
        sigmas: Noise level of each step, and 0 at the end.
    """

    pipe: JoyImagePipeline
    references: list[References]
    cache: ForwardCache
    sigmas: list[float]

    def prepare(self, target: Tensor, branches: dict[str, TextStates]) -> None:
        """Do all work on the host before the loop, so that no step waits for it.

        Args:
            target: Latents of the target, `[B, C, 1, H, W]`.
            branches: Branches that share a forward.
        """
        for number, group in enumerate(self.references):
            items = [*group.items, target[: len(group.rows)]]
            self.cache.prepare(self._repeat(items, len(branches)), *self._texts(number, branches))

    def split(self, target: Tensor) -> list[Tensor]:
        """Return the rows of a target `[B, C, 1, H, W]` that belong to each group.

        The branches of a step get the same objects, so that what is computed from them can be shared.
        """
        return [target] if len(self.references) == 1 else [target[group.rows] for group in self.references]

    def follow_decisions(self, targets: list[Tensor]) -> None:
        """Find out whether the conditional branch reuses its blocks in this step, where only other processes run it.

        Args:
            targets: Latents of the target by group, from `split`.
        """
        if self.pipe.processes is None or self.pipe.processes.branch == 0:
            return
        for number, target in enumerate(targets):
            follow_decision(
                self.cache.transformer,
                _context("cond", number),
                target,
                step=self.cache.step,
                sigma=self.sigmas[self.cache.step],
                num_inference_steps=len(cast("Scheduler", self.pipe.scheduler).timesteps),
            )

    def predict(self, targets: list[Tensor], branches: dict[str, TextStates]) -> list[Tensor]:
        """Run branches in one forward per group.

        Args:
            targets: Latents of the target by group, from `split`.
            branches: Branches that share a forward.

        Returns:
            The target's velocity in each branch, `[B, 1, C, 1, H, W]`.
        """
        scheduler = cast("Scheduler", self.pipe.scheduler)
        timesteps = scheduler.timesteps
        count, step = len(branches), self.cache.step
        self.cache.num_copies = count
        branch = next(iter(branches))
        parts: list[tuple[Tensor, ...]] = []
        for number, (group, target) in enumerate(zip(self.references, targets, strict=True)):
            texts, mask = self._texts(number, branches)
            # Step caches hold one state per branch and group; some need the position in the schedule.
            context, leader = _context(branch, number), _context("cond", number)
            if context != leader:
                share_decision(self.cache.transformer, leader, context, step)
            with (
                torch.inference_mode() if self.cache.is_untouched else nullcontext(),
                cast("Any", self.pipe.transformer).cache_context(
                    context,
                    step_index=step,
                    sigma=self.sigmas[step],
                    num_inference_steps=len(timesteps),
                ),
            ):
                velocity: Tensor = self.pipe.transformer(
                    hidden_states=[
                        *self._repeat(group.items, count),
                        target if count == 1 else torch.cat([target] * count),
                    ],
                    timestep=timesteps[step].expand(len(texts)),
                    encoder_hidden_states=texts,
                    encoder_hidden_states_mask=mask,
                    return_dict=False,
                    target_only=True,
                    plan=self.cache if caches_forwards(self.pipe.transformer) else None,
                )[0]
            parts.append(velocity.chunk(count))
        if len(parts) == 1:
            return [velocity.unsqueeze(1) for velocity in parts[0]]
        order = self.cache.get_or_compute("order", (timesteps,), self._output_order)
        return [torch.cat(velocities)[order].unsqueeze(1) for velocities in zip(*parts, strict=True)]

    def _output_order(self) -> Tensor:
        """Return the index of each output in the groups, one group behind the other."""
        return torch.cat([group.rows for group in self.references]).argsort()

    def _repeat(self, items: list[Tensor], times: int) -> list[Tensor]:
        """Return items once for each branch of a forward, always the same objects."""
        if times == 1:
            return items
        return [
            self.cache.get_or_compute("repeated", (item,), lambda item=item: torch.cat([item] * times))
            for item in items
        ]

    def _texts(self, number: int, branches: dict[str, TextStates]) -> tuple[Tensor, Tensor | None]:
        """Return states and mask of a group's outputs, one branch behind the other.

        They are always the same objects, so that what is computed from them can be cached.
        """
        rows = [self._rows(number, text) for text in branches.values()]
        if len(rows) == 1:
            return rows[0].states, rows[0].mask
        masks = [text.mask for text in rows if text.mask is not None]
        sources = (*(text.states for text in rows), *masks)
        return self.cache.get_or_compute("together", sources, lambda: pad_texts(rows))

    def _rows(self, number: int, text: TextStates) -> TextStates:
        """Return the texts of a group's outputs."""
        if len(self.references) == 1:
            return text

        def select(tensor: Tensor) -> Tensor:
            rows = self.references[number].rows
            return self.cache.get_or_compute(f"rows {number}", (tensor,), lambda: tensor[rows])

        return TextStates(select(text.states), None if text.mask is None else select(text.mask))
