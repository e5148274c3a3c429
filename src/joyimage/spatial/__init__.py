"""Geometry and prompts of the three spatial edits: move, rotate, camera. Nothing here needs torch."""

from joyimage.spatial.box import Box, resolve_box
from joyimage.spatial.camera import CameraMove
from joyimage.spatial.move import ObjectMove, draw_red_box
from joyimage.spatial.parse import parse
from joyimage.spatial.red_box import find_red_boxes
from joyimage.spatial.rotation import ObjectRotation, View

__all__ = [
    "Box",
    "CameraMove",
    "ObjectMove",
    "ObjectRotation",
    "View",
    "draw_red_box",
    "find_red_boxes",
    "parse",
    "resolve_box",
]
