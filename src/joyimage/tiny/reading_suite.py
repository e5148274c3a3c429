"""The questions that `joyimage-tiny` is measured on: about drawn scenes that training never shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from joyimage.evaluation.reading import QuestionCase
from joyimage.tiny.readings import OTHERS, readings_about
from joyimage.tiny.suite import UnseenScenes, first_seed
from joyimage.tiny.worlds.drawing import COLORS, SHAPES
from joyimage.tiny.worlds.turntable import SOLIDS
from joyimage.tiny.worlds.vehicle import VEHICLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FLAT = ("add", "remove", "recolor", "replace", "move")
_ALL = (*_FLAT, "rotate", "camera")
# Tasks whose scenes a kind is asked about, in turn.
_TASKS = {
    "color": (*_ALL, "text-to-image"),
    "shape": (*_ALL, "text-to-image"),
    "presence": (*_ALL, "text-to-image"),
    "count": (*_FLAT, "camera", "text-to-image"),
    "place": (*_FLAT, "text-to-image"),
    "view": ("rotate",),
    "background": (*_FLAT, "text-to-image"),
    "missing": (*_FLAT, "camera"),
    "description": (*_ALL, "text-to-image"),
    "drawn": (*_ALL, OTHERS, OTHERS, OTHERS),
    "changed": _ALL,
    "done": _ALL,
    "kept": _ALL,
    "in box": ("move",),
    "shows": ("text-to-image",),
}
_OBJECT = re.compile(rf"({'|'.join(COLORS)}) ({'|'.join((*SHAPES, *VEHICLES, *SOLIDS))})")


@dataclass(frozen=True, kw_only=True)
class DrawnQuestions(UnseenScenes):
    """Questions about drawn scenes."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of questions."""
        return tuple(_TASKS)

    def cases(self, kind: str, num: int, *, held_out: bool) -> Sequence[QuestionCase]:
        """Return questions of a kind, each about a scene of its own.

        Args:
            kind: One of `kinds`.
            num: How many.
            held_out: Whether the scenes hold a combination that training never shows.
        """
        if held_out and kind == "drawn":
            return []
        cases = self._draw(kind, held_out)
        return [next(cases) for _ in range(num)]

    def is_right(self, case: QuestionCase, answer: str) -> bool:
        """Compare an answer with the right one; of a description only the objects with their colors count."""
        if case.kind == "description" and _OBJECT.search(case.answer):
            return sorted(_OBJECT.findall(answer.lower())) == sorted(_OBJECT.findall(case.answer.lower()))
        return answer.strip().rstrip(".").lower() == case.answer.rstrip(".").lower()

    def _draw(self, kind: str, held_out: bool) -> Iterator[QuestionCase]:
        tasks = _TASKS[kind]
        for number in count():
            task = tasks[number % len(tasks)]
            rng = np.random.default_rng((self.seed, number, self.kinds.index(kind)))
            found = [
                (reading.images, ask)
                for reading in readings_about(
                    task, first_seed(self.seed, held_out=held_out) + number, self.size, held_out
                )
                for ask in reading.asks
                if ask.kind == kind
            ]
            if found:
                drawn, ask = found[int(rng.integers(len(found)))]
                images = tuple(Image.fromarray(image) for image in drawn)
                yield QuestionCase(kind, images, ask.question, ask.answer)
