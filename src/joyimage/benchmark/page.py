"""Measure the page in a real browser: its own numbers, taken by its own frame timer, and what the console said."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import ConsoleMessage

_COMMAND = "import sys; from joyimage.cli.main import main; sys.exit(main())"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_WINDOW = {"width": 1366, "height": 768}
_READY_S = 180.0
_MEASURED_MS = 300_000
_BYTES = 350_000
_PAINT_MS = 1000
_FIRST_EDIT_S = 2
_SELECTION_MS = 300
_FRAMES_PER_S = 60
_TIMER_FRAMES_PER_S = 1.0
"""What the browser's own timer is off by."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One number of the page beside what it is held to.

    Attributes:
        name: What was measured.
        measured: The number with its unit, or "not measured".
        bar: What it is held to.
        holds: Whether it holds.
    """

    name: str
    measured: str
    bar: str
    holds: bool


def measure_page(url: str | None = None, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Open the page with `?bench` in headless Chromium, and return what it measured of itself.

    Args:
        url: Address of a server; None starts one with the tiny checkpoint on the CPU.
        log: Is called with what is being done.

    Returns:
        First paint in ms, bytes and number of files, seconds to the first edited example, frames per second while
        dragging and panning on 12 megapixels, milliseconds of a selection on 1 megapixel, pixels changed outside a
        lasso, and console messages.

    Raises:
        InvalidInputError: Playwright or Chromium is missing, or nothing answers at the address.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise InvalidInputError(
            "`--page` needs playwright: pip install playwright. Or open the page with ?bench in its address."
        ) from None
    program = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        raise InvalidInputError(f"`--page` needs a browser: none of {', '.join(_BROWSERS)} is installed.")
    with _server(log) if url is None else _known(url) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport=_WINDOW)  # type: ignore[arg-type]
            console: list[str] = []

            def hear(message: ConsoleMessage) -> None:
                if message.type in {"error", "warning"}:
                    console.append(message.text)

            page.on("console", hear)
            page.on("pageerror", lambda error: console.append(str(error)))
            log("The page measures itself ...")
            page.goto(f"{address}/?bench")
            page.wait_for_selector("html[data-bench]", state="attached", timeout=_MEASURED_MS)
            results = json.loads(page.evaluate("() => document.documentElement.dataset.bench"))
            results["browser"] = browser.version
        finally:
            browser.close()
    return {**results, "console": console}


def find_bars(results: dict[str, Any]) -> list[Bar]:
    """Return each number beside what it is held to; one that could not be measured does not hold."""
    paint, num_bytes, first_s = results["first_paint_ms"], results["page_bytes"], results["first_edit_s"]
    selection, lasso = results["selection_ms"], results["lasso"]
    changed, inside = (lasso["changed_outside"], lasso["changed_inside"]) if lasso else (None, 0)
    num_messages = len(results["console"]) + len(results["problems"])
    size = f"{num_bytes / 1000:.0f} kB in {results['num_files']} files"
    name = "files of the page, compressed"
    return [
        _bar("first paint", f"under {_PAINT_MS} ms", paint, (paint or 0) < _PAINT_MS, f"{paint} ms"),
        _bar(name, f"at most {_BYTES // 1000} kB", num_bytes, num_bytes <= _BYTES, size),
        _at_most("first click to an edited example", _FIRST_EDIT_S, first_s, "s"),
        _frames_bar("drag an object", results["drag"] and results["drag"]["object"]),
        _frames_bar("pan a zoomed image", results["drag"] and results["drag"]["pan"]),
        _at_most("select an object, 1 megapixel", _SELECTION_MS, selection, "ms"),
        _bar(
            "pixels changed outside a lasso",
            "0",
            changed,
            changed == 0 and inside > 0,
            f"{changed} ({inside} inside)",
        ),
        _bar("messages of the console", "0", num_messages, num_messages == 0, str(num_messages)),
    ]


def _bar(name: str, bound: str, value: float | None, holds: bool, shown: str) -> Bar:
    measured = "not measured" if value is None else shown
    return Bar(name=name, measured=measured, bar=bound, holds=holds and value is not None)


def _at_most(name: str, most: float, value: float | None, unit: str) -> Bar:
    return _bar(name, f"at most {most} {unit}", value, (value or 0) <= most, f"{value} {unit}")


def _frames_bar(words: str, frames: dict[str, Any] | None) -> Bar:
    """Return the bar of a drag over 12 megapixels; `frames` is what the page's timer counted, or None."""
    rate = None if frames is None else frames["frames_per_second"]
    shown = (
        "" if frames is None else f"{rate} per second, {frames['late_frames']} of {frames['num_frames']} late"
    )
    holds = (rate or 0) >= _FRAMES_PER_S - _TIMER_FRAMES_PER_S
    return _bar(f"{words}, 12 megapixels", f"{_FRAMES_PER_S} frames per second", rate, holds, shown)


def to_page_table(results: dict[str, Any]) -> str:
    """Return the bars as a Markdown table."""
    rows = [
        f"| {one.name} | {one.bar} | {one.measured} | {'yes' if one.holds else 'no'} |"
        for one in find_bars(results)
    ]
    return "\n".join(["| the page | bar | measured | holds |", "|---|---|---|---|", *rows])


@contextmanager
def _known(url: str) -> Iterator[str]:
    """Yield the address of a server that is there already.

    Raises:
        InvalidInputError: Nothing answers there.
    """
    address = url.rstrip("/")
    if not _is_ready(address):
        raise InvalidInputError(f"`--server` is {url}, where no joyimage server is ready.")
    yield address


@contextmanager
def _server(log: Callable[[str], None]) -> Iterator[str]:
    """Start a server with the tiny checkpoint, and yield its address.

    Raises:
        RuntimeError: It did not start.
    """
    log("Starting a server with the tiny checkpoint ...")
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        arguments = ["serve", "--model", "tiny", "--device", "cpu", "--port", port, "--data-dir", folder]
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ),
        )
        address = f"http://127.0.0.1:{port}"
        try:
            end = time.monotonic() + _READY_S
            while not _is_ready(address):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"`joyimage {' '.join(arguments)}` did not start.")
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            process.wait()


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/healthz", timeout=5) as answer:
            return bool(json.load(answer)["is_ready"])
    except (URLError, OSError, ValueError, KeyError):
        return False
