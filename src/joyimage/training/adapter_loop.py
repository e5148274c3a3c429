"""The loop of an adapter's training: draw, step, average, validate, save."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model_state_dict
from torch import Tensor, nn

from joyimage.errors import InvalidResultError
from joyimage.model.adapters.layouts import save_adapter
from joyimage.model.adapters.names import adaptable_layers
from joyimage.model.adapters.strength import Statement
from joyimage.model.adapters.updates import read_updates
from joyimage.progress import Progress, progress_bar
from joyimage.training.adapter_loss import Batch, draw_sigma, explicit_attention, predict_loss
from joyimage.training.memory import target_modules
from joyimage.training.optimizers import make_optimizer
from joyimage.training.order import draw_batches, sample_generator
from joyimage.training.state import load_state, save_state
from joyimage.training.turbo import Distillation, measure_distillation, recipe_for
from joyimage.training.validation import Sample, make_samples, measure_losses, write_samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from joyimage.training.config import TrainingConfig
    from joyimage.training.features import FeatureCache
    from joyimage.training.memory import Savings
    from joyimage.training.processes import Processes
    from joyimage.training.survey import Survey

STATE_FILE = "state.safetensors"
_LOG_EVERY = 10
_ADAPTER = "default"


class AdapterLoop:
    """A run with everything loaded.

    Args:
        config: The run.
        pipe: Pipeline with transformer and VAE on the device.
        cache: Has the features of all pairs.
        survey: All pairs.
        samples: Edits that validations make.
        processes: The processes of the run.
        device: Device of this process.
        savings: How memory is kept low.
        takes_several: Whether the checkpoint is an Edit-Plus.
        settings: Everything that the numbers depend on, by name.
    """

    def __init__(
        self,
        config: TrainingConfig,
        pipe: Any,
        cache: FeatureCache,
        survey: Survey,
        samples: Sequence[Sample],
        *,
        processes: Processes,
        device: torch.device,
        savings: Savings,
        takes_several: bool,
        settings: Mapping[str, Any],
    ) -> None:
        self._config = config
        self._pipe = pipe
        self._cache = cache
        self._survey = survey
        self._samples = samples
        self._processes = processes
        self._device = device
        self._savings = savings
        self._takes_several = takes_several
        self._settings = settings
        self._precision = getattr(torch, config.train.precision_on(device.type))
        self._transformer: Any = pipe.transformer
        self._parameters = self._add_adapter()
        self._distillation: Distillation | None = None
        if config.turbo is not None:
            self._distillation = Distillation.of(config, pipe, self._precision)
            self._transformer.keep_recipe(
                _ADAPTER, recipe_for(config, pipe)
            )  # sample edits are made in its steps
        if savings.gradient_checkpointing:
            self._transformer.enable_gradient_checkpointing()
        processes.shard(self._transformer, list(self._parameters.values()))
        self._optimizer = make_optimizer(
            config.train.optimizer, list(self._parameters.values()), config.train.learning_rate
        )
        self._average: dict[str, Tensor] = (
            {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
            if config.train.ema
            else {}
        )

    def run(self, *, progress: bool = True, writer: Any = None) -> tuple[int, dict[str, float]]:
        """Train up to the last step, from the saved state if there is one.

        Args:
            progress: Whether to show a progress bar.
            writer: Writer of TensorBoard events.

        Returns:
            Steps done in all, and the numbers of the last validation.

        Raises:
            CheckpointError: The saved state is damaged.
            InvalidResultError: A gradient is not finite.
        """
        train = self._config.train
        state_path = self._config.run_path / STATE_FILE
        weights = {name: parameter.data for name, parameter in self._parameters.items()}
        step = 0
        if state_path.is_file():
            step = load_state(state_path, weights, self._average, self._optimizer)
        log = _Log(self._config.run_path / "log.jsonl", step, writer, is_on=self._processes.is_main)
        batches = self._draw_batches(max(train.steps, step))
        validation: dict[str, float] = {}
        every = self._config.validate.every
        started, first = time.perf_counter(), step
        if every and step == 0:
            validation = self._validate(0)
            log.write(0, validation)
        steps: Progress[None] = progress_bar(
            label="train", unit="step", total=train.steps, initial=step, is_shown=progress
        )
        with steps as bar:
            while step < train.steps:
                loss = self._step(step, batches[step])
                step += 1
                bar.update(loss=f"{loss:.4f}")
                is_last = step == train.steps
                if step % _LOG_EVERY == 0 or is_last:
                    pace = (time.perf_counter() - started) / (step - first)
                    log.write(step, {"loss": loss, "seconds_per_step": pace})
                if every and (step % every == 0 or is_last):
                    validation = self._validate(step)
                    log.write(step, validation)
                if (step % train.save_every == 0 or is_last) and self._processes.is_main:
                    save_state(
                        state_path,
                        step,
                        self._settings,
                        weights,
                        self._average,
                        self._optimizer,
                        self._savings.to_dict(),
                    )
        if every and not validation:
            validation = self._validate(step)
        return step, validation

    def export(self, path: Path) -> None:
        """Write the adapter in the layout of ComfyUI, which this package and most others read.

        Args:
            path: The file.

        Raises:
            ImageError: It cannot be written.
        """
        config = self._config
        with self._averaged():
            tensors = get_peft_model_state_dict(self._transformer, adapter_name=_ADAPTER)
            alpha = config.lora.alpha or config.lora.rank
            statement = Statement(config={"r": config.lora.rank, "lora_alpha": alpha}, source="the run")
            updates = read_updates(tensors, adaptable_layers(self._transformer), statement)
            header = {
                "modelspec.title": path.stem,
                "joyimage.base_model": config.model,
                "joyimage.data_sha256": self._survey.data_sha256,
                "joyimage.steps": str(config.train.steps),
                "joyimage.shift": str(self._shift),
                "joyimage.num_inference_steps": str(self._pipe.config["default_num_inference_steps"]),
                "joyimage.guidance_scale": str(self._pipe.config["default_guidance_scale"]),
            }
            if config.turbo is not None:
                header |= recipe_for(config, self._pipe).to_header()
            if config.trigger:
                header["modelspec.trigger_phrase"] = config.trigger
            save_adapter(updates, path, "comfyui", header)

    @property
    def _shift(self) -> float:
        """The shift of the checkpoint's schedule."""
        return float(self._pipe.scheduler.config.shift)

    def _add_adapter(self) -> dict[str, nn.Parameter]:
        """Freeze the base, add the adapter in fp32, and return its parameters by name."""
        lora = self._config.lora
        self._transformer.requires_grad_(False)
        torch.manual_seed(self._config.train.seed)
        self._transformer.add_adapter(
            PeftConfig(
                r=lora.rank,
                lora_alpha=lora.alpha or lora.rank,  # pyright: ignore[reportArgumentType] - peft divides it only
                target_modules=target_modules(lora.targets),
            ),
            adapter_name=_ADAPTER,
        )
        parameters: dict[str, nn.Parameter] = {}
        for name, parameter in self._transformer.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
                parameters[name] = parameter
        return parameters

    def _draw_batches(self, steps: int) -> list[list[list[int]]]:
        """Return the batches of each step, as indices of the pairs to train on."""
        pairs, sections, train = self._survey.training, self._config.data, self._config.train
        groups = [
            [index for index, one in enumerate(pairs) if one.example.source == number]
            for number in range(len(sections))
        ]
        each = train.gradient_accumulation
        batches = draw_batches(
            groups,
            [section.weight for section in sections],
            [one.sizes for one in pairs],
            batch_size=train.batch_size,
            num_batches=steps * each,
            seed=train.seed,
        )
        return [batches[step * each : (step + 1) * each] for step in range(steps)]

    def _step(self, step: int, batches: list[list[int]]) -> float:
        """Do one optimizer step, and return its mean squared error.

        Raises:
            InvalidResultError: The gradient is not finite.
        """
        train = self._config.train
        parameters = list(self._parameters.values())
        own = range(self._processes.rank, len(batches), self._processes.num)
        errors = torch.zeros((), device=self._device)
        for place in own:
            with explicit_attention(self._device):
                for loss, mse in self._losses(step, place, batches[place]):
                    (loss / len(own)).backward()
                    errors += mse / len(own)
        self._processes.average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, train.max_grad_norm)
        if not bool(torch.isfinite(norm)):
            raise InvalidResultError(
                f"The gradient of step {step} is not finite. Lower `train.learning_rate`, or set `train.dtype` to"
                " 'float32'."
            )
        for group in self._optimizer.param_groups:
            group["lr"] = train.rate_at(step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        decay = min(train.ema, (step + 1) / (step + 10))
        for name, tensor in self._average.items():
            tensor.lerp_(self._parameters[name].detach(), 1 - decay)
        return float(errors)

    def _losses(self, step: int, place: int, indices: list[int]) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the parts of a batch's loss, all of whose draws follow from seed, step and place."""
        if self._distillation is not None:
            return self._distillation_losses(self._distillation, step, place, indices)
        return [self._pair_loss(step, place, indices)]

    def _pair_loss(self, step: int, place: int, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch of an adapter that learns what the pairs show."""
        train = self._config.train
        pairs = [self._survey.training[index] for index in indices]
        drops: list[bool] = []
        levels: list[float] = []
        noise: list[Tensor] = []
        features = [self._cache.read(one.key) for one in pairs]
        for row, (pair, one) in enumerate(zip(pairs, features, strict=True)):
            generator = sample_generator(train.seed, step, place, row)
            dropout = self._config.data[pair.example.source].caption_dropout
            drops.append(float(torch.rand((), generator=generator)) < dropout)
            levels.append(draw_sigma(train.timesteps, self._shift, generator))
            noise.append(torch.randn(one.target.shape, generator=generator))
        return predict_loss(
            self._transformer,
            Batch.collate(features, drops, self._device),
            torch.stack(noise).to(self._device),
            torch.tensor(levels, device=self._device),
            precision=self._precision,
            loss_weight=train.loss_weight,
            changed_region_weight=train.changed_region_weight,
        )

    def _distillation_losses(
        self, distillation: Distillation, step: int, place: int, indices: list[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the parts of the loss of a batch of a turbo adapter."""
        seed = self._config.train.seed
        features = [self._cache.read(self._survey.training[index].key) for index in indices]
        noise = [
            torch.randn(one.target.shape, generator=sample_generator(seed, step, place, row))
            for row, one in enumerate(features)
        ]
        # All batches of an optimizer step learn the same: processes that share the sharded base run equal forwards.
        learned = distillation.draw_step(sample_generator(seed, step))
        return distillation.losses(features, torch.stack(noise).to(self._device), learned)

    def _measure(self, keys: list[str]) -> dict[str, float]:
        """Return the losses of held-out pairs."""
        seed = self._config.train.seed
        if self._distillation is None:
            return measure_losses(self._transformer, self._cache, keys, self._device, self._precision, seed)
        shapes = [self._cache.read(key).target.shape for key in keys]
        noise = [
            torch.randn(shape, generator=sample_generator(seed, -1, number)).to(self._device)
            for number, shape in enumerate(shapes)
        ]
        return measure_distillation(self._distillation, self._cache, keys, noise)

    def _validate(self, step: int) -> dict[str, float]:
        """Measure held-out pairs and make the sample edits; every process does, one writes."""
        config = self._config
        keys = [one.key for one in self._survey.held_out[: config.validate.num_pairs]]
        numbers: dict[str, float] = {}
        with self._averaged():
            if keys:
                numbers |= self._measure(keys)
            if self._samples:
                images, compared = make_samples(
                    self._pipe, self._cache, self._samples, takes_several=self._takes_several
                )
                numbers |= compared
                if self._processes.is_main:
                    folder = config.run_path / "samples"
                    folder.mkdir(exist_ok=True)
                    write_samples(folder / f"step-{step:06}.png", self._samples, images)
        return numbers

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the averaged weights in place while the block lasts."""
        if not self._average:
            yield
            return
        own = {name: parameter.data for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            parameter.data = self._average[name]
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = own[name]


class _Log:
    """`log.jsonl` and TensorBoard; entries of a run that was cut off are dropped.

    Args:
        path: The file.
        step: Steps done before this call.
        writer: Writer of TensorBoard events, or None.
        is_on: Whether this process writes.
    """

    def __init__(self, path: Path, step: int, writer: Any, *, is_on: bool) -> None:
        self._path = path
        self._writer = writer
        self._is_on = is_on
        if is_on:
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
            kept = [
                line for line in lines if line.endswith("}") and step and json.loads(line)["step"] <= step
            ]
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, step: int, numbers: dict[str, float]) -> None:
        if not self._is_on:
            return
        rounded = {name: round(value, 6) for name, value in numbers.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **rounded}) + "\n")
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, step)
