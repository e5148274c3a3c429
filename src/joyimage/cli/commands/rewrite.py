"""`joyimage rewrite`: a prompt in more detail."""

from __future__ import annotations

import json as json_format
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from joyimage.cli.options import RewriteOptions, RunOptions, is_address
from joyimage.cli.runners import load_runner
from joyimage.cli.sources import Source
from joyimage.errors import InvalidInputError


def rewrite(
    prompt: str,
    image: Path | None = None,
    *,
    how: str = "local",
    options: RewriteOptions | None = None,
    json: Annotated[bool, Parameter(negative=[])] = False,
) -> None:
    """Rewrite a prompt in more detail; spatial prompts are left unchanged.

    Args:
        prompt: The prompt to rewrite.
        image: The image that the prompt is about; required for "local".
        how: "local", or the URL of an OpenAI-compatible endpoint, with its key in JOYIMAGE_REWRITE_KEY or
            OPENAI_API_KEY. The latter is sent only encrypted (https) or within this machine.
        options: Which model is loaded for "local", and how.
        json: Print both prompts as JSON.

    Raises:
        InvalidInputError: "local" lacks an image, or an option has a value that is not accepted.
    """
    is_local = how == "local"
    options = options or RewriteOptions()
    model = options.model
    if not is_local:
        options = replace(options, model=None)
    if how != "local" and not is_address(how):
        raise InvalidInputError(
            f"`--how` is {how!r}; expected local, or an address such as http://localhost:8000/v1."
        )
    options.check()
    if not prompt.strip():
        raise InvalidInputError("`PROMPT` is empty; expected the prompt to rewrite.")
    if is_local and image is None:
        raise InvalidInputError("`IMAGE` is missing; a local rewrite looks at the image.")
    source_image = None if image is None else Source.read(image).image
    if is_local:
        text = load_runner(RunOptions(**options.given(), rewrite=how)).rewrite(prompt, source_image, how)
    else:
        from joyimage.understanding.rewrite import rewrite as rewrite_prompt

        text = rewrite_prompt(prompt, source_image, how, model=model)
    print(json_format.dumps({"prompt": prompt, "rewritten": text}, ensure_ascii=False) if json else text)
