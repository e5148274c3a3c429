"""The part of an image that an edit may change: marked on the image, and no pixel beside it changes."""

from __future__ import annotations

import io
import shlex
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from playwright.sync_api import expect

from joyimage.cli.main import main
from tests.web.parts import EXAMPLES, find_faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.web.parts import Server, Visitor

PROMPT = "Recolor the heart orange."
HEART = (280 / 768, 30 / 768, 510 / 768, 240 / 768)


def _start(visitor: Visitor, use: str, tool: str) -> None:
    visitor.expect_model()
    visitor.choose_example("shapes")
    visitor.page.fill("#prompt-edit", PROMPT)
    visitor.page.locator(f'#region-use input[value="{use}"]').check(force=True)
    visitor.page.locator(f'#region-tools input[value="{tool}"]').check(force=True)


def _at(visitor: Visitor, x: float, y: float) -> tuple[float, float]:
    """Where a fraction of the image is on the screen."""
    bounds = visitor.see("#region-layer").bounding_box()
    assert bounds is not None
    return bounds["x"] + x * bounds["width"], bounds["y"] + y * bounds["height"]


def _mark(visitor: Visitor, left: float, top: float, right: float, bottom: float) -> None:
    visitor.drag(*_at(visitor, left, top), *_at(visitor, right, bottom))


def _changed(visitor: Visitor, path: Path) -> np.ndarray:
    """Where the result differs from the example, `[768, 768]`."""
    after = np.asarray(visitor.download(path).convert("RGB"))
    return (after != np.asarray(Image.open(EXAMPLES / "shapes.png").convert("RGB"))).any(axis=2)


def test_area_when_marked_with_a_box_then_no_pixel_beside_it_changes_and_the_command_repeats_it(
    visit: Callable[..., Visitor], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = visit()
    page = visitor.page
    _start(visitor, "inside", "box")
    page.click("#run")
    expect(page.locator("#run-problem")).to_have_text("Mark the area on the picture first.")
    _mark(visitor, *HEART)
    page.fill("#feather", "3")
    assert find_faults(page) == []

    visitor.run()

    changed = _changed(visitor, tmp_path / "made.png")
    rows, columns = np.nonzero(changed)
    assert changed.sum() > 5000
    assert (rows.min() >= 29, rows.max() <= 240) == (True, True)
    assert (columns.min() >= 279, columns.max() <= 511) == (True, True)
    assert server.jobs()[0]["has_mask"] is True
    expect(page.locator("#region-layer")).to_be_hidden()  # the result is compared
    page.locator("#region-tools label", has_text="Box").click()  # which is the tool in use already
    expect(page.locator("#region-layer")).to_be_visible()
    page.click("#copy-open")
    command = shlex.split((page.locator("#copy-text").text_content() or "").replace("\\\n", " "))
    with page.expect_download() as download:
        page.click("#copy-mask")
    monkeypatch.chdir(tmp_path)
    download.value.save_as(tmp_path / download.value.suggested_filename)
    page.locator('#copy-forms input[value="curl"]').check(force=True)  # which reads another file
    name = download.value.suggested_filename
    expect(page.locator("#copy-text")).not_to_contain_text(name)
    expect(page.locator("#copy-mask")).not_to_contain_text(name)
    (tmp_path / "shapes.png").write_bytes((EXAMPLES / "shapes.png").read_bytes())
    assert main(command[1:]) == 0
    assert np.array_equal(
        np.asarray(Image.open("result.png").convert("RGB")), np.asarray(Image.open("made.png").convert("RGB"))
    )


def test_area_when_brushed_and_protected_then_its_pixels_stay_and_undo_takes_a_stroke_back(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    page = visitor.page
    _start(visitor, "outside", "brush")
    page.fill("#brush-width", "20")
    _mark(visitor, 0.36, 0.12, 0.66, 0.12)  # the upper half of the heart
    screen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), dtype=int)
    x, y = (round(value) for value in _at(visitor, 0.4, 0.12))
    assert screen[y, x, 0] > screen[y, x, 2] + 40  # tinted red
    _mark(visitor, 0.1, 0.9, 0.9, 0.9)
    marked = page.evaluate("() => document.querySelector('#region-layer').toDataURL()")
    page.locator("#panes").focus()
    page.keyboard.press("Control+z")
    page.wait_for_function("(old) => document.querySelector('#region-layer').toDataURL() !== old", arg=marked)
    page.keyboard.press("Control+Shift+z")
    page.wait_for_function("(old) => document.querySelector('#region-layer').toDataURL() === old", arg=marked)
    visitor.reload()
    page.wait_for_function("(old) => document.querySelector('#region-layer').toDataURL() === old", arg=marked)

    visitor.run()

    changed = _changed(visitor, tmp_path / "made.png")
    band = round(0.1 * 768) - 2  # half the brush
    assert not changed[round(0.12 * 768) - band : round(0.12 * 768) + band, 277:506].any()
    assert changed[round(0.12 * 768) + band + 12 : 230].sum() > 500  # the heart's tip


def test_area_when_a_pen_is_turned_over_then_it_erases(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    _start(visitor, "inside", "brush")
    _mark(visitor, 0.3, 0.5, 0.6, 0.5)
    marked = """() => {
        const layer = document.querySelector("#region-layer");
        const { width, height } = layer;
        const pen = new OffscreenCanvas(width, height).getContext("2d");
        pen.drawImage(layer, 0, 0);
        return pen.getImageData(0, 0, width, height).data.filter((value, n) => n % 4 === 3 && value > 0).length;
    }"""
    before = visitor.page.evaluate(marked)
    assert before > 0

    # As browsers report the eraser; no debugger can turn a pen over.
    (x0, y), (x1, _) = _at(visitor, 0.25, 0.5), _at(visitor, 0.65, 0.5)
    visitor.page.mouse.move(x0, y)
    visitor.page.evaluate(
        """([x0, x1, y]) => {
            for (const [type, clientX, button, buttons] of
                [["pointerdown", x0, 5, 32], ["pointermove", x1, -1, 32], ["pointerup", x1, 5, 0]]) {
                document.elementFromPoint(x0, y).dispatchEvent(new PointerEvent(type, {
                    clientX, clientY: y, button, buttons, pointerId: 1, pointerType: "pen", bubbles: true,
                }));
            }
        }""",
        [x0, x1, y],
    )

    assert visitor.page.evaluate(marked) < 0.1 * before


def test_area_when_lassoed_with_a_finger_and_edited_as_a_close_up_then_only_inside(
    visit: Callable[..., Visitor], server: Server, tmp_path: Path
) -> None:
    visitor = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = visitor.page
    _start(visitor, "inside", "lasso")
    page.check("#close-up")
    page.locator("#region-layer").evaluate("(layer) => layer.scrollIntoView({ block: 'center' })")
    left, top, right, bottom = HEART
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    visitor.touch([[_at(visitor, x, y)] for x, y in corners])
    page.wait_for_function("() => JSON.stringify(localStorage).includes('lasso')")
    strokes = "() => document.querySelector('#region-layer').toDataURL()"
    before = page.evaluate(strokes)
    near, far = _at(visitor, 0.4, 0.5), _at(visitor, 0.6, 0.5)
    visitor.touch([[near], [near, far], [(near[0] - 20, near[1]), (far[0] + 20, far[1])]])  # a pinch zooms
    assert page.evaluate(strokes) == before
    assert page.locator("#zoom-value").text_content() != "100%"

    visitor.run()

    changed = _changed(visitor, tmp_path / "made.png")
    outside = np.ones_like(changed)
    outside[
        round(top * 768) - 3 : round(bottom * 768) + 3, round(left * 768) - 3 : round(right * 768) + 3
    ] = False
    assert not changed[outside].any()
    assert changed.sum() > 2000
    assert server.jobs()[0]["edit"]["close_up"] is True
