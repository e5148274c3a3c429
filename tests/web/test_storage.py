"""The browser's room for projects: where there is none left, nothing is lost, and the page says what to do."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from tests.web.parts import EXAMPLES, find_faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.web.parts import Visitor

FILL = """(bytes) => new Promise((resolve) => {
    const request = indexedDB.open("joyimage", 2);
    request.onsuccess = () => {
        const change = request.result.transaction("projects", "readwrite");
        const root = { id: "root", parent: null, from: 0, at: 1, job: null, request: null, pictures: [] };
        const attempts = [{ ...root, selected: 0, form: null }];
        change.objectStore("projects").put({ id: "old", name: "Old holidays", at: 1, attempts, bytes }, "old");
        change.oncomplete = () => resolve(request.result.close());
    };
})"""

# As a browser without room does: the transaction is aborted.
REJECT = """() => {
    window.isFull = true;
    const put = IDBObjectStore.prototype.put;
    IDBObjectStore.prototype.put = function (...given) {
        const request = put.apply(this, given);
        if (isFull) this.transaction.abort();
        return request;
    };
}"""


def _rejected_leave(page: Page) -> str:
    """Try to reload, and stay; return what kind of question the browser asked."""
    page.once("dialog", lambda dialog: dialog.dismiss())
    with page.expect_event("dialog") as asked:
        page.evaluate("() => { setTimeout(() => location.reload()); }")
    return asked.value.type


def test_projects_when_their_limit_is_reached_then_nothing_is_lost_until_there_is_room(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.expect_model()
    visitor.choose_example("shapes")
    size = (EXAMPLES / "shapes.png").stat().st_size
    visitor.wait_until("async () => (await indexedDB.databases()).length > 0")
    page.evaluate(FILL, 1_000_000_000 - size - 100)  # the next image is one too many

    visitor.run()

    notice = visitor.see("[data-notice=storage]")
    expect(notice).to_contain_text("Projects may take 1 GB of this browser, and that is used up.")
    expect(notice).to_contain_text("Export them, or delete older projects")
    assert find_faults(page) == []
    made = np.asarray(visitor.download(tmp_path / "made.png"))
    visitor.choose_file(EXAMPLES / "car.png")  # a project that has no room at all
    visitor.expect_name("car.png")
    assert _rejected_leave(page) == "beforeunload"
    notice.get_by_role("button", name="Open Projects").click()
    rows = visitor.see("#projects-list").locator("li")
    expect(rows).to_have_count(3)
    expect(page.locator("#projects-list")).to_contain_text("not stored: in this tab only")
    expect(page.locator("#projects-size")).to_contain_text("of 1 GB stored")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export shapes.png").click()
    download.value.save_as(tmp_path / "shapes.zip")
    with zipfile.ZipFile(tmp_path / "shapes.zip") as archive:
        archive.extract("edit-1.png", tmp_path)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "edit-1.png")), made)
    page.get_by_role("button", name="Open shapes.png").click()
    expect(page.locator("#strip-items li")).to_have_count(2)

    page.click("#projects-open")
    remove = page.get_by_role("button", name="Delete Old holidays")
    remove.click()
    remove.click()

    expect(page.locator("[data-notice=storage]")).to_have_count(0)
    expect(page.locator("#projects-list")).not_to_contain_text("in this tab only")
    visitor.reload()  # which asks nothing now
    expect(page.locator("#strip-items li")).to_have_count(2)
    assert np.array_equal(np.asarray(visitor.download(tmp_path / "again.png")), made)


def test_projects_when_the_browsers_own_room_is_used_up_then_the_image_stays_in_the_tab(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.expect_model()
    visitor.choose_example("shapes")
    page.evaluate(REJECT)

    visitor.choose_file(EXAMPLES / "car.png")

    notice = visitor.see("[data-notice=storage]")
    expect(notice).to_contain_text("This browser has no more room to store images.")
    visitor.expect_name("car.png")
    page.mouse.click(5, 5)
    assert _rejected_leave(page) == "beforeunload"
    page.evaluate("() => { isFull = false; }")
    notice.get_by_role("button", name="Open Projects").click()
    expect(page.locator("[data-notice=storage]")).to_have_count(0)
    expect(page.locator("#projects-list")).not_to_contain_text("in this tab only")
    visitor.reload()
    visitor.expect_name("car.png")


def test_lists_when_on_a_phone_then_the_buttons_of_a_row_stay_in_one_line(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = visitor.page
    visitor.expect_model()
    visitor.choose_example("shapes")
    visitor.run()
    for opened, dialog in (("#projects-open", "#projects-list"), ("#jobs-open", "#jobs-list")):
        page.click(opened)
        row = visitor.see(dialog).locator("li").first
        expect(row.get_by_role("button").last).to_be_visible()
        tops = row.evaluate(
            "(row) => [...row.querySelectorAll('button')].map((one) => one.getBoundingClientRect().top)"
        )
        assert len(tops) > 1
        assert max(tops) - min(tops) < 2
        page.keyboard.press("Escape")
