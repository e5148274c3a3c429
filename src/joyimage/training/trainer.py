"""One training stage: optimizer steps on a schedule, averaged weights, resumable to the bit."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from joyimage.compat.torch import lerp_all_
from joyimage.errors import CheckpointError
from joyimage.progress import Progress, progress_bar
from joyimage.training.optimizer import make_optimizers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_WARM_UP_STEPS = 50
_LOG_EVERY = 50
_AVERAGE_DECAY = 0.998
_CLIP_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What one stage needs besides its modules and its loss.

    Attributes:
        name: Name of the checkpoint file and of the stage in the log.
        steps: Total optimizer steps.
        muon_lr: Peak learning rate of matrices and kernels.
        adam_lr: Peak learning rate of all other parameters.
        seed: Seeds the draws of each step together with its number, so a resumed run equals an
            uninterrupted one.
        save_every: Steps between checkpoints.
    """

    name: str
    steps: int
    muon_lr: float
    adam_lr: float
    seed: int
    save_every: int = 400


def run_stage(
    run_path: Path,
    settings: StageSettings,
    modules: dict[str, nn.Module],
    compute_loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    *,
    progress: bool = True,
) -> None:
    """Train `modules` in place, resuming from the checkpoint of the stage if there is one.

    Afterwards the modules hold the moving average of their weights.

    Args:
        run_path: Folder of the run; the checkpoint and `log.jsonl` go there.
        settings: Settings of this stage.
        modules: Modules by name; parameters without `requires_grad` are not trained.
        compute_loss: Returns the loss of one step, and numbers for the log.
        progress: Whether to show a progress bar.

    Raises:
        CheckpointError: The stage's checkpoint belongs to other modules.
        FloatingPointError: A gradient is not finite.
    """
    optimizers = make_optimizers(modules.values(), muon_lr=settings.muon_lr, adam_lr=settings.adam_lr)
    average = {name: tensor.clone() for name, tensor in _weights(modules).items()}
    checkpoint_path = run_path / f"{settings.name}.safetensors"
    step = _load(checkpoint_path, modules, average, optimizers) if checkpoint_path.exists() else 0
    trained = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    bar: Progress[None] = progress_bar(
        label=settings.name, unit="step", total=settings.steps, initial=step, is_shown=progress
    )
    started = time.perf_counter()
    with bar, (run_path / "log.jsonl").open("a", encoding="utf-8") as log:
        while step < settings.steps:
            torch.manual_seed(settings.seed * 1_000_003 + step)
            loss, numbers = compute_loss(step)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(trained, _CLIP_NORM)
            if not torch.isfinite(norm):
                raise FloatingPointError(
                    f"The gradient of step {step} of stage {settings.name} is not finite."
                )
            factor = rate_factor(step, settings.steps)
            for optimizer, peak in zip(optimizers, (settings.muon_lr, settings.adam_lr), strict=True):
                optimizer.param_groups[0]["lr"] = peak * factor
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            step += 1
            _follow(average, _weights(modules), min(_AVERAGE_DECAY, step / (step + 10)))
            bar.update()
            if step % _LOG_EVERY == 0 or step == settings.steps:
                entry = {
                    "stage": settings.name,
                    "step": step,
                    "loss": round(float(loss.detach()), 6),
                    "lr_factor": round(factor, 4),
                    "seconds": round(time.perf_counter() - started, 1),
                    **{name: round(number, 4) for name, number in numbers.items()},
                }
                log.write(json.dumps(entry) + "\n")
                log.flush()
            if step % settings.save_every == 0 or step == settings.steps:
                _save(checkpoint_path, step, modules, average, optimizers)
    for name, tensor in _weights(modules).items():
        tensor.copy_(average[name])


def rate_factor(step: int, steps: int) -> float:
    """Return the share of the peak rate: a short warm-up, constant for half, then linear to 0."""
    rise = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return rise * min(1.0, 2 * (1 - step / steps))


def averaged_weights(run_path: Path, stage: str, module: str) -> dict[str, Tensor]:
    """Read a module's averaged weights from a stage's checkpoint.

    Raises:
        CheckpointError: The stage has no checkpoint.
    """
    path = run_path / f"{stage}.safetensors"
    if not path.exists():
        raise CheckpointError(f"{path} is missing: run the {stage} stage first.")
    prefix = f"average.{module}."
    with safe_open(path, framework="pt") as file:
        keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 - no mapping
        return {key.removeprefix(prefix): file.get_tensor(key) for key in keys}


def _weights(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor.detach()
        for name, module in modules.items()
        for key, tensor in module.named_parameters()
    }


def _follow(average: dict[str, Tensor], weights: dict[str, Tensor], decay: float) -> None:
    lerp_all_(list(average.values()), [weights[name] for name in average], 1 - decay)


def _save(
    path: Path,
    step: int,
    modules: dict[str, nn.Module],
    average: dict[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
) -> None:
    tensors = {f"weight.{name}": tensor for name, tensor in _weights(modules).items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{key}": value for key, value in state.items()}
    partial = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, {"step": str(step)})
    os.replace(partial, path)  # noqa: PTH105 - replaces an older checkpoint atomically on every system


def _load(
    path: Path,
    modules: dict[str, nn.Module],
    average: dict[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
) -> int:
    states: list[dict[int, dict[str, Any]]] = [{} for _ in optimizers]
    with safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
        keys = set(file.keys())
        for name, tensor in _weights(modules).items():
            if f"weight.{name}" not in keys or f"average.{name}" not in keys:
                raise CheckpointError(
                    f"{path} has no `weight.{name}`: it belongs to other settings; train in another folder."
                )
            tensor.copy_(file.get_tensor(f"weight.{name}"))
            average[name].copy_(file.get_tensor(f"average.{name}"))
        for key in keys:
            if key.startswith("optimizer."):
                _, number, index, name = key.split(".", 3)
                states[int(number)].setdefault(int(index), {})[name] = file.get_tensor(key)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return step
