"""An edit is a value: what was asked for, as given and resolved. Nothing here needs torch."""

from joyimage.edits.fields import FieldError, Setting, UnknownFieldError
from joyimage.edits.parts import LARGEST_SEED, Defaults, Framing, Sampling
from joyimage.edits.record import Record
from joyimage.edits.schema import json_schema, json_schemas
from joyimage.edits.values import (
    KINDS,
    SPATIAL_KINDS,
    AnyEdit,
    Camera,
    Describe,
    Edit,
    Generate,
    Move,
    Rotate,
    from_dict,
    kind_of,
)

__all__ = [
    "KINDS",
    "LARGEST_SEED",
    "SPATIAL_KINDS",
    "AnyEdit",
    "Camera",
    "Defaults",
    "Describe",
    "Edit",
    "FieldError",
    "Framing",
    "Generate",
    "Move",
    "Record",
    "Rotate",
    "Sampling",
    "Setting",
    "UnknownFieldError",
    "from_dict",
    "json_schema",
    "json_schemas",
    "kind_of",
]
