"""The double-stream block: image and text have their own weights and meet in attention.

Dimension key: B batch, L tokens, D model width.
"""

from typing import Any, cast

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from joyimage.compat.diffusers import TransformerBlockMetadata, TransformerBlockRegistry
from joyimage.model.attention import JointAttention
from joyimage.model.ops import PLAIN_OPS, TransformerOps
from joyimage.model.rope import RotaryTables


class Modulation(nn.Module):
    """Add a block's own learned table to the time signal that all blocks share."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.modulate_table = nn.Parameter(torch.zeros(1, 6, hidden_size))

    def forward(self, temb: Tensor) -> tuple[Tensor, ...]:
        """Return shift, scale, gate for attention, then for the MLP, `[B, 1, D]` each, from `[B, 6, D]`."""
        return (self.modulate_table + temb).unsqueeze(2).unbind(1)


class JoyImageTransformerBlock(nn.Module):
    """One layer: modulated joint attention, then a modulated MLP per stream, each behind a gate."""

    def __init__(self, hidden_size: int, num_attention_heads: int, mlp_width_ratio: float = 4.0) -> None:
        super().__init__()
        self.ops: TransformerOps = PLAIN_OPS
        mlp_width = int(hidden_size * mlp_width_ratio)
        self.img_mod = Modulation(hidden_size)
        self.img_mlp = FeedForward(hidden_size, inner_dim=mlp_width, activation_fn="gelu-approximate")
        self.txt_mod = Modulation(hidden_size)
        self.txt_mlp = FeedForward(hidden_size, inner_dim=mlp_width, activation_fn="gelu-approximate")
        self.attn = JointAttention(hidden_size, num_attention_heads)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: RotaryTables,
        text_rotary_emb: RotaryTables | None = None,
        encoder_hidden_states_mask: Tensor | None = None,
        num_target_tokens: int | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the block.

        The order of arguments and of the two results is what diffusers' step caches rely on.

        Args:
            hidden_states: Image stream `[B, L_img, D]`.
            encoder_hidden_states: Text stream `[B, L_txt, D]`.
            temb: Time signal `[1 or B, 6, D]`.
            image_rotary_emb: Tables of the image tokens.
            text_rotary_emb: Tables of the text tokens, or None.
            encoder_hidden_states_mask: `[B, L_txt]` bool, True for real tokens; None where nothing is padded.
            num_target_tokens: Compute only that many image tokens at the front, and leave the text stream
                as it is, which is enough in the last block; None: compute all tokens.
            attention_kwargs: Further arguments of the attention processor.

        Returns:
            The new image stream and the new text stream.
        """
        ops, img, txt = self.ops, hidden_states, encoder_hidden_states
        img_shift1, img_scale1, img_gate1, img_shift2, img_scale2, img_gate2 = self.img_mod(temb)
        txt_shift1, txt_scale1, txt_gate1, txt_shift2, txt_scale2, txt_gate2 = self.txt_mod(temb)

        img_attn, txt_attn = self.attn(
            ops.norm_modulate(img, img_shift1, img_scale1),
            ops.norm_modulate(txt, txt_shift1, txt_scale1),
            image_rotary_emb,
            text_rotary_emb,
            encoder_hidden_states_mask,
            num_target_tokens,
            **(attention_kwargs or {}),
        )
        img, img_normed = ops.gated_add_norm_modulate(
            img[:, :num_target_tokens], img_attn, img_gate1, img_shift2, img_scale2
        )
        img = ops.gated_add(img, ops.feed_forward(self.img_mlp, img_normed), img_gate2)
        if num_target_tokens is not None:
            return img, txt

        txt, txt_normed = ops.gated_add_norm_modulate(txt, txt_attn, txt_gate1, txt_shift2, txt_scale2)
        txt = ops.gated_add(txt, ops.feed_forward(self.txt_mlp, txt_normed), txt_gate2)
        return img, txt


# diffusers' step caches look the block up here.
cast("Any", TransformerBlockRegistry).register(
    JoyImageTransformerBlock,
    TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=1),
)
