"""Forwards of the text encoder for training on a CPU: less work, the same results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextDecoderLayer,
    Qwen3VLVisionAttention,
    apply_rotary_pos_emb_vision,
    rotate_half,
)


class EqualImagesAttention(Qwen3VLVisionAttention):
    """Attention of the vision tower over images of one size, all in one matmul instead of one after another."""

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        max_seqlen: int | None = None,  # noqa: ARG002 - the library's arguments
        **kwargs: Any,  # noqa: ARG002
    ) -> Tensor:
        """Attend within each image, `[images * patches, D]`."""
        assert position_embeddings is not None
        count = len(cu_seqlens) - 1
        query, key, value = (
            self.qkv(hidden_states).reshape(len(hidden_states), 3, self.num_heads, -1).unbind(1)
        )
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        query, key, value = (part.unflatten(0, (count, -1)).transpose(1, 2) for part in (query, key, value))
        weights = (query @ key.mT * self.scaling).softmax(-1, dtype=torch.float32).to(value.dtype)
        return self.proj((weights @ value).transpose(1, 2).reshape(len(hidden_states), -1))


class FewRowsLayer(Qwen3VLTextDecoderLayer):
    """The last text layer, which computes only the states that are read where `rows` says which, `[B, N]`."""

    rows: Tensor | None = None

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - the rest is in `kwargs`
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return the states `[B, L, D]`; those that are not read stay as they were."""
        if self.rows is None:
            return super().forward(hidden_states, position_embeddings, attention_mask, **kwargs)
        assert attention_mask is not None
        batch, attention = torch.arange(len(self.rows), device=hidden_states.device)[:, None], self.self_attn
        normed, chosen = self.input_layernorm(hidden_states), hidden_states[batch, self.rows]
        query, key, value = (
            project(states).unflatten(-1, (-1, attention.head_dim))
            for project, states in (
                (attention.q_proj, normed[batch, self.rows]),
                (attention.k_proj, normed),
                (attention.v_proj, normed),
            )
        )
        cosine, sine = position_embeddings
        query = _rotate(attention.q_norm(query), cosine[batch, self.rows], sine[batch, self.rows])
        key = _rotate(attention.k_norm(key), cosine, sine)
        mask = attention_mask[batch, 0, self.rows][:, None]
        weights = (query.transpose(1, 2) @ key.permute(0, 2, 3, 1) * attention.scaling + mask).softmax(-1)
        seen = (weights @ value.transpose(1, 2)).transpose(1, 2).flatten(2)
        chosen = chosen + attention.o_proj(seen)
        chosen = chosen + self.mlp(self.post_attention_layernorm(chosen))
        return hidden_states.index_put((batch, self.rows), chosen)


def _rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply rotary positions to `[B, L, heads, head_dim]`."""
    return states * cosine[:, :, None] + rotate_half(states) * sine[:, :, None]


def use_fast_training(text_encoder: Any) -> None:
    """Choose attention that has a fast backward on a CPU, and read few states of the last layer, in place."""
    text_encoder.set_attn_implementation("eager")
    text_encoder.model.language_model.layers[-1].__class__ = FewRowsLayer
    for block in text_encoder.model.visual.blocks:
        block.attn.__class__ = EqualImagesAttention
