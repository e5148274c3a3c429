"""Linear layers whose weights stay in a quantized format, and which layers of the model are quantized.

Dimension key: M rows, N output features, K input features.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from joyimage.acceleration.conditions import suits_onednn
from joyimage.compat.torch import float8_matmul, int8_matmul, onednn_linear, own_buffers, own_parameters
from joyimage.errors import InvalidInputError
from joyimage.model.checkpoint.encodings.base import WEIGHT, EncodedWeight, Plain
from joyimage.model.checkpoint.encodings.float4 import NF4_BLOCK, NV_BLOCK, Nf4, Nvfp4
from joyimage.model.checkpoint.encodings.float8 import MX_BLOCK, Float8, MicroscalingFloat8
from joyimage.model.checkpoint.encodings.int8 import INT8_BLOCK, Int8, convrot, rotate
from joyimage.model.checkpoint.grouping import name_parts
from joyimage.model.checkpoint.parts import is_quantizable, is_sensitive

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

    from joyimage.model.checkpoint.source import WeightSource

QUANTIZATIONS = ("int8", "fp8", "nf4")
"""Formats that weights can be quantized to while they are loaded."""

FOUR_BIT_FORMATS = ("nf4", "nvfp4", "gguf-q4_0")
"""Formats in which sensitive weights take eight bits."""

MATMULS = ("decode", "scaled", "int8", "fp8")
"""How a quantized layer multiplies: with decoded weights, with the integers of an int8 weight, whose outputs are scaled
afterwards, or with inputs quantized to the weights' type."""

_MIN_INT8_ROWS = 17  # CUDA's int8 matmul takes no fewer


class QuantizedLinear(nn.Linear):
    """A linear layer that keeps its weight as a file stores it.

    Each call decodes the weight, or multiplies in another way where `matmul` says so. Moving the layer to
    another device moves the stored tensors; changing its precision changes the bias only. Adapters attach to
    it as to any linear layer.

    Attributes:
        encoding: How the weight is stored.
        matmul: One of `MATMULS`.
    """

    def __init__(self, weight: EncodedWeight, bias: Tensor | None, matmul: str = "decode") -> None:
        """Take the stored tensors over.

        Args:
            weight: Weight [N, K] as stored.
            bias: [N], or None.
            matmul: One of `MATMULS`; all but "decode" need a weight of that type, "scaled" one of int8 by rows.
        """
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.encoding = weight.encoding
        self.matmul = matmul
        self._parts = {_attribute(part): part for part in weight.parts}
        for part, tensor in weight.parts.items():
            if part == WEIGHT:
                self.weight = nn.Parameter(stored_part(weight, part), requires_grad=False)
                self._weight_dtype = tensor.dtype
            else:
                self.register_buffer(_attribute(part), tensor)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def stored_parts(self) -> dict[str, str]:
        """Attribute that holds a stored tensor → part of the weight, the key of `EncodedWeight.parts`."""
        return dict(self._parts)

    @property
    def encoded(self) -> EncodedWeight:
        """The weight as stored."""
        return self.assemble({name: getattr(self, name) for name in self._parts})

    def assemble(self, tensors: Mapping[str, Tensor]) -> EncodedWeight:
        """Return the weight that stored tensors make up.

        Args:
            tensors: Tensors by the attributes that hold them, as in `stored_parts`.
        """
        parts = {part: tensors[name] for name, part in self._parts.items()}
        parts[WEIGHT] = parts[WEIGHT].view(self._weight_dtype)
        return EncodedWeight(self.encoding, parts, (self.out_features, self.in_features))

    @property
    def W_q(self) -> Tensor:  # noqa: N802 - by this name peft finds layers that have a `dequantize`
        """The stored tensor under the weight's own name."""
        return self.weight

    def dequantize(self) -> Tensor:
        """Return the values in fp32, [N, K]; peft asks for them where an adapter has magnitudes (DoRA)."""
        return self.encoded.decode(torch.float32)

    def forward(self, input: Tensor) -> Tensor:
        """Return `input @ weight.T + bias`, in the precision of the input, or under autocast in that of autocast.

        Where a gradient flows to the input, the inputs are not rounded whatever `matmul` says, as that has no gradient.

        Args:
            input: [..., K].
        """
        is_autocast = torch.is_autocast_enabled(input.device.type)
        dtype = torch.get_autocast_dtype(input.device.type) if is_autocast else input.dtype
        rows = input.to(dtype)
        if torch.is_grad_enabled() and rows.requires_grad:
            return cast("Tensor", cast("Any", _FrozenLinear).apply(rows, self))
        encoded = self.encoded
        rows = rows.reshape(-1, self.in_features)
        if self.matmul == "int8" and len(rows) >= _MIN_INT8_ROWS:
            output = _multiply_int8(rows, encoded)
        elif self.matmul == "fp8":
            output = _multiply_fp8(rows, encoded)
        else:
            return _multiply(input.to(dtype), self)
        if self.bias is not None:
            output = output + self.bias.to(output.dtype)
        return output.reshape(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Return what `print(model)` shows of the layer."""
        return f"{super().extra_repr()}, format={self.encoding.name}, matmul={self.matmul}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move the stored tensors, but never change their precision; see `nn.Module`."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            keeps = tensor is self.bias or moved.dtype == tensor.dtype
            return moved if keeps else tensor.to(moved.device)

        return cast("Any", super())._apply(move, recurse)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Write the stored tensors under the names that files have; see `nn.Module`."""
        encoded = self.encoded
        destination.update(name_parts(f"{prefix}weight", encoded))
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()


class _FrozenLinear(torch.autograd.Function):
    """A frozen linear layer whose backward reads the weight again: kept decoded, all weights would be in memory."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return _multiply(input, layer)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        grad = cast("Tensor", grad_outputs[0])
        layer: QuantizedLinear = ctx.layer
        if not _takes_integers(layer, grad.dtype):
            return grad @ layer.encoded.decode(grad.dtype), None
        encoded = layer.encoded
        rows = (grad * _row_scales(encoded)).to(grad.dtype) @ encoded.parts[WEIGHT].to(grad.dtype)
        rotation = cast("Int8", encoded.encoding).rotation
        return rows if rotation is None else rotate(rows, rotation), None


def format_for(quantization: str, part: str, name: str, shape: tuple[int, ...]) -> str | None:
    """Return the format that a quantization stores a weight in, or None where the weight stays as it is.

    Args:
        quantization: A format of this module or of GGUF.
        part: "transformer", "text_encoder" or "vae".
        name: Our name of the weight.
        shape: Shape of the values.
    """
    if not is_quantizable(part, name, shape):
        return None
    if quantization in FOUR_BIT_FORMATS and is_sensitive(part, name):
        return "gguf-q8_0" if quantization.startswith("gguf") else "int8"
    return quantization


def quantized(weight: Tensor, format: str) -> EncodedWeight:
    """Quantize a matrix; one that is not a whole number of blocks of the format stays as it is.

    Args:
        weight: [N, K].
        format: One of `QUANTIZATIONS`, "int8_blockwise", "mxfp8" or "nvfp4".
    """
    shape = (weight.shape[0], weight.shape[1])
    per_block, num_values = {
        "nf4": (NF4_BLOCK, weight.numel()),
        "mxfp8": (MX_BLOCK, shape[1]),
        "nvfp4": (NV_BLOCK, shape[1]),
    }.get(format, (1, 1))
    if num_values % per_block:
        return EncodedWeight(Plain(), {WEIGHT: weight}, shape)
    if format in {"nf4", "nvfp4"}:
        encoding, parts = Nf4.encode(weight) if format == "nf4" else Nvfp4.encode(weight)
        return EncodedWeight(encoding, parts, shape)
    encoder = {
        "int8": convrot(shape[1]),
        "int8_blockwise": Int8(block_size=INT8_BLOCK),
        "fp8": Float8(),
        "mxfp8": MicroscalingFloat8(),
    }[format]
    return EncodedWeight(encoder, encoder.encode(weight), shape)


def fill(
    model: nn.Module,
    source: WeightSource,
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantization: str | None = None,
    fp32_modules: tuple[str, ...] = (),
    left_out: Container[str] = (),
) -> None:
    """Give a model without weights those of a file, one at a time.

    Args:
        model: Model whose parameters are on the meta device.
        source: Weights, checked against the model.
        dtype: Precision of the weights that are not kept quantized.
        device: Device of the weights.
        quantization: None keeps linear layers as the file stores them, "none" decodes all weights, and one of
            `QUANTIZATIONS` quantizes the layers that the file holds in full precision.
        fp32_modules: Names of modules whose weights stay in fp32.
        left_out: Names of weights that are not read: their tensors get type and shape, on the meta device.

    Raises:
        CheckpointError: The type of a tensor is not known.
    """
    for name in list(model.state_dict()):
        if name not in source.weights:
            continue  # optional, as the check before has it
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        precision = torch.float32 if set(fp32_modules) & set(path.split(".")) else dtype
        encoded = source.read(name)
        place = torch.device("meta") if name in left_out else device
        is_linear = type(module) is nn.Linear and leaf == "weight"
        if quantization in QUANTIZATIONS and is_linear and encoded.encoding.name == "plain":
            chosen = format_for(quantization, source.part, name, encoded.shape)
            encoded = encoded if chosen is None else quantized(encoded.decode(torch.float32), chosen)
        if is_linear and quantization != "none" and encoded.encoding.name != "plain":
            _replace(model, path, encoded.to(place), choose_matmul(encoded, device))
            continue
        if place.type == "meta":
            values = torch.empty(encoded.shape, dtype=precision, device=place)
        else:
            values = encoded.decode(precision).to(place)
        parameters = own_parameters(module)
        if leaf in parameters:
            parameters[leaf] = nn.Parameter(values, requires_grad=False)
        else:
            own_buffers(module)[leaf] = values


def _replace(model: nn.Module, path: str, encoded: EncodedWeight, matmul: str) -> None:
    """Put a quantized layer in place of a linear layer; its bias is filled later, or is filled already."""
    layer: Any = model.get_submodule(path)
    parent, _, name = path.rpartition(".")
    setattr(
        model.get_submodule(parent), name, QuantizedLinear(encoded, layer.bias, matmul).train(layer.training)
    )


def choose_matmul(encoded: EncodedWeight, device: torch.device) -> str:
    """Return the fastest way to multiply with a weight on a device, one of `MATMULS`.

    int8 and fp8 matmuls round the inputs of the layer too, so they are used on GPUs with such units only.

    Args:
        encoded: The weight.
        device: Device that the layer runs on.
    """
    is_int8 = isinstance(encoded.encoding, Int8) and encoded.encoding.block_size is None
    if device.type != "cuda" or any(size % 16 for size in encoded.shape):
        return "scaled" if is_int8 else "decode"
    capability = torch.cuda.get_device_capability(device)
    if is_int8:
        return "int8" if capability >= (7, 5) else "scaled"
    is_e4m3 = encoded.encoding == Float8(torch.float8_e4m3fn)
    has_one_scale = "_scale" in encoded.parts and encoded.parts["_scale"].numel() == 1
    return "fp8" if is_e4m3 and has_one_scale and capability >= (8, 9) else "decode"


def choose_matmuls(model: nn.Module, device: torch.device) -> None:
    """Let each quantized layer of a model that was loaded elsewhere multiply as is fastest on its device.

    Args:
        model: Any model.
        device: Device that the model runs on.
    """
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.matmul = choose_matmul(module.encoded, device)


def stored_tensors(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Return the tensors of quantized layers: name in the model → name of the weight, and part of it.

    The names are those in the model without adapters.

    Args:
        model: Any model.
    """
    return {
        f"{name}.{attribute}": (f"{name}.weight", part)
        for path, layer in cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
        if isinstance(layer, QuantizedLinear)
        for name in (path.replace(".base_layer", ""),)
        for attribute, part in layer.stored_parts.items()
    }


def formats_of(model: nn.Module) -> Counter[str]:
    """Return the number of linear layers in each quantized format.

    Args:
        model: Any model.
    """
    return Counter(module.encoding.name for module in model.modules() if isinstance(module, QuantizedLinear))


def checked_quantization(quantization: str | None) -> str | None:
    """Return a valid name of a quantization.

    Raises:
        InvalidInputError: The name is not known.
    """
    if quantization not in {None, "none", *QUANTIZATIONS}:
        raise InvalidInputError(
            f"`quantization` is {quantization!r}; expected none, {', '.join(QUANTIZATIONS)}, or nothing to keep"
            " the format of the file."
        )
    return quantization


def _multiply(input: Tensor, layer: QuantizedLinear) -> Tensor:
    """Return what a linear layer with the decoded weight would, but for rounding."""
    bias = None if layer.bias is None else layer.bias.to(input.dtype)
    # As one matrix: torch would copy the weight for each sample of a view with gaps.
    rows = input.flatten(0, -2).contiguous()
    encoded = layer.encoded
    if not _takes_integers(layer, input.dtype):
        output = _product(rows, encoded.decode(input.dtype), bias)
    else:
        # The integers are exact in every precision. Rotating the inputs, far fewer numbers, gives the same product.
        rotation = cast("Int8", encoded.encoding).rotation
        rows = rows if rotation is None else rotate(rows, rotation)
        output = (_product(rows, encoded.parts[WEIGHT].to(input.dtype)) * _row_scales(encoded)).to(
            input.dtype
        )
        output = output if bias is None else output + bias
    return output.view(*input.shape[:-1], layer.out_features)


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `rows @ weight.T + bias`, [M, N]."""
    return (
        onednn_linear(rows, weight, bias) if suits_onednn(rows) else nn.functional.linear(rows, weight, bias)
    )


def _takes_integers(layer: QuantizedLinear, dtype: torch.dtype) -> bool:
    """Return whether a layer multiplies with its integers; their sums exceed the range of fp16."""
    return layer.matmul not in {"decode", "fp8"} and dtype != torch.float16


def _row_scales(encoded: EncodedWeight) -> Tensor:
    """Return the scale of each row of an int8 weight in fp32, [N] or [1]."""
    return encoded.parts["_scale"].float().reshape(-1)


def _multiply_int8(rows: Tensor, encoded: EncodedWeight) -> Tensor:
    """Return `rows @ weight.T`, with each row quantized to int8."""
    encoding: Any = encoded.encoding
    if encoding.rotation is not None:
        rows = rotate(rows, encoding.rotation)
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp_min(1e-30) / 127  # [M, 1]
    stored = (rows / scale).round_().clamp_(-128, 127).to(torch.int8)
    product = int8_matmul(stored, encoded.parts[WEIGHT].t())  # [M, N] int32
    return (product * (scale * encoded.parts["_scale"].reshape(1, -1))).to(rows.dtype)


def _multiply_fp8(rows: Tensor, encoded: EncodedWeight) -> Tensor:
    """Return `rows @ weight.T`, with all rows quantized to fp8 by one scale."""
    largest = torch.finfo(torch.float8_e4m3fn).max
    scale = rows.abs().amax().float().clamp_min(1e-30) / largest
    stored = (rows / scale).clamp_(-largest, largest).to(torch.float8_e4m3fn)
    weight_scale = encoded.parts["_scale"].reshape(())
    return float8_matmul(stored, encoded.parts[WEIGHT].t(), scale, weight_scale, rows.dtype)


@functools.cache
def _attribute(part: str) -> str:
    """Return the attribute of a layer that holds a part of its weight."""
    return "weight" + part.replace(".", "_")


def stored_part(weight: EncodedWeight, part: str) -> Tensor:
    """Return a tensor of a weight as a quantized layer holds it.

    The weight's own tensor is held as integers: what rounds a model to another precision leaves those alone.

    Args:
        weight: The weight as stored.
        part: Key of `EncodedWeight.parts`.
    """
    tensor = weight.parts[part]
    return tensor.view(torch.uint8) if part == WEIGHT and tensor.is_floating_point() else tensor
