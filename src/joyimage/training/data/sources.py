"""From the sections of a config to lists of pairs."""

from __future__ import annotations

import glob
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from joyimage.errors import InvalidInputError
from joyimage.training.config import DataConfig
from joyimage.training.data.folders import find_folders, read_folders
from joyimage.training.data.shards import read_shard
from joyimage.training.data.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joyimage.training.data.examples import Example

_TABLES = (
    "pairs.jsonl",
    "metadata.jsonl",
    "pairs.json",
    "metadata.csv",
    "pairs.csv",
    "multidatabackend.json",
)


def read_examples(
    sections: Sequence[DataConfig], folder: Path | None = None
) -> tuple[list[Example], list[Example]]:
    """Read all pairs, and divide them into those for training and those held out.

    Args:
        sections: Data sections of the config.
        folder: What a relative `pairs` is relative to.

    Returns:
        Pairs for training, and pairs for validation. A pair stays on its side whatever is added to the others.

    Raises:
        InvalidInputError: A pair is incomplete.
    """
    training: list[Example] = []
    held_out: list[Example] = []
    for number, section in enumerate(sections):
        found = _read_section(section, number, folder)
        chosen = [one for one in found if _share_of(one.name) < section.held_out]
        if section.held_out > 0 and not chosen and len(found) > 1:
            chosen = [min(found, key=lambda one: _share_of(one.name))]
        names = {one.name for one in chosen}
        held_out += chosen
        training += [one for one in found if one.name not in names]
    if not training:
        raise InvalidInputError("There is no pair to train on: all are held out. Lower `held_out`.")
    return training, held_out


def section_of_folder(folder: Path, caption: str | None = None) -> DataConfig:
    """Return the data section that a folder of pairs stands for.

    Args:
        folder: A folder with pairs.jsonl, metadata.csv or the like, .tar shards, or the folders target and control.
        caption: Prompt of pairs without one.

    Raises:
        InvalidInputError: The folder holds none of these.
    """
    if not folder.is_dir():
        raise InvalidInputError(
            f"There is no folder {folder}; expected a folder of pairs, or a .toml config."
        )
    for name in _TABLES:
        if (folder / name).is_file():
            return DataConfig(pairs=str(folder / name), caption=caption)
    if any(folder.glob("*.tar")):
        return DataConfig(pairs=str(folder / "*.tar"), caption=caption)
    folders = find_folders(folder)
    if folders is None:
        raise InvalidInputError(
            f"{folder} holds no pairs; expected the folders target and control, one of {', '.join(_TABLES)}, or .tar "
            "shards."
        )
    return DataConfig(target=folders[0], control=folders[1], caption=caption)


def _read_section(section: DataConfig, number: int, folder: Path | None) -> list[Example]:
    if section.target is not None:
        return read_folders(section.target, section.control, section.caption, number)
    pattern = str((folder or Path()) / str(section.pairs))
    paths = [Path(one) for one in sorted(glob.glob(pattern))]  # noqa: PTH207 - the pattern may be absolute
    if not paths:
        raise InvalidInputError(f"`data[{number}].pairs` is {section.pairs!r}; there is no such file.")
    examples: list[Example] = []
    for path in paths:
        read = read_shard if path.suffix.lower() == ".tar" else read_table
        examples += read(path, section.caption, number)
    return examples


def _share_of(name: str) -> float:
    """Return a number in [0, 1) that follows from a pair's file name alone."""
    digest = hashlib.sha256(Path(name).name.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
