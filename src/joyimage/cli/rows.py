"""The rows of a batch: what a manifest or a folder asks for, checked one by one."""

from __future__ import annotations

import csv
import hashlib
import json as json_format
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joyimage.cli.commands.spatial import check_record
from joyimage.cli.options import parse_box
from joyimage.cli.pictures import read_picture
from joyimage.errors import ImageError

if TYPE_CHECKING:
    from joyimage.cli.options import EditOptions

_SPATIAL_FIELDS = ("object", "box", "view", "yaw", "pitch", "zoom")
FIELDS = ("image", "prompt", "output", "negative", "seed", "steps", "guidance", "size", *_SPATIAL_FIELDS)
_NUMBERS = {"seed": int, "steps": int, "guidance": float, "yaw": float, "pitch": float}
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_SETTINGS = (
    *("model", "steps", "guidance", "negative", "seed", "size", "base_size", "fit", "restore", "preserve"),
    *("region", "rewrite"),
    *("device", "dtype", "lora"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One edit of a batch.

    Attributes:
        number: Its line in the manifest, or place in the folder, from 1.
        image: Picture file.
        prompt: What to do; of a spatial edit, its name.
        output: File to write.
        options: The command's options with the row's own in their place.
        spatial: A spatial edit as the commands record it; None for an edit by prompt.
    """

    number: int
    image: Path
    prompt: str
    output: Path
    options: EditOptions
    spatial: dict[str, Any] | None = None

    def key(self) -> str:
        """Return what tells this edit from any other: the picture, the prompt and all settings.

        Raises:
            OSError: The picture can't be read.
        """
        settings = {name: str(getattr(self.options, name)) for name in _SETTINGS}
        content = hashlib.sha256(self.image.read_bytes()).hexdigest()
        what = self.prompt if self.spatial is None else self.spatial
        text = json_format.dumps([content, what, settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def read_entries(source: Path, prompt: str | None) -> list[tuple[int, Any]]:
    """Return number and content of every row.

    Raises:
        ValueError: The source is missing, of another kind or empty.
    """
    if source.is_dir():
        if prompt is None:
            raise ValueError(
                f"`prompt` is missing; {source} is a folder, so one prompt goes for all its pictures."
            )
        files = sorted(file for file in source.iterdir() if file.suffix.lower() in _PICTURES)
        entries: list[tuple[int, Any]] = [(n, {"image": file.name}) for n, file in enumerate(files, start=1)]
    elif not source.is_file():
        raise ValueError(f"`source` is {source}; there is no such file or folder.")
    elif source.suffix == ".jsonl":
        lines = source.read_text(encoding="utf-8").splitlines()
        entries = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    elif source.suffix == ".csv":
        with source.open(encoding="utf-8", newline="") as file:
            entries = list(enumerate(csv.DictReader(file), start=2))
    else:
        raise ValueError(f"`source` is {source}; expected a folder, a .jsonl or a .csv file.")
    if not entries:
        raise ValueError(f"`source` is {source}; it holds no row and no picture.")
    return entries


def read_row(
    number: int,
    entry: Any,
    source: Path,
    output: Path,
    prompt: str | None,
    options: EditOptions,
    taken: set[Path],
) -> Row:
    """Check one row.

    Raises:
        ValueError: What is wrong with it.
        ImageError: Its picture isn't there.
    """
    if isinstance(entry, str):
        try:
            entry = json_format.loads(entry)
        except ValueError as error:
            raise ValueError(f"it is no JSON: {error}.") from None
    if not isinstance(entry, dict):
        raise ValueError(f"it is {entry!r}; expected an object with the fields {', '.join(FIELDS)}.")
    entry = {name: value for name, value in entry.items() if value not in (None, "")}
    unknown = [str(name) for name in entry if name not in FIELDS]
    if unknown:
        raise ValueError(f"it has the field {unknown[0]!r}; expected some of {', '.join(FIELDS)}.")
    for name, kind in _NUMBERS.items():
        if name in entry:
            try:
                entry[name] = kind(entry[name])
            except (TypeError, ValueError):
                raise ValueError(f"its `{name}` is {entry[name]!r}; expected a number.") from None
    spatial = _read_spatial(entry)
    if "image" not in entry or not (spatial or entry.get("prompt") or prompt):
        raise ValueError("it lacks the field `image` or `prompt`.")
    own: dict[str, Any] = {name: entry[name] for name in _SETTINGS if name in entry}
    image = (source if source.is_dir() else source.parent) / str(entry["image"])
    name = Path(str(entry.get("output", f"{number:05d}-{image.stem}.png")))
    if name.is_absolute() or len(name.parts) != 1 or name.suffix.lower() != ".png":
        raise ValueError(f"its `output` is {str(name)!r}; expected the name of a .png file without a folder.")
    if output / name in taken:
        raise ValueError(f"its `output` is {str(name)!r}, which an earlier row has.")
    if not image.is_file():
        raise ImageError(f"{image} can't be read: there is no such file.")
    row_options = replace(options, **own)
    row_options.check()
    if spatial is not None:
        if options.rewrite != "none":
            raise ValueError("it is a spatial edit, whose words `--rewrite` never changes.")
        check_record(spatial, read_picture(image).size)
    return Row(
        number=number,
        image=image,
        prompt=str(entry.get("prompt") or prompt) if spatial is None else spatial["command"],
        output=output / name,
        options=row_options,
        spatial=spatial,
    )


def _read_spatial(entry: dict[str, Any]) -> dict[str, Any] | None:
    """Return the spatial edit that a row's fields make, None where they make none.

    Raises:
        ValueError: They make no whole edit, or more than one.
    """
    given = {name: entry[name] for name in _SPATIAL_FIELDS if name in entry}
    if not given:
        return None
    if "prompt" in entry:
        raise ValueError(f"it has both `prompt` and `{next(iter(given))}`; expected one of them.")
    if isinstance(given.get("box"), str):
        given["box"] = parse_box(given["box"])
    command = {
        frozenset({"object", "box"}): "move",
        frozenset({"object", "view"}): "rotate",
    }.get(frozenset(given))
    if command is None and not {"object", "box", "view"}.intersection(given):
        command = "camera"
    if command is None:
        raise ValueError(
            f"it has the fields {', '.join(given)}; expected object and box (a move), object and view"
            " (a rotation), or some of yaw, pitch and zoom (a camera move)."
        )
    return {"command": command, **given}
