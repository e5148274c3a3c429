"""What an evaluation needs to know: edit cases with their outcome, and how to score an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from PIL import Image

    from joyimage.evaluation.metrics import Pixels


class Case(Protocol):
    """One edit to perform, with its exact outcome."""

    @property
    def task(self) -> str:
        """Return the kind of edit."""
        ...

    @property
    def prompt(self) -> str:
        """Return the instruction."""
        ...

    @property
    def seed(self) -> int:
        """Return the number that seeds the noise of this case."""
        ...

    @property
    def size(self) -> int:
        """Return the side of the square images in pixels."""
        ...

    @property
    def source_image(self) -> Image.Image | None:
        """Return the image to edit; None for text-to-image."""
        ...

    @property
    def target(self) -> Pixels:
        """Return the image that following the prompt exactly gives, `[size, size, 3]` 8-bit RGB."""
        ...


CaseT = TypeVar("CaseT", bound=Case)


@dataclass(frozen=True)
class Score:
    """How well one edit went.

    Attributes:
        done: Whether the requested change happened.
        strict: Whether it happened and nothing else changed.
        psnr: Whole image against the target, in dB, 60 at most.
        background_psnr: Outside every object's old and new place against the target, in dB, 60 at most.
        iou: Overlap of the subject's pixels with where they should be; None where nothing should be anywhere.
        red_gone: Whether the red box of a move is gone; None for other tasks.
        view_right: Whether the nearest rendered view or pose is the requested one; None for other tasks.
        view_error_degrees: Angle between the nearest and the requested view of a rotation; None for other
            tasks.
        sharpness: Gradient energy of the image as a share of the target's: below 1 edges are softer than they should
            be. None for tasks that don't change the view.
        faults: What went wrong, in a few words each.
    """

    done: bool
    strict: bool
    psnr: float
    background_psnr: float
    iou: float | None = None
    red_gone: bool | None = None
    view_right: bool | None = None
    view_error_degrees: int | None = None
    sharpness: float | None = None
    faults: tuple[str, ...] = field(default=())


class Suite(Protocol[CaseT]):
    """A family of edit cases, numbered per task, some of them held out of training."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the kinds of edits, in the order of the report."""
        ...

    @property
    def max_num(self) -> int:
        """Return how many cases a task has."""
        ...

    @property
    def description(self) -> str:
        """Return what the cases are, for the report: "drawn scenes"."""
        ...

    @property
    def held_out_description(self) -> str:
        """Return what the held-out cases have in common, for the report."""
        ...

    def case(self, task: str, number: int, held_out: bool) -> CaseT:
        """Return one case; the same arguments give the same case."""
        ...

    def score(self, case: CaseT, image: Image.Image) -> Score:
        """Compare an edited image with the outcome of its case."""
        ...
