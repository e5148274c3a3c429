"""`joyimage bench`: joyimage beside diffusers on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from joyimage.cli.console import note


def bench(
    *,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    steps: int = 10,
    rounds: int = 3,
    size: int | None = None,
    layers: int | None = None,
    counters: bool = True,
    startup: Annotated[bool, Parameter(negative=[])] = False,
    page: Annotated[bool, Parameter(negative=[])] = False,
    server: str | None = None,
    output: Path = Path("docs/benchmarks"),
    json: Annotated[bool, Parameter(negative=[])] = False,
) -> None:
    """Compare joyimage with diffusers on the same weights: counts and seconds of one edit.

    Args:
        model: "scaled" (the published proportions at a CPU's size, random weights), "tiny" (the embedded
            checkpoint) or "full" (the published sizes, random weights); full on a GPU, else scaled if not
            given.
        device: Where to run, such as "cuda" or "cpu"; default: a GPU if there is one.
        dtype: "float32", "bfloat16" or "float16"; bfloat16 on a GPU, else float32 if not given.
        steps: Denoising steps.
        rounds: Times that both are run twice, in the order A B B A.
        size: Side of the image in pixels; default: the model's own.
        layers: Blocks of the transformer; the model's own if not given.
        startup: Measure the cold start of the command instead, and print it.
        page: Measure the page in headless Chromium instead, and print it beside its bars.
        server: Address of the server whose page is measured; one with the tiny checkpoint is started if not given.
        counters: Count operations, traffic, copies and waits at the published sizes.
        output: Folder for DEVICE.md, and its JSON and plot.
        json: Print JSON instead of the tables.
    """
    # Loaded here: `joyimage --help` must not wait for torch.
    from json import dumps

    if startup:
        from joyimage.benchmark.startup import measure_startup, to_startup_json, to_startup_table

        results = measure_startup(rounds, note)
        print(dumps(to_startup_json(results)) if json else to_startup_table(results))
        return

    if page:
        from joyimage.benchmark.page import measure_page, to_page_table

        measured = measure_page(server, note)
        print(dumps(measured) if json else to_page_table(measured))
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
    )
    report = measure(settings, note)
    written = write_report(report, output)
    print(dumps(report) if json else to_summary(report))
    note(f"Written: {written}")
