"""Pairs from folders: targets in one, references of the same names in others."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from joyimage.errors import InvalidInputError
from joyimage.training.data.examples import SUFFIXES, Example, ImageSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_NUMBERED = re.compile(r"^(?P<stem>.+)_(?P<number>\d+)$")
# Names of folders in a folder of pairs, in the order in which they are looked for.
_TARGETS = ("target", "targets", "after", "edited", "output")
_CONTROLS = ("control", "controls", "before", "source", "reference", "references", "input")


def read_folders(
    target: Path, controls: Sequence[Path], caption: str | None, source: int = 0
) -> list[Example]:
    """Pair the images of a folder with those of the same names in others.

    Args:
        target: Folder of images after the edit; a prompt may stand beside each in NAME.txt.
        controls: Folders of images before the edit; NAME_0, NAME_1 are several references of NAME.
        caption: Prompt of pairs without NAME.txt.
        source: Number of the data section.

    Returns:
        The pairs, by name.

    Raises:
        InvalidInputError: A folder is missing or empty, or partners or captions are; the message lists them.
    """
    targets = _images(target)
    references = [_by_stem(folder) for folder in controls]
    missing: list[str] = []
    blank: list[str] = []
    examples: list[Example] = []
    for stem, path in targets.items():
        found: list[ImageSource] = []
        for folder, by_stem in zip(controls, references, strict=True):
            if stem not in by_stem:
                missing.append(f"{folder / stem}.*")
            found += [ImageSource(path=one) for one in by_stem.get(stem, ())]
        text_file = path.with_suffix(".txt")
        text = (_read_caption(text_file) if text_file.is_file() else caption or "").strip()
        if not text:
            blank.append(path.name)
        examples.append(
            Example(target=ImageSource(path=path), references=tuple(found), caption=text, source=source)
        )
    for what, names in (("no reference", missing), ("no caption (NAME.txt, or `caption` for all)", blank)):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            raise InvalidInputError(
                f"{len(names)} of {len(targets)} images in {target} have {what}: {', '.join(names[:8])}{more}."
            )
    return examples


def _read_caption(path: Path) -> str:
    """Return the text of a caption file.

    Raises:
        InvalidInputError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} can't be read as UTF-8 text: {error}.") from None


def find_folders(folder: Path) -> tuple[Path, tuple[Path, ...]] | None:
    """Return the folders of targets and references in a folder of pairs; None where it has no such folders."""
    target = next((folder / name for name in _TARGETS if (folder / name).is_dir()), None)
    if target is None:
        return None
    names = [name for name in _CONTROLS if (folder / name).is_dir()]
    names += sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and any(re.fullmatch(rf"{name}_?\d+", path.name) for name in _CONTROLS)
    )
    return target, tuple(folder / name for name in names)


def _images(folder: Path) -> dict[str, Path]:
    """Return a folder's image files by stem, in the order of their names.

    Raises:
        InvalidInputError: There is no such folder, or no image in it, or two images of one name.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"There is no folder {folder}; expected a folder of images.")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in images:
            raise InvalidInputError(
                f"{folder} has two images of one name: {images[path.stem].name} and {path.name}."
            )
        images[path.stem] = path
    if not images:
        raise InvalidInputError(f"{folder} holds no images; expected {', '.join(SUFFIXES)}.")
    return images


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """Return the references of each name: NAME, or NAME_0, NAME_1 and so on."""
    images = _images(folder)
    found: dict[str, list[Path]] = {stem: [path] for stem, path in images.items()}
    numbered: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for stem, path in images.items():
        if match := _NUMBERED.match(stem):
            numbered[match["stem"]].append((int(match["number"]), path))
    for stem, members in numbered.items():
        found.setdefault(stem, [path for _, path in sorted(members)])
    return found
