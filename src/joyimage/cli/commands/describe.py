"""`joyimage describe`: ask the model about an image, or what changed between two."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from joyimage.cli.manifests import IMAGE_SUFFIXES
from joyimage.cli.options import ImagePath, RunOptions
from joyimage.cli.path_arguments import STANDARD_STREAM
from joyimage.cli.runners import load_runner
from joyimage.cli.scope import check_readable
from joyimage.cli.sources import Source, address_problem, find_spelling
from joyimage.cli.surface import GROUPS, edit_command, read_edit
from joyimage.edits import Describe
from joyimage.errors import InvalidInputError

_After = Annotated[
    str | None,
    Parameter(
        help="Second image, made by an edit of the first; without a question, what changed is described.",
        group=GROUPS["Input"],
    ),
]


@edit_command(Describe)
def describe(
    image: ImagePath, after: _After = None, *, edit: Describe, options: RunOptions | None = None
) -> None:
    """Answer a question about an image, or about two, with the checkpoint's Qwen3-VL.

    Raises:
        ImageError: An image cannot be read.
        InvalidInputError: An option has a value that is not accepted.
    """
    options = options or RunOptions()
    options.check()
    if after is not None and edit.question is None and not _is_image(after):
        question = read_edit(Describe, {"question": after}).given()["question"]
        edit, after = edit.replace(question=question), None
    if after is not None and edit.question is not None and _is_image(edit.question):
        raise InvalidInputError(
            f"`QUESTION` is {edit.question}, the name of an image; expected a question, with two images at most."
        )
    paths = [image, *([] if after is None else [Path(after)])]
    if paths.count(STANDARD_STREAM) > 1:
        raise InvalidInputError(
            "`AFTER` is -, but standard input is the first image already; expected a file."
        )
    sources = [Source.read(path) for path in paths]
    runner = load_runner(options)
    for path, source in zip(paths, sources, strict=True):
        check_readable(path, source.image, edit.question, options, runner)
    answer = runner.describe(edit, [source.image for source in sources])
    report = {"question": edit.question, "answer": answer}
    print(json_format.dumps(report, ensure_ascii=False) if options.json else answer)


def _is_image(text: str) -> bool:
    """Tell a second image from a question: any file, and what is named like an image, be it missing."""
    path = find_spelling(Path(text))
    is_file = path.exists() and not path.is_dir()
    is_named_so = path.suffix.lower() in IMAGE_SUFFIXES or address_problem(text) is not None
    return path == STANDARD_STREAM or is_file or is_named_so
