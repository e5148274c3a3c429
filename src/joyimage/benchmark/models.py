"""The models that are measured: the published sizes, a small one of the same proportions, the embedded one.

Only the embedded one has trained weights; the measurements do not depend on them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import nn
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from joyimage.errors import InvalidInputError
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from joyimage.pipeline.buckets import BASE_SIZES
from joyimage.pipeline.edit import JoyImageEditPipeline
from joyimage.pipeline.processor import JoyImageProcessor
from joyimage.tiny import weights_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL_NAMES = ("scaled", "tiny", "full")

PROMPT = "Make the car red"
"""Seven tokens for `build`'s tokenizer: with them a text is 1,040 tokens at 1024 x 1024 pixels."""


@dataclass(frozen=True, kw_only=True)
class BenchModel:
    """Sizes of a model without trained weights, and of the edit that it is measured with.

    Attributes:
        name: Name in the report.
        base_size: Side of the square image in pixels.
        hidden_size: Width of the transformer.
        num_attention_heads: Attention heads of the transformer.
        num_layers: Blocks of the transformer.
        text: Settings of Qwen3-VL's language half.
        vision: Settings of Qwen3-VL's vision tower.
        vae_base_dim: Width of the VAE's first convolution.
        std: Standard deviation of the weights.
    """

    name: str
    base_size: int
    hidden_size: int
    num_attention_heads: int
    num_layers: int
    text: dict[str, Any]
    vision: dict[str, Any]
    vae_base_dim: int
    std: float

    def transformer_settings(self) -> dict[str, Any]:
        """Return the constructor arguments of the transformer, the same for both implementations."""
        return {
            "patch_size": [1, 2, 2],
            "in_channels": 16,
            "out_channels": 16,
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.num_attention_heads,
            "text_dim": self.text["hidden_size"],
            "mlp_width_ratio": 4.0,
            "num_layers": self.num_layers,
            "rope_dim_list": [16, 56, 56],
            "rope_type": "rope",
            "theta": 10000,
        }


FULL = BenchModel(
    name="full",
    base_size=1024,
    hidden_size=4096,
    num_attention_heads=32,
    num_layers=40,
    text={
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "mrope_section": [24, 20, 20],
    },
    vision={
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24],
    },
    vae_base_dim=96,
    std=0.02,
)
"""The published configuration, 25 billion parameters.

Source: config.json of transformer, text_encoder and vae in jdopensource/JoyAI-Image-Edit-Diffusers.
"""

SCALED = BenchModel(
    name="scaled",
    base_size=256,
    hidden_size=256,
    num_attention_heads=2,
    num_layers=8,
    # A sixteenth of the widths and a fifth of the depths: vision tower, language half and lm_head keep their
    # shares of the encoder's work (29, 65 and 6 %), tokens per image token and per prompt stay as they are.
    text={
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 7,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 1848,
        "mrope_section": [6, 5, 5],
    },
    vision={
        "depth": 5,
        "hidden_size": 72,
        "intermediate_size": 269,
        "num_heads": 1,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [1, 2, 4],
    },
    vae_base_dim=16,
    # The gain of a layer of the full model: 0.02 * sqrt(4096) = 0.08 * sqrt(256).
    std=0.08,
)
"""The proportions of the published model at a size that a CPU can run.

Attention over matmuls is 0.385 (published: 0.376), the text's share of the tokens 13 % (11 %), the
reference's 43 % (44 %).
"""


def resolve(name: str, *, size: int | None = None, num_layers: int | None = None) -> BenchModel | None:
    """Return the model with a name, resized if requested.

    Args:
        name: One of `MODEL_NAMES`.
        size: Side of the square image in pixels; None: the model's own.
        num_layers: Blocks of the transformer; None: the model's own.

    Returns:
        The model, or None for "tiny", which is loaded rather than built.

    Raises:
        InvalidInputError: There is no such model, or it can't have that size.
    """
    if name not in MODEL_NAMES:
        raise InvalidInputError(f"`model` is {name!r}; expected one of {', '.join(MODEL_NAMES)}.")
    if size is not None and size not in BASE_SIZES:
        raise InvalidInputError(f"`size` is {size}; expected one of {', '.join(map(str, BASE_SIZES))}.")
    if num_layers is not None and num_layers < 1:
        raise InvalidInputError(f"`layers` is {num_layers}; expected 1 or more.")
    if name == "tiny":
        if (size, num_layers) != (None, None):
            raise InvalidInputError(
                "`size` and `layers` belong to the models that are built; tiny is loaded as it is."
            )
        return None
    model = FULL if name == "full" else SCALED
    return replace(model, base_size=size or model.base_size, num_layers=num_layers or model.num_layers)


def build(model: BenchModel, device: torch.device, dtype: torch.dtype, seed: int = 0) -> JoyImageEditPipeline:
    """Build our pipeline with random weights, drawn where they stay.

    Args:
        model: Sizes of the model.
        device: Where the weights go; "meta" has shapes only.
        dtype: Precision of the weights; the time embedding stays fp32, as when a checkpoint is loaded.
        seed: Seed of the random weights.

    Returns:
        The pipeline, quiet, ready to run.
    """
    tokenizer = _make_tokenizer()
    with init_empty_weights(include_buffers=False):
        transformer = JoyImageEditTransformer3DModel(**model.transformer_settings())
        text_encoder = Qwen3VLForConditionalGeneration(_encoder_config(model, tokenizer))
        vae = AutoencoderKLWan(base_dim=model.vae_base_dim)
    pipe = JoyImageEditPipeline(
        scheduler=make_scheduler(),
        vae=_fill(vae, model.std, device, dtype, seed),
        text_encoder=_fill(text_encoder, model.std, device, dtype, seed + 1),
        tokenizer=tokenizer,
        transformer=_fill(transformer, model.std, device, dtype, seed + 2),
        processor=JoyImageProcessor(_make_image_processor(), tokenizer),
        base_size=model.base_size,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return the scheduler with the published shift."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.5)


def make_image(size: int) -> Image.Image:
    """Draw the square RGB image that is edited: colored waves and a disc."""
    row, column = np.mgrid[0:size, 0:size] / size
    waves = [np.sin(a * row + b * column) for a, b in ((9.0, 4.0), (5.0, 13.0), (3.0, 7.0))]
    pixels = 127.5 + 127.5 * np.stack(waves, axis=-1)
    pixels[(row - 0.5) ** 2 + (column - 0.5) ** 2 < 0.04] = (230, 60, 40)
    return Image.fromarray(pixels.astype(np.uint8))


def _make_tokenizer() -> Qwen2Tokenizer:
    """Return the embedded tokenizer, with the published one's 33 tokens for the system message."""
    tokenizer_path = weights_folder() / "tokenizer" / "tokenizer.json"
    saved = json.loads(tokenizer_path.read_text(encoding="utf-8"))
    vocab = saved["model"]["vocab"]
    # The published tokenizer reads the literal "nDescribe" as two tokens, the embedded one as one.
    merges = [tuple(merge) for merge in saved["model"]["merges"] if "".join(merge) != "nDescribe"]
    tokenizer_class: Any = Qwen2Tokenizer  # annotated more narrowly than it is
    tokenizer: Qwen2Tokenizer = tokenizer_class(
        vocab=vocab, merges=merges, unk_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    special = [token["content"] for token in saved["added_tokens"]]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    return tokenizer


def _encoder_config(model: BenchModel, tokenizer: Any) -> Qwen3VLConfig:
    text = dict(model.text)
    rope = {
        "rope_type": "default",
        "rope_theta": 5000000,
        "mrope_interleaved": True,
        "mrope_section": text.pop("mrope_section"),
    }
    token_id = tokenizer.convert_tokens_to_ids
    return Qwen3VLConfig(
        text_config={**text, "max_position_embeddings": 262144, "rope_parameters": rope},
        vision_config={
            **model.vision,
            "out_hidden_size": text["hidden_size"],
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def _make_image_processor() -> Qwen2VLImageProcessorPil:
    """Return the published image processor, which here keeps small images as small as they are."""
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": 1024, "longest_edge": 16777216},
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


@torch.no_grad()
def _fill(module: Any, std: float, device: torch.device, dtype: torch.dtype, seed: int) -> Any:
    """Give a module drawn weights: one parameter at a time, so that nothing is held twice."""
    kept: tuple[str, ...] = tuple(getattr(module, "_keep_in_fp32_modules", None) or ())
    generator = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)
    for name, parameter in _parameters(module):
        is_wide = any(part in name.split(".") for part in kept)
        owner, leaf = module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        weight = torch.empty(parameter.shape, device=device, dtype=torch.float32 if is_wide else dtype)
        if generator is not None:
            draw_weight(weight, name, std, generator)
        owner.register_parameter(leaf, nn.Parameter(weight, requires_grad=False))
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            setattr(owner, name, buffer.to(device))
    return module.eval()


def draw_weight(weight: torch.Tensor, name: str, std: float, generator: torch.Generator) -> None:
    """Draw a weight in place: normal(0, std); so that signals live on, the VAE's by fan-in, norms' scales around 1.

    Args:
        weight: The weight.
        name: Name of the weight in its model.
        std: Standard deviation of all but convolutions.
        generator: Generator on the weight's device.
    """
    is_scale = name.endswith("gamma") or ("norm" in name and name.endswith("weight"))
    if weight.ndim >= 4 and "img_in" not in name and "patch_embed" not in name:
        # A causal 3-D kernel meets zeros with all but its last temporal tap.
        taps = math.prod(weight.shape[1:]) / (weight.shape[2] if weight.ndim == 5 else 1)
        weight.normal_(0, taps**-0.5, generator=generator)
    else:
        weight.normal_(1 if is_scale else 0, std, generator=generator)


def _parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return iter(list(module.named_parameters()))
