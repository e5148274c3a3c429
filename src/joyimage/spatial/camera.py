"""Move the camera: orbit around the object in focus, or move toward it or away from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from joyimage.advice import advise
from joyimage.errors import InvalidInputError
from joyimage.spatial.prompts import check_style

ZOOMS = ("in", "out", "unchanged")
TRAINED_YAWS_DEGREES = tuple(range(-135, 181, 45))
TRAINED_PITCHES_DEGREES = tuple(range(-75, 76, 15))
LARGEST_YAW_DEGREES = 360
LARGEST_PITCH_DEGREES = 89


@dataclass(frozen=True)
class CameraMove:
    """A move of the camera around the object in focus, which it stays aimed at.

    Attributes:
        yaw: Degrees around the object within ±360; positive moves the camera to its right, counterclockwise seen
            from above.
        pitch: Degrees up within ±89; positive raises the camera, which then looks down.
        zoom: "in", "out" or "unchanged". The model chooses by how much the distance changes.

    Raises:
        InvalidInputError: An angle is not finite or out of range, or `zoom` is unknown.

    Source: SpatialEdit, arXiv 2604.04911; the trained grid is yaw in steps of 45° from -135° to 180°, and
    pitch in steps of 15° within ±75°.
    """

    yaw: float = 0
    pitch: float = 0
    zoom: str = "unchanged"

    def __post_init__(self) -> None:
        """Reject values that no prompt can express, and warn about angles that were not trained.

        Raises:
            InvalidInputError: An angle is not finite or out of range, or `zoom` is unknown.
        """
        for name, angle, largest in (
            ("yaw", self.yaw, LARGEST_YAW_DEGREES),
            ("pitch", self.pitch, LARGEST_PITCH_DEGREES),
        ):
            if not math.isfinite(angle) or abs(angle) > largest:
                raise InvalidInputError(
                    f"`{name}` is {angle}; expected a number from -{largest} to {largest} degrees."
                )
        if self.zoom not in ZOOMS:
            raise InvalidInputError(f"`zoom` is {self.zoom!r}; expected one of {', '.join(ZOOMS)}.")
        if self.yaw not in TRAINED_YAWS_DEGREES or self.pitch not in TRAINED_PITCHES_DEGREES:
            advise(
                f"Yaw {self.yaw:g}° with pitch {self.pitch:g}° is not on the trained grid (yaw in steps of 45° "
                "from -135° to 180°, pitch in steps of 15° within ±75°); the result may be less accurate.",
            )

    @property
    def prompt(self) -> str:
        """The prompt in the "documented" style: four lines, angles in whole degrees."""
        return self.prompt_in("documented")

    def prompt_in(self, style: str) -> str:
        """Return the prompt in a given style.

        Args:
            style: "documented", with whole degrees, or "benchmark", with one decimal as in SpatialEdit-Bench.

        Returns:
            The prompt.

        Raises:
            InvalidInputError: `style` is unknown.
        """
        check_style(style)
        decimals = 0 if style == "documented" else 1
        # Adding 0.0 turns a rounded "-0" into "0".
        yaw, pitch = (round(angle, decimals) + 0.0 for angle in (self.yaw, self.pitch))
        return (
            "Move the camera.\n"
            f"- Camera rotation: Yaw {yaw:.{decimals}f}°, Pitch {pitch:.{decimals}f}°.\n"
            f"- Camera zoom: {self.zoom}.\n"
            "- Keep the 3D scene static; only change the viewpoint."
        )


def check_moves(yaw: float, pitch: float, zoom: str) -> None:
    """Reject a camera move that changes nothing.

    Raises:
        InvalidInputError: Both angles are 0 and `zoom` is "unchanged".
    """
    if not yaw and not pitch and zoom == "unchanged":
        raise InvalidInputError(
            'The camera does not move; expected `yaw` or `pitch` other than 0, or `zoom` as "in" or "out".'
        )
