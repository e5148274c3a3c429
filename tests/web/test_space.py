"""Work on the image itself: the ring of views, the camera's gizmo, runs that go around, and what is made of them."""

from __future__ import annotations

import io
import re
import zipfile
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from playwright.sync_api import expect

from tests.web.parts import EXAMPLES, PATIENCE_MS, find_faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.web.parts import Server, Visitor

VIEWS = ["right", "front right", "front", "front left", "left", "rear left", "rear", "rear right"]


def _screen(page: Page) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), dtype=int)


def _saved(page: Page, button: str, path: Path) -> Path:
    with page.expect_download() as download:
        page.click(button)
    download.value.save_as(path)
    return path


def test_views_when_chosen_on_the_image_and_all_run_then_a_sheet_and_a_turntable(
    visit: Callable[..., Visitor], server: Server, tmp_path: Path
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.expect_model()
    visitor.choose_example("car")
    ring = visitor.see("#view-ring")
    assert find_faults(page) == []
    ring.locator('button[title="rear left"]').click()
    assert page.locator('input[name="view-of-object"]:checked').input_value() == "rear left"
    assert "rear left" in page.input_value("#prompt-sent")
    expect(ring.locator('[aria-pressed="true"]')).to_have_attribute("title", "rear left")
    place = "() => document.querySelector('#view-ring button').style.left"
    before = page.evaluate(place)
    bounds = ring.bounding_box()
    assert bounds is not None
    page.mouse.click(bounds["x"] + 0.5 * bounds["width"], bounds["y"] + 0.55 * bounds["height"])  # the car
    page.wait_for_function(f"(old) => ({place})() !== old", arg=before)
    visitor.choose_file(EXAMPLES / "turntable.png")  # as large, and another scene
    visitor.expect_name("turntable")
    assert page.evaluate(place) == before
    page.click("#undo")
    visitor.expect_name("car")

    visitor.set("steps", 2)
    page.locator('[data-modes="rotate"] [data-around]').click()
    page.wait_for_function(
        "() => document.querySelectorAll('#strip-items li').length === 9",
        timeout=4 * PATIENCE_MS,
        polling=200,
    )
    visitor.wait_until_idle()

    jobs = [job for job in server.jobs() if job["kind"] == "rotate"][:8]
    assert sorted(job["edit"]["view"] for job in jobs) == sorted(VIEWS)
    assert len({job["seed"] for job in jobs}) == 1
    sheet = Image.open(_saved(page, "#sheet", tmp_path / "sheet.png")).convert("RGB")
    assert sheet.width > 2 * sheet.height * 0.8
    cells = np.asarray(sheet, dtype=int)
    assert (
        np.abs(
            cells[: sheet.height // 2 - 40, : sheet.width // 4]
            - cells[: sheet.height // 2 - 40, sheet.width // 2 : 3 * sheet.width // 4]
        ).mean()
        > 2
    )
    turn = Image.open(_saved(page, "#turn", tmp_path / "turn.webp"))
    assert (turn.format, getattr(turn, "n_frames", 1)) == ("WEBP", 8)
    frames = []
    for number in (0, 4):
        turn.seek(number)
        frames.append(np.asarray(turn.convert("RGB"), dtype=int))
    assert np.abs(frames[0] - frames[1]).max() > 60  # right and left
    gif = Image.open(_saved(page, "#turn-gif", tmp_path / "turn.gif"))
    assert (gif.format, getattr(gif, "n_frames", 1), gif.info["loop"], gif.size) == ("GIF", 8, 0, (512, 512))
    for number, frame in ((0, frames[0]), (4, frames[1])):
        gif.seek(number)
        shown = np.asarray(gif.convert("RGB").resize(turn.size), dtype=int)
        assert np.abs(shown - frame).mean() < 4


def test_camera_when_dragged_on_the_image_then_angles_follow_and_the_wireframe_stays_in_the_comparison(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.expect_model()
    visitor.choose_example("turntable")
    page.fill("#yaw", "0")
    expect(page.locator("#wire-after polyline.wire-then").first).to_be_attached()
    panes = visitor.see("#panes").bounding_box()
    assert panes is not None
    x, y = panes["x"] + panes["width"] / 2, panes["y"] + panes["height"] / 2

    visitor.drag(x, y, x + 90, y - 30)

    assert (page.input_value("#yaw"), page.input_value("#pitch")) == ("45", "15")
    wired = _screen(page)
    page.evaluate("() => document.querySelectorAll('.wire-layer').forEach((one) => one.style.opacity = 0)")
    plain = _screen(page)
    page.evaluate("() => document.querySelectorAll('.wire-layer').forEach((one) => one.style.opacity = '')")
    drawn = np.abs(wired - plain).max(axis=2) > 40
    assert drawn[:, int(panes["x"]) :].sum() > 500
    assert not drawn[:, : int(panes["x"]) - 2].any()
    visitor.run()
    visitor.choose_view("sides")
    expect(page.locator("#wire-before polyline.wire-now").first).to_be_attached()
    expect(page.locator("#wire-after polyline.wire-now")).to_have_count(0)
    assert page.locator("#wire-after polyline.wire-then").count() > 10


def test_views_and_camera_when_a_finger_works_on_the_image_then_they_follow(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = visitor.page
    visitor.choose_example("car")
    ring = visitor.see("#view-ring").bounding_box()
    assert ring is not None
    place = "() => document.querySelector('#view-ring button').style.left"
    before = page.evaluate(place)
    x, y = ring["x"] + 0.5 * ring["width"], ring["y"] + 0.55 * ring["height"]

    page.touchscreen.tap(x, y)  # the car
    page.wait_for_function(f"(old) => ({place})() !== old", arg=before)
    visitor.choose_mode("camera")
    page.fill("#yaw", "0")
    visitor.touch([[(x, y)], [(x + 30, y - 5)], [(x + 90, y - 30)]])

    assert (page.input_value("#yaw"), page.input_value("#pitch")) == ("45", "15")
    page.click("#zoom-in")  # now a finger pans
    visitor.touch([[(x, y)], [(x + 30, y)], [(x + 90, y)]])
    assert page.input_value("#yaw") == "45"


def test_attempts_when_one_is_pinned_then_others_are_compared_with_it_and_layers_are_exported(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.expect_model()
    visitor.choose_example("shapes")
    visitor.set("n", 2)
    visitor.run()
    page.locator("#panes").focus()
    page.keyboard.press("2")
    expect(page.locator("#grid button").nth(1)).to_have_attribute("aria-pressed", "true")
    page.click("#pin")
    expect(page.locator("#pin")).to_have_attribute("aria-pressed", "true")
    visitor.choose_view("after")
    pinned = page.get_attribute("#image-after", "src")
    page.fill("#prompt-edit", "Remove the purple circle.")
    page.locator('#base input[value="original"]').check(force=True)
    visitor.run()
    visitor.choose_view("sides")

    page.wait_for_function("(url) => document.querySelector('#image-before').src === url", arg=pinned)
    expect(page.locator(".tag-before")).to_have_text("Edit 1")
    page.click("#pin")
    page.wait_for_function("(url) => document.querySelector('#image-before').src !== url", arg=pinned)
    expect(page.locator(".tag-before")).to_have_text("Before")

    page.click("#projects-open")
    file = _saved(page, '#projects-list [aria-label^="Export the layers"]', tmp_path / "shapes.ora")
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist()[0] == "mimetype"
        assert archive.read("mimetype") == b"image/openraster"
        stack = ElementTree.fromstring(archive.read("stack.xml"))
        layers = stack.findall("./stack/layer")
        assert [one.get("name") for one in layers] == ["Edit 2", "Edit 1", "Original"]
        assert [one.get("visibility") for one in layers] == ["visible", "hidden", "hidden"]
        for layer in layers:
            with archive.open(layer.get("src") or "") as image:
                assert Image.open(image).size == (768, 768)
        merged = np.asarray(Image.open(io.BytesIO(archive.read("mergedimage.png"))).convert("RGB"))
        top = np.asarray(Image.open(io.BytesIO(archive.read(layers[0].get("src") or ""))).convert("RGB"))
    assert np.array_equal(merged, top)


def test_layers_when_results_differ_in_size_then_the_merged_image_is_as_large_as_the_file_says(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.expect_model()
    visitor.choose_example("turntable")
    visitor.run()  # a camera move has the model's own size

    page.click("#projects-open")
    file = _saved(page, '#projects-list [aria-label^="Export the layers"]', tmp_path / "turntable.ora")
    with zipfile.ZipFile(file) as archive:
        stack = ElementTree.fromstring(archive.read("stack.xml"))
        size = (int(stack.get("w") or 0), int(stack.get("h") or 0))
        merged = Image.new("RGBA", size)
        for layer in reversed(stack.findall("./stack/layer")):
            if layer.get("visibility") == "visible":
                image = Image.open(io.BytesIO(archive.read(layer.get("src") or ""))).convert("RGBA")
                assert image.size == size  # the smaller result is scaled to what it shows
                merged.paste(image, (int(layer.get("x") or 0), int(layer.get("y") or 0)))
        written = Image.open(io.BytesIO(archive.read("mergedimage.png"))).convert("RGBA")
        thumbnail = Image.open(io.BytesIO(archive.read("Thumbnails/thumbnail.png")))
    assert written.size == size == (768, 768)
    assert np.array_equal(np.asarray(written), np.asarray(merged))
    assert thumbnail.size == (256, 256)


def test_layers_when_a_result_shows_a_part_then_it_lies_on_that_part_of_what_it_was_made_of(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    example = Image.open(EXAMPLES / "shapes.png").convert("RGB")
    example.resize((900, 600), box=(0, 128, 768, 640)).save(tmp_path / "wide.png")
    visitor = visit()
    page = visitor.page
    visitor.expect_model()
    visitor.choose_file(tmp_path / "wide.png")
    page.fill("#prompt-edit", "Recolor the circle green.")
    visitor.unfold()
    sizes = [one.get_attribute("value") or "" for one in page.locator("#size option").all()]
    page.select_option("#size", next(one for one in sizes if len({*one.split("x")}) == 1 and one))
    page.select_option("#fit", "crop")
    page.uncheck("#restore")
    visitor.run()

    page.click("#projects-open")
    file = _saved(page, '#projects-list [aria-label^="Export the layers"]', tmp_path / "wide.ora")
    with zipfile.ZipFile(file) as archive:
        stack = ElementTree.fromstring(archive.read("stack.xml"))
        assert (stack.get("w"), stack.get("h")) == ("900", "600")
        edit, original = (
            (int(one.get("x") or -1), int(one.get("y") or -1), archive.read(one.get("src") or ""))
            for one in stack.findall("./stack/layer")
        )
        merged = np.asarray(Image.open(io.BytesIO(archive.read("mergedimage.png"))).convert("RGBA"))
    assert (edit[:2], original[:2]) == ((150, 0), (0, 0))
    above = np.asarray(Image.open(io.BytesIO(edit[2])).convert("RGB"), dtype=int)
    below = np.asarray(Image.open(io.BytesIO(original[2])).convert("RGB"), dtype=int)
    assert (above.shape, below.shape) == ((600, 600, 3), (600, 900, 3))
    apart = np.abs(above - below[:, 150:750]).max(axis=2)
    assert np.mean(apart < 24) > 0.8  # only the circle differs
    assert np.mean(np.abs(above - below[:, :600]).max(axis=2) < 24) < np.mean(apart < 24)
    assert np.array_equal(merged[:, 150:750, :3], above)
    assert not merged[:, :150, 3].any()


def test_page_when_new_then_one_click_opens_an_example_and_edits_it(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    visitor.expect_model()
    assert find_faults(visitor.page) == []

    visitor.see("#try").click()

    expect(visitor.see("#result")).to_have_attribute("data-job", re.compile("."), timeout=PATIENCE_MS)
    after = np.asarray(visitor.download(tmp_path / "first.png").convert("RGB"), dtype=int)
    heart = after[120:170, 370:420].mean(axis=(0, 1))
    assert heart[0] > 180 > heart[2] + 60  # orange
