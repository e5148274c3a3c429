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
from tqdm import tqdm

from joyimage.devices import choose_device
from joyimage.errors import InvalidInputError
from joyimage.pipeline.hub import fetch_index, find_folder
from joyimage.pipeline.loading import pipeline_class
from joyimage.training.adapter_loop import AdapterLoop
from joyimage.training.data.examples import Example, ImageSource
from joyimage.training.features import FeatureCache, encode_features, identify_encoders
from joyimage.training.framing import Checkpoint, frame_example
from joyimage.training.memory import MemoryPlan, plan_memory
from joyimage.training.optimizers import check_optimizer
from joyimage.training.processes import Processes
from joyimage.training.sheet import write_sheet
from joyimage.training.survey import Survey, check_disk, survey_pairs
from joyimage.training.validation import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from joyimage.training.config import TrainingConfig

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
        checkpoint: The checkpoint that is trained.
        folder: Its folder.
        cache: Where encoded pairs are kept.
        survey: All pairs.
        memory: Predicted memory.
        device: Device of the run.
        samples: Edits that validations make.
    """

    checkpoint: Checkpoint
    folder: Path
    cache: FeatureCache
    survey: Survey
    memory: MemoryPlan
    device: str
    samples: list[Sample]


def plan(config: TrainingConfig, *, progress: bool = True) -> TrainingPlan:
    """Check everything about a run that can be checked without weights.

    Args:
        config: The run.
        progress: Whether to show a progress bar.

    Raises:
        CheckpointError: There is no such checkpoint.
        DeviceError: There is no such device.
        InvalidInputError: Pairs are incomplete, or a package is missing.
    """
    check_optimizer(config.train.optimizer)
    if config.tensorboard:
        _summary_writer(config.run_path, is_check=True)
    device = choose_device(config.device)
    checkpoint = Checkpoint.read(config.model)
    folder = find_folder(config.model) or fetch_index(config.model, {}).parent
    dtype = _encoder_dtype(config, device)
    cache = FeatureCache(config.run_path / "cache", identify_encoders(folder), dtype)
    survey = survey_pairs(config, checkpoint, cache, progress=progress)
    memory = plan_memory(config, folder, survey.largest, device)
    return TrainingPlan(
        checkpoint=checkpoint,
        folder=folder,
        cache=cache,
        survey=survey,
        memory=memory,
        device=device,
        samples=_choose_samples(config, checkpoint, cache, survey),
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
        framed = frame_example(pair.example, planned.checkpoint, align=config.align)
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
    planned = plan(config, progress=progress)
    if processes.num > 1:
        planned = dataclasses.replace(
            planned,
            memory=plan_memory(config, planned.folder, planned.survey.largest, planned.device, processes.num),
        )
    planned.memory.check()
    config.run_path.mkdir(parents=True, exist_ok=True)
    pairs = [*planned.survey.training, *planned.survey.held_out]
    if processes.is_main:
        check_disk(config.run_path, pairs, planned.cache)
        _encode_missing(config, planned, progress=progress)
    processes.wait()
    device = processes.device or torch.device(planned.device)
    dtype = _encoder_dtype(config, planned.device)
    # The text encoder is not needed any more: all prompts are encoded.
    pipe: Any = pipeline_class(config.model).from_pretrained(
        config.model, text_encoder=None, dtype=getattr(torch, dtype)
    )
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    loop = AdapterLoop(
        config,
        pipe,
        planned.cache,
        planned.survey,
        planned.samples,
        processes=processes,
        device=device,
        gradient_checkpointing=planned.memory.gradient_checkpointing,
        takes_several=planned.checkpoint.takes_several,
        settings_sha256=_settings_sha256(config, planned),
    )
    writer = _summary_writer(config.run_path) if config.tensorboard and processes.is_main else None
    steps, validation = loop.run(progress=progress, writer=writer)
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
    pipe: Any = pipeline_class(config.model).from_pretrained(config.model, transformer=None, dtype=dtype)
    pipe.to(device)
    for key, example in tqdm(missing.items(), desc="encode pairs", unit="pair", disable=not progress):
        framed = frame_example(example, planned.checkpoint, align=config.align)
        features = encode_features(
            pipe,
            framed.references,
            framed.target,
            example.caption,
            device,
            takes_several=planned.checkpoint.takes_several,
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


def _settings_sha256(config: TrainingConfig, planned: TrainingPlan) -> str:
    """Return the hash of everything that the numbers of a run depend on; longer runs continue shorter ones."""
    train_settings = dataclasses.asdict(config.train)
    for name in ("steps", "save_every"):
        train_settings.pop(name)
    what = {
        "train": train_settings,
        "lora": dataclasses.asdict(config.lora),
        "data": [[one.key, one.example.source] for one in planned.survey.training],
        "sections": [[one.caption_dropout, one.weight] for one in config.data],
        "model": config.model,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _encoder_dtype(config: TrainingConfig, device: str) -> str:
    """Return the precision of frozen weights: fp32 on a CPU, where autocast does the rest."""
    return "float32" if device == "cpu" else config.train.dtype


def _summary_writer(folder: Path, *, is_check: bool = False) -> Any:
    """Return a writer of TensorBoard events, or only check that there is one.

    Raises:
        InvalidInputError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InvalidInputError(
            "`tensorboard` is true, but the package is not installed; run `pip install tensorboard`."
        ) from None
    return None if is_check else SummaryWriter(str(folder / "tensorboard"))
