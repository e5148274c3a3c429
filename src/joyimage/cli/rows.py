"""The rows of a batch, checked one by one before the model is loaded."""

from __future__ import annotations

import hashlib
import json as json_format
import os
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from joyimage.cli.run import check_edit, check_image, masks_of, output_paths
from joyimage.cli.runners import identify_adapter
from joyimage.cli.sources import Source, address_problem, find_spelling
from joyimage.edits import KINDS, Describe, Edit, FieldError
from joyimage.errors import ImageError, InvalidInputError
from joyimage.loading import Adapter
from joyimage.types import ImageSize

if TYPE_CHECKING:
    from collections.abc import Callable

    from joyimage.cli.entries import Entry
    from joyimage.cli.options import RunOptions
    from joyimage.edits import AnyEdit

OWN_FIELDS = ("kind", "image", "refs", "output")
"""Fields of a row that are not fields of an edit."""

_KINDS = tuple(name for name, kind in KINDS.items() if kind is not Describe)
_CONTACT_SHEET = "contact.png"  # written into the same folder when the batch ends
_LONGEST_SHOWN = 60
_LONGEST_NAME_BYTES = 240  # 255 less what "-1000" and a second edit of the same image add
_WEIGHTS = ("transformer", "text_encoder", "vae", "quantize")
_MADE_WITH = ("model", "device", "dtype", "base_size", "offload", "rewrite", "server")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One edit of a batch.

    Attributes:
        number: Line of the row in its file, or its place in the folder, from 1.
        images: Image files: the one to edit, then further references.
        edit: The edit, as given by the row and by the command's options.
        output: File to write; several images get "-1", "-2", ... behind the stem.
        options: Options of the command.
    """

    number: int
    images: tuple[Path, ...]
    edit: AnyEdit
    output: Path
    options: RunOptions

    @property
    def title(self) -> str:
        """What contact sheets show: the prompt, or what a spatial edit does."""
        given = self.edit.given()
        return str(given.get("prompt") or getattr(self.edit, "prompt", None) or self.edit.kind)

    @property
    def outputs(self) -> list[Path]:
        """Every file that the row writes."""
        return output_paths(self.output, self.edit.given().get("num_images", 1))

    @property
    def claims(self) -> set[str]:
        """What no other row may write: A.png and a.png are one file on a Mac and on Windows."""
        return {unicodedata.normalize("NFC", str(path)).casefold() for path in self.outputs}

    def read(self) -> list[Source]:
        """Read the images, and check the edit against the first one.

        Raises:
            ImageError: An image cannot be read.
            InvalidInputError: The edit does not fit on the image.
        """
        sources = [Source.read(path) for path in self.images]
        if sources:
            check_image(self.edit, ImageSize.of(sources[0].image))
        return sources

    def key(self, sources: list[Source], identify: Callable[[str], list[Any]] = identify_adapter) -> str:
        """Return what tells this edit from any other: content of images and adapters, edit, model, settings.

        Args:
            sources: Images of the row.
            identify: Tells an adapter from others; a server's, where one runs the edit.
        """
        edit = self.edit.to_dict()
        edit.pop("loras", None)
        settings = {name: getattr(self.options, name) for name in _MADE_WITH}
        for name in _WEIGHTS:  # left out where not given, so that keys of older batches stay valid
            value = getattr(self.options, name)
            if value is not None:
                settings[name] = str(value)
        what = [
            [source.sha256 for source in sources],
            edit,
            settings,
            _identify_folder(self.options.model),
            [identify(text) for text in self.edit.given().get("loras", ())],
        ]
        what += [hashlib.sha256(path.read_bytes()).hexdigest() for path in masks_of(self.edit)]
        return hashlib.sha256(json_format.dumps(what, sort_keys=True).encode()).hexdigest()


def read_row(
    entry: Entry, source: Path, output: Path, common: Edit, options: RunOptions, taken: set[str]
) -> Row:
    """Check one row.

    Args:
        entry: The row, as it was read.
        source: Folder or file of the batch.
        output: Folder for the results.
        common: Prompt and settings of the command, for what the row does not give.
        options: Options of the command.
        taken: The `claims` of earlier rows.

    Returns:
        The row. Its images exist, but are not read yet.

    Raises:
        ImageError: An image does not exist.
        InvalidInputError: Something else is wrong with it.
    """
    if entry.fields is None:
        raise InvalidInputError(entry.problem or "it can't be read.")
    fields = dict(entry.fields)
    own = {name: fields.pop(name) for name in OWN_FIELDS if name in fields}
    edit = _read_edit(own.get("kind"), fields, is_text=entry.is_text)
    folder = source if source.is_dir() else source.parent
    edit = _find_files(edit, folder).filled_from(common)
    try:
        edit.check_complete()
    except FieldError as error:
        if error.value is not None:
            raise InvalidInputError(f"its {error}") from None
        raise InvalidInputError(f"it lacks the field `{error.name}`; expected {error.expected}.") from None
    check_edit(edit, options)
    images = [_find_image(folder, one) for one in _image_names(own, is_text=entry.is_text)]
    if images and not edit.needs_image:
        raise InvalidInputError(f"it has the field `image`; a row of kind {edit.kind} takes none.")
    if not images and edit.needs_image:
        raise InvalidInputError("it lacks the field `image`; expected the path of an image file.")
    for image in images:
        _check_exists(image)
    row = Row(
        number=entry.number,
        images=tuple(images),
        edit=edit,
        output=output / _output_name(own.get("output"), images, edit),
        options=options,
    )
    if taken.intersection(row.claims):
        if "output" in own:
            raise InvalidInputError(f"its `output` is {own['output']!r}, which an earlier row uses.")
        row = replace(row, output=row.output.with_stem(f"{row.output.stem}-{_identify_edit(edit)}"))
        if taken.intersection(row.claims):
            raise InvalidInputError("an earlier row asks for the same edit of the same image.")
    return row


def _read_edit(kind: Any, fields: dict[str, Any], *, is_text: bool) -> AnyEdit:
    """Return the edit that a row asks for.

    Raises:
        InvalidInputError: The fields make no edit, or more than one, or have values that are not accepted.
    """
    if isinstance(kind, str):
        kind = kind.strip().lower()
    cls = _find_kind(fields) if kind is None else KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None or cls is Describe:
        raise InvalidInputError(f"its `kind` is {kind!r}; expected one of {', '.join(_KINDS)}.")
    read = cls.from_text if is_text else cls.from_dict
    try:
        return read(fields)
    except FieldError as error:
        raise InvalidInputError(f"its {error}") from None


def _find_kind(fields: dict[str, Any]) -> type[AnyEdit]:
    """Return the kind of edit that the fields belong to; rows without a kind are edits by prompt.

    Raises:
        InvalidInputError: The fields belong to more than one kind.
    """
    marks = {
        "box": "move",
        "box_form": "move",
        "view": "rotate",
        "yaw": "camera",
        "pitch": "camera",
        "zoom": "camera",
    }
    kinds = {marks[name]: name for name in fields if name in marks}
    if len(kinds) > 1 or (kinds and "prompt" in fields):
        names = [*kinds.values(), *(["prompt"] if "prompt" in fields else [])]
        raise InvalidInputError(
            f"it has the fields {', '.join(f'`{name}`' for name in names)}; expected object and box (a move), "
            "object and view (a rotation), some of yaw, pitch and zoom (a camera move), or a prompt."
        )
    if not kinds and "object" in fields:
        raise InvalidInputError(
            "it has the field `object`; expected `box` (a move) or `view` (a rotation) too."
        )
    return KINDS[next(iter(kinds), Edit.kind)]


def _image_names(own: dict[str, Any], *, is_text: bool) -> list[str]:
    """Return the names of a row's image files.

    Raises:
        InvalidInputError: A name is not text.
    """
    images: list[Any] = [own["image"]] if "image" in own else []
    refs = own.get("refs", [])
    if is_text and isinstance(refs, str):
        refs = [part.strip() for part in refs.split("|") if part.strip()]
    named = {"image": images, "refs": refs if isinstance(refs, list) else [refs]}
    for field, names in named.items():
        for name in names:
            if not isinstance(name, str) or not name.strip():
                raise InvalidInputError(f"its `{field}` is {name!r}; expected the path of an image file.")
    return [name for names in named.values() for name in names]


def _find_image(folder: Path, name: str) -> Path:
    """Return an image's file; a table from Windows may have backslashes in its paths.

    Raises:
        ImageError: The name cannot be that of a file.
    """
    if (problem := address_problem(name)) is not None:
        raise ImageError(problem)
    try:
        path = folder / name
        os.fsencode(path)
        if "\\" in name and not path.exists():
            path = folder / PureWindowsPath(name).as_posix()
    except ValueError:
        raise ImageError(f"{name!r} can't be read: that is not the name of a file.") from None
    return find_spelling(path)


def _find_files(edit: AnyEdit, folder: Path) -> AnyEdit:
    """Return the edit of a row with its mask and adapters found as its images are: in the folder of the table."""
    found: dict[str, Any] = {}
    for path in masks_of(edit):
        found["region"] = _beside(folder, str(path), path)
    loras = edit.given().get("loras", ())
    if loras:
        found["loras"] = [_beside(folder, text, Adapter.parse(text).path) for text in loras]
    return edit.replace(**found) if found else edit


def _beside(folder: Path, text: str, path: Path) -> str:
    """Return a text that starts with a path, with the folder before it where another file lies there."""
    there = folder / path
    if not there.exists() or (path.exists() and path.samefile(there)):
        return text
    return str(folder / text)


def _check_exists(image: Path) -> None:
    """Reject an image that is not there.

    Raises:
        ImageError: There is no such file, or its folder cannot be read.
    """
    try:
        is_file = image.is_file()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ImageError(f"{_shorten(str(image))} can't be read: {reason}.") from None
    if not is_file:
        raise ImageError(f"{image} can't be read: there is no such file.")


def _output_name(given: Any, images: list[Path], edit: AnyEdit) -> Path:
    """Return the name of a row's file: what it asks for, or one made of the image's own name.

    Raises:
        InvalidInputError: The name is not a .png file, has a folder, or is that of the contact sheet.
    """
    if given is None:
        if not images:
            return Path(f"{edit.kind}-{_identify_edit(edit)}.png")
        suffix = images[0].suffix.lower()
        # Of a.jpg and a.png both results have a name of their own, whichever came first.
        stem = images[0].stem + ("" if suffix == ".png" else f"-{suffix[1:]}")
        if f"{stem}.png".lower() == _CONTACT_SHEET:
            stem += "-edited"
        if len(os.fsencode(stem)) > _LONGEST_NAME_BYTES:
            stem = f"{stem[:48]}-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:16]}"
        return Path(f"{stem}.png")
    name = Path(given) if isinstance(given, str) else None
    if name is None or name.is_absolute() or len(name.parts) != 1 or name.suffix.lower() != ".png":
        raise InvalidInputError(
            f"its `output` is {given!r}; expected the name of a .png file without a folder."
        )
    try:
        is_name = "\0" not in str(name) and len(os.fsencode(name)) <= _LONGEST_NAME_BYTES
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise InvalidInputError(
            f"its `output` is {_shorten(str(name))!r}; expected a file name of at most {_LONGEST_NAME_BYTES} bytes."
        )
    if name.name.lower() == _CONTACT_SHEET:
        raise InvalidInputError(
            f"its `output` is {given!r}, the name of the contact sheet; choose another name."
        )
    return name


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _identify_edit(edit: AnyEdit) -> str:
    return hashlib.sha256(json_format.dumps(edit.to_dict(), sort_keys=True).encode()).hexdigest()[:8]


def _identify_folder(model: str | None) -> list[Any]:
    """Return what tells a checkpoint's folder from what it was before: names, sizes and times of its files."""
    folder = None if model is None else Path(model)
    if folder is None or not folder.is_dir():
        return []
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [
        [file.relative_to(folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns] for file in files
    ]
