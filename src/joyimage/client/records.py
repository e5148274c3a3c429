"""What the server answers, as Python objects."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, fields
from typing import Any

FINAL_STATES = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class Job:
    """The record of a job.

    Attributes:
        id: Identifier of the job on the server.
        kind: "edit", "generate", "move", "rotate", "camera", "describe" or "plan".
        state: "queued", "running", "succeeded", "failed" or "cancelled".
        restarted: 1 if the server died while the job ran and ran it again, else 0.
        seed: Seed of the first image; the others have the seeds that follow.
        steps: Number of denoising steps.
        guidance: Guidance scale.
        width: Width of the images in pixels.
        height: Height of the images in pixels.
        prompt: Prompt that the model was given.
        text: Answer to a question; None for other kinds.
        checks: One entry per image of a spatial edit: what changed.
        verdicts: One entry per image that was judged: what was found, and what that is based on.
        candidates: Every candidate with seed and verdict, the chosen one first; None where there was no choice.
        warnings: What you should know: values without effect or hardly trained, images read in part.
        images: Addresses of the images.
        masks: Addresses of the masks of `preserve` or a mask: 255 where the edit is shown, else 0.
        error: `message` and `code` of a failed job, and of a plan `plan_step`: which step failed, from 1.
        edit: The edit as it was requested, as `joyimage.edits.from_dict` reads it; None of a plan and from older
            servers.
        plan: Steps of a plan in order, each with `kind`, `edit`, `state` ("succeeded", "running", "failed",
            "cancelled", "queued" or "not_run"), `image` and what else is known of its image; None for other kinds.
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
    verdicts: list[dict[str, Any]] | None = None
    candidates: list[dict[str, Any]] | None = None
    warnings: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    edit: dict[str, Any] | None = None
    plan: list[dict[str, Any]] | None = None

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Job:
        """Read a record; fields that only newer servers have are left out."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in record.items() if name in known})

    @property
    def is_finished(self) -> bool:
        """Whether the job has succeeded, failed or been cancelled."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a job.

    Attributes:
        state: State of the job.
        step: Steps done; 0 before the first.
        steps: Number of steps; 0 before the first.
        plan_step: Step of a plan that runs, or has just ended, from 1; 0 for other jobs.
        plan_steps: Number of steps of a plan; 0 for other jobs.
        preview: A WebP file that shows what the image is becoming; None where the server sends none.
        preview_kind: "latent" (blurred, approximate colors) or "decoded" (by the VAE).
    """

    state: str
    step: int = 0
    steps: int = 0
    plan_step: int = 0
    plan_steps: int = 0
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
            plan_step=data.get("plan_step", 0),
            plan_steps=data.get("plan_steps", 0),
            preview=None if preview is None else base64.b64decode(preview.partition(",")[2]),
            preview_kind=data.get("preview_kind"),
        )


class EventReader:
    """Assembles the lines of an event stream into events.

    Attributes:
        last_id: Number of the last event, to continue from after the connection was lost.
    """

    def __init__(self) -> None:
        self.last_id: str | None = None
        self._data: str | None = None
        self._id: str | None = None

    def read(self, line: str) -> dict[str, Any] | None:
        """Take a line; return the data of the event that it ends, else None."""
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
