"""JSON Schema of the edits, derived from their fields; the page and the OpenAPI document use it."""

from __future__ import annotations

from typing import Any

from joyimage.edits.values import KINDS, AnyEdit


def json_schema(kind: type[AnyEdit]) -> dict[str, Any]:
    """Return the JSON Schema of what `to_dict` returns for a kind of edit.

    Besides the standard keywords, each property has `x-group` (where forms show it), `x-aliases` and `x-flag`
    (its option on the command line).
    """
    settings = kind.settings()
    properties = {
        name: {
            **one.form.schema,
            "description": one.help,
            "x-group": one.group,
            "x-flag": None if one.is_positional else one.flags(name)[0],
            "x-aliases": list(one.aliases),
        }
        for name, one in settings.items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.__name__,
        "description": (kind.__doc__ or "").strip().partition("\n")[0],
        "type": "object",
        "additionalProperties": False,
        "required": ["kind", *(name for name, one in settings.items() if one.is_required)],
        "properties": {"kind": {"const": kind.kind}, **properties},
    }


def json_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of every kind by its name."""
    return {name: json_schema(kind) for name, kind in KINDS.items()}
