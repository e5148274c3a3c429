"""The example images of the package: what they show, and commands that work on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from joyimage.errors import InvalidInputError
from joyimage.tiny.worlds.truth import Scene, scene_from_dict

if TYPE_CHECKING:
    from joyimage.tiny.worlds.drawing import PixelBox

NAMES = ("shapes", "more_shapes", "red_box", "car", "turntable")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One example image.

    Attributes:
        name: One of `NAMES`.
        scene: What the image shows.
        box: Red box that is drawn on the image, (left, top, right, bottom) in pixels; None if there is none.
        commands: Command lines that work on the image, run in its folder.
    """

    name: str
    scene: Scene
    box: PixelBox | None
    commands: tuple[str, ...]

    @property
    def image(self) -> Image.Image:
        """Return the image, RGB."""
        with Image.open(_folder() / f"{self.name}.png") as image:
            return image.convert("RGB")


def load_example(name: str) -> Example:
    """Load one of the example images with its description.

    Args:
        name: One of `NAMES`.

    Returns:
        The example.

    Raises:
        InvalidInputError: There is no example of that name.
    """
    if name not in NAMES:
        raise InvalidInputError(f"`name` is {name!r}; expected one of {', '.join(NAMES)}.")
    return read_example(_folder() / f"{name}.json")


def read_example(path: Path) -> Example:
    """Read the description that stands beside an example image.

    Args:
        path: The JSON file.

    Returns:
        The example.

    Raises:
        InvalidInputError: The file is not a description of an example.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        box = data["box"]
        return Example(
            name=path.stem,
            scene=scene_from_dict(data["scene"]),
            box=None if box is None else (box[0], box[1], box[2], box[3]),
            commands=tuple(data["commands"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{path} is not the description of an example: {error!r}.") from None


def write_examples(folder: Path) -> list[Path]:
    """Write the example images, their descriptions, a batch and a list of commands.

    Files that are already there with the same content are left alone.

    Args:
        folder: Where the files go; created if missing.

    Returns:
        The paths of all files.

    Raises:
        InvalidInputError: A file of that name, with other content, or something that is not a folder is in
            the way; nothing was written.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"`folder` is {folder}, which is a file; expected a folder or a new name.")
    contents = {folder / path.name: path.read_bytes() for path in sorted(_folder().iterdir())}
    contents[folder / "README.md"] = _commands_page().encode()
    taken = [path for path, content in contents.items() if path.exists() and not _holds(path, content)]
    if taken:
        raise InvalidInputError(
            f"{taken[0]} already exists with other content, so nothing was written; choose another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        path.write_bytes(content)
    return list(contents)


def _folder() -> Path:
    return Path(str(files("joyimage.tiny") / "examples"))


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _commands_page() -> str:
    lines = [
        "# Example images",
        "",
        "Drawn scenes that the embedded model `tiny` was never trained on. NAME.json describes what NAME.png",
        "shows; `edits.jsonl` is a batch. Run these commands in this folder; on a machine with a GPU add",
        "`--model tiny`, as the default there is the published model:",
    ]
    for name in NAMES:
        lines += ["", f"## {name}.png", "", "```sh", *load_example(name).commands, "```"]
    lines += ["", "## edits.jsonl", "", "```sh", "joyimage batch edits.jsonl -o batch", "```"]
    return "\n".join(lines) + "\n"
