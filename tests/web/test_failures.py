"""Whatever goes wrong: nothing is lost, and a sentence says what happened."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.web.parts import EXAMPLES, PATIENCE_MS, Server, find_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import BrowserContext

    from tests.web.conftest import Complaints
    from tests.web.parts import Visitor

KEY = "a-key-that-is-long-enough"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a key and takes small files only."""
    folder = tmp_path_factory.mktemp("strict")
    (folder / "keys").write_text(f"tester:{KEY}\n")
    server = Server(folder, "--api-keys-file", folder / "keys", JOYIMAGE_MAX_IMAGE_BYTES="40000")
    yield server
    server.stop()


def _give_key(visitor: Visitor, key: str = KEY) -> None:
    visitor.see("#key-dialog")
    visitor.page.fill("#key-input", key)
    visitor.page.click("#key-form button")


def _png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "notes.txt",
            b"dear diary",
            "notes.txt is not a picture that can be read. Use a PNG, JPEG, WebP, GIF, AVIF, HEIC, TIFF or BMP file.",
        ),
        ("empty.png", b"", "empty.png is empty; choose another file."),
        (
            "broken.png",
            (EXAMPLES / "car.png").read_bytes()[:300],
            "broken.png is not a picture that can be read",
        ),
        (
            "photo.heic",
            b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
            "photo.heic is not an image file that is accepted",  # in the server's words
        ),
        ("huge.png", _png(9000, 8000), "pixels; this server accepts up to 64 million."),
    ],
)
def test_file_when_wrong_then_a_sentence_and_the_old_picture_stays(
    visit: Callable[..., Visitor], complaints: Complaints, name: str, content: bytes, words: str
) -> None:
    complaints.expects_failed_requests = name == "photo.heic"
    visitor = visit(viewport={"width": 360, "height": 740})
    visitor.choose_example("car")
    expect(visitor.page.locator("#model-chip")).to_have_text(re.compile("tiny"))
    visitor.page.evaluate("() => scrollTo(0, document.body.scrollHeight)")

    visitor.choose_file({"name": name, "mimeType": "image/png", "buffer": content})

    expect(visitor.see("[data-notice=picture]")).to_contain_text(words)
    expect(visitor.page.locator("[data-notice=picture]")).to_be_in_viewport(ratio=1)
    expect(visitor.page.locator("#picture-name")).to_contain_text("car.png")
    visitor.choose_file(EXAMPLES / "shapes.png")  # the message goes with its reason
    expect(visitor.page.locator("[data-notice=picture]")).to_have_count(0)


def test_key_when_needed_then_asked_for_once_and_again_only_where_wrong(
    visit: Callable[..., Visitor], strict: Server, complaints: Complaints
) -> None:
    complaints.expects_failed_requests = True  # a wrong key
    visitor = visit(strict)

    visitor.see("#key-dialog")
    assert find_faults(visitor.page) == []
    _give_key(visitor, "a-key-that-opens-nothing")
    expect(visitor.see("#key-reason")).to_contain_text("wrong")
    _give_key(visitor)
    expect(visitor.page.locator("#model-chip")).to_contain_text("tiny")
    visitor.choose_example("shapes")
    visitor.run()  # events and pictures need the key too

    visitor.reload()
    expect(visitor.page.locator("#model-chip")).to_contain_text("tiny")
    expect(visitor.page.locator("#key-dialog")).to_be_hidden()
    other = visitor.page.context.new_page()
    other.goto(strict.url)
    expect(other.locator("#model-chip")).to_contain_text("tiny")
    expect(other.locator("#key-dialog")).to_be_hidden()


def test_file_when_too_large_then_a_sentence_before_it_is_sent(
    visit: Callable[..., Visitor], strict: Server
) -> None:
    visitor = visit(strict)
    _give_key(visitor)
    expect(visitor.page.locator("#model-chip")).to_contain_text("tiny")
    noise = io.BytesIO()
    Image.effect_noise((300, 300), 90).save(noise, "PNG")

    visitor.choose_file({"name": "noise.png", "mimeType": "image/png", "buffer": noise.getvalue()})

    expect(visitor.see("[data-notice=picture]")).to_contain_text("this server accepts pictures up to 0.04 MB")


def test_server_when_it_dies_during_a_run_and_comes_back_then_the_run_ends_well(
    visit: Callable[..., Visitor], strict: Server, complaints: Complaints
) -> None:
    complaints.expects_failed_requests = True  # no one answers
    visitor = visit(strict)
    _give_key(visitor)
    visitor.choose_example("shapes")
    visitor.set("steps", 80)
    visitor.page.click("#run")
    expect(visitor.see("#progress-text")).to_contain_text("Step", timeout=PATIENCE_MS)

    strict.kill()
    expect(visitor.see("[data-notice=gone]")).to_contain_text("The server is not responding")
    expect(visitor.see("#progress-text")).to_contain_text("not responding")  # no step stays that is none
    strict.start()

    visitor.see("#result")
    expect(visitor.page.locator("[data-notice=gone]")).to_have_count(0)
    expect(visitor.page.locator("#verdict")).to_contain_text("80 steps")
    jobs = httpx2.get(f"{strict.url}/v1/jobs", headers={"Authorization": f"Bearer {KEY}"}).json()["data"]
    assert (jobs[0]["restarted"], jobs[0]["state"]) == (1, "succeeded")


def test_run_when_started_while_the_server_is_gone_then_sent_once_it_is_back(
    visit: Callable[..., Visitor], server: Server, complaints: Complaints
) -> None:
    complaints.expects_failed_requests = True  # no one answers
    visitor = visit()
    visitor.expect_model()
    visitor.choose_example("shapes")
    number = len(server.jobs())
    visitor.page.context.set_offline(True)
    visitor.page.click("#run")
    expect(visitor.see("#progress-text")).to_contain_text("Trying again")

    visitor.page.context.set_offline(False)

    visitor.see("#result")
    assert len(server.jobs()) == number + 1


def test_tabs_when_two_then_each_has_its_own_work_and_neither_disturbs_the_other(
    visit: Callable[..., Visitor], server: Server
) -> None:
    first = visit()
    first.choose_example("shapes")
    second_page = first.page.context.new_page()
    second = type(first)(second_page, server).open()
    expect(second_page.locator("#drop")).to_be_visible()  # nothing of the other tab
    second.choose_example("car")

    first.set("steps", 40)
    first.page.click("#run")
    second.page.click("#run")
    for visitor in (first, second):
        visitor.see("#result")
        visitor.reload()
    expect(first.see("#picture-name")).to_contain_text("edit-")
    expect(second.see("#picture-name")).to_contain_text("rotate-")


def test_browser_when_closed_and_opened_then_the_last_work_is_there(
    contexts: Callable[..., BrowserContext], server: Server
) -> None:
    from tests.web.parts import Visitor

    context = contexts()
    visitor = Visitor(context.new_page(), server).open()
    visitor.choose_example("car")
    visitor.wait_until_stored(object="car")
    visitor.page.close()

    again = Visitor(context.new_page(), server).open()

    expect(again.see("#picture-name")).to_contain_text("car.png")
    expect(again.page.locator("#object")).to_have_value("car")


def test_run_when_something_is_missing_then_a_sentence_and_the_cursor_where_it_belongs(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.page
    problem = page.locator("#run-problem")

    page.click("#run")
    expect(problem).to_have_text("Choose a picture first.")
    expect(page.locator("#choose")).to_be_focused()
    visitor.choose_file(EXAMPLES / "shapes.png")
    visitor.expect_name("shapes.png")
    page.click("#run")
    expect(problem).to_have_text("Describe what should change.")
    expect(page.locator("#prompt-edit")).to_be_focused()
    visitor.choose_mode("move")
    page.click("#run")
    expect(problem).to_have_text("Name the object.")
    page.fill("#object", "black heart")
    page.click("#run")
    expect(problem).to_have_text("Draw a box where the object should go.")
    page.click("#box-add")
    expect(problem).to_be_hidden()
    expect(page.locator(".box")).to_be_focused()


def test_run_when_the_server_rejects_then_its_own_sentence(
    visit: Callable[..., Visitor], complaints: Complaints
) -> None:
    complaints.expects_failed_requests = True  # that is what is tried
    visitor = visit()
    visitor.choose_example("shapes")
    visitor.page.fill("#prompt-edit", "x" * 32_001)

    visitor.page.click("#run")

    expect(visitor.see("[data-notice=run]")).to_contain_text("prompt is 32001 characters long")
    assert find_faults(visitor.page) == []
    expect(visitor.page.locator("#run")).to_be_enabled()


def test_run_when_cancelled_while_the_server_is_gone_then_free_at_once(
    visit: Callable[..., Visitor], complaints: Complaints
) -> None:
    complaints.expects_failed_requests = True  # no one answers
    visitor = visit()
    visitor.choose_example("shapes")
    visitor.set("steps", 100)
    visitor.page.click("#run")
    expect(visitor.see("#progress-text")).to_contain_text("Step", timeout=PATIENCE_MS)
    visitor.page.context.set_offline(True)

    visitor.page.click("#cancel")

    expect(visitor.see("[data-notice=run]")).to_contain_text("could not be reached to stop")
    expect(visitor.page.locator("#run")).to_be_enabled()


def test_key_when_rejected_to_give_then_a_sentence_and_a_way_back(
    visit: Callable[..., Visitor], strict: Server
) -> None:
    visitor = visit(strict)
    visitor.see("#key-dialog")

    visitor.page.keyboard.press("Escape")
    visitor.see("[data-notice=key]").get_by_role("button", name="Enter the key").click()
    _give_key(visitor)

    expect(visitor.page.locator("#model-chip")).to_contain_text("tiny")
    expect(visitor.page.locator("[data-notice=key]")).to_have_count(0)


def test_page_when_reloaded_before_the_server_has_the_run_then_sent_once(
    visit: Callable[..., Visitor], server: Server, complaints: Complaints
) -> None:
    complaints.expects_failed_requests = True  # the request never arrives
    visitor = visit()
    visitor.choose_example("shapes")
    number = len(server.jobs())
    visitor.page.route("**/v1/jobs", lambda route: route.abort())
    visitor.page.click("#run")
    expect(visitor.see("#progress-text")).to_contain_text("Trying again")
    visitor.wait_until_stored()
    visitor.page.unroute("**/v1/jobs")

    visitor.reload()

    visitor.see("#result")
    assert len(server.jobs()) == number + 1


def test_tab_when_duplicated_then_a_session_of_its_own(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.choose_example("car")
    visitor.wait_until_stored()

    with visitor.page.expect_popup() as popup:
        visitor.page.evaluate("() => { window.open(location.href); }")  # which copies the tab's storage

    expect(popup.value.locator("#drop")).to_be_visible()
    expect(popup.value.locator("#model-chip")).to_contain_text("tiny")
    expect(visitor.page.locator("#picture-name")).to_contain_text("car.png")


def test_example_when_the_server_is_gone_then_a_sentence(
    visit: Callable[..., Visitor], complaints: Complaints
) -> None:
    complaints.expects_failed_requests = True  # no one answers
    visitor = visit()
    visitor.page.context.set_offline(True)

    visitor.page.click('[data-example="car"]')

    expect(visitor.see("[data-notice=picture]")).to_contain_text("not responding")


@pytest.mark.parametrize("kind", ["animated", "one pixel", "panorama", "cmyk"])
def test_file_when_unusual_then_it_can_be_edited_and_what_is_left_out_is_said(
    visit: Callable[..., Visitor], tmp_path: Path, kind: str
) -> None:
    picture = Image.open(EXAMPLES / "shapes.png").convert("RGB")
    name = {"animated": "a.webp", "one pixel": "a.png", "panorama": "a.jpg", "cmyk": "a.jpg"}[kind]
    size = {"animated": (200, 200), "one pixel": (1, 1), "panorama": (12_000, 60), "cmyk": (96, 96)}[kind]
    given = picture.resize(size)
    if kind == "animated":
        given.save(tmp_path / name, save_all=True, append_images=[given.rotate(90)], duration=200)
    else:
        given.convert("CMYK" if kind == "cmyk" else "RGB").save(tmp_path / name)
    visitor = visit()
    visitor.expect_model()

    visitor.choose_file(tmp_path / name)
    visitor.expect_name(name)
    visitor.page.fill("#prompt-edit", "Make it darker.")
    visitor.set("steps", 1)
    visitor.run()

    assert visitor.download(tmp_path / "edited.png").size == size
    expect(visitor.page.locator("#verdict")).to_contain_text("1 step ")
    frames = visitor.page.locator("[data-notice=frames]")
    expect(frames).to_have_count(1 if kind == "animated" else 0)
