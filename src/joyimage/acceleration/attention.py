"""A second attention processor: both streams write queries, keys and values into one buffer.

Dimension key: B batch, L tokens, N heads, H head width, D model width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor, nn

from joyimage.acceleration.conditions import can_use_onednn, can_write_in_place, is_plain_linear
from joyimage.acceleration.cpu_attention import attend_on_cpu
from joyimage.acceleration.cpu_projection import (
    ROWS_AT_A_TIME,
    ImageRows,
    can_project_on_cpu,
    front,
    project_on_cpu,
    rotate_target_on_cpu,
)
from joyimage.acceleration.weight_layouts import multiply, weights_of
from joyimage.compat.diffusers import attention_backend
from joyimage.compat.torch import version_of
from joyimage.model.attention import JointAttnProcessor, register_processor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joyimage.model.attention import JointAttention
    from joyimage.model.rope import RotaryTables

QKV = tuple[Tensor, Tensor, Tensor]


class JointBufferAttnProcessor(JointAttnProcessor):
    """Project into one joint buffer, so that the streams are never concatenated.

    Where a gradient is wanted or a compiler is active, the plain projection runs instead.
    """

    _last_mask: tuple[Tensor, tuple[int, int], Tensor | None] | None = None

    def project(
        self,
        attn: JointAttention,
        img: Tensor,
        txt: Tensor,
        image_rotary_emb: RotaryTables,
        text_rotary_emb: RotaryTables | None,
        num_target_tokens: int | None,
        image_rows: ImageRows | None = None,
    ) -> QKV:
        """Return queries, keys and values of the joint sequence; see `JointAttnProcessor.project`.

        Args:
            attn: The block's attention.
            img: Image stream `[B, L_img, D]`.
            txt: Text stream `[B, L_txt, D]`.
            image_rotary_emb: Tables of the image tokens.
            text_rotary_emb: Tables of the text tokens; None leaves them unrotated.
            num_target_tokens: Number of image tokens at the front that queries are for; None: all tokens.
            image_rows: Rows of the image tokens: used if another branch has computed them, otherwise set.

        Returns:
            `[B, L, N, H]` each.
        """
        tables = (image_rotary_emb, text_rotary_emb)
        is_on_cpu = self._is_free and can_project_on_cpu(attn, img)
        if num_target_tokens is not None:
            parts = _project_target(attn, img, txt, num_target_tokens)
            return (rotate_target_on_cpu if is_on_cpu else _rotate_target)(attn, *parts, tables)
        if not can_write_in_place():
            return super().project(attn, img, txt, image_rotary_emb, text_rotary_emb, None)
        if is_on_cpu:
            pairs, value = project_on_cpu(attn, (img, txt), tables, image_rows)
            return pairs[:, :, 0], pairs[:, :, 1], value
        num_image_tokens = img.shape[1]
        num_tokens = num_image_tokens + txt.shape[1]
        qkv = img.new_empty(len(img), num_tokens, 3, attn.heads, attn.head_dim)
        img_qkv, txt_qkv = qkv[:, :num_image_tokens], qkv[:, num_image_tokens:]
        if image_rows is not None and image_rows.parts is not None:
            img_qkv.copy_(image_rows.parts[0])
        else:
            project_into(attn.img_attn_qkv, img, img_qkv.flatten(2))
            _norm_rotate(attn, img_qkv[:, :, 0], attn.img_attn_q_norm, image_rotary_emb)
            _norm_rotate(attn, img_qkv[:, :, 1], attn.img_attn_k_norm, image_rotary_emb)
            if image_rows is not None:
                image_rows.parts = (img_qkv,)
        project_into(attn.txt_attn_qkv, txt, txt_qkv.flatten(2))
        _norm_rotate(attn, txt_qkv[:, :, 0], attn.txt_attn_q_norm, text_rotary_emb)
        _norm_rotate(attn, txt_qkv[:, :, 1], attn.txt_attn_k_norm, text_rotary_emb)
        query, key, value = qkv.unbind(2)
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Return softmax attention of the joint sequence, `[B, L, N, H]`; on a CPU in oneDNN's products."""
        if not self._is_free or query.device.type != "cpu":
            return super().attend(query, key, value, mask)
        return attend_on_cpu(query, key, value, mask)

    def mask(self, text_mask: Tensor | None, num_image_tokens: int) -> Tensor | None:
        """Return the key mask over [image, text], built once for all steps of an edit; see `joint_mask`."""
        if text_mask is None or text_mask.is_inference() or not can_write_in_place():
            return super().mask(text_mask, num_image_tokens)
        key = (version_of(text_mask), num_image_tokens)
        if self._last_mask is None or self._last_mask[0] is not text_mask or self._last_mask[1] != key:
            self._last_mask = (text_mask, key, super().mask(text_mask, num_image_tokens))
        return self._last_mask[2]

    @property
    def _is_free(self) -> bool:
        """Whether no kernel was chosen for attention, and one device has all tokens."""
        return attention_backend(self) == AttentionBackendName.NATIVE and self._parallel_config is None


def _norm_rotate(attn: JointAttention, heads: Tensor, norm: nn.RMSNorm, tables: RotaryTables | None) -> None:
    """Normalize and rotate queries or keys in their place in the buffer."""
    attn.ops.norm_rotate(heads, norm, tables, out=heads)


def _project_target(attn: JointAttention, img: Tensor, txt: Tensor, num_target_tokens: int) -> QKV:
    """Return queries of the target's tokens, which are at the front, and keys and values of each stream.

    Returns:
        `[B, L, 1, N, H]`, and `[B, L, 2, N, H]` twice.
    """
    query = project_part(attn.img_attn_qkv, img[:, :num_target_tokens], 0, 1, attn.heads)
    return (
        query,
        project_part(attn.img_attn_qkv, img, 1, 3, attn.heads),
        project_part(attn.txt_attn_qkv, txt, 1, 3, attn.heads),
    )


def _rotate_target(
    attn: JointAttention, query: Tensor, img: Tensor, txt: Tensor, tables: Sequence[RotaryTables | None]
) -> QKV:
    """Return what `_project_target` returned, normalized and rotated, as queries, keys and values of the sequence."""
    (img_key, img_value), (txt_key, txt_value) = img.unbind(2), txt.unbind(2)
    query = attn.ops.norm_rotate(query.squeeze(2), attn.img_attn_q_norm, front(tables[0], query.shape[1]))
    img_key = attn.ops.norm_rotate(img_key, attn.img_attn_k_norm, tables[0])
    txt_key = attn.ops.norm_rotate(txt_key, attn.txt_attn_k_norm, tables[1])
    return query, torch.cat([img_key, txt_key], dim=1), torch.cat([img_value, txt_value], dim=1)


def project_into(layer: nn.Module, rows: Tensor, out: Tensor) -> None:
    """Write `layer(rows)` into `out`, a view `[B, L, width]` of a larger buffer."""
    if rows.dtype == torch.float32 and can_use_onednn(layer, rows):
        # It takes no place to write to: some rows at a time, so that there is never a second buffer of that size.
        parts = (torch.split(tokens, ROWS_AT_A_TIME, dim=1) for tokens in (rows, out))
        for part, target in zip(*parts, strict=True):
            target.copy_(multiply(layer, part))
        return
    if not is_plain_linear(layer, rows):
        out.copy_(layer(rows))
        return
    weight, bias = weights_of(layer)
    for row, target in zip(rows, out, strict=True):
        torch.addmm(bias, row, weight.t(), out=target)


def project_part(layer: nn.Module, rows: Tensor, start: int, stop: int, heads: int) -> Tensor:
    """Return parts `start` to `stop` of query, key, value, `[B, L, stop - start, N, H]`."""
    if not is_plain_linear(layer, rows):
        return torch.unflatten(layer(rows), -1, (3, heads, -1))[:, :, start:stop]
    weight, bias = weights_of(layer)
    width = len(weight) // 3  # narrower than the rows where processes have slices of the layer
    part = slice(start * width, stop * width)
    if can_use_onednn(layer, rows):
        product = multiply(layer, rows, part)
    else:
        product = nn.functional.linear(rows, weight[part], bias[part])
    return torch.unflatten(product, -1, (stop - start, heads, -1))


register_processor(JointBufferAttnProcessor)
