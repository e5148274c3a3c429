"""Train a LoRA adapter for edits: check, encode once, train, validate, export."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from joyimage.devices import choose_device
from joyimage.errors import InvalidInputError
from joyimage.progress import progress_bar
from joyimage.training.adapter_loop import STATE_FILE, AdapterLoop
from joyimage.training.base_model import BaseModel
from joyimage.training.data.examples import Example, ImageSource
from joyimage.training.features import FeatureCache, encode_features, identify_encoders, sample_file
from joyimage.training.framing import frame_example
from joyimage.training.memory import MemoryPlan, plan_memory
from joyimage.training.optimizers import check_optimizer
from joyimage.training.processes import Processes
from joyimage.training.sheet import write_sheet
from joyimage.training.state import read_saved_run
from joyimage.training.survey import Survey, check_disk, survey_pairs
from joyimage.training.validation import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from joyimage.training.config import TrainingConfig
    from joyimage.training.framing import Checkpoint

_ROWS_ON_SHEET = 48


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a run made.

    Attributes:
        adapter: The adapter's file, in the layout of ComfyUI.
        steps: Steps done in all.
        seconds: Duration of this call.
        cache_bytes: Size of the encoded pairs.
        validation: Numbers of the last validation; empty without.
    """

    adapter: Path
    steps: int
    seconds: float
    cache_bytes: int
    validation: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What was found out about a run before anything is loaded.

    Attributes:
        base: The model that is trained.
        cache: Where encoded pairs are kept.
        survey: All pairs.
        memory: Predicted memory.
        settings: Everything that the run's numbers depend on, as JSON values by name; a longer run continues a
            shorter one.
        device: Device of the run.
        samples: Edits that validations make.
    """

    base: BaseModel
    cache: FeatureCache
    survey: Survey
    memory: MemoryPlan
    settings: dict[str, Any]
    device: str
    samples: list[Sample]


def plan(config: TrainingConfig, *, num_processes: int = 1, progress: bool = True) -> TrainingPlan:
    """Check everything about a run that can be checked without weights.

    Args:
        config: The run.
        num_processes: Processes that share the frozen base.
        progress: Whether to show a progress bar.

    Raises:
        CheckpointError: There is no such checkpoint, or the run was begun with other settings.
        DeviceError: There is no such device.
        InvalidInputError: Pairs are incomplete, or a package is missing.
        OutOfMemoryError: The text encoder fits in no way.
    """
    check_optimizer(config.train.optimizer)
    if config.tensorboard:
        _summary_writer(config.run_path, is_check=True)
    device = choose_device(config.device)
    base = BaseModel.find(config)
    encoders = identify_encoders(base.folder, base.files)
    cache = FeatureCache(config.run_path / "cache", encoders, _encoder_dtype(config, device))
    survey = survey_pairs(config, base.checkpoint, cache, progress=progress)
    saved = read_saved_run(config.run_path / STATE_FILE)
    memory = plan_memory(
        config,
        base,
        survey.largest,
        device,
        num_processes=num_processes,
        previous=None if saved is None else saved.savings,
    )
    settings = _settings(config, base, survey, device, memory.savings.quantization)
    if saved is not None:
        saved.check(settings)
    return TrainingPlan(
        base=base,
        cache=cache,
        survey=survey,
        memory=memory,
        settings=settings,
        device=device,
        samples=_choose_samples(config, base.checkpoint, cache, survey),
    )


def write_dry_run(config: TrainingConfig, planned: TrainingPlan) -> Path:
    """Write a sheet of exactly what the network will see of the first pairs, with captions and sizes.

    Args:
        config: The run.
        planned: From `plan`.

    Returns:
        The PNG.

    Raises:
        ImageError: An image cannot be read, or the sheet cannot be written.
    """
    rows = []
    for pair in (*planned.survey.training, *planned.survey.held_out)[:_ROWS_ON_SHEET]:
        framed = frame_example(pair.example, planned.base.checkpoint, align=config.align)
        size = f"{framed.target.width}x{framed.target.height}"
        rows.append(([*framed.references, framed.target], f"{size} {pair.example.caption}"))
    config.run_path.mkdir(parents=True, exist_ok=True)
    path = config.run_path / "dry-run.png"
    write_sheet(path, rows)
    return path


def train(config: TrainingConfig, *, progress: bool = True) -> TrainingResult:
    """Train an adapter, or resume a run that was interrupted at any moment.

    Args:
        config: The run.
        progress: Whether to show progress bars.

    Returns:
        What the run made.

    Raises:
        CheckpointError: There is no such checkpoint, or the run's state belongs to other settings.
        ImageError: An image cannot be read, or a file cannot be written.
        InvalidInputError: Pairs are incomplete, or a setting does not fit.
        OutOfMemoryError: The run would not fit in memory.
    """
    started = time.perf_counter()
    processes = Processes(on_cpu=choose_device(config.device) == "cpu")
    processes.check(config.train.gradient_accumulation)
    progress = progress and processes.is_main
    planned = plan(config, num_processes=processes.num, progress=progress)
    planned.memory.check()
    config.run_path.mkdir(parents=True, exist_ok=True)
    pairs = [*planned.survey.training, *planned.survey.held_out]
    if processes.is_main:
        check_disk(config.run_path, pairs, planned.cache)
        _encode_missing(config, planned, progress=progress)
    processes.wait()
    device = processes.device or torch.device(planned.device)
    savings = planned.memory.savings
    dtype = getattr(torch, _encoder_dtype(config, planned.device))
    pipe = planned.base.load_transformer(dtype, device, savings.offload, savings.quantization)
    pipe.set_progress_bar_config(disable=True)
    loop = AdapterLoop(
        config,
        pipe,
        planned.cache,
        planned.survey,
        planned.samples,
        processes=processes,
        device=device,
        savings=savings,
        takes_several=planned.base.checkpoint.takes_several,
        settings=planned.settings,
    )
    writer = _summary_writer(config.run_path) if config.tensorboard and processes.is_main else None
    try:
        steps, validation = loop.run(progress=progress, writer=writer)
    finally:
        if writer is not None:
            writer.close()  # it writes what it holds only now and then
    adapter = config.adapter_path
    if processes.is_main:
        loop.export(adapter)
    processes.wait()
    return TrainingResult(
        adapter=adapter,
        steps=steps,
        seconds=time.perf_counter() - started,
        cache_bytes=planned.cache.size_bytes([one.key for one in pairs]),
        validation=validation,
    )


def _encode_missing(config: TrainingConfig, planned: TrainingPlan, *, progress: bool) -> None:
    """Encode the pairs that the cache lacks; text encoder and VAE are loaded only if there are any."""
    wanted: list[tuple[str, Example]] = [
        (one.key, one.example) for one in (*planned.survey.training, *planned.survey.held_out)
    ]
    wanted += [(one.key, one.framed.example) for one in planned.samples]
    missing = {key: example for key, example in wanted if not planned.cache.has(key)}
    if not missing:
        return
    device = torch.device(planned.device)
    dtype = getattr(torch, _encoder_dtype(config, planned.device))
    pipe = planned.base.load_encoders(dtype, device, planned.memory.encoder_offload)
    pairs = progress_bar(
        missing.items(), label="encode pairs", unit="pair", total=len(missing), is_shown=progress
    )
    for key, example in pairs:
        framed = frame_example(example, planned.base.checkpoint, align=config.align)
        features = encode_features(
            pipe,
            framed.references,
            framed.target,
            example.caption,
            device,
            takes_several=planned.base.checkpoint.takes_several,
        )
        planned.cache.write(key, features)
    del pipe
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _choose_samples(
    config: TrainingConfig, checkpoint: Checkpoint, cache: FeatureCache, survey: Survey
) -> list[Sample]:
    """Return the edits that validations make: those of the config, and some held-out pairs."""
    if not config.validate.every:
        return []
    examples: list[tuple[Example, int, bool]] = []
    for edit in config.validate.edits:
        image = ImageSource(path=edit.image)
        examples.append((Example(target=image, references=(image,), caption=edit.prompt), edit.seed, False))
    chosen: Sequence[Any] = survey.held_out[: config.validate.num_samples]
    examples += [(one.example, config.train.seed, True) for one in chosen]
    samples: list[Sample] = []
    for example, seed, has_target in examples:
        framed = frame_example(example, checkpoint, align=config.align)
        key = cache.key(framed.references, framed.target, example.caption)
        samples.append(Sample(framed=framed, key=key, seed=seed, has_target=has_target))
    return samples


def _settings(
    config: TrainingConfig, base: BaseModel, survey: Survey, device: str, quantization: str | None
) -> dict[str, Any]:
    """Return everything that the numbers of a run depend on, by the names in the config."""
    train_settings = dataclasses.asdict(config.train)
    train_settings["dtype"] = config.train.precision_on(device)
    train_settings.pop("save_every")
    if not config.train.decay_steps:  # otherwise the rate of each step depends on how many there are
        train_settings.pop("decay_steps")
        train_settings.pop("steps")
    keys = json.dumps([[one.key, one.example.source] for one in survey.training])
    what: dict[str, Any] = {
        "model": config.model,
        **{f"train.{name}": value for name, value in train_settings.items()},
        **{f"lora.{name}": value for name, value in dataclasses.asdict(config.lora).items()},
        "data": f"{len(survey.training)} pairs of content {hashlib.sha256(keys.encode()).hexdigest()[:12]}",
    }
    if config.turbo is not None:
        what |= {f"turbo.{name}": value for name, value in dataclasses.asdict(config.turbo).items()}
    for number, one in enumerate(config.data):
        what |= {
            f"data[{number}].caption_dropout": one.caption_dropout,
            f"data[{number}].weight": one.weight,
        }
    if base.files.get("transformer"):
        what["transformer"] = f"content {sample_file(base.files['transformer']).hex()[:12]}"
    if quantization:
        what["memory.quantization"] = quantization
    return what


def _encoder_dtype(config: TrainingConfig, device: str) -> str:
    """Return the precision of frozen weights: fp32 on a CPU, where autocast does the rest."""
    return "float32" if device == "cpu" else config.train.precision_on(device)


def _summary_writer(folder: Path, *, is_check: bool = False) -> Any:
    """Return a writer of TensorBoard events, or only check that there is one.

    Raises:
        InvalidInputError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InvalidInputError(
            "`tensorboard` is true, but the package is not installed; run `pip install 'joyimage[train]'`."
        ) from None
    return None if is_check else SummaryWriter(str(folder / "tensorboard"))
