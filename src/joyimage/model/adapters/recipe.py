"""How a turbo adapter is sampled: its header sets the steps, the guidance scale and the shift it was trained for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.model.adapters.files import find_adapter_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

HEADER_SPEED = "joyimage.speed"
"""Entry that makes the three others binding; other adapters have those as a recommendation only."""
TURBO = "turbo"
_STEPS, _GUIDANCE, _SHIFT = (
    "joyimage.num_inference_steps",
    "joyimage.guidance_scale",
    "joyimage.shift",
)
_RANGES = {_STEPS: (1, 1000), _GUIDANCE: (0, 100), _SHIFT: (0.01, 100)}


@dataclass(frozen=True, kw_only=True)
class SamplingRecipe:
    """What a turbo adapter was trained for.

    Attributes:
        num_inference_steps: Denoising steps.
        guidance_scale: Guidance scale; 1 is without guidance.
        shift: Shift of the noise levels, which are those of the schedule "jd": no step of it is nearly empty.
    """

    num_inference_steps: int
    guidance_scale: float
    shift: float

    def to_header(self) -> dict[str, str]:
        """Return the entries of an adapter file's header."""
        return {
            HEADER_SPEED: TURBO,
            _STEPS: str(self.num_inference_steps),
            _GUIDANCE: str(self.guidance_scale),
            _SHIFT: str(self.shift),
        }

    def __str__(self) -> str:
        """Describe the recipe for a reader."""
        return f"{self.num_inference_steps} steps, guidance {self.guidance_scale:g}, shift {self.shift:g}"


def recipe_of(header: Mapping[str, str], label: str) -> SamplingRecipe | None:
    """Return the recipe that a header sets; None for an adapter that is no turbo adapter.

    Args:
        header: Metadata of an adapter file.
        label: What the adapter is called in messages.

    Raises:
        CheckpointError: An entry is missing or out of range.
    """
    if header.get(HEADER_SPEED) != TURBO:
        return None
    values: dict[str, float] = {}
    for key, (least, most) in _RANGES.items():
        text = header.get(key)
        try:
            value = float(text) if text is not None else math.nan
        except ValueError:
            value = math.nan
        if not least <= value <= most or (key == _STEPS and value != int(value)):
            raise CheckpointError(
                f"{label} is a turbo adapter whose header has `{key}` {text!r}; expected a"
                f"{' whole' if key == _STEPS else ''} number from {least:g} to {most:g}."
            )
        values[key] = value
    return SamplingRecipe(
        num_inference_steps=int(values[_STEPS]), guidance_scale=values[_GUIDANCE], shift=values[_SHIFT]
    )


def read_recipe(path: Path) -> SamplingRecipe | None:
    """Return the recipe of an adapter on this machine, from its header alone; None if it is no turbo adapter.

    Args:
        path: A file, or a folder with one.

    Raises:
        CheckpointError: Not a readable safetensors file, or its recipe is damaged.
    """
    file = find_adapter_file(path)
    try:
        opened: Any = safe_open(file, framework="np")  # safetensors has no types for open files
        with opened:
            header: dict[str, str] = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"The adapter {file} cannot be read as safetensors: {error}.") from error
    return recipe_of(header, f"The adapter {file}")


def only_recipe(recipes: Iterable[SamplingRecipe | None]) -> SamplingRecipe | None:
    """Return the recipe of adapters that act together; None without a turbo adapter.

    Raises:
        InvalidInputError: Two of them want to be sampled in different ways.
    """
    found = list(dict.fromkeys(one for one in recipes if one is not None))
    if len(found) > 1:
        raise InvalidInputError(
            f"Two turbo adapters are active, one for {found[0]} and one for {found[1]}; use one of them."
        )
    return found[0] if found else None
