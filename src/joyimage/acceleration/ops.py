"""Faster operations between the matmuls: torch's own short cuts, and Triton kernels on a GPU.

`JOYIMAGE_KERNELS` chooses where `accelerate` is not told: "torch" keeps Triton out, "triton" runs its kernels on
any device (on a CPU with `TRITON_INTERPRET=1`), "auto" runs them on a GPU.
Dimension key: B batch, L tokens, N heads, H head width, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from joyimage.acceleration.conditions import can_use_onednn, can_write_in_place, is_plain_linear, runs_itself
from joyimage.acceleration.verification import run_verified
from joyimage.acceleration.weight_layouts import multiply
from joyimage.compat.torch import addmm_gelu
from joyimage.model.ops import EPS, TransformerOps
from joyimage.model.rope import RotaryTables, rotate


@dataclass(frozen=True)
class TorchOps(TransformerOps):
    """Operations that torch itself can run in fewer passes over the tokens."""

    @property
    def is_for_cpu(self) -> bool:
        """Whether tensors on a CPU may take paths that are made for one."""
        return True

    def norm_rotate(
        self, heads: Tensor, norm: nn.RMSNorm, tables: RotaryTables | None, out: Tensor | None = None
    ) -> Tensor:
        """Normalize and rotate queries or keys; see `TransformerOps.norm_rotate`."""
        normed = norm(heads)
        rotated = normed if tables is None else rotate_at_once(normed, tables)
        return rotated if out is None else out.copy_(rotated)

    def linear(self, layer: nn.Module, hidden_states: Tensor) -> Tensor:
        """Run a linear layer; on a CPU in oneDNN."""
        if not can_use_onednn(layer, hidden_states):
            return layer(hidden_states)
        return multiply(layer, hidden_states)

    def feed_forward(self, mlp: nn.Module, hidden_states: Tensor) -> Tensor:
        """Run a GELU-tanh MLP; bias and activation go into the first matmul."""
        activated, dropout, reduce = cast("Any", mlp).net
        # What hooks an MLP, such as a step cache, has to see its call.
        if not (can_write_in_place() and all(map(runs_itself, (mlp, activated, dropout)))):
            return mlp(hidden_states)
        expand = activated.proj
        if can_use_onednn(expand, hidden_states):
            return self.linear(reduce, multiply(expand, hidden_states, gelu=True))
        if not (hidden_states.is_cuda and is_plain_linear(expand, hidden_states)):
            return mlp(hidden_states)
        rows = hidden_states.flatten(0, -2)
        # On CUDA this operator's GELU is the tanh form, which the published weights want.
        inner = addmm_gelu(expand.bias, rows, expand.weight.t())
        return reduce(inner.unflatten(0, hidden_states.shape[:-1]))


@dataclass(frozen=True)
class TritonOps(TorchOps):
    """Fused Triton kernels, each one pass over the tokens.

    Kernels have no gradient, and a compiler cannot look into them: where either is wanted, torch runs. Each kernel
    is compared with torch at the first use of a shape; see `verification.py`.

    Attributes:
        on_any_device: Whether kernels run on tensors outside of a GPU, which Triton's interpreter can do.
    """

    on_any_device: bool = False

    @property
    def is_for_cpu(self) -> bool:
        """Whether tensors on a CPU may take paths that are made for one."""
        return not self.on_any_device

    def norm_modulate(self, hidden_states: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Normalize and modulate tokens; see `TransformerOps.norm_modulate`."""
        if not self._takes(hidden_states):
            return super().norm_modulate(hidden_states, shift, scale)
        from joyimage.acceleration import kernels

        plain = super().norm_modulate
        return run_verified(
            "norm_modulate",
            (hidden_states, shift, scale),
            lambda: kernels.norm_modulate(hidden_states, shift, scale, EPS),
            lambda: plain(hidden_states, shift, scale),
        )

    def gated_add_norm_modulate(
        self, residual: Tensor, update: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add, normalize and modulate tokens; see `TransformerOps.gated_add_norm_modulate`."""
        if not self._takes(residual):
            return super().gated_add_norm_modulate(residual, update, gate, shift, scale)
        from joyimage.acceleration import kernels

        plain = super().gated_add_norm_modulate
        return run_verified(
            "gated_add_norm_modulate",
            (residual, update, gate, shift, scale),
            lambda: kernels.gated_add_norm_modulate(residual, update, gate, shift, scale, EPS),
            lambda: plain(residual, update, gate, shift, scale),
        )

    def norm_rotate(
        self, heads: Tensor, norm: nn.RMSNorm, tables: RotaryTables | None, out: Tensor | None = None
    ) -> Tensor:
        """Normalize and rotate queries or keys; see `TransformerOps.norm_rotate`."""
        # The kernel works in place; a new tensor would cost a pass that torch's own short cut does not.
        if out is not heads or not self._takes(heads):
            return super().norm_rotate(heads, norm, tables, out)
        from joyimage.acceleration import kernels

        def rotate_in_place() -> Tensor:
            kernels.norm_rotate_(heads, norm.weight, norm.eps or EPS, tables)
            return heads

        plain = super().norm_rotate
        result = run_verified(
            "norm_rotate",
            (heads, *(tables or (None,))),
            rotate_in_place,
            lambda: plain(heads, norm, tables),
        )
        return heads if result is heads else heads.copy_(result)

    def _takes(self, tensor: Tensor) -> bool:
        return (self.on_any_device or tensor.is_cuda) and can_write_in_place()


def rotate_at_once(hidden_states: Tensor, tables: RotaryTables) -> Tensor:
    """Do what `rotate` does, bit for bit, in one pass over the heads instead of eight."""
    if torch.compiler.is_compiling():  # compilers know no complex numbers
        return rotate(hidden_states, tables)
    cos, sin = (table.unsqueeze(2) for table in tables)  # [B, L, 1, P]
    pairs = torch.unflatten(hidden_states.float(), -1, (-1, 2))  # [B, L, N, P, 2]
    rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))
    return rotated.flatten(-2).type_as(hidden_states)
