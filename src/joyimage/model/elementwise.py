"""What a block does between its matmuls, one function a kernel; plain torch here, Triton in `kernels.py`.

Which of the two runs is decided call by call: Triton where tensors are on a GPU and no gradient is wanted,
torch everywhere else. `JOYIMAGE_KERNELS=torch` keeps Triton out, `JOYIMAGE_KERNELS=triton` asks for it on any
device (a CPU needs `TRITON_INTERPRET=1` then).
Dimension key: B batch, L tokens, N heads, H head width, D model width.
"""

import functools
import importlib
import os
from typing import Any

import torch
from diffusers.utils import logging
from torch import Tensor, nn

from joyimage.compat.torch import addmm_gelu, has_forward_hooks
from joyimage.model.rope import RotaryTables, rotate

KERNELS_VARIABLE = "JOYIMAGE_KERNELS"
EPS = 1e-6

logger = logging.get_logger(__name__)


def norm_modulate(hidden_states: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalize tokens without weights, in fp32, then scale by `1 + scale` and shift.

    Args:
        hidden_states: `[B, L, D]`.
        shift: `[1 or B, 1, D]`.
        scale: `[1 or B, 1, D]`.

    Returns:
        `[B, L, D]`, the input's dtype.
    """
    kernels = kernels_for(hidden_states)
    if kernels is not None:
        return kernels.norm_modulate(hidden_states, shift, scale, EPS)
    width = hidden_states.shape[-1:]
    if len(scale) == 1:
        # One time for all samples: layer_norm's own weight and bias save a pass over the tokens.
        return nn.functional.layer_norm(hidden_states, width, (1 + scale)[0, 0], shift[0, 0], EPS)
    normed = nn.functional.layer_norm(hidden_states, width, eps=EPS)
    return torch.addcmul(shift, normed, 1 + scale)


def gated_add(residual: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """Return `residual + update * gate`; tokens `[B, L, D]`, gate `[1 or B, 1, D]`."""
    return torch.addcmul(residual, update, gate)


def gated_add_norm_modulate(
    residual: Tensor, update: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Return `gated_add` of the first three, and `norm_modulate` of that, in one pass over the tokens."""
    kernels = kernels_for(residual)
    if kernels is not None:
        return kernels.gated_add_norm_modulate(residual, update, gate, shift, scale, EPS)
    residual = gated_add(residual, update, gate)
    return residual, norm_modulate(residual, shift, scale)


def norm_rotate(heads: Tensor, norm: nn.RMSNorm, tables: RotaryTables | None) -> Tensor:
    """Normalize queries or keys `[B, L, N, H]` over each head and rotate them; None leaves them unrotated."""
    normed = norm(heads)
    return normed if tables is None else rotate(normed, tables)


def norm_rotate_(heads: Tensor, norm: nn.RMSNorm, tables: RotaryTables | None) -> None:
    """Do what `norm_rotate` does in the place of its input, which may be a view of a larger buffer."""
    kernels = kernels_for(heads)
    if kernels is not None and norm.weight is not None:
        kernels.norm_rotate_(heads, norm.weight, norm.eps or EPS, tables)
    else:
        heads.copy_(norm_rotate(heads, norm, tables))


def feed_forward(mlp: nn.Module, hidden_states: Tensor) -> Tensor:
    """Run a GELU-tanh MLP; on a GPU bias and activation go into the first matmul's epilogue."""
    layers: Any = mlp
    expand: Any = layers.net[0].proj
    if not (hidden_states.is_cuda and is_inference() and is_plain_linear(expand, hidden_states)):
        return mlp(hidden_states)
    rows = hidden_states.flatten(0, -2)
    # On CUDA this operator's GELU is the tanh form, which the published weights want.
    inner = addmm_gelu(expand.bias, rows, expand.weight.t())
    return layers.net[2](inner.unflatten(0, hidden_states.shape[:-1]))


def is_plain_linear(layer: nn.Module, hidden_states: Tensor) -> bool:
    """Tell whether a layer is what its class says: no adapter, hook, cast or quantized weight wants a say.

    Only then may its weight be used without calling it.
    """
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and layer.weight.dtype == hidden_states.dtype
        and layer.weight.device == hidden_states.device
        and layer.bias is not None
        and "forward" not in layer.__dict__
        and not has_forward_hooks(layer)
    )


def is_inference() -> bool:
    """Tell whether operators may write in place: no gradient, compiler or autocast is looking on."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cuda")
        or torch.is_autocast_enabled("cpu")
    )


def kernels_for(tensor: Tensor) -> Any:
    """Return the module of Triton kernels where they shall run on this tensor, else None."""
    choice = os.environ.get(KERNELS_VARIABLE, "auto")
    # A compiler fuses the plain operators on its own, and has no view into a kernel.
    if choice == "torch" or not is_inference() or (choice != "triton" and not tensor.is_cuda):
        return None
    return _load_kernels()


@functools.cache
def _load_kernels() -> Any:
    try:
        return importlib.import_module("joyimage.model.kernels")
    except ImportError:
        logger.warning("Triton isn't installed: plain torch runs in the place of the fused kernels.")
        return None
