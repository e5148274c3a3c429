"""Several candidates of one edit, judged; the worse half is dropped early, and the best comes first.

Halving: all candidates run to an early step, what each would become is decoded there and judged, and the better half
continues. Four candidates cost at most 1.9 times the transformer's forwards of one from four steps on.

Dimension key: B candidates that run, C latent channels, H, W latent rows and columns.
"""

from __future__ import annotations

import inspect
import math
import secrets
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from joyimage.edits.parts import USUAL_ATTEMPTS
from joyimage.errors import InvalidInputError
from joyimage.pipeline.answers import ImageReader
from joyimage.pipeline.decode import decode_target
from joyimage.pipeline.framing import Framing
from joyimage.pipeline.judging import judge_images
from joyimage.understanding.judge import is_judgeable

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from joyimage.pipeline.output import JoyImageEditPipelineOutput
    from joyimage.understanding.judge import Verdict

Method = TypeVar("Method", bound=Callable[..., Any])
Judge = Callable[["Image"], "Verdict"]

MOST_CANDIDATES = 64
_USUAL_UNTIL = 0.8
_FIRST_RUNG, _RUNG_SPACING = 0.25, 0.125
"""Share of the steps after which the first half is dropped, and between one halving and the next."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How many candidates are made, and when one is good enough.

    Attributes:
        num_candidates: Candidates of each attempt, with consecutive seeds.
        until: Score from 0 to 1 with which an attempt is the last; None: one attempt, or 0.8 with `max_attempts`.
        max_attempts: Most attempts.

    Raises:
        InvalidInputError: A value is out of range.
    """

    num_candidates: int = 1
    until: float | None = None
    max_attempts: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InvalidInputError: A value is out of range.
        """
        if not 1 <= self.num_candidates <= MOST_CANDIDATES:
            raise InvalidInputError(
                f"`num_candidates` is {self.num_candidates!r}; expected 1 to {MOST_CANDIDATES}."
            )
        if self.until is not None and not 0 <= self.until <= 1:
            raise InvalidInputError(f"`until` is {self.until!r}; expected a score from 0 to 1.")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise InvalidInputError(f"`max_attempts` is {self.max_attempts!r}; expected 1 or more.")
        if self.max_attempts is not None and self.until is None:
            object.__setattr__(self, "until", _USUAL_UNTIL)

    @property
    def is_needed(self) -> bool:
        """Whether anything is to be chosen."""
        return self.num_candidates > 1 or self.until is not None

    @property
    def attempts(self) -> int:
        """Most attempts."""
        return 1 if self.until is None else self.max_attempts or USUAL_ATTEMPTS


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One candidate.

    Attributes:
        seed: Seed of the candidate: with it alone, the same edit makes the same image.
        steps: Steps that it ran; fewer than all where it was dropped.
        is_finished: Whether it ran to the end.
        verdict: What was judged last, of the image or of what it would have become.
    """

    seed: int
    steps: int
    is_finished: bool
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Return the candidate as JSON values."""
        return {
            "seed": self.seed,
            "steps": self.steps,
            "is_finished": self.is_finished,
            "verdict": self.verdict.to_dict(),
        }


def rungs(num_candidates: int, num_steps: int) -> dict[int, int]:
    """Return how many candidates continue, by the number of steps after which the others are dropped."""
    left, found, share = num_candidates, dict[int, int](), _FIRST_RUNG
    while left > 1:
        left = math.ceil(left / 2)
        step = max(1, int(share * num_steps))
        if step >= num_steps:
            break
        found[step] = left
        share += _RUNG_SPACING
    return found


@dataclass
class Halving:
    """Drops the worse half of the running candidates, again and again.

    Attributes:
        judge: Judges what a candidate would become.
        alive: Numbers of the candidates that run.
        steps: Steps that each candidate ran before it was dropped.
        verdicts: What was judged last of each.
    """

    judge: Judge
    alive: list[int]
    steps: dict[int, int] = field(default_factory=dict[int, int])
    verdicts: dict[int, Verdict] = field(default_factory=dict[int, "Verdict"])

    def choose_rows(self, pipe: Any, step: int, num_steps: int, estimate: Tensor) -> list[int] | None:
        """Return the rows of the running candidates that continue; None where all do.

        Args:
            pipe: The pipeline.
            step: Number of the step that has run, from 0.
            num_steps: Number of steps.
            estimate: What each candidate would become, `[B, 1, C, 1, H, W]`.
        """
        num_kept = rungs(len(self.alive) + len(self.steps), num_steps).get(step + 1)
        if num_kept is None or num_kept >= len(self.alive):
            return None
        images: list[Image] = decode_target(pipe, estimate, "pil", enable_denormalization=True)
        found = [self.judge(image) for image in images]
        self.verdicts |= dict(zip(self.alive, found, strict=True))
        best = sorted(range(len(found)), key=lambda row: -found[row].score)[:num_kept]
        rows = sorted(best)
        self.steps |= {number: step + 1 for row, number in enumerate(self.alive) if row not in rows}
        self.alive = [self.alive[row] for row in rows]
        return rows


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Makes and judges candidates of one edit.

    Attributes:
        pipe: The pipeline.
        choice: How many, and until when.
        run: Calls the pipeline with further arguments; it returns images in the caller's frame.
        judge: Judges such an image.
        judge_early: Judges an image at the target size; None where the model's image is not a whole one.
    """

    pipe: Any
    choice: Choice
    run: Callable[..., JoyImageEditPipelineOutput]
    judge: Judge
    judge_early: Judge | None

    def choose(self, call: Mapping[str, Any]) -> JoyImageEditPipelineOutput:
        """Make candidates until one is good enough, and return the finished ones, the best first.

        Args:
            call: Arguments of the call.
        """
        given: torch.Generator | list[torch.Generator] | None = call.get("generator")
        first = given[0] if isinstance(given, list) else given
        seed = secrets.randbelow(2**31) if first is None else first.initial_seed()
        device = torch.device("cpu") if first is None else first.device
        tried: list[tuple[Candidate, Any]] = []
        last: JoyImageEditPipelineOutput | None = None
        with shared_features(self.pipe):
            for _ in range(self.choice.attempts):
                seeds = [seed + number for number in range(self.choice.num_candidates)]
                seed += len(seeds)
                last = self._attempt(seeds, device, tried)
                if last.interrupted or self._is_good(tried):
                    break
        assert last is not None
        return _sorted_output(last, tried)

    def _is_good(self, tried: list[tuple[Candidate, Any]]) -> bool:
        until = self.choice.until
        return until is None or any(one.is_finished and one.verdict.score >= until for one, _ in tried)

    def _attempt(
        self, seeds: list[int], device: torch.device, tried: list[tuple[Candidate, Any]]
    ) -> JoyImageEditPipelineOutput:
        """Run one batch of candidates and add them to those that were tried."""
        halving = None
        if self.judge_early is not None and len(seeds) > 1:
            halving = Halving(self.judge_early, list(range(len(seeds))))
        generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        with _halved(self.pipe, halving):
            output = self.run(generator=generators, num_images_per_prompt=len(seeds))
        alive = list(range(len(seeds))) if halving is None else halving.alive
        num_steps: int = self.pipe.num_timesteps
        for place, number in enumerate(alive):
            verdict = self.judge(output.images[place])
            candidate = Candidate(seed=seeds[number], steps=num_steps, is_finished=True, verdict=verdict)
            tried.append((candidate, _parts_of(output, place)))
        if halving is not None:
            for number, steps in halving.steps.items():
                verdict = halving.verdicts[number]
                tried.append(
                    (Candidate(seed=seeds[number], steps=steps, is_finished=False, verdict=verdict), None)
                )
        return output


def choosing(method: Method) -> Method:
    """Give a pipeline's call the arguments `num_candidates`, `until` and `max_attempts`.

    With them the call makes candidates with consecutive seeds, judges them and returns those that ran to the end,
    the best first; `candidates` of the output has all of them with seed and verdict.
    """
    signature = inspect.signature(method)
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, default, kind in (
            ("num_candidates", 1, int),
            ("until", None, float | None),
            ("max_attempts", None, int | None),
        )
    ]

    @wraps(method)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        choice = take_choice(options)
        if not choice.is_needed:
            with shared_features(self) if options.get("check_object") is True else nullcontext():
                return method(self, *arguments, **options)
        given = dict(signature.bind(self, *arguments, **options).arguments)
        del given["self"]
        return _choose_call(self, choice, method, given)

    typed: Any = call
    typed.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *own])
    return cast("Method", typed)


def take_choice(call: dict[str, Any]) -> Choice:
    """Take what is said of candidates out of a call's arguments.

    Raises:
        InvalidInputError: A value is out of range.
    """
    names = ("num_candidates", "until", "max_attempts")
    return Choice(**{name: call.pop(name) for name in names if call.get(name) is not None})


def check_choosable(
    pipe: Any, instruction: Any, call: Mapping[str, Any], *, is_drawing: bool = False
) -> None:
    """Reject a call whose candidates cannot be compared, before any work.

    Raises:
        InvalidInputError: There are several prompts or outputs, or nothing can be judged.
    """
    if not isinstance(instruction, str):
        raise InvalidInputError("`num_candidates` and `until` need one `prompt` as text; make several calls.")
    for name, expected in (
        ("num_images_per_prompt", 1),
        ("output_type", "pil"),
        ("return_dict", True),
        ("latents", None),
    ):
        if call.get(name, expected) != expected:
            raise InvalidInputError(
                f"`{name}` is {call[name]!r}; expected {expected!r} with `num_candidates` and `until`."
            )
    if not is_judgeable(ImageReader(pipe), instruction, is_drawing=is_drawing):
        raise InvalidInputError(
            "`num_candidates` and `until` choose by what the model sees in the result, and this one cannot tell "
            f"whether {instruction.strip()!r} was done. It can for moves, rotations, and texts that name objects, as "
            "'Add a green star.' or 'Draw a green star at the top on a white background.'; ask for one image instead."
        )


def _choose_call(
    pipe: Any, choice: Choice, method: Callable[..., Any], given: dict[str, Any]
) -> JoyImageEditPipelineOutput:
    """Choose among candidates of an edit by prompt, or of an image made from text."""
    prompt = given.get("prompt")
    image = given.get("images" if pipe.takes_several_images else "image")
    check_choosable(pipe, prompt, given, is_drawing=image is None)
    before: Any = cast("Sequence[Any]", image)[0] if isinstance(image, (list, tuple)) else image

    def judge(result: Image) -> Verdict:
        return judge_images(pipe, before, result, cast("str", prompt))

    def run(**further: Any) -> Any:
        output = method(pipe, **{**given, **further})
        given.pop("check_object", None)  # the first attempt has asked
        return output

    framing = Framing(
        **{name: given[name] for name in ("fit", "restore", "preserve", "region") if name in given}
    )
    is_whole = framing.is_plain and not pipe.takes_several_images
    chooser = Chooser(pipe=pipe, choice=choice, run=run, judge=judge, judge_early=judge if is_whole else None)
    return chooser.choose(given)


def _parts_of(output: JoyImageEditPipelineOutput, place: int) -> dict[str, Any]:
    """Return what an output holds of one image."""
    values = {name: getattr(output, name) for name in ("images", "masks", "checks")}
    return {name: value[place] for name, value in values.items() if value is not None}


def _sorted_output(
    output: JoyImageEditPipelineOutput, tried: Sequence[tuple[Candidate, Any]]
) -> JoyImageEditPipelineOutput:
    """Return an output with the finished candidates, the best first, and then those that were dropped."""
    order = sorted(tried, key=lambda one: (not one[0].is_finished, -one[0].verdict.score))
    finished = [(one, parts) for one, parts in order if one.is_finished]
    lists = {name: [parts[name] for _, parts in finished] for name in finished[0][1]}
    return replace(
        output, **lists, verdicts=[one.verdict for one, _ in finished], candidates=[one for one, _ in order]
    )


@contextmanager
def _halved(pipe: Any, halving: Halving | None) -> Generator[None]:
    outer, pipe.halving = pipe.halving, halving
    try:
        yield
    finally:
        pipe.halving = outer


@contextmanager
def shared_features(pipe: Any) -> Generator[None]:
    """Encode the image once for all that is done with it: in the session that runs, or in one of its own."""
    if pipe._feature_cache is not None:
        yield
        return
    with pipe.session() as session, session.caching():
        yield
