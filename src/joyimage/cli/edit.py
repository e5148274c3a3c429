"""`joyimage edit`: edit one picture by instruction."""

from __future__ import annotations

import hashlib
import json as json_format
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from joyimage import __version__
from joyimage.cli.console import note
from joyimage.cli.pictures import check_output, read_picture, write_picture

if TYPE_CHECKING:
    from joyimage.pipeline.edit import JoyImageEditPipeline

PUBLISHED_MODEL = "jdopensource/JoyAI-Image-Edit-Diffusers"


def edit(
    image: Path,
    prompt: str,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    model: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    seed: int | None = None,
    size: str | None = None,
    base_size: int | None = None,
    num: int = 1,
    device: str | None = None,
    dtype: str | None = None,
    lora: Path | None = None,
    metadata: bool = True,
    json: bool = False,
) -> None:
    """Edit a picture as the prompt says.

    Args:
        image: Picture file.
        prompt: What to do, such as "Recolor the heart orange."
        output: File to write; PNG, JPEG or WebP by its ending.
        model: Checkpoint folder, hub id, or "tiny"; the published one where an accelerator is, else tiny.
        steps: Denoising steps; the checkpoint's own default if not given.
        guidance: Guidance scale; the checkpoint's own default if not given.
        negative: What to stay away from.
        seed: Any whole number; the same seed gives the same picture. Random if not given.
        size: Wished size WIDTHxHEIGHT; the nearest trained one is taken. Follows the picture if not given.
        base_size: Side of the square size that the trained sizes derive from.
        num: Pictures to make; several are numbered.
        device: Such as "cuda", "mps" or "cpu".
        dtype: "bfloat16", "float16" or "float32".
        lora: Adapter file or folder.
        metadata: Record in the PNG what is needed to repeat the edit.
        json: Print the result as JSON.

    Raises:
        ValueError: An option is out of range.
    """
    if num < 1:
        raise ValueError(f"`--num` is {num}; expected 1 or more.")
    if lora is not None and not lora.exists():
        raise ValueError(f"`--lora` is {lora}; there is no such file or folder.")
    check_output(output)
    picture = read_picture(image)
    wished = _parse_size(size)
    pipe: Any
    pipe, model, device, dtype = load_pipeline(model, device, dtype)
    if base_size is not None:
        from joyimage.pipeline.buckets import bucket_sizes

        bucket_sizes(base_size)
        pipe.register_to_config(base_size=base_size)
    if lora is not None:
        pipe.load_lora_weights(lora)

    import torch

    seed = secrets.randbelow(2**31) if seed is None else seed
    steps = pipe.config.default_num_inference_steps if steps is None else steps
    guidance = pipe.config.default_guidance_scale if guidance is None else guidance
    started = time.perf_counter()
    result = pipe(
        image=picture,
        prompt=prompt,
        negative_prompt=negative,
        num_inference_steps=steps,
        guidance_scale=guidance,
        num_images_per_prompt=num,
        generator=[torch.Generator().manual_seed(seed + number) for number in range(num)],
        **wished,
    )
    seconds = time.perf_counter() - started
    paths = [output] if num == 1 else [output.with_stem(f"{output.stem}-{n + 1}") for n in range(num)]
    recipe = {
        "prompt": prompt,
        "negative": negative,
        "model": model,
        "version": __version__,
        "steps": steps,
        "guidance": guidance,
        "width": result.width,
        "height": result.height,
        "base_size": pipe.config.base_size,
        "device": device,
        "dtype": dtype,
        "lora": None if lora is None else str(lora),
        "input_sha256": hashlib.sha256(image.read_bytes()).hexdigest(),
    }
    for number, (path, made) in enumerate(zip(paths, result.images, strict=True)):
        write_picture(made, path, {**recipe, "seed": seed + number} if metadata else None)
    if json:
        report = {
            "outputs": [str(path) for path in paths],
            "seconds": round(seconds, 3),
            "seed": seed,
            **recipe,
        }
        print(json_format.dumps(report, ensure_ascii=False))
    else:
        for path in paths:
            print(path)
        note(f"{result.width} x {result.height} pixels in {seconds:.1f} s, seed {seed}.")


def load_pipeline(
    model: str | None, device: str | None, dtype: str | None
) -> tuple[JoyImageEditPipeline, str, str, str]:
    """Load a checkpoint with this machine's defaults, and say which.

    Returns:
        The pipeline on its device, and the names of checkpoint, device and dtype.

    Raises:
        ValueError: The dtype is unknown.
        CheckpointError: The checkpoint can't be read.
    """
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from joyimage.pipeline.edit import JoyImageEditPipeline

    # What takes time is the loop, which has its own bar.
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    accelerator = (
        "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    )
    model = model or (PUBLISHED_MODEL if accelerator else "tiny")
    device = device or accelerator or "cpu"
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    if dtype not in {"float32", "float16", "bfloat16"}:
        raise ValueError(f"`--dtype` is {dtype!r}; expected float32, float16 or bfloat16.")
    note(f"Model {model} on {device} in {dtype}.")
    pipe = JoyImageEditPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    return pipe.to(device), model, device, dtype


def _parse_size(size: str | None) -> dict[str, Any]:
    if size is None:
        return {}
    width, _, height = size.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise ValueError(f"`--size` is {size!r}; expected WIDTHxHEIGHT, such as 1024x768.")
    return {"width": int(width), "height": int(height)}
