"""`joyimage describe`: ask the text encoder about a picture."""

from __future__ import annotations

import json as json_format
from pathlib import Path

from joyimage.cli.options import EditOptions, load
from joyimage.cli.pictures import read_picture


def describe(
    image: Path,
    question: str | None = None,
    *,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    max_new_tokens: int = 256,
    json: bool = False,
) -> None:
    """Answer a question about a picture, with the checkpoint's Qwen3-VL.

    The embedded tiny model has learnt no language and answers nonsense.

    Args:
        image: Picture file.
        question: What to ask; a description if not given.
        model: Checkpoint folder, hub id, or "tiny"; the published one where an accelerator is, else tiny.
        device: Such as "cuda", "mps" or "cpu".
        dtype: "bfloat16", "float16" or "float32".
        max_new_tokens: Longest answer.
        json: Print question and answer as JSON.
    """
    options = EditOptions(model=model, device=device, dtype=dtype)
    options.check()
    picture = read_picture(image)
    loaded = load(options)
    from joyimage.pipeline.describe import QUESTION

    question = QUESTION if question is None else question
    answer = loaded.pipe.describe(picture, question, max_new_tokens=max_new_tokens)
    print(json_format.dumps({"question": question, "answer": answer}, ensure_ascii=False) if json else answer)
