"""What runs in an edit, and what does not and why, as a value."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from joyimage.acceleration.attention import JointBufferAttnProcessor
from joyimage.acceleration.conditions import (
    can_share_forward,
    can_shorten_last_block,
    encoder_takes_masks,
    is_plain_linear,
    offload_kind,
    reason_to_call_vae,
    takes_masks,
)
from joyimage.acceleration.settings import caches_forwards, find_transformer, name_of, settings_of
from joyimage.acceleration.streaming import stream_of
from joyimage.acceleration.verification import failures
from joyimage.compat.accelerate import offload_hook
from joyimage.compat.diffusers import attention_backend, parallelism_of, step_cache_of
from joyimage.compat.torch import is_compiled
from joyimage.compat.transformers import attention_implementation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from joyimage.model.transformer import JoyImageEditTransformer3DModel

_PARTS = ("transformer", "text_encoder", "vae")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What runs in an edit by a pipeline, or in a forward of a transformer.

    Attributes:
        device: Device that the transformer runs on.
        precision: Precision of each part.
        ops: Operations between the matmuls: "plain", "torch" or "triton".
        attention: Attention processor: "plain", "joint_buffer" or the name of the caller's class.
        attention_backend: Attention kernel as diffusers names it; "native" is torch's own choice.
        forward_cache: Whether steps and guidance branches share what they have in common.
        step_cache: diffusers' cache that skips work between steps; None without one.
        speed: Speed preset of the running edit, or of the last one, and what it leaves out; None for a transformer.
        text_encoder: Attention of the text encoder as transformers names it; None without a text encoder.
        vae: "single frames" (2-D convolutions), "video" (3-D convolutions, as diffusers), or None without a VAE.
        quantization: Format of each quantized part's weights.
        offload: "none", "model", "block", "disk", or diffusers' "sequential" or "group".
        parallelism: Devices that share a forward, such as "ulysses 2", or an edit, such as "guidance 2"; None without.
        is_compiled: Whether `torch.compile` is active on the transformer or on its blocks.
        skipped: Fast paths that do not run, and the reason.
    """

    device: str
    precision: Mapping[str, str]
    ops: str
    attention: str
    attention_backend: str
    forward_cache: bool
    step_cache: str | None
    speed: str | None
    text_encoder: str | None
    vae: str | None
    quantization: Mapping[str, str]
    offload: str
    parallelism: str | None
    is_compiled: bool
    skipped: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return asdict(self)

    def __str__(self) -> str:
        """Return one line per field, and one per fast path that does not run."""
        fields = self.to_dict()
        skipped = fields.pop("skipped")
        rows = [(name.replace("_", " "), _shown(value)) for name, value in fields.items()]
        rows += [("skipped", f"{name}: {reason}") for name, reason in skipped.items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def report(target: Any) -> Report:
    """Report what runs in an edit by a pipeline, or in a forward of a transformer.

    Args:
        target: A pipeline, or its transformer. Nothing is changed and nothing is computed.

    Returns:
        What its parts are set to now.

    Raises:
        InvalidTypeError: The target has no JoyImage transformer.
    """
    transformer = find_transformer(target)
    parts = {name: part for name in _PARTS if (part := getattr(target, name, None)) is not None}
    parts.setdefault("transformer", transformer)
    device = str(getattr(target, "compute_device", transformer.device))
    compiled = is_compiled(getattr(target, "transformer", target)) or any(
        map(is_compiled, transformer.blocks)
    )
    formats = {name: found for name, part in parts.items() if (found := weight_format(part)) is not None}
    ops, skipped = name_of(transformer.ops), _skipped(transformer, is_compiled=compiled)
    if ops == "triton" and _cannot_run_kernels(transformer, device):
        ops = "torch"
        skipped["kernels"] = f"they run on a GPU, and the device is {device}"
    encoder, vae = parts.get("text_encoder"), parts.get("vae")
    if encoder is not None and not encoder_takes_masks(encoder):
        skipped["prompts in one row"] = (
            f"{attention_implementation(encoder.config.text_config)} takes no mask"
        )
    if vae is not None and (reason := reason_to_call_vae(vae)) is not None:
        skipped["single frames in the VAE"] = reason
    elif vae is not None and vae.use_tiling:
        skipped["single frames in the VAE"] = f"frames above {vae.tile_sample_min_height} pixels are tiled"
    return Report(
        device=device,
        precision={name: str(part.dtype).removeprefix("torch.") for name, part in parts.items()},
        ops=ops,
        attention=_attention_name(transformer),
        attention_backend=attention_backend_name(transformer),
        forward_cache=caches_forwards(transformer),
        step_cache=step_cache_of(transformer),
        speed=_speed(target),
        text_encoder=None if encoder is None else attention_implementation(encoder.config.text_config),
        vae=_vae_path(vae),
        quantization=formats,
        offload=_offload(transformer),
        parallelism=_parallelism(target, transformer),
        is_compiled=compiled,
        skipped=skipped,
    )


def attention_backend_name(transformer: JoyImageEditTransformer3DModel) -> str:
    """Return the attention kernels of the blocks, as diffusers names them."""
    names = {str(getattr(name, "value", name)) for name in map(attention_backend, _processors(transformer))}
    return ", ".join(sorted(names))


def _parallelism(target: Any, transformer: JoyImageEditTransformer3DModel) -> str | None:
    """Return how processes share an edit."""
    processes = getattr(target, "processes", None)
    names = [] if processes is None else [str(processes)]
    return ", ".join([*names, *filter(None, [parallelism_of(transformer)])]) or None


def _speed(target: Any) -> str | None:
    """Return a pipeline's speed preset as text."""
    name = getattr(target, "speed", None)
    return None if name is None else f"{name} ({target.preset})"


def weight_format(part: nn.Module) -> str | None:
    """Return the format of a part's quantized weights; None if all are plain floating-point tensors."""
    formats: Counter[str] = Counter()
    for layer in part.modules():
        weight = getattr(layer, "weight", None)
        encoding = getattr(layer, "encoding", None)
        if encoding is not None:
            formats[str(encoding.name)] += 1
        elif isinstance(weight, torch.Tensor) and not (
            type(weight) in {nn.Parameter, torch.Tensor} and weight.dtype.is_floating_point
        ):
            formats[type(weight).__name__ if type(weight) is not nn.Parameter else str(weight.dtype)] += 1
    return ", ".join(f"{name} ({number} layers)" for name, number in formats.items()) or None


def _skipped(transformer: JoyImageEditTransformer3DModel, *, is_compiled: bool) -> dict[str, str]:
    """Return the fast paths of the transformer that do not run, and why."""
    settings = settings_of(transformer)
    skipped: dict[str, str] = {}
    if settings is None:
        skipped["all"] = "`accelerate` was not called for this transformer"
    else:
        skipped.update(settings.skipped)
    skipped.update(failures())
    if is_compiled:
        skipped["kernels and joint buffer"] = "the compiler fuses the plain operations itself"
    cache, parallelism = step_cache_of(transformer), parallelism_of(transformer)
    whole = f"{cache} is enabled" if cache else f"{parallelism} is enabled" if parallelism else None
    if not can_shorten_last_block(transformer):
        skipped["last block for the target alone"] = whole or "hooks on it need all tokens"
    if not can_share_forward(transformer):
        masks = all(takes_masks(block.attn) for block in transformer.blocks)
        reason = whole if masks else f"{attention_backend_name(transformer)} attention takes no mask"
        skipped["both guidance branches in one forward"] = str(reason)
    layers = _fast_layers(transformer)
    others = [layer for layer in layers if not is_plain_linear(layer, _like(layer))]
    if others:
        kinds = ", ".join(sorted({type(layer).__name__ for layer in others}))
        skipped["matmuls into a buffer"] = (
            f"{len(others)} of {len(layers)} layers are called instead ({kinds})"
        )
    return skipped


def _fast_layers(transformer: JoyImageEditTransformer3DModel) -> list[nn.Module]:
    """Return the layers whose weights a fast path uses without calling the layer."""
    layers: list[nn.Module] = []
    for block in transformer.blocks:
        mlps: list[Any] = [block.img_mlp, block.txt_mlp]
        layers += [block.attn.img_attn_qkv, block.attn.txt_attn_qkv, *(mlp.net[0].proj for mlp in mlps)]
    return layers


def _like(layer: nn.Module) -> torch.Tensor:
    """Return an empty tensor in the precision and on the device of a layer's weight."""
    weight: Any = next(layer.parameters(), torch.empty(0))
    return torch.empty(0, dtype=weight.dtype, device=weight.device)


def _processors(transformer: JoyImageEditTransformer3DModel) -> list[Any]:
    return [block.attn.processor for block in transformer.blocks]


def _attention_name(transformer: JoyImageEditTransformer3DModel) -> str:
    kinds: set[type] = {type(processor) for processor in _processors(transformer)}
    if kinds == {JointBufferAttnProcessor}:
        return "joint_buffer"
    settings = settings_of(transformer)
    if settings is None or settings.attention == "plain":
        return "plain"
    return ", ".join(sorted(kind.__name__ for kind in kinds))


def _cannot_run_kernels(transformer: JoyImageEditTransformer3DModel, device: str) -> bool:
    return not (device.startswith("cuda") or getattr(transformer.ops, "on_any_device", False))


def _vae_path(vae: Any) -> str | None:
    """Return how a VAE runs: its modules have joyimage's classes once they are converted."""
    if vae is None:
        return None
    if reason_to_call_vae(vae) is not None:
        return "video"
    is_converted = any(type(module).__module__.startswith("joyimage.") for module in vae.modules())
    return "single frames" if is_converted else "video"


def _offload(transformer: JoyImageEditTransformer3DModel) -> str:
    stream = stream_of(transformer)
    if stream is not None:
        return stream.source.plan
    kinds = {kind for module in transformer.modules() if (kind := offload_kind(module)) is not None}
    if kinds:
        return ", ".join(sorted(kinds))
    return "none" if offload_hook(transformer) is None else "model"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return ", ".join(f"{name} {item}" for name, item in fields.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
