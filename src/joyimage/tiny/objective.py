"""Train text encoder and transformer together to predict the velocity from source, prompt and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from joyimage.compat.torch import fast_autocast
from joyimage.model.attention import JointAttnProcessor
from joyimage.pipeline.images import normalize_pixels
from joyimage.progress import progress_bar
from joyimage.tiny.checkpoint import SHIFT, SIZE, SYSTEM_TURN
from joyimage.tiny.pairs import GROUPS, TASK_WEIGHTS, Pairs
from joyimage.tiny.vae import encode_moments
from joyimage.tiny.worlds.scenes import TASKS
from joyimage.training.objective import add_noise, velocity_loss, weigh_changes
from joyimage.training.text_states import MERGE_SIZE, PATCH_SIZE_PX, encode_prompts

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

    from joyimage.model.transformer import JoyImageEditTransformer3DModel

_IMAGE_TOKENS = (SIZE // (PATCH_SIZE_PX * MERGE_SIZE)) ** 2
# Three quarters of the noise levels lie on the schedule's own shifted curve, the rest uniformly.
_SHIFTED_SHARE = 0.75
# Cells of the latents that the edit changes weigh four times as much as the copied rest.
_CHANGED_WEIGHT = 3.0
_CHANGED_THRESHOLD = 0.2
_PROMPT_DROPOUT = 0.05


@dataclass(frozen=True, kw_only=True)
class EditorData:
    """Everything that a training step draws from, on the training device.

    Attributes:
        pixels: Sources, `[N, H, W, 3]` 8-bit.
        source_latents: Posterior means, standardized, `[N, 16, 12, 12]`, half precision.
        target_latents: Posterior means of the targets, standardized, `[N, 16, 12, 12]`, half precision.
        noise_std: Posterior standard deviation per channel, standardized, `[1, 16, 1, 1]`.
        tokens: Token ids of each pair's whole conversation.
        empty_tokens: Token ids of a conversation with an empty prompt, with an image and without.
        members: Indices of the pairs of each task.
        weights: Relative probability of each task.
        prefix_tokens: Tokens at the start that the pipeline drops.
        pad_token: Token id of the padding.
    """

    pixels: Tensor
    source_latents: Tensor
    target_latents: Tensor
    noise_std: Tensor
    tokens: list[Tensor]
    empty_tokens: tuple[Tensor, Tensor]
    members: dict[str, Tensor]
    weights: dict[str, float]
    prefix_tokens: int
    pad_token: int


@torch.no_grad()
def encode_pairs(
    vae: AutoencoderKLWan, pairs: Pairs, device: str, *, batch_size: int = 64, progress: bool = True
) -> dict[str, Tensor]:
    """Encode all images once.

    Args:
        vae: Trained, with the statistics of its latents in its configuration.
        pairs: Rendered pairs.
        device: Device of the VAE.
        batch_size: Images per encoder forward.
        progress: Whether to show a progress bar.

    Returns:
        On the CPU: `source_latents` and `target_latents`, posterior means, standardized, `[N, 16, 12, 12]`,
        half precision; `noise_std`, the posterior's standard deviation per channel, `[1, 16, 1, 1]`.
    """
    mean = torch.tensor(vae.config["latents_mean"], device=device).view(1, -1, 1, 1)
    std = torch.tensor(vae.config["latents_std"], device=device).view(1, -1, 1, 1)
    variances = []

    def encode(images: Tensor, label: str) -> Tensor:
        parts = []
        batches = images.split(batch_size)
        for part in progress_bar(batches, label=label, unit="batch", total=len(batches), is_shown=progress):
            pixels = normalize_pixels(part.to(device))
            with fast_autocast(torch.device(device)):
                latents, log_variance = encode_moments(vae, pixels)
            variances.append(log_variance.exp().mean(dim=(0, 2, 3, 4)))
            parts.append(((latents[:, :, 0] - mean) / std).half().cpu().contiguous())
        return torch.cat(parts)

    return {
        "source_latents": encode(torch.from_numpy(pairs.sources), "encode sources"),
        "target_latents": encode(torch.from_numpy(pairs.targets), "encode targets"),
        "noise_std": (torch.stack(variances).mean(dim=0).sqrt().view(1, -1, 1, 1) / std).cpu(),
    }


def prepare(
    latents: dict[str, Tensor],
    tokenizer: Qwen2Tokenizer,
    pairs: Pairs,
    device: str,
    weights: dict[str, float] = TASK_WEIGHTS,
) -> EditorData:
    """Tokenize all prompts and put everything on the device.

    Args:
        latents: From `encode_pairs`.
        tokenizer: Tokenizer of the checkpoint.
        pairs: Rendered pairs.
        device: Device of the data.
        weights: Relative probability of each task.

    Returns:
        The data that `loss` draws from.
    """
    has_image = [TASKS[task] != "text-to-image" for task in pairs.tasks]
    return EditorData(
        pixels=torch.from_numpy(pairs.sources).to(device),
        **{name: tensor.to(device) for name, tensor in latents.items()},
        tokens=[
            tokenize_edit(tokenizer, prompt, has).to(device)
            for prompt, has in zip(pairs.prompts, has_image, strict=True)
        ],
        empty_tokens=(
            tokenize_edit(tokenizer, "", True).to(device),
            tokenize_edit(tokenizer, "", False).to(device),
        ),
        members={
            name: torch.tensor([i for i, task in enumerate(pairs.tasks) if TASKS[task] == name])
            for name in TASKS
        },
        weights=weights,
        prefix_tokens=len(tokenizer(SYSTEM_TURN).input_ids) + 1,
        pad_token=int(str(tokenizer.pad_token_id)),
    )


def tokenize_edit(tokenizer: Qwen2Tokenizer, prompt: str, with_image: bool) -> Tensor:
    """Return the token ids of a whole conversation that asks for an edit."""
    image = "<|vision_start|>" + "<|image_pad|>" * _IMAGE_TOKENS + "<|vision_end|>" if with_image else ""
    text = f"{SYSTEM_TURN}<|im_start|>user\n{image}{prompt}<|im_end|>\n<|im_start|>assistant\n"
    return torch.tensor(tokenizer(text).input_ids)


def loss(
    transformer: JoyImageEditTransformer3DModel,
    text_encoder: Qwen3VLForConditionalGeneration,
    data: EditorData,
    batch_size: int,
) -> tuple[Tensor, dict[str, float]]:
    """Draw one batch of one group of tasks and return its flow-matching loss.

    Args:
        transformer: Transformer to train.
        text_encoder: Text encoder to train.
        data: All pairs.
        batch_size: Pairs in the batch.

    Returns:
        The loss, and the group's mean squared error for the log.
    """
    shares = torch.tensor([sum(data.weights[task] for task in group) for group in GROUPS])
    group = int(torch.multinomial(shares, 1))
    weights = torch.tensor([data.weights[task] for task in GROUPS[group]])
    tasks = torch.multinomial(weights, batch_size, replacement=True).tolist()
    pools = [data.members[GROUPS[group][task]] for task in tasks]
    chosen = torch.stack([pool[torch.randint(len(pool), ())] for pool in pools]).to(data.pixels.device)
    has_image = "text-to-image" not in GROUPS[group]
    dropped = torch.rand(batch_size) < _PROMPT_DROPOUT
    empty = data.empty_tokens[0 if has_image else 1]
    tokens = [empty if drop else data.tokens[i] for i, drop in zip(chosen.tolist(), dropped, strict=True)]

    target = data.target_latents[chosen].float()
    source = data.source_latents[chosen].float()
    noisy = add_noise(target, shift=SHIFT, shifted_share=_SHIFTED_SHARE)
    items = [noisy.latents]
    weight = torch.ones_like(target[:, :1])
    if has_image:
        items.insert(0, source + data.noise_std * torch.randn_like(source))
        weight = weigh_changes(source, target, threshold=_CHANGED_THRESHOLD, extra=_CHANGED_WEIGHT)
    with fast_autocast(target.device):
        pixels = data.pixels[chosen] if has_image else None
        states, mask = encode_prompts(text_encoder, tokens, pixels, data.prefix_tokens, data.pad_token)
        velocity = transformer(
            hidden_states=torch.stack(items, dim=1).unsqueeze(3),
            timestep=1000 * noisy.sigma,
            encoder_hidden_states=states,
            encoder_hidden_states_mask=mask,
            return_dict=False,
        )[0][:, -1, :, 0]
    total, mse = velocity_loss(velocity, noisy.velocity, weight)
    return total, {"mse": float(mse), "group": float(group)}


def use_explicit_attention(transformer: JoyImageEditTransformer3DModel) -> None:
    """Let a transformer that trains on a CPU compute attention step by step, from now on.

    The backward of the fused kernel takes twice as long there.
    """
    for block in transformer.blocks:
        block.attn.set_processor(cast("Any", ExplicitAttnProcessor()))


class ExplicitAttnProcessor(JointAttnProcessor):
    """Attention as matrix products and a softmax, without a fused kernel."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Return softmax attention of the joint sequence; see `JointAttnProcessor.attend`."""
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # [B, N, L, H]
        scores = query @ key.mT * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2)
