"""The parts of `joyimage-tiny`: the published classes at a size that a CPU can train, and their folder."""

from __future__ import annotations

import functools
import json
import shutil
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from joyimage.model.transformer import JoyImageEditTransformer3DModel
from joyimage.tiny.worlds.scenes import TASKS, generate

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 96
NUM_INFERENCE_STEPS = 4
GUIDANCE_SCALE = 1.0
SHIFT = 3.0

SYSTEM_TURN = (
    "<|im_start|>system\n \\nDescribe the image by detailing the color, shape, size, texture, quantity, "
    "text, spatial relationships of the objects and background:<|im_end|>\n"
)
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_TRAINED_TOKENS = 560
EDIT_VOCABULARY_SIZE = _TRAINED_TOKENS + len(SPECIAL_TOKENS)
EDIT_TEXT_LAYERS = 3
_CORPUS_SCENES_PER_TASK = 400
_TEXT_WIDTH = 128


@functools.cache
def _corpus_prompts() -> tuple[str, ...]:
    """Return the prompts of the first training scenes; each scene is drawn for it, 25 s in all."""
    return tuple(generate(task, seed).prompt for task in TASKS for seed in range(_CORPUS_SCENES_PER_TASK))


def build_tokenizer() -> Qwen2Tokenizer:
    """Train the byte-level BPE on the system message and on prompts of the training scenes."""
    # The system message often, so that its words are whole tokens and the prefix is short.
    corpus = [SYSTEM_TURN.replace("<|im_start|>", "").replace("<|im_end|>", ""), "user\n", "assistant\n"] * 50
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_TRAINED_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator([*corpus, *_corpus_prompts()], trainer)
    model = json.loads(trained.to_str())["model"]
    make_tokenizer: Any = Qwen2Tokenizer  # its annotations leave out what it takes
    tokenizer = make_tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=32768,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    return tokenizer


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """Build the image half of the processor.

    1,024 pixels at least, so that 96 px stays 96 px; and no more than the largest bucket takes, so that a larger image
    is read at the size of the scenes.
    """
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": 1024, "longest_edge": 12288},
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def build_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3VLForConditionalGeneration:
    """Build a Qwen3-VL of three layers, with random weights in fp32."""
    token_id: Any = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "hidden_size": _TEXT_WIDTH,
            "intermediate_size": 384,
            "num_hidden_layers": EDIT_TEXT_LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "vocab_size": EDIT_VOCABULARY_SIZE,
            "max_position_embeddings": 32768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000,
                "mrope_interleaved": True,
                "mrope_section": [6, 5, 5],
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 4,
            "out_hidden_size": _TEXT_WIDTH,
            "num_position_embeddings": 64,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "deepstack_visual_indexes": [1],
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    config.update({"has_language": False})  # edits train it to encode; reading comes after
    return Qwen3VLForConditionalGeneration(config).float()


def build_vae() -> AutoencoderKLWan:
    """Build a Wan VAE of the published topology at base width 16, with random weights.

    One frame is all that it ever sees: causal padding leaves only the last temporal tap of each kernel with
    data, so the other taps are zero.
    """
    vae: Any = AutoencoderKLWan(base_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1, z_dim=16)
    with torch.no_grad():
        for parameter in vae.parameters():
            if parameter.ndim == 5 and parameter.shape[2] > 1:
                parameter[:, :, :-1] = 0
        # The pipeline samples the posterior; its noise has to be small from the first step on.
        vae.quant_conv.bias[16:] = -7
        vae.quant_conv.weight[16:] *= 0.1
    return vae


def build_transformer() -> JoyImageEditTransformer3DModel:
    """Build the transformer, two heads of each block initialized to look at the same place of the reference.

    Most of an edit is a copy. With RoPE's theta at 4 neighboring tokens are far apart in phase, and equal
    biases of queries and keys then make a head attend by position alone, before anything is learned.
    """
    transformer: Any = JoyImageEditTransformer3DModel(
        hidden_size=192,
        num_attention_heads=6,
        num_layers=6,
        text_dim=_TEXT_WIDTH,
        rope_dim_list=[8, 12, 12],
        theta=4,
    )
    item_frequencies = 4.0 ** -(torch.arange(0, 8, 2) / 8)
    key = torch.tensor([1.0, 0.0]).repeat(16)
    query = key.clone()
    # Queries of the target (item 0) are turned by one item, to meet the keys of the reference (item 1).
    query[0:8:2], query[1:8:2] = item_frequencies.cos(), item_frequencies.sin()
    with torch.no_grad():
        transformer.proj_out.weight.zero_()
        transformer.proj_out.bias.zero_()
        for block in transformer.double_blocks:
            attention = block.attn
            attention.img_attn_q_norm.weight.fill_(1.4)
            attention.img_attn_k_norm.weight.fill_(1.4)
            for head in (0, 1):
                attention.img_attn_qkv.bias[32 * head : 32 * (head + 1)] = 2 * query
                attention.img_attn_qkv.bias[192 + 32 * head : 192 + 32 * (head + 1)] = 2 * key
    return transformer


def export(
    folder: Path,
    *,
    vae: AutoencoderKLWan,
    text_encoder: Qwen3VLForConditionalGeneration,
    transformer: JoyImageEditTransformer3DModel,
    tokenizer: Qwen2Tokenizer,
) -> Path:
    """Write the parts in the published layout, in fp16.

    An older folder is replaced once the new one is whole.

    Args:
        folder: Where the checkpoint goes.
        vae: Trained, with the statistics of its latents in its configuration.
        text_encoder: Trained.
        transformer: Trained.
        tokenizer: Tokenizer that the text encoder was trained with.

    Returns:
        `folder`.
    """
    from joyimage.pipeline.edit import JoyImageEditPipeline
    from joyimage.pipeline.processor import JoyImageProcessor

    parts: dict[str, Any] = {
        "vae": vae.half(),
        "text_encoder": text_encoder.half(),
        "transformer": transformer.half(),
    }
    pipe = JoyImageEditPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        tokenizer=tokenizer,
        processor=JoyImageProcessor(build_image_processor(), tokenizer),
        base_size=SIZE,
        default_num_inference_steps=NUM_INFERENCE_STEPS,
        default_guidance_scale=GUIDANCE_SCALE,
        **parts,
    )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipe.save_pretrained(partial)
    for part in ("transformer", "vae"):
        _forget_origin(partial / part / "config.json")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def _forget_origin(path: Path) -> None:
    """Take the folder that a part was loaded from out of its configuration: it means nothing on another machine."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
