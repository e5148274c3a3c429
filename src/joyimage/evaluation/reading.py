"""How often a checkpoint with language answers questions about images right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from joyimage.errors import InvalidInputError
from joyimage.evaluation.report import align, share
from joyimage.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    Reader = Callable[[Sequence[Image.Image], str], str]


@dataclass(frozen=True)
class QuestionCase:
    """A question about images, with its only right answer.

    Attributes:
        kind: What kind of question it is.
        images: The images, in the order in which they are shown.
        question: What is asked.
        answer: The answer.
    """

    kind: str
    images: tuple[Image.Image, ...]
    question: str
    answer: str


class ReadingSuite(Protocol):
    """Questions of several kinds, numbered per kind, some of them held out of training."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of questions, in the order of the report."""
        ...

    def cases(self, kind: str, num: int, *, held_out: bool) -> Sequence[QuestionCase]:
        """Return the first cases of a kind, each about a scene of its own; fewer where the kind has no more."""
        ...

    def is_right(self, case: QuestionCase, answer: str) -> bool:
        """Compare an answer with the right one."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReadingResult:
    """The result of one kind of questions.

    Attributes:
        n: Number of questions.
        right: Share of right answers.
        held_out_n: Number of questions about held-out combinations.
        held_out_right: Share of right answers to those; None where there are none.
    """

    n: int
    right: float
    held_out_n: int
    held_out_right: float | None


def evaluate_reading(
    read: Reader, suite: ReadingSuite, *, num: int = 200, progress: bool = True
) -> dict[str, ReadingResult]:
    """Ask the questions of a suite.

    Args:
        read: Answers a question about images.
        suite: The questions and their answers.
        num: Questions per kind; a quarter as many again are about held-out combinations.
        progress: Whether to show a progress bar.

    Returns:
        The result of each kind.

    Raises:
        InvalidInputError: `num` is not positive.
    """
    if num < 1:
        raise InvalidInputError(f"`num` is {num}; expected 1 or more.")
    results = {}
    kinds = suite.kinds
    for kind in progress_bar(kinds, label="questions", unit="kind", total=len(kinds), is_shown=progress):
        cases, held_out = (
            [suite.is_right(case, read(case.images, case.question)) for case in chosen]
            for chosen in (
                suite.cases(kind, num, held_out=False),
                suite.cases(kind, max(1, num // 4), held_out=True),
            )
        )
        results[kind] = ReadingResult(
            n=len(cases),
            right=sum(cases) / len(cases),
            held_out_n=len(held_out),
            held_out_right=sum(held_out) / len(held_out) if held_out else None,
        )
    return results


def reading_to_json(results: dict[str, ReadingResult]) -> dict[str, Any]:
    """Arrange the results for programs: `{"color": {"right": ..., "n": ...}, ...}`."""
    return {kind: asdict(result) for kind, result in results.items()}


def reading_to_table(results: dict[str, ReadingResult]) -> str:
    """Arrange the results for a reader, as a Markdown table with a row per kind."""
    rows = [["question", "right", "held-out combinations"]]
    rows += [[kind, share(result.right), share(result.held_out_right)] for kind, result in results.items()]
    most = max(result.n for result in results.values())
    held_out = max(result.held_out_n for result in results.values())
    note = f"{most} questions per kind about scenes that were never trained on, {held_out} about held-out combinations."
    return "\n".join([*align(rows), "", note])
