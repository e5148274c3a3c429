"""The training program of `joyimage-tiny`: a VAE, then text encoder and transformer together, then reading.

Every stage writes its checkpoint to the folder of the run and resumes from it.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from joyimage.acceleration import accelerate
from joyimage.compat.torch import fast_autocast
from joyimage.errors import InvalidInputError
from joyimage.pipeline.images import normalize_pixels
from joyimage.tiny import vae as tiny_vae
from joyimage.tiny.checkpoint import build_text_encoder, build_tokenizer, build_transformer, build_vae, export
from joyimage.tiny.comparing import add_comparing_layer, can_compare
from joyimage.tiny.fast_reading import use_fast_training
from joyimage.tiny.language import (
    extend_tokenizer,
    freeze_edit_half,
    freeze_reading_half,
    grow_text_encoder,
    is_grown,
    scale_stream,
)
from joyimage.tiny.objective import encode_pairs, prepare, use_explicit_attention
from joyimage.tiny.objective import loss as editor_loss
from joyimage.tiny.pairs import CONTINUED_WEIGHTS, TASK_WEIGHTS, Pairs, render_pairs
from joyimage.tiny.reading import (
    ReadingBatch,
    aim_at_pairs,
    prepare_prompts,
    prepare_readings,
    reading_loss,
)
from joyimage.tiny.readings import load_readings, render_readings
from joyimage.tiny.worlds.scenes import TASKS, generate
from joyimage.training.trainer import StageSettings, averaged_weights, run_stage

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from torch import Tensor

STAGES = ("vae", "edit", "read", "export")
VAE_BATCH = 8
EDIT_BATCH = 24
READ_MUON_RATE, READ_ADAM_RATE = 0.01, 1.5e-3
# A model that reads single images learns to compare two, and is asked about single ones so that it does not forget.
COMPARE_MUON_RATE, COMPARE_ADAM_RATE = 0.008, 1e-3
_READ_BATCH, _COMPARE_BATCH = ReadingBatch(10, 6), ReadingBatch(6, 10)
_STATISTICS_SCENES = 512
_CONTINUED_FROM_SEED = 100_000  # runs from random weights never had so many scenes of one task
# Prompts whose states reading must not move, of scenes that the edit stage has not seen.
_KEPT_PROMPTS = 3000
_KEPT_FROM_SEED = 4_000_000


def train_tiny(
    run_path: Path,
    *,
    stage: str = "all",
    vae_steps: int = 3000,
    edit_steps: int = 24000,
    num_pairs: int = 48000,
    read_steps: int = 12000,
    num_readings: int = 24000,
    seed: int = 0,
    device: str = "cpu",
    output_path: Path | None = None,
    start: str | None = None,
    progress: bool = True,
) -> Path:
    """Train the tiny checkpoint, resuming from the last checkpoint in `run_path`.

    Args:
        run_path: Folder of checkpoints, rendered pairs and `log.jsonl`; created if missing.
        stage: "vae", "edit", "read", "export" or "all".
        vae_steps: Optimizer steps of the VAE.
        edit_steps: Optimizer steps of text encoder and transformer.
        num_pairs: Scenes to render for the edit stage.
        read_steps: Optimizer steps of the text encoder's language half.
        num_readings: Scenes to render for the read stage; each gives two to six images with questions.
        seed: Seed of weights, noise and batches.
        device: Device to train on, "cpu" or "cuda".
        output_path: Folder of the checkpoint; None uses `checkpoint` in `run_path`.
        start: Checkpoint whose weights training continues from, on scenes that it has not seen and at half the peak
            rates. With the stage "vae" only the decoder trains, so that latents stay what the transformer knows;
            with "edit" only the transformer, if the text encoder has learned to read; with "read" its edits stay as
            they are, up to what reading moves. None trains all parts from random weights.
        progress: Whether to show progress bars.

    Returns:
        Folder of the exported checkpoint, or `run_path` if `stage` does not export.

    Raises:
        InvalidInputError: `stage` is unknown or a number is out of range.
        CheckpointError: An earlier stage has not run.
    """
    if stage not in (*STAGES, "all"):
        raise InvalidInputError(f"`stage` is {stage!r}; expected one of {', '.join((*STAGES, 'all'))}.")
    numbers = {
        "vae_steps": vae_steps,
        "edit_steps": edit_steps,
        "num_pairs": num_pairs,
        "read_steps": read_steps,
        "num_readings": num_readings,
    }
    for name, number in numbers.items():
        if number < 1:
            raise InvalidInputError(f"`{name}` is {number}; expected 1 or more.")
    run_path.mkdir(parents=True, exist_ok=True)
    if stage in {"vae", "all"} and start is None:
        _train_vae(run_path, vae_steps, seed, device, progress)
    if stage == "vae" and start is not None:
        _train_decoder(run_path, start, vae_steps, num_pairs, seed, device, progress)
    if stage in {"edit", "all"}:
        parts = _new_parts(run_path, seed) if start is None else _parts_of(start)
        _train_editor(run_path, parts, edit_steps, num_pairs, seed, device, progress)
    if stage in {"read", "all"}:
        _train_reading(
            run_path, _edited_parts(run_path, seed, start), read_steps, num_readings, seed, device, progress
        )
    if stage in {"export", "all"}:
        return _export(run_path, output_path or run_path / "checkpoint", seed, start)
    return run_path


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What the edit stage trains, and what it trains with.

    Attributes:
        vae: Encodes the scenes; not trained.
        text_encoder: Trained.
        transformer: Trained.
        tokenizer: Tokenizer of the text encoder.
        first_seed: Seed of the first scene of each task.
        rate: Factor on the peak learning rates.
        weights: Relative probability of each task.
    """

    vae: Any
    text_encoder: Any
    transformer: Any
    tokenizer: Qwen2Tokenizer
    first_seed: int = 0
    rate: float = 1.0
    weights: dict[str, float] = field(default_factory=lambda: TASK_WEIGHTS)


def _new_parts(run_path: Path, seed: int) -> _Parts:
    vae = _load_vae(run_path)
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    text_encoder = build_text_encoder(tokenizer)
    transformer = build_transformer()
    accelerate(transformer)
    return _Parts(vae=vae, text_encoder=text_encoder, transformer=transformer, tokenizer=tokenizer)


def _parts_of(checkpoint: str) -> _Parts:
    from joyimage.pipeline.edit import JoyImageEditPipeline

    pipe: Any = JoyImageEditPipeline.from_pretrained(checkpoint)
    for part in (pipe.text_encoder, pipe.transformer):
        part.train().requires_grad_(True)
    return _Parts(
        vae=pipe.vae.eval().requires_grad_(False),
        text_encoder=pipe.text_encoder,
        transformer=pipe.transformer,
        tokenizer=pipe.tokenizer,
        first_seed=_CONTINUED_FROM_SEED,
        rate=0.5,
        weights=CONTINUED_WEIGHTS,
    )


def _train_vae(run_path: Path, steps: int, seed: int, device: str, progress: bool) -> None:
    torch.manual_seed(seed)
    vae: Any = build_vae()
    vae = vae.to(device)
    tiny_vae.trainable(vae)

    def compute_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        pixels = _scene_pixels(range(step * VAE_BATCH, (step + 1) * VAE_BATCH)).to(device)
        with fast_autocast(torch.device(device)):
            return tiny_vae.loss(vae, pixels)

    settings = StageSettings(name="vae", steps=steps, muon_lr=0.02, adam_lr=2e-3, seed=seed)
    run_stage(run_path, settings, {"vae": vae}, compute_loss, progress=progress)
    mean, std = tiny_vae.measure_latents(vae, _scene_pixels(range(_STATISTICS_SCENES)).to(device))
    statistics = {
        "latents_mean": [round(v, 5) for v in mean.tolist()],
        "latents_std": [round(v, 5) for v in std.tolist()],
    }
    (run_path / "latents.json").write_text(json.dumps(statistics), encoding="utf-8")


def _train_decoder(
    run_path: Path, start: str, steps: int, num_pairs: int, seed: int, device: str, progress: bool
) -> None:
    pairs = render_pairs(run_path, num_pairs, first_seed=_CONTINUED_FROM_SEED, progress=progress)
    vae: Any = _parts_of(start).vae.float().to(device)
    tiny_vae.trainable_decoder(vae)
    weights = torch.tensor([CONTINUED_WEIGHTS[TASKS[task]] for task in pairs.tasks])
    weights /= torch.bincount(torch.from_numpy(pairs.tasks).long())[pairs.tasks]

    def compute_loss(_step: int) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.multinomial(weights, VAE_BATCH).numpy()
        pixels = normalize_pixels(torch.from_numpy(pairs.targets[chosen]))
        with fast_autocast(torch.device(device)):
            return tiny_vae.decoder_loss(vae, pixels.to(device))

    settings = StageSettings(name="vae", steps=steps, muon_lr=0.01, adam_lr=1e-3, seed=seed)
    run_stage(run_path, settings, {"vae": vae}, compute_loss, progress=progress)


def _scene_pixels(numbers: range) -> Tensor:
    """Return alternating sources and targets of all tasks' scenes, `[N, 3, H, W]` in [-1, 1]."""
    images = []
    for number in numbers:
        case = generate(TASKS[number % len(TASKS)], number // len(TASKS))
        images.append(case.target if case.source is None or number // len(TASKS) % 2 else case.source)
    return normalize_pixels(torch.from_numpy(np.stack(images)))


def _load_vae(run_path: Path) -> AutoencoderKLWan:
    vae = build_vae()
    vae.load_state_dict(averaged_weights(run_path, "vae", "vae"))
    tiny_vae.quiet_posterior(vae)
    vae.register_to_config(**json.loads((run_path / "latents.json").read_text(encoding="utf-8")))
    return vae.eval().requires_grad_(False)


def _train_editor(
    run_path: Path, parts: _Parts, steps: int, num_pairs: int, seed: int, device: str, progress: bool
) -> None:
    pairs = render_pairs(run_path, num_pairs, first_seed=parts.first_seed, progress=progress)
    latents = _encode_once(run_path, parts.vae.to(device), pairs, device, progress)
    data = prepare(latents, parts.tokenizer, pairs, device, parts.weights)
    text_encoder, transformer = parts.text_encoder.to(device), parts.transformer.to(device)
    if torch.device(device).type == "cpu":
        use_explicit_attention(transformer)

    def compute_loss(_step: int) -> tuple[Tensor, dict[str, float]]:
        return editor_loss(transformer, text_encoder, data, EDIT_BATCH)

    settings = StageSettings(
        name="edit", steps=steps, muon_lr=0.012 * parts.rate, adam_lr=1.5e-3 * parts.rate, seed=seed + 1
    )
    modules: dict[str, nn.Module] = {"transformer": transformer}
    if is_grown(text_encoder):
        # Its answers are made of the same states as its prompts.
        text_encoder.eval().requires_grad_(False)
    else:
        modules["text_encoder"] = text_encoder
    run_stage(run_path, settings, modules, compute_loss, progress=progress)


def _encode_once(
    run_path: Path, vae: AutoencoderKLWan, pairs: Pairs, device: str, progress: bool
) -> dict[str, Tensor]:
    """Encode the pairs, or read their latents if the run has them from the same VAE."""
    path = run_path / f"latents-{len(pairs.prompts)}.safetensors"
    content = b"".join(tensor.float().cpu().numpy().tobytes() for tensor in vae.state_dict().values())
    digest = hashlib.sha256(content).hexdigest()
    if path.exists():
        with safe_open(path, framework="pt") as file:
            if file.metadata() == {"vae": digest}:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    latents = encode_pairs(vae, pairs, device, progress=progress)
    partial = path.with_suffix(".partial")
    save_file(latents, partial, {"vae": digest})
    partial.replace(path)
    return latents


def _edited_parts(run_path: Path, seed: int, start: str | None) -> _Parts:
    """Return the parts as the stages of the run left them, or those of `start` where it has none.

    Raises:
        CheckpointError: There is neither an edit stage nor a checkpoint to start from.
    """
    parts = _new_parts(run_path, seed) if start is None else _parts_of(start)
    if start is not None and (run_path / "vae.safetensors").exists():
        parts.vae.load_state_dict(averaged_weights(run_path, "vae", "vae"))
    if start is None or (run_path / "edit.safetensors").exists():
        parts.transformer.load_state_dict(averaged_weights(run_path, "edit", "transformer"))
        if start is None or not is_grown(parts.text_encoder):
            parts.text_encoder.load_state_dict(
                averaged_weights(run_path, "edit", "text_encoder"), strict=False
            )
    return parts


def _with_language(run_path: Path, parts: _Parts, seed: int) -> _Parts:
    """Return the parts with a language half, untrained where they had none; the tokenizer is built once per run."""
    if not is_grown(parts.text_encoder):
        folder = run_path / "tokenizer"
        if not folder.exists():
            extend_tokenizer(parts.tokenizer).save_pretrained(folder)
        tokenizer = Qwen2Tokenizer.from_pretrained(folder)
        scale_stream(parts.text_encoder, parts.transformer)
        torch.manual_seed(seed)
        grown = grow_text_encoder(parts.text_encoder, tokenizer)
        parts = replace(parts, tokenizer=tokenizer, text_encoder=grown)
    if not can_compare(parts.text_encoder):
        torch.manual_seed(seed)
        parts = replace(parts, text_encoder=add_comparing_layer(parts.text_encoder))
    return parts


def _train_reading(
    run_path: Path, edited: _Parts, steps: int, num: int, seed: int, device: str, progress: bool
) -> None:
    is_new, compares = not is_grown(edited.text_encoder), can_compare(edited.text_encoder)
    parts = _with_language(run_path, edited, seed)
    student: Any = parts.text_encoder.to(device).train().requires_grad_(True)
    # Untrained layers change nothing: the edit model's own are enough.
    teacher: Any = copy.deepcopy(edited.text_encoder).to(device).float().requires_grad_(False)
    (freeze_edit_half if is_new else freeze_reading_half)(student)
    for text_encoder in (student, teacher):
        use_fast_training(text_encoder)
    sources = [render_readings(run_path, num, progress=progress)]
    sources += [load_readings(folder) for folder in sorted(run_path.glob("outputs-*"))]
    data = prepare_readings(student, parts.tokenizer, sources)
    torch.manual_seed(seed)
    if not compares:
        aim_at_pairs(student, data)
    probe = nn.Linear(student.config.text_config.hidden_size, 1).to(device)
    pairs = render_pairs(run_path, min(num, _KEPT_PROMPTS), first_seed=_KEPT_FROM_SEED, progress=progress)
    prompts = prepare_prompts(parts.tokenizer, pairs)

    def compute_loss(_step: int) -> tuple[Tensor, dict[str, float]]:
        return reading_loss(student, teacher, probe, data, prompts, _READ_BATCH if is_new else _COMPARE_BATCH)

    settings = StageSettings(
        name="read",
        steps=steps,
        muon_lr=READ_MUON_RATE if is_new else COMPARE_MUON_RATE,
        adam_lr=READ_ADAM_RATE if is_new else COMPARE_ADAM_RATE,
        seed=seed + 2,
        save_every=100,
    )
    run_stage(run_path, settings, {"text_encoder": student, "probe": probe}, compute_loss, progress=progress)


def _export(run_path: Path, output_path: Path, seed: int, start: str | None) -> Path:
    parts = _edited_parts(run_path, seed, start)
    if (run_path / "read.safetensors").exists():
        parts = _with_language(run_path, parts, seed)
        parts.text_encoder.load_state_dict(averaged_weights(run_path, "read", "text_encoder"))
    return export(
        output_path,
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        transformer=parts.transformer,
        tokenizer=parts.tokenizer,
    )
