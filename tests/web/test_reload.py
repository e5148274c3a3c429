"""A reload: what is asked for before the server has answered is done in full, or the page says what is missing."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from joyimage.imaging import read_record
from tests.web.parts import PATIENCE_MS, Visitor, find_faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Download, Page, Route

    from tests.web.conftest import Complaints
    from tests.web.parts import Server

MODELS = "**/v1/models"
SCHEMAS = "**/v1/edits/schema"
# The page's wait for the server never ends by itself: a busy machine may take longer than that between two lines here.
ENDLESS_WAIT = """{
    const start = window.setTimeout;
    window.setTimeout = (call, ms, ...rest) => (ms === 4000 ? 0 : start(call, ms, ...rest));
}"""

# Another page queues for this tab's lock: it has it once the tab is reloaded, as if the old page were slow to go.
QUEUE = """async (name) => {
    navigator.locks.request(name, () => new Promise((resolve) => { window.giveUp = resolve; }));
    await navigator.locks.query();
}"""
IS_AWAITED = "async (name) => (await navigator.locks.query()).pending.some((one) => one.name === name)"


class Held:
    """Requests of one kind that get no answer, from the next reload until they are released."""

    def __init__(self, page: Page, pattern: str) -> None:
        self._page = page
        self._pattern = pattern
        self._routes: list[Route] = []
        page.add_init_script(ENDLESS_WAIT)
        page.route(pattern, lambda route: self._routes.append(route))  # Playwright wants a function of Python

    def release(self) -> None:
        for route in self._routes:
            route.continue_()
        self._page.unroute(self._pattern)


@pytest.fixture
def visitor(visit: Callable[..., Visitor]) -> Visitor:
    """Somebody who has made an edit, which a reload finds again."""
    visitor = visit()
    visitor.expect_model()
    visitor.choose_example("shapes")
    visitor.set("steps", 1)
    visitor.run()
    visitor.wait_until_stored()
    return visitor


def _extract(download: Download, folder: Path) -> dict[str, Any] | None:
    """Save an exported project, and return the record of its edit, if there is one."""
    download.save_as(folder / "shapes.zip")
    with zipfile.ZipFile(folder / "shapes.zip") as archive:
        archive.extractall(folder)
    return read_record(folder / "edit-1.png")


@pytest.mark.parametrize("pattern", [MODELS, SCHEMAS])
def test_save_when_pressed_before_the_server_has_answered_then_saved_with_its_settings(
    visitor: Visitor, tmp_path: Path, pattern: str
) -> None:
    visitor.download(tmp_path / "before.png")
    held = Held(visitor.page, pattern)
    visitor.reload()

    with visitor.page.expect_download() as download:
        visitor.page.click("#download")
        expect(visitor.see("[data-notice=download]")).to_contain_text("Waiting for the server")
        held.release()

    download.value.save_as(tmp_path / "after.png")
    assert (tmp_path / "after.png").read_bytes() == (tmp_path / "before.png").read_bytes()
    assert read_record(tmp_path / "after.png") is not None
    expect(visitor.page.locator("[data-notice=download]")).to_have_count(0)


def test_save_when_the_server_does_not_answer_then_saved_and_the_page_says_what_is_missing(
    visitor: Visitor, complaints: Complaints, tmp_path: Path
) -> None:
    complaints.expects_failed_requests = True  # no one answers
    made = np.asarray(visitor.download(tmp_path / "before.png"))
    visitor.page.route("**/v1/**", lambda route: route.abort())
    visitor.reload()

    saved = visitor.download(tmp_path / "after.png")

    assert np.array_equal(np.asarray(saved), made)
    assert read_record(tmp_path / "after.png") is None
    notice = visitor.see("[data-notice=download]")
    expect(notice).to_contain_text("was saved without the settings that made it")
    visitor.page.unroute("**/v1/**")
    visitor.expect_model()
    visitor.download(tmp_path / "again.png")  # as the notice advises
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "before.png").read_bytes()
    expect(notice).to_have_count(0)


def test_copy_when_opened_before_the_server_has_answered_then_the_commands_come_later(
    visitor: Visitor,
) -> None:
    page = visitor.page
    text = page.locator("#copy-text")
    page.click("#copy-open")
    expect(text).to_contain_text("joyimage edit")
    commands = text.text_content() or ""
    held = Held(page, SCHEMAS)
    visitor.reload()

    page.click("#copy-open")

    expect(text).to_contain_text("Waiting for the server")
    expect(page.locator("#copy-do")).to_be_disabled()  # there is nothing to copy yet
    assert find_faults(page) == []
    held.release()
    expect(text).to_have_text(commands)
    expect(page.locator("#copy-do")).to_be_enabled()


def test_export_when_pressed_before_the_server_has_answered_then_images_have_their_settings(
    visitor: Visitor, tmp_path: Path
) -> None:
    page = visitor.page
    visitor.download(tmp_path / "before.png")
    held = Held(page, MODELS)
    visitor.reload()
    page.click("#projects-open")

    with page.expect_download() as download:
        page.get_by_role("button", name="Export shapes.png").click()
        expect(page.locator("#projects-problem")).to_contain_text("Waiting for the server")
        held.release()

    record = _extract(download.value, tmp_path)
    assert record is not None
    assert record == read_record(tmp_path / "before.png")
    expect(page.locator("#projects-problem")).to_be_hidden()


def test_export_when_the_server_does_not_answer_then_the_page_says_what_the_images_lack(
    visitor: Visitor, complaints: Complaints, tmp_path: Path
) -> None:
    complaints.expects_failed_requests = True  # no one answers
    page = visitor.page
    made = np.asarray(visitor.download(tmp_path / "before.png"))
    page.route("**/v1/**", lambda route: route.abort())
    visitor.reload()
    page.click("#projects-open")

    with page.expect_download() as download:
        page.get_by_role("button", name="Export shapes.png").click()

    assert _extract(download.value, tmp_path) is None
    assert np.array_equal(np.asarray(Image.open(tmp_path / "edit-1.png")), made)
    problem = page.locator("#projects-problem")
    expect(problem).to_contain_text("do not contain the settings that made them; project.json does")
    assert find_faults(page) == []
    _, attempt = json.loads((tmp_path / "project.json").read_text())["attempts"]
    assert attempt["job"]["steps"] == 1
    assert attempt["request"]["fields"]["prompt"] == "Recolor the heart orange."


def test_run_when_started_before_the_server_has_answered_then_sent_once_with_what_was_chosen(
    visitor: Visitor, server: Server
) -> None:
    page = visitor.page
    visitor.unfold()
    page.select_option("#size", index=3)
    page.select_option("#field-intent", "literal")
    visitor.set("seed", 7)
    visitor.run()
    visitor.wait_until_stored(seed="7")
    wanted, number = server.jobs()[0]["edit"], len(server.jobs())
    assert (wanted["intent"], wanted["size"] is None) == ("literal", False)
    held = Held(page, MODELS)
    visitor.reload()

    page.click("#run")
    expect(page.locator("#run-problem")).to_contain_text("Waiting for the server")
    page.click("#run")  # as people do who see nothing happen
    assert len(server.jobs()) == number
    held.release()

    expect(page.locator("#strip-items li")).to_have_count(4, timeout=PATIENCE_MS)
    visitor.wait_until_idle()
    assert len(server.jobs()) == number + 1
    assert server.jobs()[0]["edit"] == wanted
    expect(page.locator("#run-problem")).to_be_hidden()


def test_job_when_opened_before_the_server_has_answered_then_all_of_its_settings_come_back(
    visitor: Visitor, visit: Callable[..., Visitor]
) -> None:
    visitor.unfold()
    visitor.page.select_option("#field-intent", "literal")
    visitor.run()
    other = visit()
    page = other.page
    held = Held(page, SCHEMAS)
    other.reload()
    page.click("#jobs-open")

    with page.expect_response("**/inputs/0") as answer:
        page.locator("#jobs-list li").first.get_by_role("button", name="Open").click()
    answer.value.finished()
    held.release()

    expect(page.locator("#field-intent")).to_have_value("literal")


def test_photo_when_opened_before_the_server_has_answered_then_advice_on_the_tiny_model_comes_later(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.page
    held = Held(page, MODELS)
    visitor.reload()
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "PNG")
    visitor.choose_file({"name": "photo.png", "mimeType": "image/png", "buffer": file.getvalue()})
    visitor.expect_name("photo.png")
    expect(page.locator("[data-notice=tiny]")).to_have_count(0)

    held.release()

    expect(visitor.see("[data-notice=tiny]")).to_contain_text("The tiny model here edits drawn scenes")


def test_reload_when_the_old_page_is_slow_to_go_then_its_project_is_back(visitor: Visitor) -> None:
    page = visitor.page
    lock = "joyimage " + page.evaluate("() => sessionStorage.getItem('joyimage-session')")
    other = Visitor(page.context.new_page(), visitor.server).open().page
    other.evaluate(QUEUE, lock)

    page.reload()

    other.wait_for_function("() => window.giveUp")
    visitor.wait_until(IS_AWAITED, lock)
    other.evaluate("() => window.giveUp()")
    visitor.expect_name("shapes-edit")
    assert page.evaluate("() => sessionStorage.getItem('joyimage-session')") == lock.removeprefix("joyimage ")
