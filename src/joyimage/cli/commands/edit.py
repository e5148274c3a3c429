"""`joyimage edit` and `joyimage generate`: a picture by instruction, or from text alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from joyimage.cli.options import EditOptions, load, print_report, run_edit, word_prompt
from joyimage.cli.pictures import check_output, read_metadata, read_picture
from joyimage.errors import ImageError

Output = Annotated[Path, Parameter(name=["--output", "-o"])]


def edit(
    image: Path,
    prompt: str | None = None,
    *,
    output: Output,
    like: Path | None = None,
    options: EditOptions | None = None,
) -> None:
    """Edit a picture as the prompt says.

    Args:
        image: Picture file.
        prompt: What to do, such as "Recolor the heart orange."
        output: File to write; PNG, JPEG or WebP by its ending.
        like: A PNG that `joyimage edit` wrote: its prompt and settings count where none are given.
        options: What all editing commands have in common.

    Raises:
        ValueError: There is no prompt.
        ImageError: `like` records no edit.
    """
    options = options or EditOptions()
    if like is not None:
        recipe = read_metadata(like)
        if recipe is None or recipe.get("command") != "edit":
            raise ImageError(f"{like} holds no record of a `joyimage edit`.")
        prompt = recipe["prompt"] if prompt is None else prompt
        options = options.filled_from(recipe)
    if prompt is None:
        raise ValueError("`PROMPT` is missing; give what to do, or `--like` a picture that records it.")
    options.check()
    check_output(output)
    picture = read_picture(image)
    loaded = load(options)
    record = {"command": "edit", **word_prompt(loaded, options, prompt, picture)}
    call = partial(loaded.pipe, image=picture, prompt=record["prompt"])
    report = run_edit(loaded, options, output, call, record, source=image)
    print_report(report, json=options.json)


def generate(prompt: str, *, output: Output, options: EditOptions | None = None) -> None:
    """Make a picture from text alone.

    Args:
        prompt: What it shows.
        output: File to write; PNG, JPEG or WebP by its ending.
        options: What all editing commands have in common.

    Raises:
        ValueError: An option has no meaning without a picture.
    """
    options = options or EditOptions()
    if options.framing() != EditOptions().framing():
        raise ValueError("`--fit`, `--restore`, `--preserve` and `--region` need a picture; leave them out.")
    options.check()
    check_output(output)
    loaded = load(options)
    record = {"command": "generate", **word_prompt(loaded, options, prompt)}
    report = run_edit(loaded, options, output, partial(loaded.pipe, prompt=record["prompt"]), record)
    print_report(report, json=options.json)
