"""Build the real classes at tiny size, and a checkpoint folder that looks like the published one.

Nothing here is a stand-in: Qwen3-VL, the Wan VAE, the scheduler, the tokenizer and the processor are the
libraries' own classes with small settings and seeded fp32 weights. The weights are large enough that each
input (image, prompt, noise, guidance) moves the output visibly, so that an agreement test can fail.
"""

from __future__ import annotations

import functools
import json
import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_joyimage import (
    JoyImageEditTransformer3DModel as ReferenceTransformer,
)
from diffusers.models.transformers.transformer_joyimage_edit_plus import (
    JoyImageEditPlusTransformer3DModel as ReferencePlusTransformer,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers.pipelines.joyimage.pipeline_joyimage_edit import JoyImageEditPipeline as ReferencePipeline
    from diffusers.pipelines.joyimage.pipeline_joyimage_edit_plus import (
        JoyImageEditPlusPipeline as ReferencePlusPipeline,
    )
    from torch import nn

    from joyimage.model.transformer import JoyImageEditTransformer3DModel
    from joyimage.pipeline.edit import JoyImageEditPipeline
    from joyimage.pipeline.edit_plus import JoyImageEditPlusPipeline

BASE_SIZE = 256
"""The bucket list the tiny pipelines use: the smallest one that exists."""

SYSTEM_MESSAGE = (
    "<|im_start|>system\n \\nDescribe the image by detailing the color, shape, size, texture, quantity, "
    "text, spatial relationships of the objects and background:<|im_end|>\n"
)
PREFIX_TOKENS = 34

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

TRANSFORMER_CONFIG: dict[str, Any] = {
    "patch_size": [1, 2, 2],
    "in_channels": 16,
    "out_channels": 16,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "text_dim": 48,
    "mlp_width_ratio": 4.0,
    "num_layers": 2,
    "rope_dim_list": [8, 12, 12],
    "rope_type": "rope",
    "theta": 10000,
}

# The older generation's spelling of the same settings, with the keys that no longer mean anything.
LEGACY_TRANSFORMER_CONFIG: dict[str, Any] = {
    "attn_backend": "torch_spda",
    "dit_modulation_type": "wanx",
    "enable_activation_checkpointing": False,
    "heads_num": TRANSFORMER_CONFIG["num_attention_heads"],
    "hidden_size": TRANSFORMER_CONFIG["hidden_size"],
    "in_channels": TRANSFORMER_CONFIG["in_channels"],
    "is_repa": False,
    "mlp_width_ratio": TRANSFORMER_CONFIG["mlp_width_ratio"],
    "mm_double_blocks_depth": TRANSFORMER_CONFIG["num_layers"],
    "out_channels": TRANSFORMER_CONFIG["out_channels"],
    "patch_size": TRANSFORMER_CONFIG["patch_size"],
    "repa_layer": 13,
    "rope_dim_list": TRANSFORMER_CONFIG["rope_dim_list"],
    "rope_theta": TRANSFORMER_CONFIG["theta"],
    "rope_type": TRANSFORMER_CONFIG["rope_type"],
    "text_states_dim": TRANSFORMER_CONFIG["text_dim"],
    "unpatchify_new": True,
}


@torch.no_grad()
def fill(module: nn.Module, seed: int, gains: dict[str, float] | None = None) -> None:
    """Give each parameter of `module` seeded weights of unit gain.

    Args:
        module: Filled in place.
        seed: Seed of the only generator that is used.
        gains: Factor on the standard deviation of parameters whose name contains the key.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        gain = math.prod(factor for part, factor in (gains or {}).items() if part in name)
        is_scale = name.endswith("gamma") or (parameter.ndim == 1 and name.endswith("weight"))
        if is_scale:
            parameter.copy_(1 + 0.1 * draw)
        elif name.endswith("modulate_table"):
            parameter.copy_(0.3 * draw)
        elif parameter.ndim == 1:
            parameter.copy_(0.1 * gain * draw)
        else:
            parameter.copy_(gain * draw / math.sqrt(math.prod(parameter.shape[1:])))


@functools.cache
def _bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train a byte-level BPE in which the system message has as many tokens as in the real vocabulary."""
    # "Describe" alone: as in the real vocabulary, the literal "nDescribe" then is two tokens, n and Describe.
    message = SYSTEM_MESSAGE.split("\n", 1)[1].removesuffix("<|im_end|>\n").replace("\\nDescribe", "\\")
    corpus = [message, "Describe", "system", "user", "assistant", "\n", "Make the car red and the sky blue"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def make_tokenizer(padding_side: str = "right") -> Qwen2Tokenizer:
    """Build Qwen's tokenizer class over a vocabulary of about 400 tokens."""
    vocab, merges = _bpe()
    tokenizer = Qwen2Tokenizer(
        vocab=dict(vocab),
        merges=cast("Any", merges),
        unk_token=cast("Any", None),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side=padding_side,
        model_max_length=262144,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    return tokenizer


class TinyProcessor(Qwen3VLProcessor):
    """Qwen3-VL's processor without its video part, which needs torchvision."""

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil | None = None,
        tokenizer: Qwen2Tokenizer | None = None,
        chat_template: str | None = None,
    ) -> None:
        """Take the parts by the names that the saved folder uses."""
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> None:
        """Let the missing video part pass."""
        if argument_name != "video_processor":
            super().check_argument_for_proper_class(argument_name, argument)


def make_image_processor() -> Qwen2VLImageProcessorPil:
    """Build the image half of the processor; images from 32 pixels squared on keep their size."""
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": 1024, "longest_edge": 16777216},
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def make_processor(tokenizer: Qwen2Tokenizer) -> TinyProcessor:
    """Build the reference pipelines' processor around `tokenizer`."""
    return TinyProcessor(make_image_processor(), tokenizer)


def text_encoder_config(tokenizer: Qwen2Tokenizer) -> Qwen3VLConfig:
    """Give the settings of a Qwen3-VL with three text layers and two vision layers."""
    token_id = tokenizer.get_vocab().__getitem__
    return Qwen3VLConfig(
        text_config={
            "hidden_size": TRANSFORMER_CONFIG["text_dim"],
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "vocab_size": 400,
            "max_position_embeddings": 32768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5000000,
                "mrope_interleaved": True,
                "mrope_section": [4, 2, 2],
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": TRANSFORMER_CONFIG["text_dim"],
            "num_position_embeddings": 64,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def make_text_encoder(tokenizer: Qwen2Tokenizer, seed: int = 1) -> Qwen3VLForConditionalGeneration:
    """Build a Qwen3-VL whose states before the final norm are as large as the real one's (std about 20)."""
    text_encoder = Qwen3VLForConditionalGeneration(text_encoder_config(tokenizer)).float().eval()
    fill(text_encoder, seed, {"embed_tokens": 60.0, "down_proj": 14.0, "o_proj": 14.0, "pos_embed": 4.0})
    return text_encoder.requires_grad_(False)


def make_vae(seed: int = 2) -> AutoencoderKLWan:
    """Build a Wan VAE of the published topology (8x, 16 channels, the published latent statistics)."""
    vae = AutoencoderKLWan(base_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=1).float().eval()
    fill(vae, seed, {"conv_out": 1.5, "quant_conv.weight": 2.0})
    with torch.no_grad():
        # Log variance: the posterior's noise is seen, but the image as well.
        vae.get_parameter("quant_conv.bias")[16:] -= 2
    return vae.requires_grad_(False)


def make_scheduler(shift: float = 1.5) -> FlowMatchEulerDiscreteScheduler:
    """Build the scheduler with the published shift."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)


def make_reference_transformer(
    seed: int = 3, *, plus: bool = False, **overrides: Any
) -> ReferenceTransformer | ReferencePlusTransformer:
    """Build diffusers' transformer; the same seed gives both classes the same weights."""
    transformer_class = ReferencePlusTransformer if plus else ReferenceTransformer
    transformer = transformer_class(**{**TRANSFORMER_CONFIG, **overrides})
    gains = {"text_embedder.linear_1": 0.1, "attn_proj": 4.0, "attn_qkv": 1.5, "proj_out": 2.0}
    fill(transformer.float().eval(), seed, gains)
    return transformer.requires_grad_(False)


def make_transformer(seed: int = 3, **overrides: Any) -> JoyImageEditTransformer3DModel:
    """Build our transformer with the weights of `make_reference_transformer(seed)`."""
    from joyimage.model.transformer import JoyImageEditTransformer3DModel

    transformer = JoyImageEditTransformer3DModel(**{**TRANSFORMER_CONFIG, **overrides}).float().eval()
    transformer.load_state_dict(make_reference_transformer(seed, **overrides).state_dict())
    return transformer.requires_grad_(False)


def make_components(padding_side: str = "right") -> dict[str, Any]:
    """Build all parts of a pipeline except transformer and processor, new ones in each call."""
    tokenizer = make_tokenizer(padding_side)
    return {
        "scheduler": make_scheduler(),
        "vae": make_vae(),
        "text_encoder": make_text_encoder(tokenizer),
        "tokenizer": tokenizer,
    }


def make_pipeline(padding_side: str = "right") -> JoyImageEditPipeline:
    """Build our pipeline with the smallest buckets."""
    from joyimage.pipeline.edit import JoyImageEditPipeline

    return _ours(JoyImageEditPipeline, padding_side)


def make_plus_pipeline(padding_side: str = "right") -> JoyImageEditPlusPipeline:
    """Build our pipeline for several references with the smallest buckets."""
    from joyimage.pipeline.edit_plus import JoyImageEditPlusPipeline

    return _ours(JoyImageEditPlusPipeline, padding_side)


def _ours(pipeline_class: Any, padding_side: str) -> Any:
    from joyimage.pipeline.processor import JoyImageProcessor

    parts = make_components(padding_side)
    processor = JoyImageProcessor(make_image_processor(), parts["tokenizer"])
    pipe = pipeline_class(**parts, transformer=make_transformer(), processor=processor, base_size=BASE_SIZE)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_reference_pipeline(padding_side: str = "right") -> ReferencePipeline:
    """Build diffusers' pipeline with the smallest buckets and the weights of `make_pipeline()`."""
    from diffusers.pipelines.joyimage.pipeline_joyimage_edit import JoyImageEditPipeline

    pipe = _reference(JoyImageEditPipeline, padding_side, plus=False)
    _use_small_buckets(pipe.vae_image_processor)
    return pipe


def make_reference_plus_pipeline(padding_side: str = "right") -> ReferencePlusPipeline:
    """Build diffusers' pipeline for several references with the weights of `make_plus_pipeline()`."""
    from diffusers.pipelines.joyimage.pipeline_joyimage_edit_plus import JoyImageEditPlusPipeline

    pipe = _reference(JoyImageEditPlusPipeline, padding_side, plus=True)
    _use_small_buckets(pipe.image_processor)
    return pipe


def _reference(pipeline_class: Any, padding_side: str, *, plus: bool) -> Any:
    parts = make_components(padding_side)
    transformer = make_reference_transformer(plus=plus)
    pipe = pipeline_class(**parts, transformer=transformer, processor=make_processor(parts["tokenizer"]))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _use_small_buckets(image_processor: Any) -> None:
    """Give diffusers' bucket list, which is fixed at 1024 there, a list a quarter as large."""
    from diffusers.pipelines.joyimage.image_processor import BUCKETS

    BUCKETS[BASE_SIZE] = [
        (height * BASE_SIZE // 1024, width * BASE_SIZE // 1024) for height, width in BUCKETS[1024]
    ]
    image_processor.register_to_config(basesize=BASE_SIZE)


def make_image(seed: int = 0, height: int = 256, width: int = 256) -> Image.Image:
    """Draw an RGB image of colored waves; each seed gives another one."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[0:height, 0:width] / 256
    waves = [
        np.sin(rng.uniform(3, 15) * row + rng.uniform(3, 15) * column + rng.uniform(0, 6)) for _ in range(3)
    ]
    return Image.fromarray((127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8))


def write_checkpoint(
    folder: Path, *, plus: bool = False, legacy_config: bool = False, max_shard_size: str | int = "10GB"
) -> Path:
    """Write the tiny parts as a folder that looks like the published checkpoint.

    The weights come from diffusers' transformer: the key names are the published ones, whatever ours are.

    Args:
        folder: Created where missing; without a checkpoint in it.
        plus: Name the Edit-Plus classes in `model_index.json`.
        legacy_config: Write the transformer's settings with the older generation's keys.
        max_shard_size: Maximum size of a weight file of text encoder and transformer, such as "300KB".

    Returns:
        `folder`.
    """
    parts = make_components()
    tokenizer = parts["tokenizer"]
    (folder / "scheduler").mkdir(parents=True)
    _write_json(
        folder / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "_diffusers_version": "0.38.0.dev0",
            "num_train_timesteps": 1000,
            "shift": 1.5,
        },
    )
    parts["vae"].save_pretrained(folder / "vae")
    parts["text_encoder"].save_pretrained(folder / "text_encoder", max_shard_size=max_shard_size)
    _use_published_rope_keys(folder / "text_encoder" / "config.json")
    transformer = make_reference_transformer(plus=plus)
    transformer.save_pretrained(folder / "transformer", max_shard_size=max_shard_size)

    kind = "JoyImageEditPlus" if plus else "JoyImageEdit"
    settings = LEGACY_TRANSFORMER_CONFIG if legacy_config else TRANSFORMER_CONFIG
    names = {"_class_name": f"{kind}Transformer3DModel", "_diffusers_version": "0.38.0.dev0"}
    _write_json(folder / "transformer" / "config.json", {**names, **settings})
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": f"{kind}Pipeline",
            "_diffusers_version": "0.38.0.dev0",
            "processor": ["transformers", "Qwen3VLProcessor"],
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "Qwen3VLForConditionalGeneration"],
            "tokenizer": ["transformers", "Qwen2TokenizerFast"],
            "transformer": ["diffusers", f"{kind}Transformer3DModel"],
            "vae": ["diffusers", "AutoencoderKLWan"],
        },
    )
    _write_tokenizer(folder / "tokenizer", tokenizer)
    _write_tokenizer(folder / "processor", tokenizer)
    image_settings = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "merge_size": 2,
        "patch_size": 16,
        "processor_class": "Qwen3VLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": 16777216, "shortest_edge": 1024},
        "temporal_patch_size": 2,
    }
    image_type = {"image_processor_type": "Qwen2VLImageProcessorFast"}
    _write_json(folder / "processor" / "preprocessor_config.json", {**image_settings, **image_type})
    video_type = {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "fps": 2,
        "max_frames": 768,
        "min_frames": 4,
    }
    _write_json(folder / "processor" / "video_preprocessor_config.json", {**image_settings, **video_type})
    return folder


def _use_published_rope_keys(path: Path) -> None:
    """Spell the RoPE settings as the transformers version that wrote the published checkpoint did."""
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"]["rope_theta"] = rope.pop("rope_theta")
    config["text_config"]["rope_scaling"] = rope
    config["vision_config"].pop("rope_parameters", None)
    config["vision_config"]["model_type"] = "qwen3_vl"
    config["transformers_version"] = "4.57.6"
    _write_json(path, config)


def _write_tokenizer(folder: Path, tokenizer: Qwen2Tokenizer) -> None:
    """Write the files of the published tokenizer: vocabulary and merges, no `tokenizer.json`."""
    vocab, merges = _bpe()
    added = {token: tokenizer.get_vocab()[token] for token in SPECIAL_TOKENS}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "vocab.json", vocab)
    merge_lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(merge_lines) + "\n", encoding="utf-8")
    _write_json(folder / "added_tokens.json", added)
    named = {
        "additional_special_tokens": [token for token in SPECIAL_TOKENS if token != "<|endoftext|>"],
        "eos_token": {"content": "<|im_end|>", **plain},
        "pad_token": {"content": "<|endoftext|>", **plain},
    }
    _write_json(folder / "special_tokens_map.json", named)
    decoder = {str(index): {"content": token, "special": True, **plain} for token, index in added.items()}
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": named["additional_special_tokens"],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": {},
        "model_max_length": 262144,
        "pad_token": "<|endoftext|>",
        "processor_class": "Qwen3VLProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
        "use_fast": True,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    turn = "'<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n'"
    template = f"{{%- for message in messages %}}{{{{ {turn} }}}}{{%- endfor %}}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
