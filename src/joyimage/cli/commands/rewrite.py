"""`joyimage rewrite`: a prompt in fuller words."""

from __future__ import annotations

import json as json_format
from pathlib import Path

from joyimage.cli.options import EditOptions, load
from joyimage.cli.pictures import read_picture


def rewrite(
    prompt: str,
    image: Path | None = None,
    *,
    how: str = "local",
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    json: bool = False,
) -> None:
    """Put a prompt into fuller words; those of spatial edits stay.

    Args:
        prompt: What to do, in short.
        image: The picture that it is about; "local" needs it.
        how: "local", or the address of an OpenAI-compatible endpoint such as http://localhost:8000/v1, with
            its key in OPENAI_API_KEY.
        model: Checkpoint for "local", as in `joyimage edit`; name of the endpoint's model otherwise.
        device: Such as "cuda", "mps" or "cpu".
        dtype: "bfloat16", "float16" or "float32".
        json: Print both prompts as JSON.

    Raises:
        ValueError: "local" lacks a picture.
    """
    options = EditOptions(model=model, device=device, dtype=dtype)
    options.check()
    picture = None if image is None else read_picture(image)
    from joyimage.understanding import rewrite as rewriting

    if how == "local":
        if picture is None:
            raise ValueError("`IMAGE` is missing; a local rewrite looks at the picture.")
        text = rewriting.rewrite(prompt, picture, how, pipe=load(options).pipe)
    else:
        text = rewriting.rewrite(prompt, picture, how, model=model)
    print(json_format.dumps({"prompt": prompt, "rewritten": text}, ensure_ascii=False) if json else text)
