"""Compare two settings of one model: seconds, forwards, agreement, and what limits each stage."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from joyimage.benchmark.limits import count_work
from joyimage.benchmark.measure import describe_device
from joyimage.benchmark.models import MODEL_NAMES, make_image, resolve
from joyimage.benchmark.peaks import measure_peaks
from joyimage.benchmark.sharing import opened
from joyimage.benchmark.stages import STAGES
from joyimage.benchmark.timing import WHOLE, ratios, run_call, seconds_by_stage
from joyimage.devices import (
    GPUS_CHOICES,
    GUIDANCE,
    check_gpus,
    choose_device,
    choose_dtype,
    choose_gpu_layout,
)
from joyimage.edits import Edit, UnknownFieldError
from joyimage.errors import InvalidInputError
from joyimage.evaluation.prices import ForwardCounter
from joyimage.imaging.psnr import psnr_of
from joyimage.loading import default_model
from joyimage.tiny.worlds.scenes import generate

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

    from joyimage.benchmark.timing import Run

LOADED = ("dtype", "quantize", "offload", "lora")
"""Settings that a pipeline is loaded with; sides that differ in one have a pipeline each."""
PLACED = ("gpus", "gpu_layout")
"""Settings that say how many devices share an edit, and how."""
SAMPLED = ("num_inference_steps", "guidance_scale", "negative_prompt", "speed")
"""Fields of an edit that a side may set; what it does not set is the default of its adapter or of the checkpoint."""

_SEED = 7
_LARGEST_PSNR = 99.0


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two settings.

    Attributes:
        text: As it was given.
        call: Arguments of the pipeline's call.
        loading: What the pipeline is loaded with, of `LOADED`.
        gpus: Number of devices that share the edit; None where the side does not say.
        gpu_layout: How they share it; None where the side does not say.
    """

    text: str
    call: dict[str, Any] = field(default_factory=dict)
    loading: dict[str, str] = field(default_factory=dict)
    gpus: int | None = None
    gpu_layout: str | None = None

    @classmethod
    def parse(cls, option: str, text: str) -> Side:
        """Read settings such as "steps=16 guidance=3 dtype=bfloat16".

        Args:
            option: Name of the option, for messages.
            text: Fields of an edit under their own names or aliases, `LOADED`, and `PLACED`.

        Raises:
            InvalidInputError: A word is no setting, a name is unknown, or a value is not accepted.
        """
        try:
            words = [word.partition("=") for word in shlex.split(text)]
        except ValueError as error:
            raise InvalidInputError(f"`{option}` is {text!r}: {error}.") from None
        for name, equals, value in words:
            if not (name and equals and value):
                raise InvalidInputError(
                    f'`{option}` has {name!r}; expected NAME=VALUE, such as "steps=16 guidance=3".'
                )
        names = [name for name, _, _ in words]
        if len(set(names)) < len(names):
            raise InvalidInputError(f"`{option}` is {text!r}; each name is expected once.")
        given = {name: value for name, _, value in words}
        loading = {name: given.pop(name) for name in LOADED if name in given}
        gpus, gpu_layout = _read_gpus(option, given.pop("gpus", None)), given.pop("gpu_layout", None)
        settings = Edit.settings()
        known = {alias: name for name in SAMPLED for alias in (name, *settings[name].aliases)}
        for name in given:
            if name not in known:
                raise InvalidInputError(
                    f"`{option}`: {UnknownFieldError(name, (*SAMPLED, *LOADED, *PLACED), tuple(known))}"
                )
        try:
            call = Edit.from_text(given).given()
        except InvalidInputError as error:
            raise InvalidInputError(f"`{option}`: {error}") from None
        return cls(text=text, call=call, loading=loading, gpus=gpus, gpu_layout=gpu_layout)


@dataclass(frozen=True, kw_only=True)
class ComparedEdit:
    """The edit that both sides make.

    Attributes:
        image: What is edited.
        prompt: What to do.
    """

    image: Image
    prompt: str


def compare_settings(
    sides: tuple[Side, Side],
    *,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    gpus: int = 1,
    gpu_layout: str = GUIDANCE,
    edit: ComparedEdit | None = None,
    rounds: int = 3,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Time both sides in the order A B B A on the same noise, and count what they do.

    Args:
        sides: A and B.
        model: "scaled" or "full" (random weights), or anything that `load_pipeline` takes; None: the published
            checkpoint on an accelerator, tiny on a CPU.
        device: Where to run; None: an accelerator if there is one.
        dtype: Precision where a side gives none; None: what suits the device.
        gpus: Number of devices that share an edit where a side does not say.
        gpu_layout: How they share it where a side does not say.
        edit: What both make; None: a drawn scene for tiny, a pattern for other models.
        rounds: Times that the four runs are made.
        announce: Told in a sentence what comes next.

    Returns:
        The report as JSON would hold it.

    Raises:
        DeviceError: There are fewer devices than a side asks for.
        InvalidInputError: A setting is not accepted.
    """
    if rounds < 1:
        raise InvalidInputError(f"`rounds` is {rounds}; expected 1 or more.")
    sides = _place(sides, gpus, gpu_layout, device)
    where = choose_device(device)
    name = model or default_model(where)
    with ExitStack() as stack:
        pipes = _load(stack, sides, name, where, dtype, announce)
        found = _compare(pipes, sides, edit or _usual_edit(pipes[0], name), rounds, announce)
    return {"model": name, "rounds": rounds, **found}


def _compare(
    pipes: list[Any],
    sides: tuple[Side, Side],
    edit: ComparedEdit,
    rounds: int,
    announce: Callable[[str], None],
) -> dict[str, Any]:
    """Time the sides' pipelines on an edit, and count what they do."""
    calls = [_call(pipe, side, edit) for pipe, side in zip(pipes, sides, strict=True)]
    torch_device = pipes[0].compute_device

    def run(number: int) -> Run:
        # The noise is drawn anew, so that it is the same for both.
        generator = torch.Generator().manual_seed(_SEED)
        return run_call(pipes[number], torch_device, **calls[number], generator=generator)

    announce("Warming up, and counting forwards.")
    forwards: list[int] = []
    for number, pipe in enumerate(pipes):
        with ForwardCounter().watching(pipe) as counter:
            run(number)
        forwards.append(counter.count)
    announce(f"Timing {4 * rounds} edits, A B B A.")
    runs: tuple[list[Run], list[Run]] = ([], [])
    for _ in range(rounds):
        for number in (0, 1, 1, 0):
            runs[number].append(run(number))
    announce("Measuring what the device can do, and counting what each stage does.")
    peaks = {
        precision: measure_peaks(torch_device, precision, 30 if torch_device.type == "cuda" else 1)
        for precision in {pipe.transformer.dtype for pipe in pipes}
    }
    return {
        "device": describe_device(torch_device),
        "psnr_db": _psnr(runs[0][0].image, runs[1][0].image),
        "ratios": ratios(*runs),
        "sides": {
            letter: {
                "settings": sides[number].text,
                "gpus": sides[number].gpus,
                "gpu_layout": sides[number].gpu_layout,
                "forwards": forwards[number],
                **_describe(pipes[number], calls[number], runs[number], peaks),
            }
            for number, letter in enumerate("ab")
        },
    }


def _describe(
    pipe: Any, call: dict[str, Any], runs: list[Run], peaks: dict[torch.dtype, dict[str, float]]
) -> dict[str, Any]:
    """Count what each stage of a side does, and return that beside its seconds."""
    dtype, seconds = pipe.transformer.dtype, seconds_by_stage(runs)
    generator = torch.Generator().manual_seed(_SEED)
    work = count_work(pipe, lambda: pipe(**call, output_type="np", generator=generator))
    return {
        "steps": pipe.num_timesteps,
        "guidance": pipe.guidance_scale,
        "speed": pipe.speed,
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": seconds,
        "peak_gb": max(one.peak_bytes for one in runs) / 1e9,
        "peaks": peaks[dtype],
        "limits": {stage: work[stage].shares(seconds[stage]["median"], peaks[dtype]) for stage in STAGES},
    }


def to_comparison(report: dict[str, Any]) -> str:
    """Arrange a report for a reader, as Markdown."""
    a, b = report["sides"]["a"], report["sides"]["b"]
    psnr = report["psnr_db"]
    lines = [
        *(
            f"{letter.upper()}: {side['settings'] or 'the defaults'} ({side['steps']} steps, guidance "
            f"{side['guidance']:g}, speed {side['speed']}, {side['dtype']}, {side['forwards']} forwards{_shared(side)})"
            for letter, side in report["sides"].items()
        ),
        f"PSNR between both: {'the same image' if psnr is None else f'{psnr:.1f} dB'}.",
        "",
        "| stage | A, s | B, s | A / B |",
        "| --- | ---: | ---: | ---: |",
    ]
    for stage in (*STAGES, WHOLE):
        ratio = report["ratios"][stage]
        lines.append(
            f"| {stage} | {_spread(a['seconds'][stage])} | {_spread(b['seconds'][stage])} | "
            f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f}) |"
        )
    lines += [
        "",
        "What limits each stage: its work at the measured hardware peaks, as a share of its time.",
        "",
        "| stage | matmul | attention | copies | other |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for letter, side in report["sides"].items():
        for stage, shares in side["limits"].items():
            lines.append(
                f"| {letter.upper()}: {stage} | "
                + " | ".join(f"{100 * share:.0f}%" for share in shares.values())
                + " |"
            )
    for letter, side in report["sides"].items():
        peaks = side["peaks"]
        lines.append(
            f"\nHardware peaks of {letter.upper()}: matmul {peaks['matmul_tflops']:.3g} TFLOP/s, attention "
            f"{peaks['attention_tflops']:.3g} TFLOP/s, copy {peaks['copy_gbs']:.3g} GB/s."
        )
    lines.append(
        f"\nMedians of {2 * report['rounds']} runs each, in the order A B B A; least to most in brackets."
    )
    return "\n".join(lines)


def _read_gpus(option: str, text: str | None) -> int | None:
    """Return the number of devices that a side gives.

    Raises:
        InvalidInputError: It is not accepted.
    """
    numbers = {str(number): number for number in GPUS_CHOICES}
    if text is not None and text not in numbers:
        raise InvalidInputError(f"`{option}`: `gpus` is {text!r}; expected {', '.join(numbers)}.")
    return None if text is None else numbers[text]


def _place(sides: tuple[Side, Side], gpus: int, layout: str, device: str | None) -> tuple[Side, Side]:
    """Return the sides with the number of devices of each, and how they share an edit.

    Raises:
        DeviceError: There are fewer devices.
        InvalidInputError: A layout is not accepted, or the sides would need two sets of processes.
    """
    placed: list[Side] = []
    for side in sides:
        number = side.gpus or gpus
        how = side.gpu_layout or (layout if number > 1 else GUIDANCE)
        check_gpus(number, device, how)
        placed.append(replace(side, gpus=number, gpu_layout=how))
    a, b = placed
    if layout != GUIDANCE:
        check_gpus(max(one.gpus or 1 for one in placed), device, layout)
    if 1 not in {a.gpus, b.gpus} and _set_of(a) != _set_of(b):
        raise InvalidInputError(
            f"`--a` has {a.gpus} GPUs and `--b` has {b.gpus}, with different settings of the model, but one set of"
            " processes runs at a time. Give both the same"
            f" {', '.join(f'`{name}`' for name in (*PLACED, *LOADED))}, or one of them `gpus=1`."
        )
    return a, b


def _set_of(side: Side) -> tuple[object, ...]:
    """Return what sides have in common that run on the same processes."""
    return side.gpus, side.gpu_layout, side.loading


def _load(
    stack: ExitStack,
    sides: tuple[Side, Side],
    model: str,
    device: str,
    dtype: str | None,
    announce: Callable[[str], None],
) -> list[Any]:
    """Return the pipeline of each side, until the stack is closed; one for both where they can share it.

    Raises:
        InvalidInputError: A side asks for what models with random weights do not have.
    """
    loads = [_load_arguments(side, model, device, dtype) for side in sides]

    def open_side(number: int) -> Any:
        announce(f"Loading {model}.")
        side = sides[number]
        return stack.enter_context(opened(side.gpus or 1, loads[number], choose_gpu_layout(side.gpu_layout)))

    a, b = sides
    if loads[0] == loads[1] and _set_of(a) == _set_of(b):
        return [open_side(0)] * 2
    shared = int(a.gpus == 1)
    is_divided = (sides[shared].gpus, sides[shared].gpu_layout) != (2, GUIDANCE)
    if loads[0] != loads[1] or is_divided:
        return [open_side(0), open_side(1)]
    # Room for one is enough: with a guidance branch on each device, a call may as well be made on one.
    pipe = open_side(shared)
    return [pipe if number == shared else pipe.alone() for number in (0, 1)]


def _load_arguments(side: Side, model: str, device: str, dtype: str | None) -> dict[str, Any]:
    """Return the arguments of `load_measured` for a side.

    Raises:
        InvalidInputError: It asks for what models with random weights do not have.
    """
    load = {"model": model, "device": device, "dtype": choose_dtype(side.loading.get("dtype", dtype), device)}
    others = {name: value for name, value in side.loading.items() if name != "dtype"}
    if model in MODEL_NAMES and (built := resolve(model)) is not None:
        if others:
            raise InvalidInputError(
                f"`{next(iter(others))}` needs a checkpoint; {model!r} has random weights. Give another `model`."
            )
        return {**load, "model": built}
    names = {"quantize": "quantization", "lora": "loras"}
    return {
        **load,
        **{names.get(name, name): [value] if name == "lora" else value for name, value in others.items()},
    }


def _usual_edit(pipe: Any, model: str) -> ComparedEdit:
    """Return a drawn scene for the model that was trained on them, and a pattern for others."""
    if model == "tiny":
        case = generate("recolor", 0)
        image = case.source_image
        assert image is not None
        return ComparedEdit(image=image, prompt=case.prompt)
    return ComparedEdit(image=make_image(pipe.config["base_size"]), prompt="Make the car red")


def _call(pipe: Any, side: Side, edit: ComparedEdit) -> dict[str, Any]:
    """Return the arguments of a side's call."""
    image = {"images": [edit.image]} if pipe.takes_several_images else {"image": edit.image}
    return {**image, "prompt": edit.prompt, **side.call}


def _psnr(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the PSNR of two images in [0, 1], dB; None where they are the same."""
    error = float(np.square(a.astype(np.float64) - b).mean())
    return psnr_of(error, peak=1, largest=_LARGEST_PSNR) if error else None


def _shared(side: dict[str, Any]) -> str:
    """Return what a report adds where several devices share an edit; the first one is counted and measured."""
    layout = "" if side["gpu_layout"] == GUIDANCE else f", {side['gpu_layout']}"
    return "" if side["gpus"] == 1 else f" on the first of {side['gpus']} GPUs{layout}"


def _spread(summary: dict[str, Any]) -> str:
    return f"{summary['median']:.3f} ({summary['min']:.3f}-{summary['max']:.3f})"
