"""Judging what a task made, and choosing among its candidates, at the size at which the model works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joyimage.edits import Edit, Move, Rotate
from joyimage.errors import MissingObjectError
from joyimage.pipeline.answers import ImageReader
from joyimage.pipeline.candidates import Choice, Chooser, check_choosable
from joyimage.understanding.judge import check_objects_present, check_present, judge_drawing, judge_edit

if TYPE_CHECKING:
    from PIL.Image import Image

    from joyimage.edits import Sampling
    from joyimage.serving.workers.protocol import WorkItem
    from joyimage.understanding.judge import Verdict


def choice_of(sampling: Sampling) -> Choice:
    """Return how many candidates a task makes, and until when."""
    return Choice(
        num_candidates=sampling.num_candidates or 1, until=sampling.until, max_attempts=sampling.max_attempts
    )


def check_object(pipe: Any, item: WorkItem) -> None:
    """Reject a task about an object that the model does not see in the image, unless it is forced.

    Raises:
        MissingObjectError: There is no such object.
    """
    edit = item.task.edit
    if not isinstance(edit, (Edit, Move, Rotate)) or edit.force or item.before is None:
        return
    reader = ImageReader(pipe, pipe._feature_cache)
    try:
        if not isinstance(edit, Edit):
            check_present(reader, item.before, edit.object or "")
        elif len(item.images) == 1:  # of several images no one knows which is meant
            check_objects_present(reader, item.before, item.prompt)
    except MissingObjectError as error:
        raise error.for_field() from None


def judge_item(pipe: Any, item: WorkItem, image: Image) -> Verdict:
    """Judge an image that the model made of a task."""
    reader = ImageReader(pipe)
    if item.before is None:
        return judge_drawing(reader, image, item.prompt)
    return judge_edit(reader, item.before, image, item.prompt, item.box)


def choose(pipe: Any, item: WorkItem, choice: Choice, call: dict[str, Any]) -> Any:
    """Make candidates of a task and return the pipeline's output, the best first.

    Raises:
        InvalidInputError: Nothing can be judged.
    """
    call = call | {"prompt": item.prompt}
    given = {"num_images_per_prompt": call["num_images_per_prompt"]}
    check_choosable(pipe, item.prompt, given, is_drawing=item.before is None)

    def judge(image: Image) -> Verdict:
        return judge_item(pipe, item, image)

    def run(**further: Any) -> Any:
        return pipe(**{**call, **further})

    early = None if pipe.takes_several_images else judge
    return Chooser(pipe=pipe, choice=choice, run=run, judge=judge, judge_early=early).choose(call)
