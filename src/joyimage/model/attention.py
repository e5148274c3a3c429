"""Joint attention of the two streams over one sequence [image, text].

Dimension key: B batch, L tokens, N heads, H head width, D model width.
"""

from typing import Any, cast

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from joyimage.compat.diffusers import AttentionProcessorMetadata, AttentionProcessorRegistry
from joyimage.model.ops import EPS, PLAIN_OPS, TransformerOps
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

    The one place where attention is computed; a processor with another `attend` computes it in its own way.

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


def joint_mask(text_mask: Tensor | None, num_image_tokens: int) -> Tensor | None:
    """Return the key mask over [image, text], `[B, 1, 1, L]`, or None where every token is real.

    Built beside the keys, block by block, because context parallelism gives each rank a part of both streams.
    """
    if text_mask is None:
        return None
    image_mask = text_mask.new_ones(text_mask.shape[0], num_image_tokens)
    return torch.cat([image_mask, text_mask], dim=1)[:, None, None, :]


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
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return what `JointAttention.forward` documents; `kwargs` go to `project`."""
        num_image_tokens = hidden_states.shape[1]
        query, key, value = self.project(
            attn,
            hidden_states,
            encoder_hidden_states,
            image_rotary_emb,
            text_rotary_emb,
            num_target_tokens,
            **kwargs,
        )
        mask = self.mask(encoder_hidden_states_mask, num_image_tokens)
        joint = self.attend(query, key, value, mask)
        joint = joint.flatten(2).to(hidden_states.dtype)  # [B, L, D]
        if num_target_tokens is not None:
            return attn.ops.linear(attn.img_attn_proj, joint), encoder_hidden_states
        img, txt = joint[:, :num_image_tokens], joint[:, num_image_tokens:]
        return attn.ops.linear(attn.img_attn_proj, img), attn.ops.linear(attn.txt_attn_proj, txt)

    def project(
        self,
        attn: "JointAttention",
        img: Tensor,
        txt: Tensor,
        image_rotary_emb: RotaryTables,
        text_rotary_emb: RotaryTables | None,
        num_target_tokens: int | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of the joint sequence, `[B, L, N, H]` each.

        With `num_target_tokens` the queries are those of that many image tokens at the front.
        """
        img_query, img_key, img_value = attn.img_attn_qkv(img).unflatten(-1, (3, attn.heads, -1)).unbind(2)
        txt_query, txt_key, txt_value = attn.txt_attn_qkv(txt).unflatten(-1, (3, attn.heads, -1)).unbind(2)
        img_query = attn.ops.norm_rotate(img_query, attn.img_attn_q_norm, image_rotary_emb)
        img_key = attn.ops.norm_rotate(img_key, attn.img_attn_k_norm, image_rotary_emb)
        txt_query = attn.ops.norm_rotate(txt_query, attn.txt_attn_q_norm, text_rotary_emb)
        txt_key = attn.ops.norm_rotate(txt_key, attn.txt_attn_k_norm, text_rotary_emb)
        if num_target_tokens is None:
            query = torch.cat([img_query, txt_query], dim=1)
        else:
            query = img_query[:, :num_target_tokens]
        return query, torch.cat([img_key, txt_key], dim=1), torch.cat([img_value, txt_value], dim=1)

    def mask(self, text_mask: Tensor | None, num_image_tokens: int) -> Tensor | None:
        """Return the key mask over [image, text]; see `joint_mask`."""
        return joint_mask(text_mask, num_image_tokens)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Return softmax attention of the joint sequence, `[B, L, N, H]`; arguments as in the function."""
        return attend(
            query,
            key,
            value,
            mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )


class JointAttention(nn.Module, AttentionModuleMixin):
    """Weights of one block's attention: per stream fused QKV, norms of query and key, output projection."""

    _default_processor_cls = JointAttnProcessor
    _available_processors = [JointAttnProcessor]  # noqa: RUF012 - diffusers' attribute
    _supports_qkv_fusion = False  # stored fused already
    processor: Any
    is_cross_attention = False  # diffusers' hooks ask

    def __init__(self, hidden_size: int, num_attention_heads: int) -> None:
        super().__init__()
        self.ops: TransformerOps = PLAIN_OPS
        self.heads = num_attention_heads
        self.head_dim = hidden_size // num_attention_heads
        self.img_attn_qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.img_attn_q_norm = nn.RMSNorm(self.head_dim, eps=EPS)
        self.img_attn_k_norm = nn.RMSNorm(self.head_dim, eps=EPS)
        self.img_attn_proj = nn.Linear(hidden_size, hidden_size)
        self.txt_attn_qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.txt_attn_q_norm = nn.RMSNorm(self.head_dim, eps=EPS)
        self.txt_attn_k_norm = nn.RMSNorm(self.head_dim, eps=EPS)
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
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Attend over both streams.

        Args:
            hidden_states: Image stream `[B, L_img, D]`.
            encoder_hidden_states: Text stream `[B, L_txt, D]`.
            image_rotary_emb: Tables of the image tokens.
            text_rotary_emb: Tables of the text tokens; None (as trained with "rope") leaves text unrotated.
            encoder_hidden_states_mask: `[B, L_txt]` bool, True for real tokens; None where nothing is padded.
            num_target_tokens: Attend from that many image tokens at the front only; None: from all tokens.
            **kwargs: Further arguments of the processor.

        Returns:
            The two streams' attention outputs, shaped like the inputs; with `num_target_tokens` the image's
            are that short, and the text stream is returned unchanged.
        """
        return self.processor(
            self,
            hidden_states,
            encoder_hidden_states,
            image_rotary_emb,
            text_rotary_emb,
            encoder_hidden_states_mask,
            num_target_tokens,
            **kwargs,
        )


def skip_attention(
    _attn: JointAttention, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: object, **__: object
) -> tuple[Tensor, Tensor]:
    """Return both streams unchanged: what diffusers' layer-skip hooks put in place of attention."""
    return hidden_states, encoder_hidden_states


def register_processor(processor_class: type[JointAttnProcessor]) -> None:
    """Tell diffusers' hooks how to skip attention that a class of processors runs."""
    cast("Any", AttentionProcessorRegistry).register(
        processor_class, AttentionProcessorMetadata(skip_processor_output_fn=cast("Any", skip_attention))
    )


register_processor(JointAttnProcessor)
