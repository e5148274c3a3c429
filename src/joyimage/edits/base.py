"""What edits of every kind can do: read and write their fields, and fill in defaults."""

from __future__ import annotations

import dataclasses
import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from joyimage.advice import advise, collect_advice
from joyimage.edits.fields import FieldError, Setting, own_settings, read_fields
from joyimage.edits.parts import (
    FRAMING_DEFAULTS,
    LARGEST_SEED,
    SAMPLING_DEFAULTS,
    CheckedFields,
    Defaults,
    Framing,
    Sampling,
    unused_negative_prompt,
)
from joyimage.errors import InvalidInputError
from joyimage.spatial.box import resolve_box
from joyimage.spatial.frame import exact_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from joyimage.types import ImageSize

_ANY_BASE_SIZE = 1024


@dataclass(frozen=True, kw_only=True)
class EditValue(CheckedFields):
    """Base of all edits.

    Attributes:
        kind: Name of the kind, as in `to_dict`.
        needs_image: Whether there is an input image.
    """

    kind: ClassVar[str]
    needs_image: ClassVar[bool] = True

    @classmethod
    def settings(cls) -> dict[str, Setting]:
        """Return every field by its name in `to_dict`, those of `sampling` and `framing` included."""
        found = own_settings(cls)
        for part in _parts(cls).values():
            found.update(own_settings(part))
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a value from its dict; aliases of field names are accepted.

        Args:
            data: As `to_dict` returns it; `kind` may be left out, and None means "not given".

        Raises:
            FieldError: A field is unknown, given twice, or has a value that is not accepted.
        """
        given = {name: value for name, value in data.items() if name not in {"kind", "command"}}
        return cls._from_values(read_fields(cls.settings(), given, "check"))

    @classmethod
    def from_text(cls, data: Mapping[str, str]) -> Self:
        """Read a value whose fields are all text, as in a form or a CSV row; blank means "not given".

        Raises:
            FieldError: A field is unknown, given twice, or has a value that is not accepted.
        """
        given = {
            name: text for name, text in data.items() if text.strip() and name not in {"kind", "command"}
        }
        return cls._from_values(read_fields(cls.settings(), given, "parse"))

    @classmethod
    def _from_values(cls, values: Mapping[str, Any]) -> Self:
        own = {name: values[name] for name in own_settings(cls) if name in values}
        parts = {
            part_name: part(**{name: values[name] for name in own_settings(part) if name in values})
            for part_name, part in _parts(cls).items()
        }
        return cls(**own, **parts)

    def given(self) -> dict[str, Any]:
        """Return the fields that are not None, flat, with Python values."""
        found = {name: getattr(self, name) for name in own_settings(type(self))}
        for part_name, part in _parts(type(self)).items():
            found |= {name: getattr(getattr(self, part_name), name) for name in own_settings(part)}
        return {name: value for name, value in found.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return the value as a flat dict of JSON values, with its `kind`, without fields that are None."""
        settings = self.settings()
        return {
            "kind": self.kind,
            **{name: settings[name].form.to_json(value) for name, value in self.given().items()},
        }

    def to_text(self) -> dict[str, str]:
        """Return the fields that are not None as text, such as a form or a command line needs."""
        settings = self.settings()
        return {name: settings[name].form.to_text(value) for name, value in self.given().items()}

    def filled_from(self, other: EditValue) -> Self:
        """Return this value with the fields that are not given taken from another value.

        A field that is given is never changed.
        """
        known = self.settings()
        values = {name: value for name, value in other.given().items() if name in known} | self.given()
        return self._from_values(values)

    def replace(self, **values: Any) -> Self:
        """Return this value with some fields set; None means "not given".

        Raises:
            FieldError: A field is unknown or has a value that is not accepted.
        """
        merged = self.given() | {name: value for name, value in values.items() if value is not None}
        for name, value in values.items():
            if value is None:
                merged.pop(name, None)
        return self._from_values(read_fields(self.settings(), merged, "check"))

    def check_complete(self) -> None:
        """Reject a value that lacks a required field, or whose seed is too large for its number of images.

        Raises:
            FieldError: A required field is not given, or the seed is too large for the number of images.
        """
        given = self.given()
        num_images = given.get("num_images", 1)
        largest = LARGEST_SEED + 1 - num_images
        if given.get("seed", 0) > largest:
            raise FieldError("seed", given["seed"], f"at most {largest} for {num_images} consecutive seeds")
        for name, one in self.settings().items():
            if one.is_required and name not in given:
                raise FieldError(name, None, one.form.expected)

    def resolve(self, defaults: Defaults, image_size: ImageSize | None = None) -> Self:
        """Return the value with all defaults filled in.

        Args:
            defaults: The checkpoint's settings, for fields that are not given.
            image_size: Size of the input image; with it, boxes are brought to pixels (left, top, right,
                bottom) and checked against the image.

        Returns:
            A value in which only fields without a default are None: `negative_prompt`, `size`, `loras`,
            `region` and `feather`.

        Raises:
            FieldError: A required field is missing.
            InvalidInputError: A box does not lie in the image, or `fit` is "exact" for an image that is too narrow.
        """
        self.check_complete()
        self._check_choice()
        decided: dict[str, Any] = {}
        if "sampling" in _parts(type(self)):
            decided |= {
                "num_inference_steps": defaults.num_inference_steps,
                "guidance_scale": defaults.guidance_scale,
                "speed": defaults.speed,
                "seed": secrets.randbelow(2**31),
                **SAMPLING_DEFAULTS,
            }
        if "framing" in _parts(type(self)):
            decided |= FRAMING_DEFAULTS
        decided |= self._own_defaults()
        resolved = self._from_values(decided | self.given())
        return resolved if image_size is None else resolved._in_pixels(image_size)

    def advice(self, image_size: ImageSize | None = None) -> list[str]:
        """Return one sentence for each value that is accepted but has no effect, or was not trained."""
        with collect_advice() as sentences:
            self._check_spatial(image_size)
            given = self.given()
            if given.get("negative_prompt") and given.get("guidance_scale", math.inf) <= 1:
                advise(unused_negative_prompt(given["guidance_scale"]))
        return list(map(str, sentences))

    def _check_choice(self) -> None:
        """Reject several images of which each would be chosen among candidates.

        Raises:
            FieldError: Both are asked for.
        """
        sampling: Sampling | None = getattr(self, "sampling", None)
        if sampling is not None and sampling.chooses and (sampling.num_images or 1) > 1:
            raise FieldError(
                "num_images", sampling.num_images, "1 where the best of several candidates is kept"
            )

    def _own_defaults(self) -> dict[str, Any]:
        return {}

    def _in_pixels(self, image_size: ImageSize) -> Self:
        given = self.given()
        if given.get("fit") == "exact" and "size" not in given:
            exact_size(image_size.pil, _ANY_BASE_SIZE)  # rejects aspect ratios that no model takes
        region: Any = given.get("region")
        if not isinstance(region, tuple):
            return self
        return self.replace(region=to_pixels("region", cast("tuple[float, ...]", region), image_size))

    def _check_spatial(self, image_size: ImageSize | None) -> None:
        """Let `joyimage.spatial` check the edit and warn about it; there is nothing to check by default."""


def to_pixels(
    name: str, box: tuple[float, ...], image_size: ImageSize, form: str = "xyxy"
) -> tuple[int, int, int, int]:
    """Convert a box to pixels.

    Raises:
        InvalidInputError: The box has no area or does not lie in the image.
    """
    with collect_advice():  # `EditValue.advice` gives it
        try:
            return resolve_box(box, image_size.pil, form)
        except ValueError as error:
            raise InvalidInputError(str(error).replace("`box`", f"`{name}`")) from None


def _parts(cls: type[Any]) -> dict[str, type[Sampling] | type[Framing]]:
    names = {one.name for one in dataclasses.fields(cls)}
    parts: dict[str, type[Sampling] | type[Framing]] = {"sampling": Sampling, "framing": Framing}
    return {name: part for name, part in parts.items() if name in names}
