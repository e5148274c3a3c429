"""Pairs from .tar shards, as SpatialEdit-500K has them: KEY.0.jpg, KEY.1.jpg, …, KEY.json."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from joyimage.errors import InvalidInputError
from joyimage.training.data.examples import SUFFIXES, Example, ImageSource, shard_members

if TYPE_CHECKING:
    from pathlib import Path

_MEMBER = re.compile(r"^(?P<key>.+?)\.(?:(?P<number>\d+)\.)?(?P<suffix>[A-Za-z0-9]+)$")


def read_shard(path: Path, caption: str | None, source: int = 0) -> list[Example]:
    """Read the pairs of a shard: of each key the image with the highest number is the target.

    Args:
        path: The .tar file.
        caption: Prompt of pairs without one.
        source: Number of the data section.

    Raises:
        ImageError: The shard cannot be read.
        InvalidInputError: A key lacks its images or its prompt.
    """
    images: dict[str, dict[int, ImageSource]] = defaultdict(dict)
    texts: dict[str, ImageSource] = {}
    for name, member in shard_members(path).items():
        match = _MEMBER.match(name)
        if match is None:
            continue
        suffix = f".{match['suffix'].lower()}"
        if suffix in SUFFIXES and match["number"] is not None:
            images[match["key"]][int(match["number"])] = member
        elif suffix in {".json", ".txt"}:
            texts[match["key"]] = member
    examples: list[Example] = []
    for key, numbered in sorted(images.items()):
        if len(numbered) < 2:
            raise InvalidInputError(
                f"{path}: {key} has {len(numbered)} image; expected a reference and a target."
            )
        prompt = _prompt(texts.get(key), path) or (caption or "").strip()
        if not prompt:
            raise InvalidInputError(f"{path}: {key} lacks a prompt; expected {key}.json or {key}.txt.")
        *references, target = [numbered[number] for number in sorted(numbered)]
        examples.append(Example(target=target, references=tuple(references), caption=prompt, source=source))
    if not examples:
        raise InvalidInputError(f"{path} holds no pairs; expected KEY.0.jpg, KEY.1.jpg and KEY.json.")
    return examples


def _prompt(member: ImageSource | None, path: Path) -> str:
    """Return the prompt in a member: `conversations[0].value`, or the usual names.

    Raises:
        InvalidInputError: It is not JSON.
    """
    if member is None:
        return ""
    text = member.read().decode("utf-8", errors="replace")
    if member.member.endswith(".txt"):
        return text.strip()
    try:
        content: Any = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"{path}:{member.member} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        return ""
    turns = content.get("conversations")
    if isinstance(turns, list) and turns and isinstance(turns[0], dict):
        return str(turns[0].get("value", "")).replace("<image>", "").strip()
    return str(
        next((content[name] for name in ("prompt", "caption", "instruction") if content.get(name)), "")
    )
