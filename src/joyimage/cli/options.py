"""What all editing commands have in common: options, loading, running, writing, reporting."""

from __future__ import annotations

import hashlib
import json as json_format
import secrets
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from joyimage import __version__
from joyimage.cli.console import note
from joyimage.cli.pictures import read_picture, write_picture
from joyimage.cli.remote import ELSEWHERE, check_for_server, connect
from joyimage.compat.deferred_imports import collection_paused
from joyimage.devices import DTYPES, choose_device, choose_dtype
from joyimage.loading import default_model, load_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from joyimage.pipeline.edit import JoyImageEditPipeline
    from joyimage.pipeline.edit_plus import JoyImageEditPlusPipeline


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """Options of every command that makes pictures.

    Attributes:
        model: Checkpoint folder, hub id, or "tiny"; the published one where an accelerator is, else tiny.
        steps: Denoising steps; the checkpoint's own default if not given.
        guidance: Guidance scale; the checkpoint's own default if not given.
        negative: What to stay away from.
        seed: Any whole number; the same seed gives the same picture. Random if not given.
        size: Wished size WIDTHxHEIGHT; the nearest trained one is taken. Follows the picture if not given.
        base_size: Side of the square size that the trained sizes derive from.
        fit: "crop" to a trained size, "pad" to one and cut the padding off, or "exact": the own aspect ratio.
        restore: Map the result back onto the picture at its own size.
        preserve: Keep the picture's own pixels where the edit touched nothing.
        region: Change nothing outside LEFT,TOP,RIGHT,BOTTOM (pixels or fractions), or outside a mask's white.
        rewrite: "none", "local", or the address of an OpenAI-compatible endpoint: prompts in fuller words.
        num: Pictures to make; several are numbered.
        device: Such as "cuda", "mps" or "cpu".
        dtype: "bfloat16", "float16" or "float32".
        lora: Adapter file or folder; with --server, the name of one that the server offers.
        metadata: Record in the PNG what is needed to repeat the edit.
        server: Address of a `joyimage serve` that shall do the work, such as http://127.0.0.1:8600.
        json: Print the result as JSON.
    """

    model: str | None = None
    steps: int | None = None
    guidance: float | None = None
    negative: str | None = None
    seed: int | None = None
    size: str | None = None
    base_size: int | None = None
    fit: str = "crop"
    restore: bool = False
    preserve: bool = False
    region: str | None = None
    rewrite: str = "none"
    num: int = 1
    device: str | None = None
    dtype: str | None = None
    lora: Path | None = None
    metadata: bool = True
    server: str | None = None
    json: bool = False

    def check(self) -> None:
        """Refuse what can be refused before a checkpoint is loaded.

        Raises:
            ValueError: An option is out of range.
        """
        if self.num < 1:
            raise ValueError(f"`--num` is {self.num}; expected 1 or more.")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"`--dtype` is {self.dtype!r}; expected {', '.join(DTYPES)}.")
        if self.lora is not None and self.server is None and not self.lora.exists():
            raise ValueError(f"`--lora` is {self.lora}; there is no such file or folder.")
        if self.server is not None:
            check_for_server(self)
        self.wished_size()
        self.framing_call()

    def wished_size(self) -> dict[str, int]:
        """Return `width` and `height` in pixels, or nothing.

        Raises:
            ValueError: `size` isn't WIDTHxHEIGHT.
        """
        if self.size is None:
            return {}
        width, _, height = self.size.lower().partition("x")
        if not (width.isdigit() and height.isdigit()):
            raise ValueError(f"`--size` is {self.size!r}; expected WIDTHxHEIGHT, such as 1024x768.")
        return {"width": int(width), "height": int(height)}

    def filled_from(self, recipe: dict[str, Any]) -> EditOptions:
        """Return these options, with those of a recorded edit where none are given; the device stays open."""
        recorded = {
            **{
                name: recipe.get(name)
                for name in ("model", "steps", "guidance", "negative", "seed", "base_size")
            },
            "size": f"{recipe['width']}x{recipe['height']}",
            "dtype": recipe.get("dtype"),
            "lora": None if recipe.get("lora") is None else Path(recipe["lora"]),
        }
        missing = {name: value for name, value in recorded.items() if getattr(self, name) is None}
        if self.server is not None:
            missing = {name: value for name, value in missing.items() if name not in ELSEWHERE}
        usual = EditOptions().framing()
        framing = {
            name: recipe[name]
            for name, own in self.framing().items()
            if own == usual[name] and name in recipe
        }
        return replace(self, **missing, **framing)

    def framing(self) -> dict[str, Any]:
        """Return how the picture goes in and comes out, as the pipeline names it and a record holds it."""
        return {"fit": self.fit, "restore": self.restore, "preserve": self.preserve, "region": self.region}

    def framing_call(self) -> dict[str, Any]:
        """Return the same as the pipeline takes it, a mask's file read.

        Raises:
            ValueError: `region` is neither four numbers nor a file.
            ImageError: The mask can't be read.
        """
        if self.region is None:
            return self.framing()
        if Path(self.region).is_file():
            return {**self.framing(), "region": read_picture(Path(self.region)).convert("L")}
        try:
            return {**self.framing(), "region": parse_box(self.region)}
        except ValueError:
            raise ValueError(
                f"`--region` is {self.region!r}; expected numbers such as 120,80,360,300, or a mask's file."
            ) from None


def parse_box(box: str) -> list[float]:
    """Read four numbers with commas between them.

    Raises:
        ValueError: They are none.
    """
    try:
        return [float(number) for number in box.split(",")]
    except ValueError:
        raise ValueError(f"`box` is {box!r}; expected four numbers such as 120,80,360,300.") from None


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A pipeline on its device.

    Attributes:
        pipe: The pipeline.
        model: Name of the checkpoint.
        device: Where it is.
        dtype: Name of its dtype.
        seconds: What loading took.
    """

    pipe: JoyImageEditPipeline | JoyImageEditPlusPipeline
    model: str
    device: str
    dtype: str
    seconds: float


def load(options: EditOptions) -> Loaded:
    """Load a checkpoint with this machine's defaults, and say which on stderr.

    Args:
        options: Model, device, dtype, base size and adapter.

    Returns:
        The pipeline, ready.

    Raises:
        ValueError: An option is out of range.
        CheckpointError: The checkpoint can't be read.
    """
    if options.server is not None:
        started = time.perf_counter()
        lora = None if options.lora is None else str(options.lora)
        remote: Any = connect(options.server, options.model, lora)
        note(f"Model {remote.model} on {options.server}.")
        seconds = time.perf_counter() - started
        return Loaded(
            pipe=remote, model=remote.model, device=remote.where, dtype=remote.dtype, seconds=seconds
        )
    note(f"Loading {options.model or 'the model'} ...")  # the imports alone take seconds
    with collection_paused():
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        # What takes time is the loop, which has its own bar.
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        device = choose_device(options.device)
        model = options.model or default_model(device)
        dtype = choose_dtype(options.dtype, device)
        note(f"Model {model} on {device} in {dtype}.")
        loaded = load_pipeline(
            model,
            device=device,
            dtype=dtype,
            base_size=options.base_size,
            loras=[] if options.lora is None else [options.lora],
        )
    return Loaded(
        pipe=loaded.pipe,
        model=loaded.model,
        device=loaded.device,
        dtype=loaded.dtype,
        seconds=loaded.seconds,
    )


def word_prompt(loaded: Loaded, options: EditOptions, prompt: str, picture: Any = None) -> dict[str, Any]:
    """Have a prompt rewritten where that was asked for, and show it.

    Args:
        loaded: From `load`.
        options: Of the command.
        prompt: What the user wrote.
        picture: What it is about.

    Returns:
        For the record: `prompt` as it is sent, and, where rewritten, `asked`.
    """
    if options.rewrite == "none":
        return {"prompt": prompt}
    from joyimage.understanding.rewrite import rewrite

    text = rewrite(prompt, picture, options.rewrite, pipe=loaded.pipe)
    note(f"Prompt: {text}")
    return {"prompt": text, "asked": prompt}


def run_edit(
    loaded: Loaded,
    options: EditOptions,
    output: Path,
    call: Callable[..., Any],
    record: dict[str, Any],
    *,
    source: Path | None = None,
) -> dict[str, Any]:
    """Make the pictures, write each of them whole, and return the report.

    Args:
        loaded: From `load`.
        options: Of the command.
        output: File to write; several get a number.
        call: The pipeline or one of its methods, everything bound that only this command knows.
        record: What only this command knows, for the report and the picture's metadata.
        source: File of the picture that is edited.

    Returns:
        Paths, seconds, seed and all settings.

    Raises:
        ImageError: A file can't be written.
        ValueError: The pipeline refuses an argument.
    """
    import torch

    pipe: Any = loaded.pipe
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    config = pipe.config
    steps = config.default_num_inference_steps if options.steps is None else options.steps
    guidance = config.default_guidance_scale if options.guidance is None else options.guidance
    started = time.perf_counter()
    result = call(
        negative_prompt=options.negative,
        num_inference_steps=steps,
        guidance_scale=guidance,
        num_images_per_prompt=options.num,
        generator=[torch.Generator().manual_seed(seed + number) for number in range(options.num)],
        **options.wished_size(),
        **({} if source is None else options.framing_call()),
    )
    seconds = time.perf_counter() - started
    recipe = {
        **record,
        **({} if result.prompt is None else {"prompt": result.prompt}),
        "negative": options.negative,
        "model": loaded.model,
        "version": __version__,
        "steps": steps,
        "guidance": guidance,
        "width": result.width,
        "height": result.height,
        "base_size": config.base_size,
        **({} if source is None else options.framing()),
        "device": loaded.device,
        "dtype": loaded.dtype,
        "lora": None if options.lora is None else str(options.lora),
        "input_sha256": None if source is None else hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    num = options.num
    paths = [output] if num == 1 else [output.with_stem(f"{output.stem}-{n + 1}") for n in range(num)]
    for number, (path, picture) in enumerate(zip(paths, result.images, strict=True)):
        write_picture(picture, path, {**recipe, "seed": seed + number} if options.metadata else None)
    report = {
        "outputs": [str(path) for path in paths],
        "seconds": round(seconds, 3),
        "load_seconds": round(loaded.seconds, 3),
        "seed": seed,
        **recipe,
    }
    if result.checks is not None:
        report["checks"] = [{**asdict(checks), "summary": checks.summary} for checks in result.checks]
    return report


def print_report(report: dict[str, Any], *, json: bool) -> None:
    """Print paths, or the whole report as JSON, on stdout; size, seconds and seed on stderr."""
    if json:
        print(json_format.dumps(report, ensure_ascii=False))
        return
    for number, path in enumerate(report["outputs"]):
        print(path)
        if "checks" in report:
            note(f"Check: {report['checks'][number]['summary']}")
    note(
        f"{report['width']} x {report['height']} pixels in {report['seconds']:.1f} s"
        f" after {report['load_seconds']:.1f} s of loading, seed {report['seed']}."
    )
