"""The record of an edit, stored in image files and reports: the edit itself and what it was made with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from joyimage.edits.values import AnyEdit, kind_of
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Record:
    """An edit that was made.

    Attributes:
        edit: The edit, resolved.
        made_with: Everything that is not a field of the edit: model, version, device, dtype, base_size, width
            and height of the result, input_sha256 and so on.
    """

    edit: AnyEdit
    made_with: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return one flat dict: the edit's fields beside what it was made with."""
        return {**self.made_with, **self.edit.to_dict()}

    @classmethod
    def from_dict(cls, data: object) -> Record:
        """Read a record, including those of older versions.

        Older records name the kind `command`, have short field names, and hold the size as `width` and
        `height` only. Keys that are not fields of the edit go to `made_with`.

        Raises:
            InvalidInputError: The record is not a JSON object, its kind is unknown, or a field is not accepted.
        """
        if not isinstance(data, dict):
            raise InvalidInputError(f"it is {type(data).__name__}; expected an object with the field `kind`.")
        fields = cast("dict[str, Any]", data)
        kind = kind_of(fields.get("kind", fields.get("command")))
        names = {alias for name, one in kind.settings().items() for alias in (name, *one.aliases)}
        given: Mapping[str, Any] = {name: value for name, value in fields.items() if name in names}
        others = {
            name: value
            for name, value in fields.items()
            if name not in names and name not in {"kind", "command"}
        }
        if "size" not in given and "size" in names and others.get("width") and others.get("height"):
            given = {**given, "size": f"{others['width']}x{others['height']}"}
        edit = kind.from_dict(given)
        edit.check_complete()
        return cls(edit=edit, made_with=others)
