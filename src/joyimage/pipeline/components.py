"""Build the transformer, the text encoder and the VAE from weight files of any format."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import init_empty_weights  # pyright: ignore[reportMissingTypeStubs]
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import nn
from transformers import GenerationConfig
from transformers.initialization import no_init_weights
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from joyimage.acceleration.quantization import fill
from joyimage.acceleration.streaming import find_blocks, streamed_tensors
from joyimage.compat.torch import own_buffers
from joyimage.errors import CheckpointError
from joyimage.model.checkpoint.headers import read_json, shapes_of
from joyimage.model.checkpoint.shards import STEM
from joyimage.model.checkpoint.source import WeightSource
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from joyimage.pipeline.processor import JoyImageProcessor
from joyimage.pipeline.qwen3_vl import is_encoding

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED_FOLDER = Path(str(files("joyimage.pipeline") / "published"))
"""Configs, tokenizer and processor of the published model, without weights."""

STEMS = {"transformer": STEM, "text_encoder": "model", "vae": STEM}
"""Part → what the names of its weight files start with."""


class MissingHead(nn.Module):
    """Stand in for the language head of a text encoder file that has none: edits never run it."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the input while the text encoder encodes; writing text needs the head.

        Raises:
            CheckpointError: The text encoder is to write text.
        """
        if is_encoding():
            return hidden_states
        raise CheckpointError(
            "The text encoder's file has no `lm_head.weight`, which `describe` and `rewrite` need. Use a file or"
            f" folder that has it (inputs have {hidden_states.shape[-1]} channels)."
        )


def build_component(
    source: WeightSource,
    config_folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantization: str | None = None,
    are_blocks_left_out: bool = False,
) -> Any:
    """Build one part and give it the weights of a file.

    Args:
        source: Weights of the part.
        config_folder: Folder with the part's config.json.
        dtype: Precision of the weights that are not kept quantized.
        device: Device of the weights.
        quantization: None keeps linear layers as the file stores them, "none" decodes all weights, and a name
            of `QUANTIZATIONS` quantizes the layers that the file holds in full precision.
        are_blocks_left_out: Leave the tensors of blocks on the meta device: they are to be streamed.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: The config is missing, or the weights do not fit it.
    """
    model = build_empty_part(config_folder, source.part)
    optional = ("lm_head.weight",) if source.part == "text_encoder" else ()
    source.check(shapes_of(model), optional)
    keep = getattr(model, "_keep_in_fp32_modules", None) or ()
    fill(
        model,
        source,
        dtype=dtype,
        device=device,
        quantization=quantization,
        fp32_modules=tuple(keep) if source.part == "transformer" else (),
        left_out=_names_in_blocks(model) if are_blocks_left_out else (),
    )
    if source.part == "text_encoder" and "lm_head.weight" not in source.weights:
        model.lm_head = MissingHead()
    for buffers in (own_buffers(module) for module in model.modules()):
        for name, buffer in buffers.items():  # those that no file holds, such as rotary frequencies
            if buffer is not None and not buffer.is_meta:
                buffers[name] = buffer.to(device)
    return model.requires_grad_(False).eval()


def _names_in_blocks(model: nn.Module) -> set[str]:
    return {name for prefix, block in find_blocks(model) for name, *_ in streamed_tensors(block, prefix)}


def open_part(path: Path, part: str, variant: str | None = None) -> WeightSource:
    """Open the weights of one part.

    Args:
        path: A weight file, or the part's own folder.
        part: "transformer", "text_encoder" or "vae".
        variant: Such as "fp16"; for folders only.

    Raises:
        CheckpointError: The file cannot be read, or holds something else.
    """
    if path.is_dir():
        return WeightSource.from_folder(path, part, STEMS[part], variant)
    return WeightSource([path], part)


def published_components() -> dict[str, Any]:
    """Return tokenizer and processor of the published model, which ship with this package."""
    folder = PUBLISHED_FOLDER / "processor"
    return {
        "tokenizer": cast("Any", Qwen2Tokenizer).from_pretrained(folder),
        "processor": JoyImageProcessor.from_pretrained(folder),
    }


def build_empty_part(folder: Path, part: str) -> Any:
    """Build a part of a checkpoint from its config, the weights on the meta device.

    Args:
        folder: The part's own folder.
        part: "transformer", "text_encoder" or "vae".

    Returns:
        The part. Its buffers are computed, as no file holds them.
    """
    return _BUILDERS[part](folder)


def _build_transformer(folder: Path) -> Any:
    path = folder / "config.json"
    return JoyImageEditTransformer3DModel.build_empty(read_json(path), str(path))


def _build_text_encoder(folder: Path) -> Any:
    config = read_json(folder / "config.json")
    # Parameters only: the buffers, which no file holds, are computed here.
    with init_empty_weights(include_buffers=False), no_init_weights():
        model = Qwen3VLForConditionalGeneration(cast("Any", Qwen3VLConfig).from_dict(config))
    if (folder / "generation_config.json").is_file():
        model.generation_config = cast("Any", GenerationConfig).from_pretrained(folder)
    return model


def _build_vae(folder: Path) -> Any:
    with init_empty_weights():
        return cast("Any", AutoencoderKLWan).from_config(read_json(folder / "config.json"))


_BUILDERS = {
    "transformer": _build_transformer,
    "text_encoder": _build_text_encoder,
    "vae": _build_vae,
}
