"""Geometry and wording of the three spatial edits: move, rotate, camera. Nothing here needs torch."""

from joyimage.spatial.camera import CameraMove
from joyimage.spatial.move import Box, ObjectMove, draw_red_box
from joyimage.spatial.rotation import ObjectRotation, View

__all__ = ["Box", "CameraMove", "ObjectMove", "ObjectRotation", "View", "draw_red_box"]
