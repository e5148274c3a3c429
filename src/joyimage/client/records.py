"""What the server says, as Python objects."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ENDINGS = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job's record.

    Attributes:
        id: Its name on the server.
        kind: "edit", "generate", "move", "rotate", "camera" or "describe".
        state: "queued", "running", "succeeded", "failed" or "cancelled".
        restarted: 1 where the server died while it ran, and ran it again.
        seed: Of the first picture.
        steps: Number of steps.
        guidance: Guidance scale.
        width: Of the pictures.
        height: Of the pictures.
        prompt: What the model was told.
        text: Of describe, the answer.
        checks: Of a spatial edit, what changed.
        images: Addresses of the pictures.
        masks: Addresses of masks, of `preserve` or `mask`: 255 where a picture is the edit's, else 0.
        error: What went wrong.
    """

    id: str
    kind: str
    state: str
    restarted: int = 0
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    prompt: str | None = None
    text: str | None = None
    checks: list[dict[str, Any]] | None = None
    images: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Job:
        """Read a record; fields that newer servers have are left out."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in record.items() if name in known})

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state in ENDINGS


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is.

    Attributes:
        state: Of the job.
        step: Steps done; 0 before the first.
        steps: Number of steps; 0 before the first.
        preview: What the picture may become, a WebP file.
        preview_kind: "latent", blurred and of rough colours, or "decoded", as it would look.
    """

    state: str
    step: int = 0
    steps: int = 0
    preview: bytes | None = field(default=None, repr=False)
    preview_kind: str | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Progress:
        """Read the data of an event."""
        preview = data.get("preview")
        return cls(
            state=data["state"],
            step=data.get("step", 0),
            steps=data.get("steps", 0),
            preview=None if preview is None else base64.b64decode(preview.partition(",")[2]),
            preview_kind=data.get("preview_kind"),
        )


class EventReader:
    """Puts the lines of an event stream together.

    Attributes:
        last_id: Number of the last event, to go on from after the connection was lost.
    """

    def __init__(self) -> None:
        self.last_id: str | None = None
        self._data: str | None = None
        self._id: str | None = None

    def read(self, line: str) -> dict[str, Any] | None:
        """Take a line; return an event's data where the line ends one."""
        name, _, value = line.partition(": ")
        if name == "id":
            self._id = value
        elif name == "data":
            self._data = value
        elif line == "" and self._data is not None:
            data, self._data = json.loads(self._data), None
            self.last_id = self._id
            return data
        return None

    def read_all(self, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Give the data of every event in some lines."""
        for line in lines:
            data = self.read(line)
            if data is not None:
                yield data
