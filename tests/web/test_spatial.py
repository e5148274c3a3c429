"""Move, rotate and camera: what is drawn, turned and dragged is what the model is told, and it happens."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from joyimage.spatial import CameraMove, ObjectMove, ObjectRotation, View
from tests.web.parts import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from playwright.sync_api import Route

    from tests.web.parts import Server, Visitor


def _mean(picture: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
    return np.asarray(picture.convert("RGB").crop(box), dtype=np.float64).mean(axis=(0, 1))


def test_move_when_box_is_drawn_then_the_object_is_there_and_no_longer_here(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    visitor.page.fill("#object", "black heart")
    visitor.draw(0.08, 0.68, 0.34, 0.94)

    visitor.run()

    after = visitor.download(tmp_path / "moved.png")
    before = Image.open(EXAMPLES / "shapes.png").convert("RGB")
    assert after.size == before.size
    heart, background = _mean(before, (370, 120, 420, 170)), _mean(before, (40, 40, 90, 90))
    left, top, width, height = visitor.box()
    middle = (left + width // 3, top + height // 3, left + 2 * width // 3, top + 2 * height // 3)
    assert abs(_mean(after, middle) - heart).max() < 40
    assert abs(_mean(after, (370, 120, 420, 170)) - background).max() < 40
    assert "Checked: " in (visitor.page.locator("#verdict").text_content() or "")
    visitor.page.click("#box-show")  # to try another place
    visitor.see(".box")
    assert visitor.box() == [left, top, width, height]


def test_object_when_clicked_and_dragged_then_its_pixels_follow_and_it_arrives(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    page.mouse.click(*visitor.place(0.05, 0.05))
    expect(page.locator("#box-advice")).to_contain_text("No distinct object was found here")

    page.mouse.click(*visitor.place(395 / 768, 145 / 768))
    expect(visitor.see(".box")).to_be_focused()
    before = np.asarray(Image.open(EXAMPLES / "shapes.png").convert("RGB"), dtype=int)
    rows, columns = np.nonzero(before.max(axis=2) < 90)  # the heart is the only dark shape
    heart = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert visitor.box() == pytest.approx(heart, abs=3)
    page.click("#run")
    expect(page.locator("#run-problem")).to_have_text("Drag the object to where it should go.")

    visitor.drag(*visitor.place(395 / 768, 145 / 768), *visitor.place(165 / 768, 620 / 768))
    left, top, width, height = visitor.box()
    assert [width, height] == pytest.approx(heart[2:], abs=3)
    screen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), dtype=int)
    x, y = (round(value) for value in visitor.place((left + width / 2) / 768, (top + height / 3) / 768))
    assert screen[y, x].max() < 120  # the ghost
    visitor.run()
    after = visitor.download(tmp_path / "moved.png")
    middle = (left + width // 3, top + height // 3, left + width // 2, top + height // 2)
    assert _mean(after, middle).max() < 120
    visitor.choose_view("after")  # what the next run starts from: the object is not where it was
    expect(page.locator(".box")).to_be_visible()
    expect(page.locator("#box-layer canvas")).to_have_count(0)
    expect(page.locator(".way")).to_be_hidden()


def test_object_when_lassoed_and_brushed_then_it_follows_and_a_reload_keeps_it(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    page.locator("#object-tools label", has_text="Lasso").click()
    page.evaluate("scrollTo(0, 0)")
    around = [(0.62, 0.66), (0.98, 0.66), (0.98, 0.99), (0.62, 0.99)]
    visitor.touch([[visitor.place(*one)] for one in around])

    example = np.asarray(Image.open(EXAMPLES / "shapes.png").convert("RGB"), dtype=int)
    rows, columns = np.nonzero(example[..., 1] - example[..., 0] > 60)  # the star is the only green shape
    star = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    expect(visitor.see(".box")).to_be_focused()
    assert visitor.box() == pytest.approx(star, abs=4)  # without the background that the lasso caught
    expect(page.locator(".way")).to_be_hidden()
    middle = [(star[n] + star[n + 2] / 2) / 768 for n in (0, 1)]
    (x0, y0), (x1, y1) = visitor.place(*middle), visitor.place(0.25, 0.4)
    visitor.touch([[(x0, y0)], [((x0 + x1) / 2, (y0 + y1) / 2)], [(x1, y1)]])
    moved = visitor.box()
    assert moved[2:] == pytest.approx(star[2:], abs=4)

    page.locator("#object-tools label", has_text="Brush").click()
    page.check("#object-erases")
    page.evaluate("scrollTo(0, 0)")
    for share in (0.84, 0.88, 0.92, 0.95):  # its legs
        visitor.touch([[visitor.place(0.6, share)], [visitor.place(0.99, share)]])
    expect(page.locator("#box-height")).not_to_have_value(str(moved[3]))
    shorter = visitor.box()
    assert shorter[3] < 0.8 * moved[3]
    assert shorter[1] == pytest.approx(moved[1], abs=2)  # what is left is where it was
    page.click("#undo")
    page.click("#undo")
    expect(page.locator("#box-height")).not_to_have_value(str(shorter[3]))
    page.click("#redo")
    page.click("#redo")
    expect(page.locator("#box-height")).to_have_value(str(shorter[3]))

    visitor.reload()

    assert visitor.box() == shorter
    page.locator("#box-layer .ghost").wait_for(state="attached")
    expect(page.locator(".way")).to_be_visible()
    page.evaluate("scrollTo(0, 0)")
    screen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), dtype=int)
    left, top, width, height = shorter
    x, y = (round(value) for value in visitor.place((left + 0.4 * width) / 768, (top + 0.85 * height) / 768))
    red, green, blue = screen[y, x]
    assert green > max(red, blue) + 40  # its pixels


def test_box_when_dragged_resized_and_nudged_then_numbers_follow_in_the_pictures_pixels(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    visitor.draw(0.25, 0.25, 0.5, 0.5)
    assert visitor.box() == pytest.approx([192, 192, 192, 192], abs=2)

    visitor.drag(*visitor.place(0.4, 0.4), *visitor.place(0.5, 0.4))
    assert visitor.box() == pytest.approx([269, 192, 192, 192], abs=3)
    left, top, width, height = visitor.box()
    visitor.drag(*visitor.place((left + width) / 768, (top + height) / 768), *visitor.place(0.75, 0.75))
    assert visitor.box() == pytest.approx([left, top, 576 - left, 576 - top], abs=3)

    left, top, width, height = visitor.box()
    visitor.page.keyboard.press("ArrowRight")
    visitor.page.keyboard.press("Alt+ArrowUp")
    assert visitor.box() == [left + 8, top - 1, width, height]
    visitor.page.keyboard.press("Shift+ArrowDown")
    assert visitor.box() == [left + 8, top - 1, width, height + 8]

    size = visitor.box()[2:]
    visitor.page.fill("#box-left", "700")
    visitor.page.locator("#box-left").blur()
    assert visitor.box()[0] == 768 - size[0]  # shifted, not cut
    assert visitor.box()[2:] == size
    visitor.page.locator(".box").focus()
    visitor.page.keyboard.press("Delete")
    assert visitor.see("#box-add")


def test_box_when_the_image_is_not_square_then_both_axes_are_in_its_pixels(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    Image.new("RGB", (960, 480), "white").save(tmp_path / "wide.png")
    visitor = visit()
    visitor.choose_file(tmp_path / "wide.png")
    visitor.choose_mode("move")

    visitor.draw(0.25, 0.25, 0.5, 0.75)

    assert visitor.box() == pytest.approx([240, 120, 240, 240], abs=3)


def test_box_when_zoomed_and_name_beside_it_edited_then_still_exact_and_in_the_words(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    for _ in range(4):
        visitor.page.click("#zoom-in")

    visitor.draw(0.4, 0.4, 0.6, 0.6)
    visitor.page.fill(".box-name", "purple circle")

    assert visitor.box() == pytest.approx([307, 307, 154, 154], abs=2)
    assert visitor.page.input_value("#object") == "purple circle"
    assert visitor.page.input_value("#prompt-sent") == ObjectMove("purple circle", None).prompt


def test_box_when_typed_before_there_is_one_then_the_numbers_stay(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    page.fill("#object", "black heart")

    page.locator("#box-left").focus()
    page.keyboard.type("60")
    page.keyboard.press("Tab")
    page.keyboard.type("480")
    page.keyboard.press("Tab")
    assert [page.input_value(f"#box-{side}") for side in ("left", "top", "width")] == ["60", "480", ""]
    page.click("#run")
    expect(page.locator("#run-problem")).to_have_text("Type the width of the box, or draw the box.")
    expect(page.locator("#box-width")).to_be_focused()
    page.keyboard.type("240")
    page.keyboard.press("Tab")
    page.keyboard.type("500")
    page.keyboard.press("Tab")

    assert visitor.box() == [60, 268, 240, 500]  # shifted up to where the image has room for it
    page.locator(".box").focus()
    page.keyboard.press("Delete")
    assert page.input_value("#box-left") == ""
    expect(page.locator("#box-add")).to_be_focused()


def test_box_when_a_slip_escape_or_second_finger_comes_then_it_is_what_it_was(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    visitor.draw(0.2, 0.2, 0.5, 0.5)
    box = visitor.box()

    x, y = visitor.place(0.7, 0.7)
    visitor.drag(x, y, x + 6, y + 3)
    assert visitor.box() == box
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 60)
    page.keyboard.press("Escape")
    page.mouse.up()
    assert visitor.box() == box

    zoom = page.locator("#zoom-value").text_content()
    visitor.touch([[(x, y), (x - 20, y)], [(x + 30, y), (x - 50, y)], [(x + 60, y), (x - 80, y)]])
    assert visitor.box() == box
    assert page.locator("#zoom-value").text_content() != zoom
    page.click("#zoom-fit")
    (x, y), (_, below) = visitor.place(0.8, 0.3), visitor.place(0.8, 0.6)
    visitor.touch([[(x, y)], [(x, (y + below) / 2)], [(x, below)]])
    assert visitor.box() == box
    top = "() => scrollY"
    page.evaluate("() => scrollTo(0, 0)")
    page.locator(".box").focus()
    page.keyboard.press("Delete")
    (x, y), (_, above) = visitor.place(0.8, 0.7), visitor.place(0.8, 0.2)
    visitor.touch([[(x, y - n * (y - above) / 8)] for n in range(9)])  # straight up: for the page
    page.wait_for_function(f"() => ({top})() > 40")
    assert page.input_value("#box-left") == ""
    page.keyboard.press("Control+z")
    page.wait_for_function("() => document.querySelector('#box-left').value")
    assert visitor.box() == box
    page.click("#box-redraw")  # which brings the image into sight
    (x, y), (_, below) = visitor.place(0.8, 0.3), visitor.place(0.8, 0.6)
    visitor.touch([[(x, y)], [(x - 40, (y + below) / 2)], [(x - 80, below)]])
    assert visitor.box() != box


def test_image_when_zoomed_with_a_box_on_it_then_space_middle_button_and_trackpad_pan(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    visitor.draw(0.4, 0.4, 0.6, 0.6)
    box = visitor.box()
    for _ in range(6):
        page.click("#zoom-in")
    seen = [visitor.place(0, 0)]
    bounds = page.locator("#panes").bounding_box()
    assert bounds is not None
    x, y = bounds["x"] + 60, bounds["y"] + 60

    page.mouse.move(x, y)
    page.keyboard.down("Space")
    visitor.drag(x, y, x + 30, y + 20)
    page.keyboard.up("Space")
    seen.append(visitor.place(0, 0))
    assert seen[1] == pytest.approx((seen[0][0] + 30, seen[0][1] + 20), abs=1)
    page.mouse.move(x, y)
    page.mouse.down(button="middle")
    page.mouse.move(x + 25, y)
    page.mouse.up(button="middle")
    seen.append(visitor.place(0, 0))
    assert seen[2] == pytest.approx((seen[1][0] + 25, seen[1][1]), abs=1)
    page.mouse.wheel(15, 10)
    page.wait_for_function(
        "(x) => Math.abs(document.querySelector('#box-layer').getBoundingClientRect().x - x) < 1",
        arg=seen[2][0] - 15,
    )

    assert visitor.box() == box


def test_move_when_drawn_with_a_finger_on_a_phone_then_box_is_there(visit: Callable[..., Visitor]) -> None:
    visitor = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    (x0, y0), (x1, y1) = visitor.place(0.2, 0.2), visitor.place(0.6, 0.6)

    visitor.touch([[(x0, y0)], [((x0 + x1) / 2, (y0 + y1) / 2)], [(x1, y1)]])

    assert visitor.box() == pytest.approx([154, 154, 307, 307], abs=4)


def test_move_when_the_object_does_not_arrive_then_the_check_says_so(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    visitor.see("#box-cue")
    visitor.draw(0.39, 0.39, 0.62, 0.62)  # where the circle is: it stays, and the heart vanishes
    assert visitor.page.locator("#box-cue").is_hidden()
    visitor.set("seed", 1)

    visitor.run()

    words = visitor.see("#verdict.doubtful strong").text_content() or ""
    assert words.startswith("Look closely: ")
    assert "may not have arrived" in words


@pytest.mark.parametrize("mode", ["move", "edit"])
def test_edit_when_the_model_sees_no_such_object_then_it_can_be_run_anyway(
    visit: Callable[..., Visitor], server: Server, mode: str
) -> None:
    visitor = visit()
    visitor.choose_example("shapes")
    if mode == "move":
        visitor.choose_mode("move")
        visitor.page.fill("#object", "yellow heart")
        visitor.draw(0.1, 0.5, 0.35, 0.8)
    else:
        visitor.page.fill("#prompt-edit", "Remove the yellow heart.")
    visitor.page.click("#run")
    notice = visitor.see("[data-notice=run]")
    expect(notice).to_contain_text("There is no yellow heart in this image")
    expect(notice).not_to_contain_text("--force")

    notice.get_by_text("Run it anyway", exact=True).click()

    visitor.see("#result")
    assert server.jobs()[0]["edit"]["force"] is True


def test_move_when_the_server_words_a_missing_object_in_another_way_then_the_page_knows_it_by_its_code(
    visit: Callable[..., Visitor],
) -> None:
    def reword(route: Route) -> None:
        answer = route.fetch()
        words = answer.text().replace("as far as the model can tell", "it seems").replace("--force", "force")
        route.fulfill(response=answer, body=words)

    visitor = visit()
    visitor.page.route("**/v1/jobs/*/events", reword)
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    visitor.page.fill("#object", "yellow heart")
    visitor.draw(0.1, 0.5, 0.35, 0.8)
    visitor.page.click("#run")

    notice = visitor.see("[data-notice=run]")
    expect(notice).to_contain_text("There is no yellow heart in this image, it seems. Name another object")
    expect(notice.get_by_text("Run it anyway", exact=True)).to_be_visible()


def test_rotation_when_view_is_chosen_by_keyboard_then_the_model_is_told_so(
    visit: Callable[..., Visitor], server: Server
) -> None:
    visitor = visit()
    visitor.choose_example("car")  # which opens this mode
    visitor.page.locator('#compass input[value="left"]').focus()
    visitor.page.keyboard.press("ArrowDown")

    prompt = ObjectRotation("car", "rear left").prompt
    assert visitor.page.input_value("#prompt-sent") == prompt
    visitor.run()

    assert server.jobs()[0]["prompt"] == prompt
    assert "not judged" in (visitor.see("#verdict strong").text_content() or "")
    expect(visitor.page.locator("#verdict")).to_have_class("verdict")  # green is for what was verified


def test_camera_when_sphere_is_dragged_then_angles_snap_and_the_model_is_told_so(
    visit: Callable[..., Visitor], server: Server
) -> None:
    visitor = visit()
    visitor.choose_example("turntable")
    bounds = visitor.see(".sphere").bounding_box()
    assert bounds is not None
    x, y = bounds["x"] + bounds["width"] / 2, bounds["y"] + bounds["height"] / 2

    visitor.drag(x, y, x + 62, y - 40)  # from yaw 45, pitch 0
    assert [visitor.page.input_value("#yaw"), visitor.page.input_value("#pitch")] == ["90", "30"]
    visitor.page.locator(".sphere").focus()
    visitor.page.keyboard.press("ArrowLeft")
    visitor.page.keyboard.press("ArrowDown")

    prompt = CameraMove(45, 15).prompt
    assert visitor.page.input_value("#prompt-sent") == prompt
    visitor.run()
    assert server.jobs()[0]["prompt"] == prompt


def test_camera_when_free_or_mixed_or_nothing_then_advice(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.choose_mode("camera")
    advice = visitor.page.locator("#camera-advice")

    visitor.page.fill("#yaw", "30")
    assert "other angles may be less accurate" in (advice.text_content() or "")
    visitor.page.fill("#yaw", "90")
    assert advice.is_hidden()
    visitor.page.select_option("#zoom", "in")
    assert "not both at once" in (advice.text_content() or "")
    visitor.page.select_option("#zoom", "unchanged")
    visitor.page.fill("#yaw", "0")
    assert "does not move the camera" in (advice.text_content() or "")


def test_camera_when_angles_are_typed_then_kept_to_the_trained_ones_or_a_sentence(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("turntable")
    problem = page.locator("#run-problem")

    page.fill("#yaw", "400")
    page.locator("#pitch").focus()
    assert page.input_value("#yaw") == "45"
    page.uncheck("#snap")
    page.fill("#yaw", "400")
    page.fill("#pitch", "7")
    page.click("#run")
    expect(problem).to_have_text("Yaw must be a number from -360 to 360 degrees.")
    expect(page.locator("#yaw")).to_be_focused()
    page.fill("#yaw", "")
    page.click("#run")
    expect(problem).to_have_text("Yaw must be a number from -360 to 360 degrees.")
    page.fill("#yaw", "22.5")
    page.locator("#pitch").focus()
    assert page.input_value("#yaw") == "23"  # what is sent is what is seen
    page.fill("#yaw", "0")
    page.fill("#pitch", "0")
    page.click("#run")
    expect(problem).to_contain_text("does not move the camera")
    expect(page.locator("#progress")).to_be_hidden()


def test_camera_when_the_image_is_larger_than_the_models_size_then_what_becomes_of_it_is_said(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.expect_model()
    visitor.choose_example("turntable")
    hint = page.locator("#camera-size")

    expect(hint).to_contain_text("The result has the model's size")
    page.evaluate("document.querySelector('#settings').open = true")
    page.check("#restore")
    expect(hint).to_be_hidden()


def test_wireframe_when_the_camera_moves_then_it_shows_what_will_be_seen(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    visitor.choose_mode("camera")

    def seen() -> tuple[str, str]:
        now, after = (one.inner_html() for one in visitor.page.locator("#orbit figure svg").all())
        return now, after

    visitor.page.fill("#yaw", "0")
    now, after = seen()
    assert now == after

    pictures = {after}
    for field, value in (("yaw", "90"), ("pitch", "30"), ("zoom", "in")):
        if field == "zoom":
            visitor.page.select_option("#zoom", value)
        else:
            visitor.page.fill(f"#{field}", value)
        assert seen()[0] == now
        pictures.add(seen()[1])
    assert len(pictures) == 4


def test_prompt_when_edited_by_hand_then_controls_follow_or_a_sentence_says_why_not(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    visitor.choose_example("turntable")
    prompt = visitor.page.locator("#prompt-sent")

    prompt.fill(CameraMove(-90, 30, "in").prompt_in("benchmark"))
    visitor.page.wait_for_function("() => document.querySelector('#yaw').value === '-90'")
    assert visitor.page.input_value("#pitch") == "30"
    assert visitor.page.input_value("#zoom") == "in"
    assert visitor.page.input_value("#wording") == "benchmark"
    assert prompt.input_value() == CameraMove(-90, 30, "in").prompt_in("benchmark")

    prompt.fill(CameraMove(45, 0).prompt.replace("static", "still"))
    assert "looks like a camera move" in (visitor.see("#prompt-problem").text_content() or "")
    visitor.page.click("#run")
    assert "looks like" in (visitor.see("#run-problem").text_content() or "")
    assert visitor.page.locator("#progress").is_hidden()

    visitor.page.click("#prompt-free")
    assert visitor.page.input_value("#prompt-edit").startswith("Move the camera.")
    visitor.choose_mode("camera")
    assert prompt.input_value() == CameraMove(-90, 30, "in").prompt_in("benchmark")


def test_words_when_made_by_the_page_then_letter_by_letter_those_of_the_library(
    visit: Callable[..., Visitor],
) -> None:
    names = ("car", "the blue car", "An apple", "anchor", " left shoe ")
    angles = ((0, 0), (-135, 75), (180, -15), (12.5, -0.4), (-0.5, 7.25), (44.5, 45.5))
    edits: list[tuple[Mapping[str, object], Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about angles that were not trained
        for name in names:
            edits.append(({"kind": "move", "object": name}, ObjectMove(name, None)))
            for view in View:
                turn = {"kind": "rotate", "object": name, "view": view.value}
                edits.append((turn, ObjectRotation(name, view)))
        for yaw, pitch in angles:
            move = {"kind": "camera", "yaw": yaw, "pitch": pitch, "zoom": "out"}
            edits.append((move, CameraMove(yaw, pitch, "out")))
    visitor = visit()

    for style in ("documented", "benchmark"):
        made = visitor.page.evaluate(
            """async ([edits, style]) => {
                const { word } = await import("/words.js");
                return edits.map((edit) => word(edit, style));
            }""",
            [[edit for edit, _ in edits], style],
        )

        assert made == [twin.prompt_in(style) for _, twin in edits]
