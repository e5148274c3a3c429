"""What phrases of any language come down to: amounts, directions, and parts of a camera move that add up."""

from __future__ import annotations

from dataclasses import dataclass

from joyimage.edits import Camera

YAW_DEGREES = {"left": -90.0, "right": 90.0, "behind": 180.0}
"""Where "from the left" puts the camera: positive moves it to its right."""
PITCH_DEGREES = {"above": 45.0, "below": -45.0}
STEP_DEGREES = {"left": (-45.0, 0.0), "right": (45.0, 0.0), "up": (0.0, 30.0), "down": (0.0, -30.0)}
"""Yaw and pitch of "move the camera left" without an angle."""
SMALL_PITCH_DEGREES = 15.0


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A part of a camera move, such as "from the left" or "closer".

    Attributes:
        yaw: Degrees around the object; positive moves the camera to its right.
        pitch: Degrees up.
        zoom: "in", "out", or None.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    zoom: str | None = None


def view_from(direction: str, *, degrees: float | None = None, is_small: bool = False) -> Turn:
    """Return the turn that shows the scene from "left", "right", "behind", "above" or "below"."""
    if direction in PITCH_DEGREES:
        full = PITCH_DEGREES[direction]
        size = degrees if degrees is not None else 2 * SMALL_PITCH_DEGREES if is_small else abs(full)
        return Turn(pitch=size if full > 0 else -size)
    full = YAW_DEGREES[direction]
    size = degrees if degrees is not None else 45.0 if is_small and direction != "behind" else abs(full)
    return Turn(yaw=-size if full < 0 else size)


def step(direction: str, *, degrees: float | None = None, is_small: bool = False) -> Turn:
    """Return the turn that moves the camera "left", "right", "up" or "down"."""
    yaw, pitch = STEP_DEGREES[direction]
    if degrees is not None:
        return Turn(yaw=_sized(yaw, degrees), pitch=_sized(pitch, degrees))
    return Turn(yaw=yaw, pitch=_sized(pitch, SMALL_PITCH_DEGREES) if is_small else pitch)


def combine(turns: list[Turn]) -> Camera | None:
    """Add up the parts of a camera move; None where they contradict each other or nothing is left."""
    yaw, pitch = sum(one.yaw for one in turns), sum(one.pitch for one in turns)
    zooms = {one.zoom for one in turns} - {None}
    if len(zooms) > 1 or abs(yaw) > 360 or abs(pitch) > 89 or not (yaw or pitch or zooms):
        return None
    return Camera(yaw=yaw or None, pitch=pitch or None, zoom=next(iter(zooms), None))


def _sized(value: float, size: float) -> float:
    return 0.0 if value == 0 else size if value > 0 else -size
