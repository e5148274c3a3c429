"""The strength of a LoRA adapter, however its file states it, counted once.

An update is `scale * B @ A`. Files state the scale in up to three places: `.alpha` keys beside the matrices (kohya-ss,
ComfyUI), a LoRA config (peft's `adapter_config.json`, diffusers' header entry), and kohya-ss's `ss_network_alpha` in
the header. Where several do, they have to agree.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from joyimage.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

CONFIG_FILE = "adapter_config.json"
_LARGEST = sys.float_info.max  # JSON has integers beyond it
HEADER_CONFIG = "lora_adapter_metadata"  # diffusers writes the LoraConfig under this key of a file's header
# Settings of peft that change what an adapter does, with the values that this loader can honor.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA", None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "bias": ("none", None),
    "layer_replication": (None, []),
}


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What the files of an adapter say about its strength besides `.alpha` keys.

    Attributes:
        config: LoRA config of peft; None where there is none.
        source: Where the config stands, for messages.
        network_alpha: kohya-ss's alpha for all layers; None where there is none.
    """

    config: dict[str, Any] | None = None
    source: str = "the adapter"
    network_alpha: float | None = None


def read_statement(path: Path, header: Mapping[str, str]) -> Statement:
    """Read what an adapter's file and the config beside it say.

    Args:
        path: The safetensors file.
        header: Metadata of its header.

    Raises:
        CheckpointError: A config is not a JSON object, or asks for something that is not supported.
    """
    beside = path.parent / CONFIG_FILE
    config, source = None, str(path)
    if beside.is_file():
        config, source = _parse(_read(beside), f"{beside}"), str(beside)
    if HEADER_CONFIG in header:
        stated = strip_prefix(_parse(header[HEADER_CONFIG], f"The header entry {HEADER_CONFIG} of {path}"))
        if config is None:
            config, source = stated, f"the header of {path}"
        elif _numbers(config) != _numbers(stated):
            raise CheckpointError(
                f"{beside} and the header of {path} state two strengths of one adapter; remove the wrong one."
            )
    alpha = header.get("ss_network_alpha")
    try:
        network_alpha = None if alpha in {None, "", "None"} else float(str(alpha))
    except ValueError:
        network_alpha = math.nan
    if network_alpha is not None and not math.isfinite(network_alpha):
        raise CheckpointError(
            f"{path} has the `ss_network_alpha` {alpha!r} in its header; expected a number."
        )
    if config is not None:
        check_config(config, source)
    return Statement(config=config, source=source, network_alpha=network_alpha)


def strip_prefix(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a LoRA config that is the transformer's; diffusers' pipelines prefix its keys."""
    ours = {key: value for key, value in config.items() if key.startswith("transformer.")}
    return {key.removeprefix("transformer."): value for key, value in (ours or config).items()}


def check_config(config: Mapping[str, Any], source: str) -> None:
    """Reject settings that change what an adapter does and that are not supported.

    Raises:
        CheckpointError: The config has one.
    """
    for name, allowed in _SUPPORTED.items():
        value = config.get(name)
        if value not in allowed:
            raise CheckpointError(
                f"{source} has `{name}` {value!r}, which is not supported for adapters of this model; merge the "
                "adapter into the weights with the program that made it, or train it without."
            )
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(name), (Mapping, type(None))):
            raise CheckpointError(
                f"{source} has `{name}` {config[name]!r}; expected an object of numbers by layer."
            )
    if not isinstance(config.get("use_rslora"), (bool, type(None))):
        raise CheckpointError(f"{source} has `use_rslora` {config['use_rslora']!r}; expected true or false.")


def find_alphas(
    ranks: Mapping[str, int],
    alpha_keys: Mapping[str, float],
    statement: Statement,
    names: Mapping[str, tuple[str, ...]],
) -> dict[str, float]:
    """Return the alpha of each layer, such that alpha / rank is its scale.

    Args:
        ranks: Rank of each layer's matrices.
        alpha_keys: Values of `.alpha` keys by layer.
        statement: What else the files say.
        names: Other names of each layer, which patterns of a config may use.

    Raises:
        CheckpointError: Two places state two strengths, or a config has another rank than the matrices.
    """
    alphas: dict[str, float] = {}
    for layer, rank in ranks.items():
        stated: dict[str, float] = {}
        if layer in alpha_keys:
            stated["its `.alpha` key"] = alpha_keys[layer]
        if statement.config is not None:
            stated[statement.source] = _alpha_of(layer, rank, statement, (layer, *names.get(layer, ())))
        if statement.network_alpha is not None:
            stated.setdefault("`ss_network_alpha`", statement.network_alpha)
        (first, alpha), *others = stated.items() or {("nothing", float(rank))}
        for other, value in others:
            if not math.isclose(value, alpha, rel_tol=1e-5):
                raise CheckpointError(
                    f"The adapter states two strengths of `{layer}`: {first} says alpha {alpha:g}, {other} says "
                    f"{value:g} (rank {rank}); remove the wrong one."
                )
        alphas[layer] = alpha
    return alphas


def _alpha_of(layer: str, rank: int, statement: Statement, names: tuple[str, ...]) -> float:
    """Return the alpha that a config means for a layer; rsLoRA's is brought to the scale alpha / rank.

    Raises:
        CheckpointError: The config has another rank, or no usable numbers.
    """
    config = statement.config or {}
    stated_rank = _match(config.get("rank_pattern"), names, config.get("r", rank))
    alpha = _match(config.get("alpha_pattern"), names, config.get("lora_alpha", stated_rank))
    numbers = {"r": stated_rank, "lora_alpha": alpha}
    for name, value in numbers.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not abs(value) < math.inf or abs(value) > _LARGEST:  # NaN as well
            raise CheckpointError(f"{statement.source} has `{name}` {value!r}; expected a number.")
    if stated_rank != rank:
        raise CheckpointError(
            f"{statement.source} says rank {stated_rank:g} for `{layer}`, and its matrices have rank {rank}; the two "
            "do not belong together."
        )
    return float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)


def _match(pattern: Mapping[str, Any] | None, names: tuple[str, ...], default: Any) -> Any:
    """Return the entry of a peft pattern whose key, a regular expression for the end of a name, fits.

    Raises:
        CheckpointError: A key is no regular expression.
    """
    for key, value in (pattern or {}).items():
        try:
            is_meant = any(re.match(rf"(.*\.)?({key})$", name) for name in names)
        except re.error as error:
            raise CheckpointError(f"The adapter's config has the pattern {key!r}: {error}.") from None
        if is_meant:
            return value
    return default


def _numbers(config: Mapping[str, Any]) -> list[Any]:
    names = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
    return [config.get(name) or None for name in names]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # an editor on Windows may have put a mark first
    except (OSError, UnicodeError) as error:
        raise CheckpointError(f"{path} can't be read: {error}.") from None


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        config: object = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise CheckpointError(f"{source} is not a JSON object; expected a LoRA config.")
    return cast("dict[str, Any]", config)
