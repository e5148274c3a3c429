"""Move the camera: an orbit around the object in focus, or a dolly towards and away from it."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

ZOOMS = ("in", "out", "unchanged")
TRAINED_YAWS_DEGREES = tuple(range(-135, 181, 45))
TRAINED_PITCHES_DEGREES = tuple(range(-75, 76, 15))


@dataclass(frozen=True)
class CameraMove:
    """An orbit at constant distance, always aimed at the object in focus.

    Attributes:
        yaw: Degrees; positive carries the camera to its right, counter-clockwise seen from above.
        pitch: Degrees; positive raises the camera to look down.
        zoom: "in", "out" or "unchanged"; changes the distance by no stated amount.

    Raises:
        ValueError: An angle is not finite or `zoom` is another word.

    Source: SpatialEdit, arXiv 2604.04911; the trained grid is yaw in steps of 45° from -135° to 180°, and
    pitch in steps of 15° within ±75°.
    """

    yaw: float = 0
    pitch: float = 0
    zoom: str = "unchanged"

    def __post_init__(self) -> None:
        """Refuse what has no wording, and warn about what was not trained.

        Raises:
            ValueError: An angle is not finite, the zoom is unknown, or nothing would change.
        """
        for name, angle in (("yaw", self.yaw), ("pitch", self.pitch)):
            if not math.isfinite(angle):
                raise ValueError(f"`{name}` is {angle}; expected a finite number of degrees.")
        if self.zoom not in ZOOMS:
            raise ValueError(f"`zoom` is {self.zoom!r}; expected one of {', '.join(ZOOMS)}.")
        if self.yaw not in TRAINED_YAWS_DEGREES or self.pitch not in TRAINED_PITCHES_DEGREES:
            warnings.warn(
                f"Yaw {self.yaw:g}° with pitch {self.pitch:g}° is off the trained grid (yaw in steps of 45° "
                "from -135° to 180°, pitch in steps of 15° within ±75°); the result may be less exact.",
                stacklevel=3,
            )

    @property
    def prompt(self) -> str:
        """Return the four lines of the trained wording, angles in whole degrees."""
        return (
            "Move the camera.\n"
            f"- Camera rotation: Yaw {round(self.yaw)}°, Pitch {round(self.pitch)}°.\n"
            f"- Camera zoom: {self.zoom}.\n"
            "- Keep the 3D scene static; only change the viewpoint."
        )
