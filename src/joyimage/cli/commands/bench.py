"""`joyimage bench`: joyimage beside diffusers on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from joyimage.cli.console import notify
from joyimage.cli.surface import GROUPS, check_sampling
from joyimage.devices import GPU_LAYOUTS, choose_gpu_layout
from joyimage.errors import InvalidInputError

_MODEL = Parameter(group=GROUPS["Model"])
_MEASURED = Parameter(group=Group("What is measured", sort_key=2.5))
_OUTPUT = Parameter(group=GROUPS["Output"])


def bench(
    *,
    model: Annotated[str | None, _MODEL] = None,
    device: Annotated[str | None, _MODEL] = None,
    dtype: Annotated[str | None, _MODEL] = None,
    size: Annotated[int | None, _MODEL] = None,
    layers: Annotated[int | None, _MODEL] = None,
    gpus: Annotated[int | None, Parameter(group=GROUPS["Advanced"], metavar="1|2|4|8")] = None,
    gpu_layout: Annotated[
        str | None, Parameter(group=GROUPS["Advanced"], metavar="|".join(GPU_LAYOUTS))
    ] = None,
    steps: Annotated[int, _MEASURED] = 10,
    rounds: Annotated[int, _MEASURED] = 3,
    counters: Annotated[bool, _MEASURED] = True,
    startup: Annotated[bool, _MEASURED, Parameter(negative=[])] = False,
    page: Annotated[bool, _MEASURED, Parameter(negative=[])] = False,
    server: Annotated[str | None, _MEASURED] = None,
    a: Annotated[str | None, _MEASURED] = None,
    b: Annotated[str | None, _MEASURED] = None,
    image: Annotated[Path | None, _MEASURED] = None,
    prompt: Annotated[str | None, _MEASURED] = None,
    output: Annotated[Path, _OUTPUT] = Path("docs/benchmarks"),
    json: Annotated[bool, _OUTPUT, Parameter(negative=[])] = False,
) -> None:
    """Compare joyimage with diffusers on the same weights: counts and seconds of one edit.

    Args:
        model: "scaled" (the published proportions at a CPU's size, random weights), "tiny" (the embedded
            checkpoint) or "full" (the published sizes, random weights). Default: full on a
            GPU, else scaled.
        device: Device, such as "cuda" or "cpu". Default: a GPU if there is one.
        dtype: Precision: "float32", "bfloat16" or "float16". Default: bfloat16 on a GPU, else float32.
        size: Side of the image in pixels. Default: the model's own.
        layers: Number of transformer blocks. Default: the model's own.
        gpus: Number of GPUs that share each of joyimage's edits: 2 (one for each guidance branch), 4 or 8. Default: 1.
        gpu_layout: How GPUs share an edit: guidance (a guidance branch on each, the fastest) or tensor (a slice of the
            transformer's layers on each, for GPUs that cannot hold it whole). Default: guidance.
        steps: Number of denoising steps.
        rounds: Number of rounds; each runs both sides twice, in the order A B B A.
        counters: Count operations, traffic, copies and waits at the published sizes.
        startup: Measure the cold start of the command instead, and print it.
        page: Measure the page in headless Chromium instead, and print it beside its budgets.
        server: URL of the server whose page is measured. Default: a new one with the tiny checkpoint.
        a: Compare two settings of joyimage instead: the first one, such as "steps=16 guidance=3". Names are those of an
            edit's fields (steps, guidance, speed, negative), and dtype, quantize, offload, lora, gpus and
            gpu_layout.
        b: The second one, such as "steps=16 guidance=3 speed=balanced".
        image: Image that `--a` and `--b` edit. Default: a drawn one.
        prompt: Prompt for `--image`.
        output: Folder for DEVICE.md, its JSON file and its plot.
        json: Print JSON instead of the tables.
    """
    check_sampling(steps, None)
    _check_gpus({"gpus": gpus, "gpu_layout": gpu_layout}, "startup" if startup else "page" if page else None)
    # Loaded here: `joyimage --help` must not wait for torch.
    from json import dumps

    if startup:
        from joyimage.benchmark.startup import measure_startup, to_startup_json, to_startup_table

        results = measure_startup(rounds, notify)
        print(dumps(to_startup_json(results)) if json else to_startup_table(results))
        return

    if page:
        from joyimage.benchmark.page import measure_page, to_page_table

        measured = measure_page(server, notify)
        print(dumps(measured) if json else to_page_table(measured))
        return

    if a is not None or b is not None:
        report = _compare(a or "", b or "", image, prompt, (model, device, dtype, gpus, gpu_layout), rounds)
        from joyimage.benchmark.comparing import to_comparison

        print(dumps(report) if json else to_comparison(report))
        return

    from joyimage.benchmark.measure import Settings, measure
    from joyimage.benchmark.report import to_summary, write_report

    settings = Settings(
        model=model,
        device=device,
        dtype=dtype,
        steps=steps,
        rounds=rounds,
        size=size,
        layers=layers,
        counters=counters,
        gpus=1 if gpus is None else gpus,
        gpu_layout=choose_gpu_layout(gpu_layout),
    )
    report = measure(settings, notify)
    written = write_report(report, output)
    print(dumps(report) if json else to_summary(report))
    notify(f"Written: {written}")


def _check_gpus(given: dict[str, object], other: str | None) -> None:
    """Reject options of sharing edits beside a measurement that makes none.

    Raises:
        InvalidInputError: There is one.
    """
    for name, value in given.items():
        if value is not None and other is not None:
            raise InvalidInputError(
                f"`{name}` is {value!r}, but `{other}` measures no edits that GPUs could share; leave out one of them."
            )


def _compare(
    a: str,
    b: str,
    image: Path | None,
    prompt: str | None,
    where: tuple[str | None, str | None, str | None, int | None, str | None],
    rounds: int,
) -> dict[str, Any]:
    """Compare two settings on a model, device, dtype and number of devices.

    Raises:
        ImageError: The image cannot be read.
        InvalidInputError: A setting is not accepted, or an image has no prompt.
    """
    from joyimage.benchmark.comparing import ComparedEdit, Side, compare_settings
    from joyimage.cli.runners import hide_loading_bars
    from joyimage.imaging import read_image

    sides = (Side.parse("--a", a), Side.parse("--b", b))
    if (image is None) != (prompt is None):
        raise InvalidInputError("`--image` and `--prompt` belong together; give both or neither.")
    edit = (
        None
        if image is None or prompt is None
        else ComparedEdit(image=read_image(image).image, prompt=prompt)
    )
    model, device, dtype, gpus, layout = where
    hide_loading_bars()
    return compare_settings(
        sides,
        model=model,
        device=device,
        dtype=dtype,
        gpus=1 if gpus is None else gpus,
        gpu_layout=choose_gpu_layout(layout),
        edit=edit,
        rounds=rounds,
        announce=notify,
    )
