"""What joyimage is measured against: diffusers' own JoyImage pipeline, on the very same weights.

This is the only module of the package that loads diffusers' JoyImage classes. It loads them by name, when a
benchmark asks for them, to be measured against; nothing of them is reused.
"""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch import nn

from joyimage.compat.diffusers import set_attention_backend
from joyimage.errors import InvalidInputError
from joyimage.pipeline.buckets import bucket_sizes
from joyimage.pipeline.processor import JoyImageProcessor
from joyimage.pipeline.prompts import prefix_length

if TYPE_CHECKING:
    from joyimage.pipeline.edit import JoyImageEditPipeline

EAGER = "eager"
BASELINES = {
    EAGER: "diffusers as it is",
    "cudnn": "diffusers with cuDNN attention",
    "compiled": "diffusers with its blocks compiled",
    "fixed": "diffusers with cached RoPE tables and patches by a matmul",
}
"""Name → what it is."""

_TRANSFORMER = "diffusers.models.transformers.transformer_joyimage"
_PIPELINE = "diffusers.pipelines.joyimage.pipeline_joyimage_edit"
_IMAGE_PROCESSOR = "diffusers.pipelines.joyimage.image_processor"


def make_baseline(ours: JoyImageEditPipeline, kind: str = EAGER) -> Any:
    """Build diffusers' pipeline around our pipeline's parts.

    Text encoder, VAE, tokenizer and processor are the same objects, the transformer holds the same tensors.

    Args:
        ours: Whose weights to take.
        kind: One of `BASELINES`.

    Returns:
        diffusers' JoyImageEditPipeline, quiet, for images of our pipeline's base size.

    Raises:
        InvalidInputError: There is no such baseline, or the installed diffusers has no JoyImage classes.
    """
    if kind not in BASELINES:
        raise InvalidInputError(f"`kind` is {kind!r}; expected one of {', '.join(BASELINES)}.")
    transformer_class = find_class(_TRANSFORMER, "JoyImageEditTransformer3DModel")
    config = ours.transformer.config
    names = ("patch_size", "in_channels", "out_channels", "hidden_size", "num_attention_heads", "text_dim")
    names += ("mlp_width_ratio", "num_layers", "rope_dim_list", "rope_type", "theta")
    with init_empty_weights(include_buffers=False):
        transformer = transformer_class(**{name: config[name] for name in names})
    transformer.load_state_dict(ours.transformer.state_dict(), assign=True)
    transformer.eval().requires_grad_(False)
    return assemble(ours, transformer, kind)


def assemble(ours: JoyImageEditPipeline, transformer: Any, kind: str = EAGER) -> Any:
    """Put diffusers' pipeline together from its transformer and our pipeline's other parts.

    Args:
        ours: Gives text encoder, VAE, tokenizer, processor and base size.
        transformer: diffusers' own.
        kind: One of `BASELINES`.

    Returns:
        diffusers' JoyImageEditPipeline.
    """
    pipe = find_class(_PIPELINE, "JoyImageEditPipeline")(
        scheduler=type(ours.scheduler).from_config(ours.scheduler.config),  # it keeps the state of a run
        vae=ours.vae,
        text_encoder=ours.text_encoder,
        tokenizer=ours.tokenizer,
        transformer=transformer,
        processor=ours.processor,
    )
    allow_base_size(pipe, ours.config["base_size"])
    # It knows the published tokenizer's 34 tokens only.
    dropped = prefix_length(ours.tokenizer)
    pipe.prompt_template_encode_start_idx = dict.fromkeys(pipe.prompt_template_encode_start_idx, dropped)
    pipe.set_progress_bar_config(disable=True)
    if kind == "cudnn":
        # Not by `set_attention_backend`, which changes every other model's kernel as well, ours included.
        for block in transformer.double_blocks:
            set_attention_backend(block.attn.processor, "_native_cudnn")
    elif kind == "compiled":
        transformer.compile_repeated_blocks()
    elif kind == "fixed":
        _fix(transformer)
    return pipe


def allow_base_size(pipe: Any, base_size: int) -> None:
    """Have diffusers' pipeline edit images of another size than 1024 x 1024, the only one that it knows.

    Args:
        pipe: diffusers' JoyImageEditPipeline; changed in place.
        base_size: Side in pixels of the square bucket that all buckets derive from.
    """
    buckets = find_class(_IMAGE_PROCESSOR, "BUCKETS")
    buckets.setdefault(base_size, [size.rows_columns for size in bucket_sizes(base_size)])
    pipe.vae_image_processor.register_to_config(basesize=base_size)


def load_published(folder: Any, dtype: torch.dtype) -> Any:
    """Load a checkpoint folder with diffusers' pipeline, in diffusers' way.

    Only the processor is ours, as the library's needs torchvision.
    """
    return find_class(_PIPELINE, "JoyImageEditPipeline").from_pretrained(
        folder, torch_dtype=dtype, processor=JoyImageProcessor.from_pretrained(Path(folder, "processor"))
    )


def load_transformer(folder: Any, dtype: torch.dtype) -> Any:
    """Load a saved transformer with diffusers' class, in diffusers' way."""
    transformer_class = find_class(_TRANSFORMER, "JoyImageEditTransformer3DModel")
    return transformer_class.from_pretrained(folder, torch_dtype=dtype)


def find_class(module: str, name: str) -> Any:
    """Return an object of the installed diffusers.

    Args:
        module: Where it stands.
        name: What it is called.

    Returns:
        The object.

    Raises:
        InvalidInputError: The installed diffusers doesn't have it.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        installed = version("diffusers")
        raise InvalidInputError(
            f"The installed diffusers {installed} has no {name} in {module} to compare with; "
            "install diffusers 0.42.1."
        ) from None


def _fix(transformer: Any) -> None:
    """Mend the two things that are easiest to mend from outside."""
    build = transformer.get_rotary_pos_embed
    device = next(transformer.parameters()).device

    @functools.cache
    def cached(size: tuple[int, ...], text: int | None) -> Any:
        def move(tables: Any) -> Any:
            return None if tables is None else tuple(table.to(device) for table in tables)

        return tuple(move(tables) for tables in build(list(size), text))

    def get_rotary_pos_embed(vis_rope_size: list[int], txt_rope_size: int | None = None) -> Any:
        return cached(tuple(vis_rope_size), txt_rope_size)

    def patchify(latents: torch.Tensor) -> torch.Tensor:
        patch = projection.kernel_size
        grid = [length // side for length, side in zip(latents.shape[2:], patch, strict=True)]
        split = [side for pair in zip(grid, patch, strict=True) for side in pair]
        rows = latents.reshape(*latents.shape[:2], *split).permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
        return nn.functional.linear(rows, projection.weight.flatten(1), projection.bias).movedim(-1, 1)

    transformer.get_rotary_pos_embed = get_rotary_pos_embed
    projection: Any = transformer.img_in
    projection.forward = patchify
