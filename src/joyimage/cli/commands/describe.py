"""`joyimage describe`: ask the model about an image."""

from __future__ import annotations

import json as json_format

from joyimage.cli.options import ImagePath, RunOptions
from joyimage.cli.runners import load_runner
from joyimage.cli.scope import check_readable
from joyimage.cli.sources import Source
from joyimage.cli.surface import edit_command
from joyimage.edits import Describe


@edit_command(Describe)
def describe(image: ImagePath, *, edit: Describe, options: RunOptions | None = None) -> None:
    """Answer a question about an image, with the checkpoint's Qwen3-VL."""
    options = options or RunOptions()
    options.check()
    source = Source.read(image)
    runner = load_runner(options)
    check_readable(image, source.image, options, runner)
    answer = runner.describe(edit, source.image)
    report = {"question": edit.question, "answer": answer}
    print(json_format.dumps(report, ensure_ascii=False) if options.json else answer)
