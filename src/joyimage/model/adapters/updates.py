"""What an adapter does to each layer, whichever program wrote it.

A layer's new output is its own plus `alpha / rank * up @ down @ x`; with DoRA the sum of weights is then scaled to the
given length of each row.

Dimension key: r rank, I inputs of a layer, O its outputs.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from joyimage.errors import CheckpointError
from joyimage.model.adapters.names import OTHER_PARTS, LayerNames
from joyimage.model.adapters.strength import Statement, find_alphas
from joyimage.model.file_kind import part_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MATRICES = re.compile(
    r"^(?P<layer>.+?)\."
    r"(?:(?P<down>lora_A|lora_down|lora\.down)|(?P<up>lora_B|lora_up|lora\.up)|(?P<magnitude>lora_magnitude_vector))"
    r"(?:\.(?!weight$|bias$)[^.]+)?(?P<kind>\.weight|\.bias)?$"
)
# Marks of adapters that are not LoRA, in the keys of their files.
_OTHER_KINDS = {
    ".hada_": "a LoHa adapter",
    ".oft_": "an OFT adapter",
    ".boft_": "a BOFT adapter",
    ".vera_": "a VeRA adapter",
    ".ia3_": "an IA3 adapter",
    ".diff": "a file of whole weight differences",
    ".lora_mid": "a Tucker-decomposed LoRA (LoCon)",
    ".a1.weight": "a GLoRA adapter",
}


@dataclass(frozen=True, kw_only=True)
class LayerUpdate:
    """What an adapter adds to one layer.

    Attributes:
        down: `[r, I]`, or `[r, C, T, H, W]` for a convolution.
        up: `[O, r]`, or `[O, r, 1, 1, 1]` for a convolution.
        alpha: The update counts alpha / rank times.
        magnitude: Length of each row of the sum of weights, `[O]`; None without DoRA.
        bias: Added to the update's output before the scale, `[O]`; None without.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None
    bias: Tensor | None = None

    @property
    def rank(self) -> int:
        """The rank of the matrices."""
        return len(self.down)

    @property
    def scale(self) -> float:
        """The factor on `up @ down`."""
        return self.alpha / self.rank


def read_updates(
    tensors: Mapping[str, Tensor],
    layers: Iterable[str],
    statement: Statement | None = None,
    label: str = "The adapter",
) -> dict[str, LayerUpdate]:
    """Read what an adapter's tensors do, layer by layer.

    Args:
        tensors: Matrices and `.alpha` scalars under the names of any known program.
        layers: Names of the model's layers.
        statement: What else the adapter's files say about its strength.
        label: What the adapter is called in messages, such as "The adapter style.safetensors".

    Returns:
        Updates by layer. Tensors of other parts than the transformer are left out with a warning. Separate
        updates of a fused layer's q, k and v are merged.

    Raises:
        CheckpointError: A key names no layer, a matrix lacks its partner, nothing is left, the strength is stated in
            two ways, or the adapter is of another kind.
    """
    statement = statement or Statement()
    parts, alphas = _collect(tensors, LayerNames(layers), label)
    ranks = {place: len(tensors["down"]) for place, tensors in parts.items()}
    names = {place: _names_in_patterns(place) for place in parts}
    found = find_alphas(ranks, alphas, statement, names)
    if not any(found.values()):
        raise CheckpointError(
            f"{label} states the strength 0 (alpha) for every layer, with which it changes nothing. Save it with its"
            " alpha, or without, which means its rank; to switch it off, leave it out or give it the scale 0."
        )
    updates: dict[str, LayerUpdate] = {}
    split: dict[str, dict[int, LayerUpdate]] = {}
    for place, matrices in parts.items():
        update = LayerUpdate(alpha=found[place], **matrices)
        layer, _, part = place.partition("#")
        if part:
            split.setdefault(layer, {})[int(part)] = update
        elif layer in updates:
            raise CheckpointError(f"{label} updates `{layer}` twice: the file is damaged.")
        else:
            updates[layer] = update
    for layer, found_parts in split.items():
        if layer in updates:
            raise CheckpointError(f"{label} updates `{layer}` as a whole and its q, k, v one by one.")
        updates[layer] = _merge_parts(found_parts, layer, label)
    _check_settings(updates, statement, label)
    return updates


def peft_form(updates: Mapping[str, LayerUpdate]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Name an adapter's tensors as peft does.

    Args:
        updates: Updates by layer.

    Returns:
        Tensors `<layer>.lora_A.weight` and so on, and the LoraConfig that gives each layer its rank and alpha: the
        most common ones as `r` and `lora_alpha`, others in patterns.
    """
    tensors: dict[str, Tensor] = {}
    for layer, update in updates.items():
        tensors[f"{layer}.lora_A.weight"] = update.down
        tensors[f"{layer}.lora_B.weight"] = update.up
        if update.magnitude is not None:
            tensors[f"{layer}.lora_magnitude_vector"] = update.magnitude
        if update.bias is not None:
            tensors[f"{layer}.lora_B.bias"] = update.bias
    rank = _most_common(update.rank for update in updates.values())
    alpha = _most_common(update.alpha for update in updates.values())
    config: dict[str, Any] = {
        "r": int(rank),
        "lora_alpha": alpha,
        "target_modules": sorted(updates),
        "rank_pattern": {
            f"^{re.escape(layer)}": one.rank for layer, one in updates.items() if one.rank != rank
        },
        "alpha_pattern": {
            f"^{re.escape(layer)}": one.alpha for layer, one in updates.items() if one.alpha != alpha
        },
    }
    if any(update.magnitude is not None for update in updates.values()):
        config["use_dora"] = True
    if any(update.bias is not None for update in updates.values()):
        config["lora_bias"] = True
    return tensors, config


def rename_lokr(
    tensors: Mapping[str, Tensor], layers: Iterable[str], label: str = "The adapter"
) -> dict[str, Tensor]:
    """Name a LoKr adapter's tensors by the model's layers: `<layer>.lokr_w1`, `<layer>.alpha` and so on.

    Args:
        tensors: The adapter's tensors.
        layers: Names of the model's layers.
        label: What the adapter is called in messages.

    Raises:
        CheckpointError: A key names no layer, or is of another kind.
    """
    names = LayerNames(layers)
    renamed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key.startswith(OTHER_PARTS):
            continue
        name, _, matrix = key.rpartition(".")
        if matrix != "alpha" and not matrix.startswith("lokr_"):
            raise CheckpointError(
                f"{label} has the key `{key}`, which is not a LoKr tensor such as `….lokr_w1`."
            )
        layer, part = names.find(name, key, label)
        if part is not None:
            raise CheckpointError(
                f"{label} splits `{layer}` in q, k and v, which LoKr adapters cannot do here."
            )
        renamed[f"{layer}.{matrix}"] = value
    return renamed


def _collect(
    tensors: Mapping[str, Tensor], names: LayerNames, label: str
) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
    """Sort tensors by layer, or by "layer#part" where q, k and v are apart.

    Raises:
        CheckpointError: A key names no layer, or is of another kind; or a matrix lacks its partner.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    left_out = 0
    for key, value in tensors.items():
        if key.startswith(OTHER_PARTS):
            left_out += 1
            continue
        name, kind = _split_key(key, tensors, label)
        layer, part = names.find(name, key, label)
        place = layer if part is None else f"{layer}#{part}"
        if kind == "alpha":
            if value.numel() != 1:
                raise CheckpointError(
                    f"{label} has `{key}` of shape {list(value.shape)}; expected one number."
                )
            alphas[place] = float(value)
            continue
        if kind == "dora_scale":
            if value.ndim > 1 and value.shape[0] == 1:
                raise CheckpointError(
                    f"{label} has `{key}` per input ({list(value.shape)}), which is not supported; train DoRA with"
                    " `wd_on_output`."
                )
            kind = "magnitude"
        found = parts.setdefault(place, {})
        if kind in found:
            raise CheckpointError(f"{label} has two tensors for one matrix; the second is `{key}`.")
        found[kind] = value.flatten() if kind == "magnitude" else value
    _check_pairs(parts, label)
    if not parts:
        held = "only tensors for the text encoder or VAE" if left_out else "no tensors"
        raise CheckpointError(f"{label} holds {held}; expected LoRA matrices for the transformer.")
    if left_out:
        warnings.warn(
            f"{label} holds {left_out} tensors for the text encoder or VAE, which are left out: only the "
            "transformer takes adapters.",
            stacklevel=4,
        )
    return parts, {place: alpha for place, alpha in alphas.items() if place in parts}


def _split_key(key: str, keys: Iterable[str], label: str) -> tuple[str, str]:
    """Split a key into the name of a layer and the kind of tensor.

    Args:
        key: The key.
        keys: All keys of the adapter, for the message.
        label: What the adapter is called in messages.

    Returns:
        The name, and "down", "up", "bias", "magnitude", "alpha" or "dora_scale".

    Raises:
        CheckpointError: The key is not one of a LoRA.
    """
    if key.endswith((".alpha", ".dora_scale")):
        name, _, kind = key.rpartition(".")
        return name, kind
    match = _MATRICES.match(key)
    if match is None or (match["kind"] == ".bias" and not match["up"]):
        raise CheckpointError(_explain_key(key, keys, label))
    if match["kind"] == ".bias":
        return match["layer"], "bias"
    return match["layer"], "down" if match["down"] else "up" if match["up"] else "magnitude"


def _check_pairs(parts: Mapping[str, Mapping[str, Tensor]], label: str) -> None:
    """Check that every layer has both matrices, of one rank.

    Raises:
        CheckpointError: A matrix lacks its partner, or has another rank.
    """
    for place, found in parts.items():
        for kind, name in (("down", "lora_A"), ("up", "lora_B")):
            if kind not in found:
                raise CheckpointError(
                    f"{label} lacks `{place.partition('#')[0]}.{name}.weight`, whose partner it has: the file is"
                    " incomplete."
                )
        down, up = found["down"], found["up"]
        if down.ndim < 2 or up.ndim < 2 or not len(down) or up.shape[1] != len(down):
            raise CheckpointError(
                f"{label} has matrices of shapes {list(down.shape)} and {list(up.shape)} for"
                f" `{place.partition('#')[0]}`, which have no rank in common: the file is damaged."
            )


def _explain_key(key: str, keys: Iterable[str], label: str) -> str:
    keys = list(keys)
    if not any(".lora" in one or any(mark in one for mark in _OTHER_KINDS) for one in keys):
        part = part_of(keys)
        advice = (
            f" It holds the {part.replace('_', ' ')}: give it with --{part.replace('_', '-')}."
            if part
            else ""
        )
        return f"{label} holds no LoRA matrices: its first tensor is `{key}`.{advice}"
    for mark, kind in _OTHER_KINDS.items():
        if mark in key:
            return (
                f"{label} is {kind} (key `{key}`), which is not supported; expected LoRA, DoRA or LoKr. Merge it into"
                " the weights with the program that made it."
            )
    return f"{label} has the key `{key}`, which is not a LoRA matrix: expected `….lora_A.weight` or the like."


def _check_settings(updates: Mapping[str, LayerUpdate], statement: Statement, label: str) -> None:
    """Check that DoRA and biases are there for all layers or for none, as the config says.

    Raises:
        CheckpointError: Some are missing, or the config says something else.
    """
    for setting, name, tensor in (
        ("use_dora", "magnitude", "lora_magnitude_vector` (or `dora_scale"),
        ("lora_bias", "bias", "lora_B.bias"),
    ):
        num = sum(getattr(update, name) is not None for update in updates.values())
        if num not in {0, len(updates)}:
            raise CheckpointError(
                f"{label} has `{tensor}` for {num} of {len(updates)} layers; expected all of them or none."
            )
        stated = None if statement.config is None else statement.config.get(setting)
        if stated and not num:
            raise CheckpointError(
                f"{statement.source} has `{setting}` true, but {label[0].lower()}{label[1:]} lacks `{tensor}`: the"
                " file is incomplete."
            )


def _merge_parts(parts: Mapping[int, LayerUpdate], layer: str, label: str) -> LayerUpdate:
    """Merge updates of q, k and v into one of the fused layer: the matrices become block-diagonal.

    Raises:
        CheckpointError: The parts have unlike shapes, or a part of a DoRA is missing.
    """
    first = next(iter(parts.values()))
    out = len(first.up)
    if any(len(one.up) != out or one.down.shape[1:] != first.down.shape[1:] for one in parts.values()):
        raise CheckpointError(
            f"{label} has q, k and v of different sizes for `{layer}`: it is for another model."
        )
    down = torch.cat([one.down for _, one in sorted(parts.items())])
    blocks: list[Tensor] = []
    # Each part keeps its own strength: it is multiplied in, and the whole counts once.
    for part in range(3):
        update = parts.get(part)
        rows = torch.zeros(out, len(down), dtype=first.up.dtype)
        if update is not None:
            start = sum(one.rank for other, one in parts.items() if other < part)
            rows[:, start : start + update.rank] = update.up * update.scale
        blocks.append(rows)
    merged = LayerUpdate(down=down, up=torch.cat(blocks), alpha=float(len(down)))
    for name in ("magnitude", "bias"):
        given = [
            one for part in range(3) if part in parts and (one := getattr(parts[part], name)) is not None
        ]
        if not given:
            continue
        if len(given) < 3:
            raise CheckpointError(f"{label} lacks a part of `{layer}`'s {name}: expected q, k and v.")
        scales = [parts[part].scale if name == "bias" else 1.0 for part in range(3)]
        merged = replace(
            merged, **{name: torch.cat([one * scale for one, scale in zip(given, scales, strict=True)])}
        )
    return merged


def _names_in_patterns(place: str) -> tuple[str, ...]:
    """Return the names that a config's patterns may use for a layer: the original code's has no `.attn.`."""
    layer = place.partition("#")[0]
    return layer, layer.replace(".attn.", ".")


def _most_common(values: Iterable[float]) -> float:
    return Counter(values).most_common(1)[0][0]
