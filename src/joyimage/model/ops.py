"""What a block computes between its matmuls, in plain torch, as a value that every block holds.

Dimension key: B batch, L tokens, N heads, H head width, D model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from joyimage.model.rope import RotaryTables, rotate

EPS = 1e-6


@dataclass(frozen=True)
class TransformerOps:
    """The plain operations. A subclass may compute the same results in another way.

    Instances with equal fields are interchangeable: `transformer.set_ops(ops)` gives one to every block.
    """

    def norm_modulate(self, hidden_states: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Normalize tokens without weights, in fp32, then scale by `1 + scale` and shift.

        Args:
            hidden_states: `[B, L, D]`.
            shift: `[1 or B, 1, D]`.
            scale: `[1 or B, 1, D]`.

        Returns:
            `[B, L, D]` in the dtype of `hidden_states`.
        """
        width = hidden_states.shape[-1:]
        if len(scale) == 1:
            # One time for all samples: layer_norm's own weight and bias save a pass over the tokens.
            return nn.functional.layer_norm(hidden_states, width, (1 + scale).view(-1), shift.view(-1), EPS)
        normed = nn.functional.layer_norm(hidden_states, width, eps=EPS)
        return torch.addcmul(shift, normed, 1 + scale)

    def gated_add(self, residual: Tensor, update: Tensor, gate: Tensor) -> Tensor:
        """Return `residual + update * gate`; tokens `[B, L, D]`, gate `[1 or B, 1, D]`."""
        return torch.addcmul(residual, update, gate)

    def gated_add_norm_modulate(
        self, residual: Tensor, update: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return `gated_add` of the first three arguments, and `norm_modulate` of that sum."""
        total = self.gated_add(residual, update, gate)
        return total, self.norm_modulate(total, shift, scale)

    def norm_rotate(
        self, heads: Tensor, norm: nn.RMSNorm, tables: RotaryTables | None, out: Tensor | None = None
    ) -> Tensor:
        """Normalize queries or keys over each head, and rotate them.

        Args:
            heads: `[B, L, N, H]`.
            norm: Norm of the queries or of the keys.
            tables: Rotary tables of the tokens; None leaves them unrotated.
            out: Where to write the result, which may be `heads` itself; None makes a new tensor.

        Returns:
            `[B, L, N, H]` in the dtype of `heads`; `out` if given.
        """
        normed = norm(heads)
        rotated = normed if tables is None else rotate(normed, tables)
        return rotated if out is None else out.copy_(rotated)

    def linear(self, layer: nn.Module, hidden_states: Tensor) -> Tensor:
        """Run a linear layer on `[B, L, D]`."""
        return layer(hidden_states)

    def feed_forward(self, mlp: nn.Module, hidden_states: Tensor) -> Tensor:
        """Run a GELU-tanh MLP, diffusers' `FeedForward`, on `[B, L, D]`."""
        return mlp(hidden_states)


PLAIN_OPS = TransformerOps()
