"""Run one edit from the command line: read, resolve, run, write, report."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joyimage import __version__
from joyimage.cli.console import notify, warn
from joyimage.cli.path_arguments import STANDARD_STREAM
from joyimage.cli.runners import load_runner, timed
from joyimage.cli.scope import scope_warning
from joyimage.cli.sources import Source, read_made
from joyimage.cli.surface import describe_error
from joyimage.cli.understood import understood
from joyimage.edits import Defaults, Edit, FieldError, Generate, Record
from joyimage.errors import ImageError, InvalidInputError
from joyimage.imaging import check_output, encode, read_mask, write_image
from joyimage.types import ImageSize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from joyimage.cli.options import RunOptions
    from joyimage.cli.runners import Runner
    from joyimage.edits import AnyEdit


@dataclass(frozen=True, kw_only=True)
class Written:
    """What one edit made.

    Attributes:
        paths: Files that were written.
        report: Paths, seconds, seed and the record of the edit.
    """

    paths: list[Path]
    report: dict[str, Any]


def run_command(
    edit: AnyEdit,
    options: RunOptions | None,
    output: Path,
    *,
    images: Sequence[Path] = (),
    like: Path | None = None,
) -> None:
    """Run one edit as a command does: everything is checked before the model is loaded.

    Args:
        edit: The edit, as given.
        options: Options of the command.
        output: File to write; "-" for standard output.
        images: Input images: the one to edit, then further references.
        like: An image whose recorded edit fills in what is not given.

    Raises:
        ImageError: A file cannot be read or written.
        InvalidInputError: An option has a value that is not accepted.
    """
    from joyimage.cli.options import RunOptions, is_address

    options = options or RunOptions()
    sha256 = None
    if [*images, like].count(STANDARD_STREAM) > 1:
        raise InvalidInputError("`-` is given for more than one image; standard input holds one.")
    if like is not None:
        edit, options, sha256 = fill_from_record(like, edit, options)
    options.check()
    if options.literal:
        edit = edit.replace(intent="literal")
    if len(images) == 1:
        edit = understood(edit)
    check_edit(edit, options)
    inputs = [*images, *masks_of(edit)]
    for path in output_paths(output, edit.given().get("num_images", 1)):
        check_output_path(path, inputs, is_overwritten=options.overwrite)
    if options.metadata and output.suffix.lower() == ".bmp":
        warn("BMP holds no record of the edit, so that `--like` can't repeat it; PNG, JPEG and WebP do.")
    sources = [Source.read(path) for path in images]
    if sources:
        size = ImageSize.of(sources[0].image)
        check_image(edit, size)
        for sentence in edit.advice(size):
            warn(sentence)
        if sha256 is not None and sources[0].sha256 != sha256:
            notify(f"{images[0]} is another image than the one that {like} was made from.")
    extra: dict[str, Any] = {}
    if is_address(options.rewrite):  # an endpoint needs no model here; one that is down ends the command now
        from joyimage.understanding.rewrite import rewrite

        edit, extra = rewrite_prompt(edit, options.rewrite, sources, rewrite)
        options = replace(options, rewrite="none")
    runner = load_runner(options)
    if len(sources) == 1:
        edit = understood(edit, runner, sources[0].image)
    caution = scope_warning(edit, options, runner, [source.image for source in sources])
    if caution is not None:
        warn(caution)
    written = run_and_write(runner, edit, options, output, sources, extra=extra)
    print_report(written.report, json=options.json, is_stream=output == STANDARD_STREAM)
    if caution is not None:
        warn(caution)


def check_edit(edit: AnyEdit, options: RunOptions) -> None:
    """Reject an edit that cannot run, before anything is loaded.

    Raises:
        CheckpointError: An adapter is not a safetensors file.
        InvalidInputError: Something is missing, or does not fit together.
    """
    try:
        edit.check_complete()
    except FieldError as error:
        raise InvalidInputError(describe_error(type(edit), error)) from None
    if options.rewrite != "none" and not isinstance(edit, (Edit, Generate)):
        raise InvalidInputError(
            f"`--rewrite` has no effect on `joyimage {edit.kind}`, whose prompt is a trained template; leave "
            "it out."
        )
    for path in masks_of(edit):
        if path.is_file():
            continue
        raise InvalidInputError(
            f"`--region` is {str(path)!r}; expected four numbers such as 120,80,360,300, or the file of a mask."
        )
    if options.server is not None:
        return
    from joyimage.loading import Adapter

    for text in edit.given().get("loras", ()):
        adapter = Adapter.parse(text)
        if not adapter.path.exists():
            raise InvalidInputError(f"`--lora` is {text!r}; there is no such file or folder.")
        adapter.check()


def check_output_path(output: Path, inputs: Sequence[Path], *, is_overwritten: bool) -> None:
    """Reject an output that cannot be written, or that would replace an input.

    Raises:
        ImageError: The path cannot be written.
        InvalidInputError: The output is one of the inputs.
    """
    if output == STANDARD_STREAM:
        return
    check_output(output)
    for path in inputs:
        if not is_overwritten and output.exists() and path.exists() and output.samefile(path):
            raise InvalidInputError(
                f"The output {output} is the input file; name another file, or give `--overwrite`."
            )


def fill_from_record(
    like: Path, edit: AnyEdit, options: RunOptions
) -> tuple[AnyEdit, RunOptions, str | None]:
    """Return edit and options with the recorded ones where none are given, and the recorded input's hash.

    Raises:
        ImageError: The file holds no record of an edit of this kind.
    """
    try:
        record = Record.from_dict(read_made(like))
    except InvalidInputError as error:
        # A field of the record is none of the options, whatever it is called.
        why = error.message_for(f"its field {error.name}") if isinstance(error, FieldError) else error
        raise ImageError(f"The record in {like} can't be read: {why}") from None
    if record.edit.kind != edit.kind:
        raise ImageError(
            f"{like} records a `joyimage {record.edit.kind}`; expected one of `joyimage {edit.kind}`."
        )
    made_with = record.made_with
    names = ("model",) if options.server is not None else ("model", "base_size", "dtype")
    missing = {
        name: made_with[name]
        for name in names
        if getattr(options, name) is None and made_with.get(name) is not None
    }
    for name, value in missing.items():
        kind = int if name == "base_size" else str
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ImageError(f"The record in {like} can't be read: its field {name} is {value!r}.")
    return edit.filled_from(record.edit), replace(options, **missing), made_with.get("input_sha256")


def run_and_write(
    runner: Runner,
    edit: AnyEdit,
    options: RunOptions,
    output: Path,
    sources: Sequence[Source],
    *,
    extra: dict[str, Any] | None = None,
    quiet: bool = False,
) -> Written:
    """Resolve an edit, run it, and write each of its images whole.

    Args:
        runner: What runs the edit.
        edit: The edit, as given.
        options: Options of the command.
        output: File to write; several images get "-1", "-2", ... behind the stem.
        sources: Input images.
        extra: Further entries of the record.
        quiet: Whether to show no progress bar.

    Returns:
        The files and the report.

    Raises:
        ImageError: A file cannot be written.
        InvalidInputError: The model does not accept the edit.
    """
    extra = dict(extra or {})
    images = [source.image for source in sources]
    if options.rewrite != "none" and isinstance(edit, (Edit, Generate)):
        edit, asked = rewrite_prompt(edit, options.rewrite, sources, runner.rewrite)
        extra |= asked
    resolved = edit.resolve(runner.defaults(edit), ImageSize.of(images[0]) if images else None)
    result, seconds = timed(runner, resolved, images, quiet=quiet)
    made_with = {
        **extra,
        **({} if result.prompt is None else {"prompt": result.prompt}),
        "model": runner.model,
        "version": __version__,
        "width": result.width,
        "height": result.height,
        "base_size": runner.base_size,
        "device": runner.device,
        "dtype": runner.dtype,
        "input_sha256": sources[0].sha256 if sources else None,
    }
    if result.adapters:
        made_with["adapters"] = result.adapters
    if len(sources) > 1:
        made_with["references_sha256"] = [source.sha256 for source in sources[1:]]
    # A result at the input's own size stays the photo that it was: its resolution, and when it was taken.
    is_mapped_back = bool(sources) and resolved.given().get("restore", False)
    kept = {"dpi": sources[0].decoded.dpi, "date": sources[0].decoded.date} if is_mapped_back else {}
    seed = resolved.given()["seed"]
    paths = output_paths(output, len(result.images))
    if result.candidates:
        seed = result.candidates[0]["seed"]
        resolved = resolved.replace(seed=seed, num_candidates=None, until=None, max_attempts=None)
    for number, (path, image) in enumerate(zip(paths, result.images, strict=True)):
        one = resolved.replace(seed=seed + number, num_images=1)
        judged = {} if result.verdicts is None else {"verdict": result.verdicts[number]}
        record = Record(edit=one, made_with=made_with | judged).to_dict() if options.metadata else None
        if output == STANDARD_STREAM:
            sys.stdout.buffer.write(encode(image, "PNG", record, **kept))
            sys.stdout.buffer.flush()
        else:
            write_image(image, path, record, **kept)
    report: dict[str, Any] = {
        "outputs": [str(path) for path in paths],
        "output_sizes": [str(ImageSize.of(image)) for image in result.images],
        "seconds": round(seconds, 3),
        "load_seconds": round(runner.load_seconds, 3),
        **Record(edit=resolved, made_with=made_with).to_dict(),
    }
    known = {"checks": result.checks, "verdicts": result.verdicts, "candidates": result.candidates}
    report |= {name: value for name, value in known.items() if value is not None}
    return Written(paths=paths, report=report)


def check_image(edit: AnyEdit, size: ImageSize) -> None:
    """Reject an edit that does not fit on its image: boxes and masks of another size, too narrow images.

    Raises:
        ImageError: The mask cannot be read.
        InvalidInputError: Something does not fit.
    """
    edit.resolve(Defaults(), size)
    for path in masks_of(edit):
        read_mask(path, size.pil)


def masks_of(edit: AnyEdit) -> list[Path]:
    """Return the file of the mask that limits an edit, if there is one."""
    region = edit.given().get("region")
    return [Path(region)] if isinstance(region, str) else []


def rewrite_prompt(
    edit: AnyEdit, how: str, sources: Sequence[Source], rewrite: Callable[[str, Image | None, str], str]
) -> tuple[AnyEdit, dict[str, Any]]:
    """Return an edit with its prompt in more detail, and what the record says of the original prompt.

    Args:
        edit: An edit by prompt.
        how: "local", or the address of an endpoint.
        sources: Input images.
        rewrite: Rewrites a prompt about an image.
    """
    prompt = str(edit.given()["prompt"])
    rewritten = rewrite(prompt, sources[0].image if sources else None, how)
    notify(f"Prompt: {rewritten}")
    return edit.replace(prompt=rewritten), {"asked": prompt}


def output_paths(output: Path, num: int) -> list[Path]:
    """Return a file for each of several images.

    Raises:
        InvalidInputError: Several images cannot go to standard output.
    """
    if num == 1:
        return [output]
    if output == STANDARD_STREAM:
        raise InvalidInputError("`--num` is more than 1; standard output takes one image. Name a file.")
    return [output.with_stem(f"{output.stem}-{number + 1}") for number in range(num)]


def print_report(report: dict[str, Any], *, json: bool, is_stream: bool) -> None:
    """Print paths or the whole report on stdout, and what was measured on stderr.

    Args:
        report: From `run_and_write`.
        json: Whether to print the whole report as JSON.
        is_stream: Whether stdout holds the image itself; then nothing else goes there.
    """
    if json and not is_stream:
        print(json_format.dumps(report, ensure_ascii=False))
        return
    for number, path in enumerate(report["outputs"]):
        if not is_stream:
            print(path)
        if report.get("verdicts"):
            notify(f"Verdict: {report['verdicts'][number]['summary']}")
        elif report.get("checks"):
            notify(f"Check: {report['checks'][number]['summary']}")
    if report.get("candidates"):
        num = len(report["candidates"])
        which = f"the best of {num} candidates" if num > 1 else "the first one"
        if all(one["verdict"]["done"] is None for one in report["candidates"]):
            which = f"the first of {num}, as none could be judged"
        notify(f"Chosen: seed {report['seed']}, {which}.")
    worked = f"{report['width']}x{report['height']}"
    size = report["output_sizes"][0]
    requested = report.get("size", worked)
    nearest = "" if requested == worked else f"the trained size nearest to {requested}"
    edited_at = "" if size == worked else f"edited at {worked}"
    details = ", ".join(part for part in (edited_at, nearest) if part)
    shown = f"{size} pixels ({details})" if details else f"{size} pixels"
    last_seed = report["seed"] + len(report["outputs"]) - 1
    seeds = f"seed {last_seed}" if last_seed == report["seed"] else f"seeds {report['seed']} to {last_seed}"
    notify(f"{shown} in {report['seconds']:.1f} s after {report['load_seconds']:.1f} s of loading, {seeds}.")
