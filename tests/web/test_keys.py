"""Marking and selecting on the image without a mouse: the pen that keys move."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from tests.web.parts import EXAMPLES, find_faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.web.parts import Visitor

MARKED = """() => {
    const layer = document.querySelector("#region-layer");
    const { width, height } = layer;
    const pen = new OffscreenCanvas(width, height).getContext("2d");
    pen.drawImage(layer, 0, 0);
    const pixels = pen.getImageData(0, 0, width, height).data;
    let alpha = "";
    for (let n = 3; n < pixels.length; n += 4) alpha += String.fromCharCode(pixels[n]);
    return { width, height, alpha: btoa(alpha) };
}"""


def _marked(page: Page) -> np.ndarray:
    """What is marked on the image, `[rows, columns]`."""
    found = page.evaluate(MARKED)
    alpha = np.frombuffer(base64.b64decode(found["alpha"]), np.uint8)
    return alpha.reshape(found["height"], found["width"]) > 127


def _press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def _place(page: Page) -> tuple[float, float]:
    """Where the pen is, in percent of the image."""
    across, down = page.evaluate("() => [pen.style.left, pen.style.top].map(parseFloat)")
    return across, down


def _start(visitor: Visitor, tool: str) -> Page:
    page = visitor.page
    visitor.expect_model()
    page.locator('[data-example="shapes"]').focus()
    _press(page, "Enter")
    visitor.see("#stage-bar")
    page.locator('#region-use input[value="all"]').focus()
    _press(page, "ArrowRight")  # only here
    page.locator("#region-tools input:checked").first.focus()
    _press(page, *["ArrowRight"] * ["brush", "lasso", "box"].index(tool))
    return page


def test_area_when_brushed_with_the_keyboard_then_only_it_changes_and_words_say_what_happens(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    page = _start(visitor, "brush")
    _press(page, "b")
    pen = page.locator("#pen")
    expect(pen).to_be_focused()
    assert "Space begins and ends a stroke" in (pen.get_attribute("aria-label") or "")
    assert find_faults(page) == []
    small = (pen.bounding_box() or {"width": 0})["width"]
    _press(page, *["]"] * 14)
    expect(page.locator("#announcer")).to_have_text("Brush size 20")
    assert (pen.bounding_box() or {"width": 0})["width"] > 3 * small
    while _place(page)[1] > 20:
        _press(page, "Shift+ArrowUp" if _place(page)[1] > 30 else "ArrowUp")
    while _place(page)[0] > 40:
        _press(page, "ArrowLeft")
    before = _place(page)
    _press(page, "Alt+ArrowRight")
    assert 0 < 7.68 * (_place(page)[0] - before[0]) < 1.5  # a pixel of 768
    _press(page, " ")
    expect(page.locator("#announcer")).to_have_text("Painting")
    while _place(page)[0] < 62:
        _press(page, "ArrowRight")
    expect(page.locator("#announcer")).to_contain_text("% across, ")
    _press(page, " ")
    expect(page.locator("#announcer")).to_have_text("Marked")

    marked = _marked(page)
    rows, columns = np.nonzero(marked)
    middle = _place(page)[1] / 100 * 768
    assert abs((rows.min() + rows.max()) / 2 - middle) < 4
    assert abs(np.ptp(rows) - 0.2 * 768) < 8
    assert columns.min() < 0.33 * 768
    assert columns.max() > 0.68 * 768
    _press(page, "Enter")
    expect(page.locator('#region-tools input[value="brush"]')).to_be_focused()
    page.locator("#prompt-edit").focus()
    page.keyboard.type("Recolor the heart orange.")
    page.locator("#feather").focus()
    page.keyboard.type("1")
    page.locator("#prompt-edit").focus()
    job = page.locator("#result").get_attribute("data-job")
    _press(page, "Control+Enter")
    expect(page.locator("#result")).not_to_have_attribute("data-job", job or "", timeout=60_000)
    visitor.wait_until_idle()

    after = np.asarray(visitor.download(tmp_path / "made.png").convert("RGB"))
    changed = (after != np.asarray(Image.open(EXAMPLES / "shapes.png").convert("RGB"))).any(axis=2)
    assert changed.sum() > 5000
    assert not changed[: rows.min() - 2].any()
    assert not changed[rows.max() + 3 :].any()
    _press(page, "b")  # the result is in front: the pen brings the image back
    expect(pen).to_be_focused()
    expect(page.locator("#region-layer")).to_be_visible()


def test_area_when_outlined_with_the_keyboard_then_escape_gives_up_and_undo_takes_back(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = _start(visitor, "lasso")
    page.locator("#region-pen").focus()
    _press(page, "Enter")
    expect(page.locator("#pen")).to_be_focused()
    _press(page, " ", "Shift+ArrowRight", "Shift+ArrowDown", "Escape")
    expect(page.locator("#announcer")).to_have_text("Canceled")
    assert not _marked(page).any()

    start = _place(page)
    _press(page, " ", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowDown", "Shift+ArrowDown")
    end = _place(page)
    _press(page, "Shift+ArrowLeft", "Shift+ArrowLeft", " ")

    marked = _marked(page)
    height, width = marked.shape
    expected = (end[0] - start[0]) / 100 * width * (end[1] - start[1]) / 100 * height
    assert abs(marked.sum() - expected) < 0.05 * expected
    _press(page, "Control+z")
    empty = "(alpha) => [...alpha].every((one) => one.charCodeAt(0) < 128)"
    page.wait_for_function(f"() => ({empty})(atob(({MARKED})().alpha))", polling=100)
    _press(page, "+", "+", "+", *["Shift+ArrowRight"] * 30)  # zoomed in, the image follows the pen
    pen, pane = page.locator("#pen").bounding_box(), page.locator("#pane-after").bounding_box()
    assert pen is not None
    assert pane is not None
    assert pane["x"] <= pen["x"] <= pane["x"] + pane["width"]
    _press(page, "Escape")
    expect(page.locator('#region-tools input[value="lasso"]')).to_be_focused()


def test_object_when_taken_with_the_keyboard_then_its_box_can_be_moved_by_keys(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.page
    page.locator('[data-example="shapes"]').focus()
    _press(page, "Enter")
    visitor.see("#stage-bar")
    page.locator('#modes input[value="edit"]').focus()
    _press(page, "ArrowRight")
    visitor.see("#object-tools")
    _press(page, "b")
    expect(page.locator("#pen")).to_be_focused()
    _press(page, " ")  # the circle in the middle
    expect(page.locator(".box")).to_be_focused()
    left, top, width, height = visitor.box()
    assert left < 384 < left + width
    assert top < 384 < top + height
    _press(page, "ArrowRight")
    assert visitor.box()[0] > left
