"""The evaluation suite of `joyimage-tiny`: drawn scenes that training never shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from joyimage.errors import InvalidInputError
from joyimage.tiny.worlds.scenes import EVALUATION_SEEDS_START, TASKS, EditCase, generate
from joyimage.tiny.worlds.scores import score

if TYPE_CHECKING:
    from PIL import Image

    from joyimage.evaluation.suites import Score

# Scenes between those of two evaluation seeds; the second half of them is held out.
_SEED_STRIDE = 1_000_000
_HELD_OUT_OFFSET = 500_000


@dataclass(frozen=True, kw_only=True)
class UnseenScenes:
    """Which drawn scenes a suite asks for.

    Attributes:
        seed: Which scenes; every seed has its own, and none is among the training scenes.
        size: Side of the scenes in pixels.
    """

    seed: int = 0
    size: int = 96

    def __post_init__(self) -> None:
        """Check the seed.

        Raises:
            InvalidInputError: The seed is negative.
        """
        if self.seed < 0:
            raise InvalidInputError(f"`seed` is {self.seed}; expected 0 or more.")


@dataclass(frozen=True, kw_only=True)
class DrawnScenes(UnseenScenes):
    """Drawn scenes of all tasks."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the kinds of edits."""
        return TASKS

    @property
    def max_num(self) -> int:
        """Return how many scenes a task has."""
        return _HELD_OUT_OFFSET

    @property
    def description(self) -> str:
        """Return what the cases are."""
        return "drawn scenes"

    @property
    def held_out_description(self) -> str:
        """Return what the held-out scenes have in common."""
        return "color, shape and view combinations that training never showed"

    def case(self, task: str, number: int, held_out: bool) -> EditCase:
        """Draw one scene.

        Args:
            task: One of `tasks`.
            number: Which scene, from 0.
            held_out: Whether it is about a combination that training never shows.

        Returns:
            The scene.
        """
        return generate(task, first_seed(self.seed, held_out=held_out) + number, self.size, held_out=held_out)

    def score(self, case: EditCase, image: Image.Image) -> Score:
        """Compare an edited image with the outcome of its scene."""
        return score(case, image)


def first_seed(seed: int, *, held_out: bool) -> int:
    """Return the seed of the first scene of an evaluation's seed."""
    return EVALUATION_SEEDS_START + seed * _SEED_STRIDE + held_out * _HELD_OUT_OFFSET
