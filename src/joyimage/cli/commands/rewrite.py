"""`joyimage rewrite`: a prompt in more detail."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from joyimage.cli.options import RunOptions, is_address
from joyimage.cli.runners import load_runner
from joyimage.cli.sources import Source
from joyimage.errors import InvalidInputError


def rewrite(
    prompt: str,
    image: Path | None = None,
    *,
    how: str = "local",
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    transformer: Path | None = None,
    text_encoder: Path | None = None,
    vae: Path | None = None,
    quantize: str | None = None,
    offload: str | None = None,
    json: Annotated[bool, Parameter(negative=[])] = False,
) -> None:
    """Rewrite a prompt in more detail; spatial prompts are left unchanged.

    Args:
        prompt: The prompt to rewrite.
        image: The image that it is about; "local" needs it.
        how: "local", or the address of an OpenAI-compatible endpoint, with its key in OPENAI_API_KEY.
        model: Checkpoint for "local", as in `joyimage edit`; name of the endpoint's model otherwise.
        device: Such as "cuda", "mps" or "cpu".
        dtype: "bfloat16", "float16" or "float32".
        transformer: Weight file of the transformer: safetensors (also int8, fp8, nvfp4, nf4) or GGUF.
        text_encoder: Weight file of the text encoder.
        vae: Weight file of the VAE.
        quantize: "int8", "fp8" or "nf4" quantizes large layers while loading; "none" decodes quantized files.
        offload: Memory plan: "none", "model", "block", "disk" or "auto", the fastest that fits and the default.
        json: Print both prompts as JSON.

    Raises:
        InvalidInputError: "local" lacks an image, or an option has a value that is not accepted.
    """
    is_local = how == "local"
    options = RunOptions(
        model=model if is_local else None,
        device=device,
        dtype=dtype,
        transformer=transformer,
        text_encoder=text_encoder,
        vae=vae,
        quantize=quantize,
        offload=offload,
        rewrite=how,
    )
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
        text = load_runner(options).rewrite(prompt, source_image, how)
    else:
        from joyimage.understanding.rewrite import rewrite as rewrite_prompt

        text = rewrite_prompt(prompt, source_image, how, model=model)
    print(json_format.dumps({"prompt": prompt, "rewritten": text}, ensure_ascii=False) if json else text)
