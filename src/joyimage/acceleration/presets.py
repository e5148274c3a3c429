"""Speed presets: what each of them leaves out of the steps of an edit, as values.

"exact" leaves out nothing that changes the image. The others trade a stated amount of agreement with it for fewer
forwards; docs/speed.md has the prices.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, cast

from joyimage.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class SpeedPreset:
    """What an edit leaves out.

    Attributes:
        threshold: SeaCache's budget: how far the target may change, relative to itself and summed over the steps,
            before all blocks are computed again; None computes all blocks in every step.
        max_reused_steps: Maximum number of consecutive steps that reuse what the blocks added earlier.
        num_full_steps: Number of steps at the start that always compute all blocks.
        guidance_sigmas: Noise levels (from, to), both in [0, 1], between which there is guidance.
        guidance_period: The unconditional branch runs in one of so many steps with guidance; in the others, the
            difference between the branches is that of the last such step.
    """

    threshold: float | None = None
    max_reused_steps: int = 2
    num_full_steps: int = 1
    guidance_sigmas: tuple[float, float] = (0.0, 1.0)
    guidance_period: int = 1

    @property
    def reuses_steps(self) -> bool:
        """Whether a step cache runs."""
        return self.threshold is not None

    def has_guidance_at(self, sigma: float) -> bool:
        """Return whether there is guidance at a noise level."""
        start, end = self.guidance_sigmas
        return start <= sigma <= end

    def __str__(self) -> str:
        """Describe the preset for a reader."""
        parts: list[str] = []
        if self.reuses_steps:
            parts.append(
                f"SeaCache with threshold {self.threshold:g}, at most {self.max_reused_steps} consecutive reused steps"
            )
        if self.guidance_sigmas != (0.0, 1.0):
            start, end = self.guidance_sigmas
            parts.append(f"guidance at noise levels {start:g} to {end:g}")
        if self.guidance_period > 1:
            parts.append(f"unconditional branch in one of {self.guidance_period} steps")
        return "; ".join(parts) or "all blocks in every step"


EXACT = "exact"
TURBO = "turbo"

PRESETS: dict[str, SpeedPreset] = {
    EXACT: SpeedPreset(),
    "balanced": SpeedPreset(threshold=0.3, guidance_sigmas=(0.0, 0.9), guidance_period=2),
    "fast": SpeedPreset(threshold=0.4, guidance_sigmas=(0.0, 0.83), guidance_period=2),
}
"""Presets of a checkpoint that was not calibrated: measured on the embedded model, 16 steps, guidance 3."""

PRESETS_FILE = "speed.json"
"""Presets measured for a checkpoint, in its folder."""


def write_presets(presets: Mapping[str, SpeedPreset], path: Path) -> None:
    """Write presets as JSON; `exact` never changes and is left out."""
    data = {name: asdict(preset) for name, preset in presets.items() if name != EXACT}
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def read_presets(path: Path) -> dict[str, SpeedPreset]:
    """Read presets from JSON; those that the file does not name are the usual ones.

    Raises:
        CheckpointError: The file cannot be read, or a preset or a value in it is not accepted.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}.") from error
    known = [name for name in PRESETS if name != EXACT]
    if not isinstance(data, dict) or not set(cast("dict[str, Any]", data)) <= set(known):
        raise CheckpointError(f"{path} must be an object with some of {', '.join(known)}.")
    found = {name: _read_preset(name, entry, path) for name, entry in cast("dict[str, Any]", data).items()}
    return {**PRESETS, **found}


def _read_preset(name: str, entry: Any, path: Path) -> SpeedPreset:
    names = [field.name for field in fields(SpeedPreset)]
    if not isinstance(entry, dict) or not set(cast("dict[str, Any]", entry)) <= set(names):
        raise CheckpointError(f"`{name}` in {path} must be an object with some of {', '.join(names)}.")
    values: dict[str, Any] = {**asdict(PRESETS[name]), **cast("dict[str, Any]", entry)}
    threshold, given = values["threshold"], values["guidance_sigmas"]
    interval = tuple(cast("Sequence[Any]", given)) if isinstance(given, list | tuple) else ()
    accepted = {
        "threshold": threshold is None or _is_number(threshold, 0, math.inf),
        "max_reused_steps": _is_count(values["max_reused_steps"]),
        "num_full_steps": _is_count(values["num_full_steps"]),
        "guidance_sigmas": len(interval) == 2 and all(_is_number(one, 0, 1) for one in interval),
        "guidance_period": _is_count(values["guidance_period"]),
    }
    for field, is_accepted in accepted.items():
        if not is_accepted:
            raise CheckpointError(f"`{name}.{field}` in {path} is {values[field]!r}, which is out of range.")
    values["guidance_sigmas"] = interval
    return SpeedPreset(**values)


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in {int, float} and math.isfinite(value) and least <= value <= most


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1
