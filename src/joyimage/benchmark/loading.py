"""Seconds from nothing to the first image, with each implementation's own way of loading."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from joyimage.benchmark.baseline import assemble, load_transformer
from joyimage.benchmark.timing import WHOLE, Edit, run
from joyimage.pipeline.edit import JoyImageEditPipeline
from joyimage.pipeline.processor import JoyImageProcessor

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def measure_loading(ours: JoyImageEditPipeline, edit: Edit, dtype: torch.dtype) -> dict[str, Any]:
    """Save a pipeline, load it with both implementations, and make one image with each.

    The libraries are imported already and the files are in the system's memory: what is measured is the
    implementations, not the disk.

    Args:
        ours: Pipeline to save and load again.
        edit: The first edit.
        dtype: Precision of the weights.

    Returns:
        By side, seconds of loading and of the first edit.
    """
    device = edit.latents.device

    def load_ours(folder: Path) -> Any:
        pipe = JoyImageEditPipeline.from_pretrained(folder, dtype=dtype)
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(device)

    def load_reference(folder: Path) -> Any:
        # Part by part: diffusers' own way asks for torchvision, for the sake of videos.
        processor = JoyImageProcessor.from_pretrained(folder / "processor")
        parts: Any = SimpleNamespace(
            vae=AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=dtype),
            text_encoder=Qwen3VLForConditionalGeneration.from_pretrained(
                folder / "text_encoder", dtype=dtype
            ).eval(),
            scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
            tokenizer=ours.tokenizer,
            processor=processor,
            config=ours.config,
        )
        parts.vae.eval()
        return assemble(parts, load_transformer(folder / "transformer", dtype).eval()).to(device)

    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        return {
            "diffusers": _first(load_reference, Path(folder), edit),
            "joyimage": _first(load_ours, Path(folder), edit),
        }


def _first(load: Callable[[Path], Any], folder: Path, edit: Edit) -> dict[str, float]:
    begin = time.perf_counter()
    pipe = load(folder)
    loading = time.perf_counter() - begin
    return {"loading": loading, "first edit": run(pipe, edit).seconds[WHOLE]}
