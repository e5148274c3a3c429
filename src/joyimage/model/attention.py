"""Joint attention of the two streams over one sequence [image, text].

Dimension key: B batch, L tokens, N heads, H head width, D model width.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor, nn

from joyimage.compat.diffusers import (
    AttentionProcessorMetadata,
    AttentionProcessorRegistry,
    attention_backend,
)
from joyimage.model.elementwise import is_inference, is_plain_linear, norm_rotate, norm_rotate_
from joyimage.model.rope import RotaryTables


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    backend: Any = None,
    parallel_config: Any = None,
) -> Tensor:
    """Run softmax attention with the kernel that diffusers' dispatcher selects.

    The one place where attention is computed; replace this function to change how.

    Args:
        query: `[B, L, N, H]`.
        key: `[B, L, N, H]`.
        value: `[B, L, N, H]`.
        mask: `[B, 1, 1, L]` bool over the keys, True where attended to; None attends to all.
        backend: Kernel chosen by `set_attention_backend`.
        parallel_config: Set by `enable_parallelism`.

    Returns:
        `[B, L, N, H]`.
    """
    return dispatch_attention_fn(
        query, key, value, attn_mask=mask, backend=backend, parallel_config=parallel_config
    )


def takes_masks(attn: "JointAttention") -> bool:
    """Tell whether attention runs on torch's own choice of kernel, which takes any mask."""
    return attention_backend(attn.processor) == AttentionBackendName.NATIVE


def joint_mask(text_mask: Tensor | None, num_image_tokens: int) -> Tensor | None:
    """Return the key mask over [image, text], `[B, 1, 1, L]`, or None where every token is real.

    Built beside the keys, block by block, because context parallelism gives each rank a part of both streams.
    """
    if text_mask is None:
        return None
    image_mask = text_mask.new_ones(text_mask.shape[0], num_image_tokens)
    return torch.cat([image_mask, text_mask], dim=1)[:, None, None, :]


@dataclass
class ImageRows:
    """Queries, keys and values of image tokens that two guidance branches have in common.

    Attributes:
        qkv: Normalized and rotated, `[B, L_img, 3, N, H]`; None until a branch has made them.
    """

    qkv: Tensor | None = None


class JointAttnProcessor:
    """Project, normalize and rotate both streams, attend over their concatenation, and project back."""

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: "JointAttention",
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        image_rotary_emb: RotaryTables,
        text_rotary_emb: RotaryTables | None = None,
        encoder_hidden_states_mask: Tensor | None = None,
        num_target_tokens: int | None = None,
        image_rows: ImageRows | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return what `JointAttention.forward` documents."""
        streams = (hidden_states, encoder_hidden_states)
        rotary_embs = (image_rotary_emb, text_rotary_emb)
        if num_target_tokens is not None:
            query, key, value = _project_target(attn, *streams, *rotary_embs, num_target_tokens)
        elif is_inference():
            query, key, value = _project_in_place(attn, *streams, *rotary_embs, image_rows)
        else:
            query, key, value = _project(attn, *streams, *rotary_embs)

        joint = attend(
            query,
            key,
            value,
            joint_mask(encoder_hidden_states_mask, hidden_states.shape[1]),
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        joint = joint.flatten(2).to(query.dtype)  # [B, L, D]
        if num_target_tokens is not None:
            return attn.img_attn_proj(joint), encoder_hidden_states
        num_image_tokens = hidden_states.shape[1]
        return attn.img_attn_proj(joint[:, :num_image_tokens]), attn.txt_attn_proj(
            joint[:, num_image_tokens:]
        )


def _project(
    attn: "JointAttention",
    img: Tensor,
    txt: Tensor,
    image_rotary_emb: RotaryTables,
    text_rotary_emb: RotaryTables | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values `[B, L, N, H]` of the joint sequence, in the plain way."""
    img_query, img_key, img_value = attn.img_attn_qkv(img).unflatten(-1, (3, attn.heads, -1)).unbind(2)
    txt_query, txt_key, txt_value = attn.txt_attn_qkv(txt).unflatten(-1, (3, attn.heads, -1)).unbind(2)
    img_query = norm_rotate(img_query, attn.img_attn_q_norm, image_rotary_emb)
    img_key = norm_rotate(img_key, attn.img_attn_k_norm, image_rotary_emb)
    txt_query = norm_rotate(txt_query, attn.txt_attn_q_norm, text_rotary_emb)
    txt_key = norm_rotate(txt_key, attn.txt_attn_k_norm, text_rotary_emb)
    return (
        torch.cat([img_query, txt_query], dim=1),
        torch.cat([img_key, txt_key], dim=1),
        torch.cat([img_value, txt_value], dim=1),
    )


def _project_in_place(
    attn: "JointAttention",
    img: Tensor,
    txt: Tensor,
    image_rotary_emb: RotaryTables,
    text_rotary_emb: RotaryTables | None,
    image_rows: ImageRows | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `_project` does in one buffer that both streams write their rows into: nothing is joined."""
    num_image_tokens = img.shape[1]
    num_tokens = num_image_tokens + txt.shape[1]
    qkv = img.new_empty(len(img), num_tokens, 3, attn.heads, attn.head_dim)
    img_qkv, txt_qkv = qkv[:, :num_image_tokens], qkv[:, num_image_tokens:]
    if image_rows is not None and image_rows.qkv is not None:
        img_qkv.copy_(image_rows.qkv)
    else:
        project_into(attn.img_attn_qkv, img, img_qkv.flatten(2))
        norm_rotate_(img_qkv[:, :, 0], attn.img_attn_q_norm, image_rotary_emb)
        norm_rotate_(img_qkv[:, :, 1], attn.img_attn_k_norm, image_rotary_emb)
        if image_rows is not None:
            image_rows.qkv = img_qkv
    project_into(attn.txt_attn_qkv, txt, txt_qkv.flatten(2))
    norm_rotate_(txt_qkv[:, :, 0], attn.txt_attn_q_norm, text_rotary_emb)
    norm_rotate_(txt_qkv[:, :, 1], attn.txt_attn_k_norm, text_rotary_emb)
    query, key, value = qkv.unbind(2)
    return query, key, value


def _project_target(
    attn: "JointAttention",
    img: Tensor,
    txt: Tensor,
    image_rotary_emb: RotaryTables,
    text_rotary_emb: RotaryTables | None,
    num_target_tokens: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries of the target's tokens, which stand in front, and keys and values of all tokens."""
    query = project_part(attn.img_attn_qkv, img[:, :num_target_tokens], 0, 1, attn.heads)
    img_key, img_value = project_part(attn.img_attn_qkv, img, 1, 3, attn.heads).unbind(2)
    txt_key, txt_value = project_part(attn.txt_attn_qkv, txt, 1, 3, attn.heads).unbind(2)
    cos, sin = image_rotary_emb
    target_rotary_emb = cos[:, :num_target_tokens], sin[:, :num_target_tokens]
    query = norm_rotate(query.squeeze(2), attn.img_attn_q_norm, target_rotary_emb)
    img_key = norm_rotate(img_key, attn.img_attn_k_norm, image_rotary_emb)
    txt_key = norm_rotate(txt_key, attn.txt_attn_k_norm, text_rotary_emb)
    return query, torch.cat([img_key, txt_key], dim=1), torch.cat([img_value, txt_value], dim=1)


def project_into(layer: nn.Module, rows: Tensor, out: Tensor) -> None:
    """Write `layer(rows)` into `out`, a view `[B, L, width]` of a larger buffer."""
    if not is_plain_linear(layer, rows):
        out.copy_(layer(rows))
        return
    weight = cast("Tensor", layer.weight).t()
    for row, target in zip(rows, out, strict=True):
        torch.addmm(cast("Tensor", layer.bias), row, weight, out=target)


def project_part(layer: nn.Module, rows: Tensor, start: int, stop: int, heads: int) -> Tensor:
    """Return parts `start` to `stop` of query, key, value, `[B, L, stop - start, N, H]`."""
    if not is_plain_linear(layer, rows):
        return layer(rows).unflatten(-1, (3, heads, -1))[:, :, start:stop]
    width = rows.shape[-1]
    part = slice(start * width, stop * width)
    weight, bias = cast("Tensor", layer.weight)[part], cast("Tensor", layer.bias)[part]
    return nn.functional.linear(rows, weight, bias).unflatten(-1, (stop - start, heads, -1))


class JointAttention(nn.Module, AttentionModuleMixin):
    """Weights of one block's attention: per stream fused QKV, norms of query and key, output projection."""

    _default_processor_cls = JointAttnProcessor
    _available_processors = [JointAttnProcessor]  # noqa: RUF012 - diffusers' attribute
    _supports_qkv_fusion = False  # stored fused already
    processor: Any
    is_cross_attention = False  # diffusers' hooks ask

    def __init__(self, hidden_size: int, num_attention_heads: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.heads = num_attention_heads
        self.head_dim = hidden_size // num_attention_heads
        self.img_attn_qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.img_attn_q_norm = nn.RMSNorm(self.head_dim, eps=eps)
        self.img_attn_k_norm = nn.RMSNorm(self.head_dim, eps=eps)
        self.img_attn_proj = nn.Linear(hidden_size, hidden_size)
        self.txt_attn_qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.txt_attn_q_norm = nn.RMSNorm(self.head_dim, eps=eps)
        self.txt_attn_k_norm = nn.RMSNorm(self.head_dim, eps=eps)
        self.txt_attn_proj = nn.Linear(hidden_size, hidden_size)
        self.set_processor(cast("Any", JointAttnProcessor()))

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        image_rotary_emb: RotaryTables,
        text_rotary_emb: RotaryTables | None = None,
        encoder_hidden_states_mask: Tensor | None = None,
        num_target_tokens: int | None = None,
        image_rows: ImageRows | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend over both streams.

        Args:
            hidden_states: Image stream `[B, L_img, D]`.
            encoder_hidden_states: Text stream `[B, L_txt, D]`.
            image_rotary_emb: Tables of the image tokens.
            text_rotary_emb: Tables of the text tokens; None (as trained with "rope") leaves text unrotated.
            encoder_hidden_states_mask: `[B, L_txt]` bool, True for real tokens; None where nothing is padded.
            num_target_tokens: Attend from that many image tokens in front only; None: from all tokens.
            image_rows: Holds the image tokens' queries, keys and values, or takes them up.

        Returns:
            The two streams' attention outputs, shaped like the inputs; with `num_target_tokens` the image's
            are that short, and the text stream comes back as it came.
        """
        return self.processor(
            self,
            hidden_states,
            encoder_hidden_states,
            image_rotary_emb,
            text_rotary_emb,
            encoder_hidden_states_mask,
            num_target_tokens,
            image_rows,
        )


def skip_attention(
    _attn: JointAttention, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: object, **__: object
) -> tuple[Tensor, Tensor]:
    """Return both streams as they came: what diffusers' layer-skip hooks put in the place of attention."""
    return hidden_states, encoder_hidden_states


AttentionProcessorRegistry.register(
    JointAttnProcessor, AttentionProcessorMetadata(skip_processor_output_fn=cast("Any", skip_attention))
)
