"""Was the edit done, and did the rest stay? What the model answers about both images, joined with pixel checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from joyimage.errors import MissingObjectError
from joyimage.spatial.checks import check_edit
from joyimage.spatial.move import ObjectMove, draw_red_box
from joyimage.spatial.parse import parse
from joyimage.spatial.rotation import ObjectRotation
from joyimage.understanding import questions
from joyimage.understanding.claims import claims_of, drawing_claims_of, objects_before

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from joyimage.spatial import Box
    from joyimage.spatial.checks import SpatialChecks
    from joyimage.spatial.parse import SpatialEdit
    from joyimage.understanding.claims import Claim

# Odds by which pixel checks that show an edit, or that it failed, change what the model answers.
_PIXEL_ODDS = 4.0
_NO_LANGUAGE = "the checkpoint has no language"
_NOT_DRAWN = "the checkpoint reads drawn scenes alone, and does not take this image for one"
_NO_CLAIM = (
    "the checkpoint can be asked about objects alone, and this text is not about objects that it names"
)
_NO_PAIRS = "the checkpoint cannot compare two images, and this edit shows in none of its questions about one"
_SMALLEST = 1e-6  # so that no answer is ever certain


class Reader(Protocol):
    """A model that answers questions about images."""

    @property
    def has_language(self) -> bool:
        """Whether it learned to answer questions about an image; without, nothing may be asked."""
        ...

    @property
    def compares_images(self) -> bool:
        """Whether it may be asked about two images, what an edit did."""
        ...

    def compares(self, images: Sequence[Image]) -> bool:
        """Tell whether it may be asked about these two, which may have a shape that it does not compare."""
        ...

    @property
    def reads_any_text(self) -> bool:
        """Whether it may be asked questions that it was not trained on."""
        ...

    def own_words(self, name: str) -> str | None:
        """Return the name of an object as it may be asked about; None where the answer would say nothing."""
        ...

    def yes(self, images: Sequence[Image], asked: Sequence[str]) -> list[float]:
        """Return P(yes) / (P(yes) + P(no)) of the first token of the answer to each question about the same images."""
        ...

    def choose(self, images: Sequence[Image], question: str, answers: Sequence[str]) -> list[float]:
        """Return the probability of each answer, 1 in total, as if there were no other."""
        ...

    def confirm(self, images: Sequence[Image], answers: Sequence[tuple[str, str]]) -> list[float]:
        """Return how likely each question about the same images gets exactly its answer."""
        ...


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What can be said of an edit.

    Attributes:
        done: How likely it is that what was asked for happened, 0 to 1; None: not judged.
        kept: How likely it is that everything else stayed, 0 to 1; None: not judged.
        basis: What the verdict is based on, one phrase each; why not where nothing was judged.
        answers: Probability of the answer that speaks for the edit, for each question that the model was asked.
        checks: What pixels show; None for an image made from text alone.
    """

    done: float | None = None
    kept: float | None = None
    basis: tuple[str, ...] = ()
    answers: dict[str, float] = field(default_factory=dict)
    checks: SpatialChecks | None = None

    @property
    def is_judged(self) -> bool:
        """Whether anything can be said."""
        return self.done is not None

    @property
    def score(self) -> float:
        """What candidates are compared by, 0 to 1: `done` times `kept`; 0 where nothing is judged."""
        return (self.done or 0.0) * (1.0 if self.kept is None else self.kept)

    @property
    def summary(self) -> str:
        """Return the verdict with its basis as one sentence."""
        basis = ", ".join(self.basis)
        if self.done is None:
            return f"Not judged: {basis}."
        kept = "the rest is not judged" if self.kept is None else f"the rest unchanged {self.kept:.2f}"
        return f"Done {self.done:.2f}, {kept} ({basis})."

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values, as records and answers hold it."""
        return {
            "done": None if self.done is None else round(self.done, 4),
            "kept": None if self.kept is None else round(self.kept, 4),
            "basis": list(self.basis),
            "answers": {question: round(value, 4) for question, value in self.answers.items()},
            "checks": None if self.checks is None else self.checks.to_dict(),
            "summary": self.summary,
        }


def judge_drawing(reader: Reader, image: Image, prompt: str) -> Verdict:
    """Judge an image that was made from text alone.

    Args:
        reader: The model.
        image: The image.
        prompt: What it should show.
    """
    if not reader.has_language:
        return Verdict(basis=(_NO_LANGUAGE,))
    if reader.reads_any_text:
        question = questions.shows_prompt(prompt)
        (done,) = reader.yes([image], [question])
        return Verdict(done=done, basis=("the model's answer about the image",), answers={question: done})
    claims = drawing_claims_of(prompt)
    if claims is None or not _is_readable(reader, image):
        return Verdict(basis=(_NO_CLAIM if claims is None else _NOT_DRAWN,))
    answers = _ask_claims(reader, image, claims.objects)
    rest = (
        [(questions.COUNT, questions.NUMBERS[len(claims.objects)])]
        if len(claims.objects) < len(questions.NUMBERS)
        else []
    )
    if claims.background is not None:
        rest.append((questions.BACKGROUND, claims.background.capitalize()))
    answers |= _confirm(reader, image, rest)
    # As good as its worst part.
    return Verdict(
        done=min(answers.values()),
        basis=("the model's answers about each object of the prompt",),
        answers=answers,
    )


def judge_edit(
    reader: Reader, before: Image, after: Image, instruction: str, box: Box | None = None
) -> Verdict:
    """Judge an edit.

    Args:
        reader: The model.
        before: RGB image before the edit, without a red box.
        after: The result, of the same size.
        instruction: What was asked for; templates of spatial edits are recognized.
        box: Where the object of a move should be, in pixels.

    Raises:
        InvalidInputError: The sizes differ.
    """
    template = _template(instruction)
    is_move = isinstance(template, ObjectMove)
    box = box if is_move else None
    checks = check_edit(before, after, box, template.object if isinstance(template, ObjectMove) else None)
    if checks.changed == 0:
        return Verdict(done=0.0, kept=1.0, basis=("no pixel changed",), checks=checks)
    if not reader.compares([before, after]):
        return _judge_without_comparing(reader, after, instruction, template, checks)
    if not _is_readable(reader, after):
        return _by_pixels(checks, _NOT_DRAWN)
    done_question = questions.edit_is_done(instruction)
    kept_question = questions.rest_is_unchanged(instruction)
    seen = before if box is None else draw_red_box(before, box)
    done, kept = reader.yes([seen, after], [done_question, kept_question])
    answers = {done_question: done, kept_question: kept}
    basis = ["the model's answers about both images"]
    evidence = [done]
    own = _ask_template(reader, after, template, box)
    if own is not None:
        question, what, probability = own
        answers[question] = probability
        evidence.append(probability)
        basis.append(what)
    for claim in claims_of(instruction) if template is None else []:
        found = _ask_claims(reader, after, [claim], with_places=False)
        answers |= found
        evidence += found.values()
        basis.append(f"whether it sees the {claim.name}")
    odds = {"failed": -math.log(_PIXEL_ODDS), "done": math.log(_PIXEL_ODDS), "not judged": 0.0}[
        checks.verdict
    ]
    if odds:
        basis.append(f"pixels: {checks.summary.rstrip('.')}")
    logit = sum(map(_logit, evidence)) / len(evidence) + odds
    return Verdict(
        done=1 / (1 + math.exp(-logit)), kept=kept, basis=tuple(basis), answers=answers, checks=checks
    )


def is_absent(reader: Reader, image: Image, name: str) -> bool:
    """Tell whether the model says that an object is not in an image; False where it has no language.

    Args:
        reader: The model.
        image: RGB image.
        name: Name of the object, such as "blue car".
    """
    asked = reader.own_words(name)
    if asked is None or not reader.compares_images or not _is_readable(reader, image):
        return False
    (present,) = reader.yes([image], [questions.object_is_present(asked)])
    return present < ABSENT


ABSENT = 0.2
"""Probability of a yes below which an object counts as absent: a wrong alarm costs more than an edit of nothing."""


def check_present(reader: Reader, image: Image, name: str) -> None:
    """Reject an edit of an object that the model says is not in the image.

    Raises:
        MissingObjectError: The model says so.
    """
    if is_absent(reader, image, name):
        raise MissingObjectError(
            f"There is no {questions.without_article(name)} in this image, as far as the model can tell. Name another "
            "object, or edit anyway with `check_object=False`."
        )


def check_objects_present(reader: Reader, image: Image, instruction: str) -> None:
    """Reject an edit in plain words whose object the model says is not in the image.

    Args:
        reader: The model.
        image: RGB image, before the edit.
        instruction: What is asked for, such as "Remove the red star."; in other forms no object is known.

    Raises:
        InvalidInputError: The model says so.
    """
    for name in objects_before(instruction):
        check_present(reader, image, name)


def _judge_without_comparing(
    reader: Reader, after: Image, instruction: str, template: SpatialEdit | None, checks: SpatialChecks
) -> Verdict:
    """Judge an edit by questions about its result alone, and by pixels."""
    if not reader.has_language or checks.verdict != "not judged":
        return _by_pixels(checks, _NO_LANGUAGE)
    own = _ask_template(reader, after, template, None)
    if own is not None:
        question, what, probability = own
        return Verdict(done=probability, basis=(what,), answers={question: probability}, checks=checks)
    claims = claims_of(instruction) if template is None else []
    if not claims:
        return _by_pixels(checks, _NO_PAIRS)
    if not _is_readable(reader, after):
        return _by_pixels(checks, _NOT_DRAWN)
    answers = _ask_claims(reader, after, claims)
    basis = tuple(f"whether it sees the {claim.name}" for claim in claims)
    return Verdict(done=min(answers.values()), basis=basis, answers=answers, checks=checks)


def _is_readable(reader: Reader, image: Image) -> bool:
    """Tell whether an image is of the kind that a model reads."""
    return reader.reads_any_text or reader.yes([image], [questions.DRAWN])[0] >= 0.5


def is_judgeable(reader: Reader, instruction: str, *, is_drawing: bool) -> bool:
    """Tell whether results of an instruction can be told from each other.

    Args:
        reader: The model.
        instruction: What is asked for.
        is_drawing: Whether an image is made from text alone.
    """
    template = _template(instruction)
    if is_drawing:  # there is no image before it to compare with
        return reader.has_language and (reader.reads_any_text or drawing_claims_of(instruction) is not None)
    if reader.compares_images or isinstance(template, ObjectMove):
        return True
    if not reader.has_language:
        return False
    return isinstance(template, ObjectRotation) or (template is None and bool(claims_of(instruction)))


def _ask_claims(
    reader: Reader, image: Image, claims: Sequence[Claim], *, with_places: bool = True
) -> dict[str, float]:
    """Return how likely each claim is true of an image, by the question that was asked about it."""
    asked = [questions.object_is_present(reader.own_words(claim.name) or claim.name) for claim in claims]
    found = reader.yes([image], asked)
    answers = {
        question: present if claim.is_there else 1 - present
        for question, present, claim in zip(asked, found, claims, strict=True)
    }
    placed = [claim for claim in claims if claim.place is not None and with_places]
    return answers | _confirm(
        reader, image, [(questions.object_at(str(one.place)), questions.named(one.name)) for one in placed]
    )


def _confirm(reader: Reader, image: Image, answers: Sequence[tuple[str, str]]) -> dict[str, float]:
    found = reader.confirm([image], answers) if answers else []
    return {question: likely for (question, _), likely in zip(answers, found, strict=True)}


def _by_pixels(checks: SpatialChecks, reason: str) -> Verdict:
    """Return what pixels alone show."""
    if checks.verdict == "not judged":
        return Verdict(basis=(reason, checks.summary.rstrip(".")), checks=checks)
    done = 1.0 if checks.verdict == "done" else 0.0
    return Verdict(done=done, basis=(f"pixels: {checks.summary.rstrip('.')}",), checks=checks)


def _ask_template(
    reader: Reader, after: Image, template: SpatialEdit | None, box: Box | None
) -> tuple[str, str, float] | None:
    """Ask a template's own question about the result.

    Returns:
        The question, what it is about, and the probability of the answer that speaks for the edit; None where the
        template has no question.
    """
    if isinstance(template, ObjectMove) and box is not None:
        question = questions.object_is_in_box(template.object)
        (inside,) = reader.yes([draw_red_box(after, box)], [question])
        return question, "whether it sees the object inside the box", inside
    if isinstance(template, ObjectRotation):
        question = questions.visible_side(template.object)
        probabilities = reader.choose([after], question, questions.VIEWS)
        return question, "which view it sees", probabilities[questions.VIEWS.index(str(template.view))]
    return None


def _template(instruction: str) -> SpatialEdit | None:
    try:
        return parse(instruction)
    except ValueError:  # similar to a template, but free text to the model too
        return None


def _logit(probability: float) -> float:
    probability = min(max(probability, _SMALLEST), 1 - _SMALLEST)
    return math.log(probability / (1 - probability))
