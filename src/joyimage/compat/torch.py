"""Private names of torch that joyimage uses, because torch has no public way to them."""

from __future__ import annotations

import platform
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

__all__ = [
    "TorchDispatchMode",
    "addmm_gelu",
    "all_modules",
    "compile_with",
    "drop_compiled",
    "fast_autocast",
    "fastest_product",
    "float8_matmul",
    "has_compiled_call",
    "has_fast_bf16",
    "has_onednn",
    "int8_matmul",
    "is_compiled",
    "is_mutating",
    "lerp_all_",
    "num_forward_hooks",
    "onednn_conv",
    "onednn_linear",
    "reorder_conv_weight",
    "reorder_weight",
    "scaled_rows",
    "tree_map",
    "version_of",
    "without_compiler",
]


def addmm_gelu(bias: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """Return `gelu(rows @ weight + bias)` from one matmul; on CUDA the GELU is its tanh form.

    Args:
        bias: `[M]`.
        rows: `[N, K]`.
        weight: `[K, M]`.
    """
    return torch._addmm_activation(bias, rows, weight, use_gelu=True)  # pyright: ignore[reportPrivateImportUsage]


@cache
def has_onednn(dtype: torch.dtype) -> bool:
    """Return whether `onednn_linear` runs in a precision on this machine's CPU.

    On processors of other makers than Intel, torch's own fp32 products run in MKL without AVX-512; oneDNN's use it.
    """
    if platform.machine().lower() not in {"x86_64", "amd64"} or not torch.backends.mkldnn.is_available():
        return False
    if torch.backends.cpu.get_cpu_capability() not in {"AVX2", "AVX512"}:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and _onednn()._is_mkldnn_bf16_supported())


def onednn_linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Return `rows @ weight.T + bias`, or its GELU in the tanh form, as `[..., N]`; on a CPU only.

    Args:
        rows: `[..., K]`.
        weight: `[N, K]`, plain or from `reorder_weight`.
        bias: `[N]`; None adds nothing.
        gelu: Whether to apply GELU where the product is in registers.
    """
    activation, form = ("gelu", "tanh") if gelu else ("none", "")
    matrix = rows.flatten(0, -2).contiguous()
    product: Tensor = _onednn()._linear_pointwise(matrix, weight, bias, activation, [], form)
    return product.view(*rows.shape[:-1], len(weight))


def reorder_weight(weight: Tensor, num_rows: int) -> Tensor:
    """Return a weight `[N, K]` in the layout that `onednn_linear` reads; it reorders a plain one in every call.

    Args:
        weight: On a CPU.
        num_rows: Rows that it will be multiplied with; other numbers work as well.
    """
    return _onednn()._reorder_linear_weight(weight, num_rows)


def reorder_conv_weight(
    weight: Tensor, stride: Sequence[int], padding: Sequence[int], shape: Sequence[int]
) -> Tensor:
    """Return a weight `[O, C, h, w]` in the layout that `onednn_conv` reads; it reorders a plain one in every call.

    Args:
        weight: On a CPU.
        stride: As for `onednn_conv`.
        padding: As for `onednn_conv`.
        shape: Shape of the images, `[B, C, H, W]`; others of C channels work as well.
    """
    return _onednn()._reorder_convolution_weight(weight.contiguous(), padding, stride, [1, 1], 1, shape)


def onednn_conv(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    *,
    add_to: Tensor | None = None,
) -> Tensor:
    """Return the convolution of images, `[B, O, H', W']` in the layout of the images; on a CPU only.

    Args:
        images: `[B, C, H, W]`.
        weight: `[O, C, h, w]`, plain or from `reorder_conv_weight`.
        bias: `[O]`.
        stride: Steps of the kernel along height and width.
        padding: Rows of zeros above and below, columns of zeros on the left and right.
        add_to: Tensor of the result's shape and layout; the result is added to it in place, and it is returned. None
            returns the result alone.
    """
    convolution = (images, weight, bias, padding, stride, [1, 1], 1)
    if add_to is None:
        return _onednn()._convolution_pointwise(*convolution, "none", [], "")
    return _onednn()._convolution_pointwise_.binary(add_to, *convolution, "add", 1.0, None, [], None)


def scaled_rows(rows: Tensor, length: float) -> Tensor:
    """Return rows scaled to a Euclidean norm each, in one read; rows of zeros become NaN.

    Args:
        rows: `[N, C]` in fp32.
        length: Norm of each row of the result.
    """
    lengths = rows.new_full((len(rows), 1), length)
    return torch._weight_norm_interface(rows, lengths, 0)[0]  # pyright: ignore[reportPrivateImportUsage]


def fastest_product(rows: Tensor, weight: Tensor) -> Tensor:
    """Return `rows @ weight.T` as plain layers of a pipeline compute it; see `onednn_linear` for shapes."""
    if rows.device.type == "cpu" and has_onednn(rows.dtype):
        return onednn_linear(rows, weight)
    return torch.mm(rows, weight.t())


def _onednn() -> Any:
    return torch.ops.mkldnn


def int8_matmul(rows: Tensor, weight: Tensor) -> Tensor:
    """Return `rows @ weight` in int32.

    Args:
        rows: `[M, K]` int8; on CUDA M is 17 or more.
        weight: `[K, N]` int8; on CUDA K and N are multiples of 8.
    """
    return torch._int_mm(rows, weight)  # pyright: ignore[reportPrivateImportUsage]


def float8_matmul(
    rows: Tensor, weight: Tensor, row_scale: Tensor, weight_scale: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return `(rows * row_scale) @ (weight * weight_scale)`.

    Args:
        rows: `[M, K]` fp8.
        weight: `[K, N]` fp8, the transpose of a contiguous matrix; K and N are multiples of 16.
        row_scale: One fp32 value.
        weight_scale: One fp32 value.
        dtype: Precision of the product.
    """
    return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
        rows, weight, scale_a=row_scale, scale_b=weight_scale, out_dtype=dtype
    )


def lerp_all_(targets: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> None:
    """Move each tensor in place toward its counterpart by a share `weight`, in few kernels for all of them."""
    torch._foreach_lerp_(list(targets), list(ends), weight)  # pyright: ignore[reportPrivateImportUsage]


def without_compiler(module: Any) -> Any:
    """Return the module inside the wrapper that `torch.compile` returns; another module as it is."""
    return getattr(module, "_orig_mod", module)


def all_modules(network: nn.Module) -> Iterator[nn.Module]:
    """Return a network and all modules in it, in any order, in a fraction of the time of `network.modules()`.

    A module that stands in several places is returned for each.
    """
    waiting: list[nn.Module] = [network]
    while waiting:
        module = waiting.pop()
        yield module
        waiting.extend(child for child in module._modules.values() if child is not None)


def num_forward_hooks(module: nn.Module) -> int:
    """Return how many functions are registered to run before or after a module's forward."""
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def version_of(tensor: Tensor) -> int:
    """Return the counter that grows with each in-place change of a tensor."""
    return tensor._version


def is_mutating(operator: Any) -> bool:
    """Tell whether a dispatched operator writes into one of its arguments."""
    return operator._schema.is_mutable


def compile_with(module: nn.Module, backend: Callable[..., Any]) -> None:
    """Compile a module for static shapes; `backend` gets the graph of aten operators of each forward.

    Args:
        module: Module to compile in place, until `drop_compiled`.
        backend: Takes a graph module and example inputs, and returns a boxed callable.
    """
    from torch._dynamo.backends.common import aot_autograd

    torch.compiler.reset()
    module.compile(backend=aot_autograd(fw_compiler=backend), dynamic=False)


def is_compiled(module: Any) -> bool:
    """Tell whether `torch.compile` or `module.compile` is active on a module."""
    return hasattr(module, "_orig_mod") or has_compiled_call(module)


def has_compiled_call(module: Any) -> bool:
    """Tell whether `module.compile` is active on a module."""
    return getattr(module, "_compiled_call_impl", None) is not None


def drop_compiled(module: nn.Module) -> None:
    """Run a module without its compiled form from now on, and free that form."""
    module._compiled_call_impl = None
    torch.compiler.reset()


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the buffers of a module without those of its children, to read and to replace them."""
    return module._buffers


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """Return the parameters of a module without those of its children, to read and to replace them."""
    return module._parameters


def has_fast_bf16(device: torch.device) -> bool:
    """Tell whether products in bf16 are faster than in fp32; on a CPU without instructions for them they are slower."""
    cpu: Any = torch.cpu  # its checks have no public names
    return device.type != "cpu" or bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def fast_autocast(device: torch.device) -> torch.autocast:
    """Return a context of bf16 autocast, of fp32 where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bf16(device))
