"""Muon for matrices and kernels, AdamW for all other parameters."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from joyimage.compat.torch import has_fast_bf16

if TYPE_CHECKING:
    from collections.abc import Iterable

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum with a nearly orthogonal update.

    `torch.optim.Muon` accepts only matrices; this one also accepts kernels, `[out, in, ...]` as
    `[out, in * ...]`, and updates matrices of one shape as a batch. Of a kernel with a temporal axis only the
    last tap is trained: at one frame no other tap sees data.

    Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        """Set the parameters, the learning rate and the momentum."""
        super().__init__(list(params), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002 - the base class has it
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                weight, grad = _trained_part(parameter), _trained_part(parameter.grad)
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(grad)
                state["momentum"].lerp_(grad, 1 - group["momentum"])
                direction = grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                by_shape[direction.shape].append((weight, direction))
            for shape, members in by_shape.items():
                updates = orthogonalize(torch.stack([direction for _, direction in members]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for (weight, _), update in zip(members, updates, strict=True):
                    weight.sub_(update.reshape(weight.shape), alpha=scale)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring the singular values of each matrix near 1, by five Newton-Schulz steps.

    Args:
        matrices: `[K, rows, columns]`, fp32.

    Returns:
        `[K, rows, columns]`, fp32; computed in bf16 where that is fast, which is precise enough for these steps.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrices.bfloat16() if has_fast_bf16(matrices.device) else matrices.float()
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).float()


def make_optimizers(
    modules: Iterable[nn.Module], *, muon_lr: float, adam_lr: float
) -> list[torch.optim.Optimizer]:
    """Return Muon for matrices and kernels, AdamW for embeddings, edge layers, norms and biases."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            is_edge = any(
                part in name
                for part in ("embed", "img_in", "proj_out", "modulate_table", "quant_conv", "lm_head")
            )
            (rest if parameter.ndim < 2 or is_edge else matrices).append(parameter)
    return [
        Muon(matrices, lr=muon_lr),
        torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def _trained_part(tensor: Tensor) -> Tensor:
    return tensor[:, :, -1] if tensor.ndim == 5 and tensor.shape[2] > 1 else tensor
