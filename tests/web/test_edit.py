"""From a picture to a result, and on from there."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shlex
import subprocess
import zipfile
from typing import TYPE_CHECKING

import httpx2
import numpy as np
import pillow_heif
import pytest
from peft import LoraConfig
from PIL import Image
from playwright.sync_api import expect

from joyimage.cli.main import main
from joyimage.imaging import read_record
from joyimage.model.adapters.recipe import SamplingRecipe
from joyimage.serving.workers.local import LocalRunner
from tests import random_models
from tests.serving.parts import SIDE, LiveServer, make_settings, png
from tests.web.parts import EXAMPLES, PATIENCE_MS, Visitor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import BrowserContext, Route

    from tests.web.conftest import Complaints
    from tests.web.parts import Server


# Empties the canvas of the difference, and holds the next drawing back until `drawDifference()`.
HOLD_DIFFERENCE = """() => {
    document.querySelector("#image-difference").width = 1;
    const { decode } = HTMLImageElement.prototype;
    const held = new Promise((resolve) => (window.drawDifference = resolve));
    HTMLImageElement.prototype.decode = function () {
        return held.then(() => decode.call(this));
    };
}"""


def _large_sideways_jpeg() -> bytes:
    """5000 x 3000 pixels in the file, which says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture = Image.open(EXAMPLES / "shapes.png").convert("RGB").resize((5000, 3000))
    picture.save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_picture_when_large_and_sideways_then_upright_scaled_and_coordinates_exact(
    visit: Callable[..., Visitor], server: Server
) -> None:
    visitor = visit()
    visitor.choose_mode("move")
    visitor.choose_file({"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": _large_sideways_jpeg()})
    visitor.see("#stage-bar")

    expect(visitor.page.locator("#picture-name")).to_contain_text(re.compile(r"3000 . 5000"))
    shown = visitor.page.evaluate("() => document.querySelector('#image-after').naturalHeight")
    assert shown == 4096
    visitor.draw(0.5, 0.5, 0.75, 0.8)
    assert visitor.box() == pytest.approx([1500, 2500, 750, 1500], abs=8)
    visitor.page.fill("#object", "star")
    visitor.page.click("#settings summary")
    visitor.page.uncheck("#restore")
    visitor.page.uncheck("#preserve")
    visitor.unfold()
    visitor.page.select_option("#field-force", "true")  # there is no star in it
    visitor.run()
    assert server.jobs()[0]["width"] < server.jobs()[0]["height"]


def test_photo_when_heic_or_tiff_then_the_server_reads_it_and_it_can_be_worked_on(
    visit: Callable[..., Visitor],
) -> None:
    pillow_heif.register_heif_opener()
    picture = Image.open(EXAMPLES / "shapes.png").convert("RGB").resize((600, 450))
    visitor = visit()
    visitor.expect_model()
    for name, kind in (("IMG_0001.HEIC", "HEIF"), ("scan.tif", "TIFF")):
        file = io.BytesIO()
        picture.save(file, kind)
        visitor.choose_file({"name": name, "mimeType": "", "buffer": file.getvalue()})
        expect(visitor.page.locator("#picture-name")).to_have_text(
            re.compile(f"^{name.split('.')[0]}.png .+ 600 . 450$"), timeout=PATIENCE_MS
        )
        center = visitor.page.evaluate(
            """async () => {
                const image = document.querySelector("#image-after");
                await image.decode();
                const pen = new OffscreenCanvas(600, 450).getContext("2d");
                pen.drawImage(image, 0, 0);
                return [...pen.getImageData(308, 243, 1, 1).data];
            }"""
        )
        assert np.abs(np.array(center[:3]) - np.asarray(picture)[243, 308]).max() < 12


def test_photo_when_it_takes_long_to_read_then_that_is_said_until_it_is_there(
    visit: Callable[..., Visitor],
) -> None:
    file = io.BytesIO()
    Image.open(EXAMPLES / "shapes.png").convert("RGB").save(file, "TIFF")
    visitor = visit()
    visitor.expect_model()
    held: list[Route] = []
    visitor.page.route("**/v1/images/convert", lambda route: held.append(route))

    visitor.choose_file({"name": "scan.tif", "mimeType": "", "buffer": file.getvalue()})

    reading = visitor.see("[data-notice=reading]")
    expect(reading).to_contain_text("Reading scan.tif")
    held[0].continue_()
    visitor.expect_name("scan.png")
    expect(reading).to_have_count(0)


def test_edit_when_run_then_steps_preview_time_and_a_result_that_does_it(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.set("steps", 60)
    page.evaluate(
        """() => {
            window.seen = [];
            const words = document.querySelector("#progress-text");
            const image = document.querySelector("#image-after");
            const note = () => window.seen.push(`${words.textContent} ${image.src.slice(0, 15)}`);
            new MutationObserver(note).observe(words, { childList: true });
            new MutationObserver(note).observe(image, { attributes: true });
        }"""
    )

    visitor.run()

    seen = page.evaluate("() => window.seen")
    assert any(re.search(r"Step \d+ of 60 · about \d+ s left", words) for words in seen)
    assert any("data:image/webp" in words for words in seen)
    after = np.asarray(visitor.download(tmp_path / "edited.png").convert("RGB"), dtype=int)
    red, green, blue = after[120:170, 370:420].reshape(-1, 3).mean(axis=0)
    assert red > 180 > green > 60 > blue  # the heart was nearly black; it should be orange
    expect(page.locator("#progress")).to_be_hidden()
    expect(page).to_have_title("joyimage")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_picture_when_dropped_or_pasted_then_it_is_there(visit: Callable[..., Visitor], way: str) -> None:
    visitor = visit()
    data = base64.b64encode((EXAMPLES / "car.png").read_bytes()).decode()

    visitor.page.evaluate(
        """([data, way]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File(["dear diary"], "notes.txt", { type: "text/plain" }));
            transfer.items.add(new File([bytes], "holiday.png", { type: "image/png" }));
            const event = way === "drop"
                ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }""",
        [data, way],
    )

    expect(visitor.page.locator("#picture-name")).to_have_text(re.compile(r"^holiday.png . 768 . 768$"))
    expect(visitor.see("[data-notice=files]")).to_contain_text("Only holiday.png was opened.")


def test_run_when_cancelled_then_it_stops_at_a_step_and_says_so(
    visit: Callable[..., Visitor], server: Server
) -> None:
    visitor = visit()
    visitor.choose_example("shapes")
    visitor.set("steps", 100)
    visitor.page.click("#run")
    expect(visitor.see("#progress-text")).to_contain_text("Step", timeout=PATIENCE_MS)

    visitor.page.focus("#cancel")
    visitor.page.keyboard.press("Enter")
    assert visitor.page.evaluate("document.activeElement.id") == "cancel"

    expect(visitor.see("[data-notice=run]")).to_contain_text("Canceled")
    visitor.wait_until_idle()
    expect(visitor.page.locator("#prompt-edit")).to_be_focused()
    assert server.jobs()[0]["state"] == "cancelled"
    expect(visitor.page.locator("#picture-name")).to_contain_text("shapes.png")


def test_page_when_reloaded_during_a_run_then_back_at_the_run_and_its_result(
    visit: Callable[..., Visitor], server: Server
) -> None:
    visitor = visit()
    visitor.choose_example("shapes")
    visitor.set("steps", 60)
    visitor.page.click("#run")
    expect(visitor.see("#progress-text")).to_contain_text("Step", timeout=PATIENCE_MS)
    number = len(server.jobs())

    visitor.reload()

    expect(visitor.see("#progress-text")).to_contain_text("Step", timeout=PATIENCE_MS)
    expect(visitor.page.locator("#prompt-edit")).to_have_value("Recolor the heart orange.")
    visitor.see("#result")
    expect(visitor.page.locator("#views")).to_be_visible()
    assert len(server.jobs()) == number
    visitor.reload()  # what has ended is there too
    expect(visitor.see("#verdict")).to_contain_text("60 steps")


def test_result_when_a_setting_had_no_effect_then_said_with_it(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.choose_example("shapes")
    visitor.set("guidance", 1)
    visitor.set("negative", "gray")

    visitor.run()

    said = visitor.see("#verdict").locator(".warning")
    expect(said).to_have_text(
        "Negative prompt has no effect: guidance scale is 1, and guidance is off at 1 and below."
    )


def test_results_when_several_then_a_grid_to_pick_from_and_each_has_its_seed(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    visitor.choose_example("shapes")
    visitor.set("n", 2)
    visitor.set("seed", 41)
    visitor.run()

    results = visitor.see("#grid").locator("button")
    assert results.count() == 2
    results.nth(1).click()
    expect(visitor.page.locator("#verdict")).to_contain_text("seed 42")
    second = visitor.download(tmp_path / "second.png")
    visitor.page.click("#keep-seed")
    visitor.set("n", 1)
    assert visitor.page.input_value("#seed") == "42"
    visitor.run()

    again = visitor.download(tmp_path / "again.png")
    # A batch rounds as its single runs do, within one level.
    assert np.abs(np.asarray(second, dtype=int) - np.asarray(again, dtype=int)).max() <= 1


def test_results_when_edited_further_then_a_tree_in_which_nothing_is_lost(
    visit: Callable[..., Visitor], server: Server
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.run()
    page.fill("#prompt-edit", "Recolor the circle green.")
    visitor.run()  # continues from the result
    page.locator('input[name="base"][value="original"]').check(force=True)
    page.fill("#prompt-edit", "Remove the star.")
    visitor.run()  # the same image again: a sibling

    items = visitor.see("#strip").locator("li button")
    names = [
        "Original",
        "Edit 1: Recolor the heart orange.",
        "Edit 2: Recolor the circle green.",
        "Edit 3, from Edit 1: Remove the star.",
    ]
    assert [item.get_attribute("aria-label") for item in items.all()] == names
    expect(items.nth(3)).to_have_attribute("aria-current", "true")
    prompts = [job["prompt"] for job in server.jobs()[:3]]
    assert prompts == ["Remove the star.", "Recolor the circle green.", "Recolor the heart orange."]

    page.set_viewport_size({"width": 240, "height": 700})  # the one that is shown stays in sight
    page.wait_for_function(
        """() => {
            const strip = document.querySelector("#strip-items").getBoundingClientRect();
            const current = document.querySelector("#strip-items [aria-current]").getBoundingClientRect();
            return strip.width < 240 && current.left >= strip.left - 1 && current.right <= strip.right + 1;
        }""",
        timeout=PATIENCE_MS,
        polling=100,
    )
    page.set_viewport_size({"width": 1440, "height": 900})
    items.nth(1).click()
    expect(page.locator("#prompt-edit")).to_have_value("Recolor the heart orange.")
    page.click("#undo")
    expect(page.locator("#prompt-edit")).to_have_value("Remove the star.")
    expect(items.nth(3)).to_have_attribute("aria-current", "true")
    page.click("#redo")
    expect(items.nth(1)).to_have_attribute("aria-current", "true")
    visitor.reload()
    expect(items.nth(1)).to_have_attribute("aria-current", "true")
    assert [item.get_attribute("aria-label") for item in items.all()] == names


def _paste(visitor: Visitor, name: str) -> None:
    data = base64.b64encode((EXAMPLES / "car.png").read_bytes()).decode()
    visitor.page.evaluate(
        """([data, name]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: "image/png" }));
            const options = { clipboardData: transfer, bubbles: true, cancelable: true };
            document.activeElement.dispatchEvent(new ClipboardEvent("paste", options));
        }""",
        [data, name],
    )


def test_edits_when_another_image_is_pasted_then_kept_and_a_step_back(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.run()
    made = np.asarray(visitor.download(tmp_path / "made.png"))
    page.fill("#prompt-edit", "Typed but not run.")
    page.locator('input[name="region-use"][value="inside"]').check(force=True)
    marked = page.locator("#region-stage").bounding_box()
    assert marked is not None
    visitor.drag(marked["x"] + 40, marked["y"] + 40, marked["x"] + 90, marked["y"] + 60)
    layer = "document.querySelector('#region-layer').toDataURL()"
    mask = page.evaluate(f"() => {layer}")

    _paste(visitor, "screenshot.png")

    visitor.expect_name("screenshot.png")
    page.fill("#prompt-edit", "For the screenshot.")
    page.get_by_role("button", name="Back to shapes.png").click()
    expect(page.locator("#strip-items li")).to_have_count(2)
    expect(page.locator("#prompt-edit")).to_have_value("Typed but not run.")
    expect(page.locator('input[name="region-use"][value="inside"]')).to_be_checked()
    page.wait_for_function(f"(mask) => {layer} === mask", arg=mask)
    page.locator('input[name="region-use"][value="all"]').check(force=True)
    assert np.array_equal(np.asarray(visitor.download(tmp_path / "again.png")), made)
    page.click("#projects-open")
    rows = visitor.see("#projects-list").locator("li")
    expect(rows).to_have_count(2)
    name = page.get_by_label("Name of screenshot.png")
    name.fill("The car")
    name.press("Enter")
    expect(page.get_by_label("Name of The car")).to_be_focused()
    page.get_by_role("button", name="Open The car").click()
    expect(page.locator("#prompt-edit")).to_have_value("For the screenshot.")
    expect(page.locator('input[name="region-use"][value="all"]')).to_be_checked()
    page.click("#projects-open")
    with page.expect_download() as download:  # of a project that is not open
        page.get_by_role("button", name="Export shapes.png").click()
    download.value.save_as(tmp_path / "shapes.zip")
    with zipfile.ZipFile(tmp_path / "shapes.zip") as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["edit-1.png", "original.png", "project.json"]
        assert archive.read("original.png") == (EXAMPLES / "shapes.png").read_bytes()
        (tmp_path / "edit-1.png").write_bytes(archive.read("edit-1.png"))
    record = read_record(tmp_path / "edit-1.png")
    assert record is not None
    assert record["prompt"] == "Recolor the heart orange."
    assert record["input_sha256"] == hashlib.sha256((EXAMPLES / "shapes.png").read_bytes()).hexdigest()
    page.get_by_role("button", name="Delete The car").click()
    page.get_by_role("button", name="Delete The car").click()
    expect(rows).to_have_count(1)
    page.keyboard.press("Escape")
    page.keyboard.press("Control+z")  # what was deleted is skipped
    expect(page.locator("#prompt-edit")).to_have_value("Typed but not run.")
    page.wait_for_function(f"(mask) => {layer} === mask", arg=mask)


def test_form_when_reloaded_at_once_then_every_letter_is_there(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    page.fill("#prompt-edit", "Typed and reloaded at once")
    visitor.reload()
    expect(page.locator("#prompt-edit")).to_have_value("Typed and reloaded at once")

    visitor.choose_mode("rotate")
    visitor.reload()
    expect(page.locator("#modes input:checked")).to_have_value("rotate")


def test_box_when_undone_and_redone_with_keys_then_it_is_back(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    visitor.draw(0.1, 0.1, 0.3, 0.3)
    first = visitor.box()
    visitor.draw(0.5, 0.5, 0.9, 0.8)
    second = visitor.box()

    page.keyboard.press("Control+z")
    expect(page.locator("#box-left")).to_have_value(str(first[0]))
    assert visitor.box() == first
    page.keyboard.press("Control+Shift+z")
    expect(page.locator("#box-left")).to_have_value(str(second[0]))
    assert visitor.box() == second


def test_box_when_removed_with_a_key_then_undo_and_redo_go_on_where_the_focus_is(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    page.click("#box-add")
    box = visitor.box()
    page.focus(".box")

    page.keyboard.press("Control+z")  # the box that has the focus goes
    expect(page.locator("#object")).to_be_focused()
    page.keyboard.press("Control+Shift+z")
    expect(page.locator("#box-left")).to_have_value(str(box[0]))
    page.keyboard.type("!")  # what is typed is the field's own to undo
    page.keyboard.press("Control+z")
    expect(page.locator("#object")).to_have_value("black heart")
    assert visitor.box() == box

    page.click("#undo")
    page.focus("#redo")
    page.keyboard.press("Enter")
    expect(page.locator("#redo")).to_have_attribute("aria-disabled", "true")
    expect(page.locator("#redo")).to_be_focused()


def test_prompt_when_it_has_several_lines_then_the_model_reads_it_as_typed(
    visit: Callable[..., Visitor], server: Server
) -> None:
    visitor = visit()
    visitor.choose_example("shapes")
    visitor.page.fill("#prompt-edit", 'Recolor the "heart" orange.\nKeep the rest — 其余不变.')
    visitor.choose_file(
        {"name": 'a "b"\n é.png', "mimeType": "image/png", "buffer": (EXAMPLES / "shapes.png").read_bytes()}
    )
    visitor.expect_name("é.png")

    visitor.run()

    assert server.jobs()[0]["prompt"] == 'Recolor the "heart" orange.\nKeep the rest — 其余不变.'


def test_runs_when_started_during_a_run_then_they_wait_and_can_be_taken_back(
    visit: Callable[..., Visitor], server: Server
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.set("steps", 100)
    page.click("#run")
    visitor.set("steps", 4)
    for words in ("Remove the star.", "Remove the heart.", "Remove the circle."):
        page.fill("#prompt-edit", words)
        page.click("#run")
    tray = visitor.see("#tray")
    page.get_by_role("button", name="Don't run: Remove the heart.").click()
    page.get_by_role("button", name="Run earlier: Remove the circle.").click()
    assert tray.locator("p").all_text_contents() == ["1. Remove the circle.", "2. Remove the star."]
    visitor.reload()
    expect(tray.locator("p")).to_have_count(2)

    page.click("#cancel")

    expect(page.locator("#strip-items li")).to_have_count(3, timeout=PATIENCE_MS)
    visitor.wait_until_idle()
    prompts = [job["prompt"] for job in server.jobs()[:2]]
    assert prompts == ["Remove the star.", "Remove the circle."]


def test_result_when_compared_then_slider_difference_and_two_sides_zoom_in_step(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.run()

    handle = visitor.see("#handle")
    first = int(handle.get_attribute("aria-valuenow") or "")
    assert first < 30  # what is new is seen first
    handle.focus()
    page.keyboard.press("PageUp")
    assert handle.get_attribute("aria-valuenow") == str(first + 10)
    bounds, whole = handle.bounding_box(), page.locator("#panes").bounding_box()
    assert bounds is not None
    assert whole is not None
    y = bounds["y"] + 40
    image = page.locator("#image-after").bounding_box()
    assert image is not None
    visitor.drag(bounds["x"] + 18, y, image["x"] + 0.75 * image["width"], y)
    assert handle.get_attribute("aria-valuenow") == "75"
    page.set_viewport_size({"width": 1100, "height": 620})  # the edge stays at its place on the image
    page.wait_for_function(
        """() => {
            const image = document.querySelector("#image-after").getBoundingClientRect();
            const handle = document.querySelector("#handle").getBoundingClientRect();
            return Math.abs(handle.x + 18 - (image.x + 0.75 * image.width)) <= 1;
        }""",
        timeout=PATIENCE_MS,  # the page is laid out anew in a frame of its own
        polling=100,
    )
    whole = page.locator("#panes").bounding_box()
    assert whole is not None

    visitor.choose_view("difference")
    expect(page.locator("#picture-name")).to_have_text(re.compile(r"^[\d.]+% of the pixels differ$"))
    lit = page.evaluate(
        """() => {
            const canvas = document.querySelector("#image-difference");
            const at = (x, y) => canvas.getContext("2d").getImageData(x, y, 1, 1).data[0];
            return [at(390, 140), at(40, 40)];
        }"""
    )
    assert lit[0] > 100  # the heart
    assert lit[1] < 30  # the background

    visitor.choose_view("slider")
    page.evaluate(HOLD_DIFFERENCE)
    visitor.choose_view("difference")
    visitor.choose_view("slider")  # before the difference has been drawn
    page.evaluate("() => window.drawDifference()")
    page.wait_for_function("() => document.querySelector('#image-difference').width > 1", polling=50)
    visitor.expect_name("-edit-")

    visitor.choose_view("sides")
    page.mouse.move(whole["x"] + 0.25 * whole["width"], whole["y"] + 200)
    page.mouse.wheel(0, -300)
    visitor.drag(whole["x"] + 200, whole["y"] + 200, whole["x"] + 150, whole["y"] + 170)
    worlds = page.evaluate(
        "() => [...document.querySelectorAll('.world')].map((world) => world.getAttribute('style'))"
    )
    assert worlds[0] == worlds[1]
    assert page.locator("#zoom-value").text_content() != "101%"
    page.click("#zoom-fit")
    fitted = page.locator("#zoom-value").text_content()
    page.locator("#panes").focus()
    page.keyboard.press("+")
    assert page.locator("#zoom-value").text_content() != fitted


def test_result_when_copied_and_downloaded_then_made_again_elsewhere_to_the_pixel(
    visit: Callable[..., Visitor], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = visit()
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    visitor.page.fill("#object", "black heart")
    visitor.draw(0.1, 0.65, 0.35, 0.9)
    visitor.run()
    made = np.asarray(visitor.download(tmp_path / "made.png"))

    record = read_record(tmp_path / "made.png")
    assert record is not None
    assert (record["kind"], record["object"], record["num_inference_steps"]) == ("move", "black heart", 4)
    left, top, width, height = visitor.box()
    assert record["box"] == [left, top, left + width, top + height]
    assert record["seed"] == server.jobs()[0]["seed"]

    visitor.page.click("#copy-open")
    texts = {}
    for language in ("shell", "python", "curl"):
        visitor.page.locator(f'#copy-forms input[value="{language}"]').check(force=True)
        texts[language] = visitor.page.locator("#copy-text").text_content() or ""
    visitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.page.click("#copy-do")
    assert visitor.page.evaluate("() => navigator.clipboard.readText()") == texts["curl"]

    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes.png").write_bytes((EXAMPLES / "shapes.png").read_bytes())
    command = shlex.split(texts["shell"].replace("\\\n", " "))
    assert command[0] == "joyimage"
    assert main(command[1:]) == 0
    assert np.array_equal(np.asarray(Image.open("result.png").convert("RGB")), made)

    (tmp_path / "result.png").unlink()
    exec(compile(texts["python"], "copied", "exec"), {})
    assert np.array_equal(np.asarray(Image.open("result.png").convert("RGB")), made)

    request, _, _ = texts["curl"].partition("| jq")
    answer = subprocess.run(["bash", "-c", request.rstrip(" \\\n")], capture_output=True, check=True)
    file = base64.b64decode(json.loads(answer.stdout)["data"][0]["b64_json"])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(file)).convert("RGB")), made)


def test_words_when_alone_then_a_picture_that_can_be_edited(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_mode("generate")
    page.click("#run")
    expect(visitor.see("#run-problem")).to_have_text("Describe what it should show.")
    page.fill("#prompt-generate", "A red heart on a white background.")
    page.keyboard.press("Control+Enter")

    expect(visitor.see("#verdict")).to_contain_text(re.compile(r"96 . 96"))
    expect(page.locator("#views")).to_be_hidden()  # there is nothing to compare with
    visitor.choose_mode("move")
    visitor.choose_mode("generate")
    visitor.see("#verdict")
    visitor.choose_mode("edit")
    expect(page.locator("#picture-name")).to_contain_text("generate-")


def test_created_picture_when_edited_at_once_then_it_is_what_is_edited(
    visit: Callable[..., Visitor], server: Server
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_mode("generate")
    page.get_by_role("button", name="Draw a green star").click()  # an idea
    visitor.run()
    visitor.choose_mode("move")
    visitor.draw(0.6, 0.6, 0.9, 0.9)
    page.fill("#object", "green star")

    visitor.run()

    assert (server.jobs()[0]["kind"], server.jobs()[0]["width"]) == ("move", 96)
    expect(page.locator("#picture-name")).to_contain_text("move-")
    visitor.choose_view("before")
    expect(page.locator("#picture-name")).to_contain_text("generate-")


def test_created_picture_when_another_is_being_edited_then_a_project_of_its_own(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.choose_mode("generate")
    page.fill("#prompt-generate", "Draw a green star on the left on a mint background.")
    visitor.run()
    visitor.expect_name("generate-")
    visitor.run()  # another one beside it
    expect(page.locator("#strip-items li")).to_have_count(2)

    visitor.choose_mode("edit")
    visitor.expect_name("generate-")
    page.click("#projects-open")
    page.get_by_role("button", name="Open shapes.png").click()

    visitor.expect_name("shapes.png")
    visitor.choose_mode("edit")
    visitor.run()
    expect(page.locator('input[name="base"]:checked')).to_have_value("result")


def test_ideas_when_the_model_is_tiny_then_only_what_it_can(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.page
    expect(page.locator("#model-chip")).to_contain_text("tiny")
    visitor.choose_example("shapes")

    page.get_by_role("button", name="Remove the purple circle.").click()
    expect(page.locator("#prompt-edit")).to_have_value("Remove the purple circle.")
    expect(page.locator("#prompt-edit")).to_be_focused()

    visitor.choose_file(EXAMPLES / "car.png")
    expect(page.locator("#edit-hint")).to_contain_text("try Rotate")
    expect(page.locator("#ideas-edit button")).to_have_count(0)
    visitor.choose_mode("describe")
    expect(page.locator("#describe-hint")).to_contain_text("drawn scenes")


def test_size_and_fit_when_chosen_then_the_result_has_them(
    visit: Callable[..., Visitor], server: Server, tmp_path: Path
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    page.click("#settings summary")
    size = page.locator("#size option").nth(1).get_attribute("value") or ""
    page.select_option("#size", size)
    page.select_option("#fit", "crop")
    page.uncheck("#restore")

    visitor.run()

    job = server.jobs()[0]
    assert f"{job['width']}x{job['height']}" == size
    assert job["width"] != job["height"]  # cropped out of the square
    page.select_option("#fit", "pad")
    page.locator('input[name="base"][value="original"]').check(force=True)
    visitor.run()
    whole = visitor.download(tmp_path / "whole.png")
    assert whole.width == whole.height
    record = read_record(tmp_path / "whole.png")
    assert record is not None
    assert (record["fit"], record.get("restore", False)) == ("pad", False)


@pytest.mark.parametrize(("size", "fit"), [((900, 700), "exact"), ((1000, 100), "pad"), ((768, 768), None)])
def test_edit_when_the_shape_was_not_trained_then_no_part_of_the_image_is_left_out(
    visit: Callable[..., Visitor], server: Server, tmp_path: Path, size: tuple[int, int], fit: str | None
) -> None:
    Image.open(EXAMPLES / "shapes.png").convert("RGB").resize(size).save(tmp_path / "shape.png")
    visitor = visit()
    visitor.expect_model()
    visitor.choose_file(tmp_path / "shape.png")
    visitor.page.fill("#prompt-edit", "Recolor the heart orange.")

    visitor.run()

    assert server.jobs()[0]["edit"].get("fit") == fit
    assert visitor.download(tmp_path / "edited.png").size == size


def test_image_before_when_its_key_is_held_then_seen_for_that_long(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.page
    visitor.expect_model()
    expect(page.locator("#drop-model")).to_contain_text("For photos, run")
    visitor.choose_example("shapes")
    visitor.run()
    visitor.expect_name("-edit-")

    page.keyboard.down("Backslash")
    visitor.expect_name("shapes.png")
    page.keyboard.up("Backslash")
    visitor.expect_name("-edit-")
    page.keyboard.press("?")
    expect(visitor.see("#keys-dialog")).to_contain_text("Undo")


def test_question_when_asked_then_an_answer_that_a_reload_keeps(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    pipe = random_models.make_pipeline()
    pipe.register_to_config(base_size=SIDE, default_num_inference_steps=2, default_guidance_scale=1.0)
    server = LiveServer(make_settings(tmp_path), LocalRunner(pipe, preview_px=32))
    try:
        visitor = visit(server)
        visitor.choose_file({"name": "a.png", "mimeType": "image/png", "buffer": png(0)})
        visitor.choose_mode("describe")
        visitor.page.fill("#question", "What is in the picture?")

        visitor.page.click("#run")

        expect(visitor.see("#answer-text")).not_to_be_empty()
        expect(visitor.page.locator("#stage-bar")).to_be_visible()
        answer = visitor.page.locator("#answer-text").text_content() or ""
        visitor.choose_mode("edit")
        expect(visitor.page.locator("#answer")).to_be_hidden()
        visitor.wait_until_stored(mode="edit", answer=answer)
        visitor.reload()
        visitor.choose_mode("describe")
        expect(visitor.see("#answer-text")).to_have_text(answer)
    finally:
        server.close()


def test_question_when_the_tiny_model_is_asked_about_a_scene_then_its_answer_is_right(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    visitor.choose_example("shapes")
    visitor.choose_mode("describe")
    expect(visitor.page.locator("#describe-hint")).to_contain_text("drawn scenes")
    visitor.page.fill("#question", "What color is the heart?")

    visitor.page.click("#run")

    expect(visitor.see("#answer-text")).to_have_text("Black")


def test_jobs_when_listed_then_states_and_a_result_to_open(
    visit: Callable[..., Visitor], server: Server
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.run()
    visitor.set("steps", 100)
    page.click("#run")
    expect(visitor.see("#progress-text")).to_contain_text("Step", timeout=PATIENCE_MS)
    page.click("#jobs-open")

    rows = visitor.see("#jobs-list").locator("li")
    expect(rows.nth(0).locator(".state")).to_have_text("running")
    expect(rows.nth(0)).to_contain_text("of 100")
    rows.nth(0).locator("button").click()
    expect(rows.nth(0).locator(".state")).to_have_text("canceled", timeout=PATIENCE_MS)
    assert "An edit" not in (rows.nth(0).text_content() or "")  # but what it was asked for
    page.select_option("#jobs-state", "succeeded")
    expect(rows.nth(0).locator(".state")).to_have_text("done")
    expect(rows.nth(0).locator("img")).to_be_visible()
    visitor.wait_until_idle()
    rows.nth(0).get_by_role("button", name="Open").click()

    expect(page.locator("#jobs-dialog")).to_be_hidden()
    done = server.jobs()[1]
    expect(visitor.see("#picture-name")).to_contain_text(f"edit-{done['seed']}")
    page.click("#jobs-open")
    delete = rows.nth(0).get_by_role("button", name="Delete")
    delete.click()
    expect(delete).to_have_text("Confirm delete")
    delete.click()
    expect(rows.nth(0).get_by_role("button")).to_have_count(0)
    assert httpx2.get(done["images"][0]).status_code == 410


def test_run_when_it_ends_while_the_tab_is_hidden_then_the_system_tells(
    contexts: Callable[..., BrowserContext], server: Server
) -> None:
    context = contexts()
    context.add_init_script(
        """window.told = [];
        window.Notification = class {
            static permission = "default";
            static async requestPermission() { this.permission = "granted"; }
            constructor(title, { body }) { window.told.push(body); }
        };"""
    )
    visitor = Visitor(context.new_page(), server).open()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.set("steps", 60)
    page.click("#run")
    page.locator("#notify-me").click(timeout=PATIENCE_MS)
    expect(page.locator("#notify-me")).to_be_hidden()
    page.evaluate("() => Object.defineProperty(document, 'hidden', { get: () => true })")

    visitor.wait_until_idle()

    page.wait_for_function("() => window.told.length", timeout=PATIENCE_MS)
    assert page.evaluate("() => window.told[0]").startswith("Done.")
    assert page.title() == "Done · joyimage"


def test_message_when_it_comes_then_the_image_keeps_its_place(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.expect_model()
    visitor.choose_example("shapes")
    before = visitor.see("#canvas").bounding_box()

    visitor.choose_file({"name": "broken.png", "mimeType": "image/png", "buffer": b"no image"})

    expect(visitor.see("[data-notice=picture]")).to_be_in_viewport(ratio=1)
    assert visitor.see("#canvas").bounding_box() == before


def test_job_when_opened_in_another_browser_then_before_and_the_same_commands_and_record(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    first = visit()
    first.choose_example("shapes")
    first.choose_mode("move")
    first.page.fill("#object", 'it\'s a "black" heart')
    first.draw(0.1, 0.65, 0.35, 0.9)
    first.run()
    other = visit()
    other.page.click("#jobs-open")
    other.see("#jobs-list li:first-child").get_by_role("button", name="Open").click()
    expect(other.see("#views")).to_be_visible()
    expect(other.page.locator("#object")).to_have_value('it\'s a "black" heart')
    assert other.box() == first.box()
    other.choose_view("before")
    other.expect_name("input.png")

    commands, records = [], []
    for visitor in (first, other):
        visitor.choose_view("after")
        visitor.page.click("#copy-open")
        texts = []
        for language in ("shell", "python", "curl"):
            visitor.page.locator(f'#copy-forms input[value="{language}"]').check(force=True)
            texts.append(
                (visitor.page.locator("#copy-text").text_content() or "").replace("shapes.png", "input.png")
            )
        commands.append(texts)
        visitor.page.click("#copy-dialog [data-close]")
        visitor.download(tmp_path / f"{len(records)}.png")
        records.append(read_record(tmp_path / f"{len(records)}.png"))
    assert "black" in commands[0][0]
    assert commands[0] == commands[1]
    assert records[0] == records[1]


def test_settings_when_opened_then_defaults_of_the_checkpoint_and_limits_in_words(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.page
    expect(page.locator("#steps")).to_have_value("4")
    expect(page.locator("#guidance")).to_have_value("1")
    expect(page.locator("#model")).to_have_value("tiny")
    assert page.locator("#size option").count() > 10
    expect(page.locator("#references")).to_be_hidden()  # this checkpoint takes one picture

    visitor.choose_example("shapes")
    visitor.set("steps", 101)
    page.click("#run")
    expect(visitor.see("#run-problem")).to_have_text("Steps must be a whole number from 1 to 100.")
    expect(page.locator("#steps")).to_be_focused()
    visitor.set("steps", 2)
    visitor.set("negative", "blur")
    page.click("#settings-reset")
    expect(page.locator("#steps")).to_have_value("4")
    expect(page.locator("#negative")).to_have_value("")


def test_pictures_when_the_checkpoint_takes_several_then_all_are_sent(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    pipe = random_models.make_plus_pipeline()
    pipe.register_to_config(base_size=SIDE, default_num_inference_steps=2, default_guidance_scale=1.0)
    server = LiveServer(make_settings(tmp_path), LocalRunner(pipe, preview_px=32))
    try:
        visitor = visit(server)
        page = visitor.page
        visitor.choose_file({"name": "a.png", "mimeType": "image/png", "buffer": png(0)})
        for name in ("b.png", "c.png"):
            with page.expect_file_chooser() as chooser:
                visitor.see("#reference-add").click()
            chooser.value.set_files({"name": name, "mimeType": "image/png", "buffer": png(1)})
        expect(page.locator("#reference-list li")).to_have_count(2)
        page.get_by_role("button", name="Remove image 3, c.png").click()
        page.fill("#prompt-edit", "Put image 2 into image 1.")
        expect(page.locator("#framing-out")).to_be_hidden()
        visitor.run()

        (job,) = httpx2.get(f"{server.url}/v1/jobs").json()["data"]
        task = server.service.store.get(job["id"]).task
        assert task["num_inputs"] == 2
        visitor.reload()
        expect(page.locator("#reference-list li")).to_have_count(1)
        page.click("#copy-open")
        page.locator('#copy-forms input[value="curl"]').check(force=True)
        assert "image=@b.png" in (page.locator("#copy-text").text_content() or "")
        page.context.close()
    finally:
        server.close()


def test_adapter_when_turbo_then_its_defaults_and_a_reload_without_the_server_keeps_it(
    visit: Callable[..., Visitor], complaints: Complaints, tmp_path: Path
) -> None:
    complaints.expects_failed_requests = True  # no one answers for a while
    pipe = random_models.make_pipeline()
    pipe.register_to_config(base_size=SIDE, default_num_inference_steps=2, default_guidance_scale=1.0)
    adapter = LoraConfig(r=2, target_modules=["img_attn_qkv"], init_lora_weights=False)
    pipe.transformer.add_adapter(adapter, adapter_name="quick")
    recipe = SamplingRecipe(num_inference_steps=3, guidance_scale=1.5, shift=2.0)
    pipe.transformer.keep_recipe("quick", recipe)
    pipe.transformer.disable_adapters()
    runner = LocalRunner(pipe, loras=("quick",), preview_px=32)
    server = LiveServer(make_settings(tmp_path / "data", loras={"quick": tmp_path / "quick"}), runner)

    def values(*ids: str) -> list[str]:
        return [page.input_value(f"#{name}") for name in ids]

    try:
        visitor = visit(server)
        page = visitor.page
        visitor.choose_file({"name": "a.png", "mimeType": "image/png", "buffer": png(0)})
        page.fill("#prompt-edit", "red")
        visitor.set("field-max_attempts", 2)
        assert values("steps", "guidance") == ["2", "1"]
        page.select_option("#lora", "quick")
        assert values("steps", "guidance") == ["3", "1.5"]
        expect(page.locator("#defaults-hint")).to_contain_text("trained for 3 steps, guidance 1.5")

        for _ in range(2):  # the second one reads what the first one wrote
            page.route("**/v1/**", lambda route: route.abort())
            visitor.reload()
        page.unroute("**/v1/**")
        visitor.reload()
        visitor.expect_model()
        assert values("lora", "steps", "guidance", "field-max_attempts") == ["quick", "3", "1.5", "2"]
        visitor.unfold()
        page.select_option("#lora", "")
        assert values("steps", "guidance") == ["2", "1"]
        page.click("#undo")
        page.wait_for_function("() => document.querySelector('#lora').value === 'quick'")
        visitor.set("field-max_attempts", "")
        visitor.run()

        (job,) = httpx2.get(f"{server.url}/v1/jobs").json()["data"]
        assert (job["steps"], job["guidance"], job["edit"]["loras"]) == (3, 1.5, ["quick"])
        page.context.close()
    finally:
        server.close()


def test_words_when_they_are_those_of_a_spatial_edit_then_advice(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    advice = visitor.page.locator("#edit-advice")

    visitor.page.fill("#prompt-edit", "Rotate the car to show the left side view.")
    expect(advice).to_contain_text("This is the prompt of a rotation")
    visitor.page.fill("#prompt-edit", "Rotate the car to show the upper side view.")
    expect(advice).to_contain_text("asks for the view 'upper'")
    visitor.page.fill("#prompt-edit", "Move the car into the red box.")
    expect(advice).to_contain_text("Choose Move above to have the prompt written for you.")
    visitor.page.fill("#prompt-edit", "Make it a side of bacon.")
    expect(advice).to_be_hidden()


def test_photograph_when_brought_to_the_tiny_model_then_told_what_that_is_for(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    expect(visitor.page.locator("#model-chip")).to_contain_text("tiny")

    visitor.choose_file({"name": "beach.png", "mimeType": "image/png", "buffer": png(3)})
    expect(visitor.see("[data-notice=tiny]")).to_contain_text("For photos, run")
    visitor.choose_file(EXAMPLES / "car.png")
    expect(visitor.page.locator("[data-notice=tiny]")).to_have_count(0)


def test_steps_when_never_touched_then_another_checkpoint_brings_its_own(
    visit: Callable[..., Visitor], server: Server, tmp_path: Path
) -> None:
    visitor = visit()
    expect(visitor.page.locator("#steps")).to_have_value("4")
    kept = visitor.page.evaluate(
        """() => Object.entries(localStorage).filter(([key]) => key.startsWith("joyimage-tab-"))
            .map(([, text]) => JSON.parse(text).form).map((form) => [form.steps, form.guidance, form.n])"""
    )
    assert kept == [["", "", "1"]]
