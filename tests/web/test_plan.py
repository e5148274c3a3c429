"""Several steps as one plan: cards that run one after the other, each on what the one before it made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from playwright.sync_api import expect

from tests.web.parts import EXAMPLES, PATIENCE_MS, find_faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.web.parts import Server, Visitor


# Whether the cue to draw a box was hidden during a run, which may be shorter than the time between two looks.
WATCH_CUE = """() => {
    const [progress, cue] = ["#progress", "#box-cue"].map((id) => document.querySelector(id));
    new MutationObserver(() => {
        if (!progress.hidden) window.wasCueHidden ||= getComputedStyle(cue).visibility === "hidden";
    }).observe(document.body, { subtree: true, attributes: true, childList: true, characterData: true });
}"""


def test_plan_when_run_then_each_step_works_on_the_one_before_and_can_be_redone_or_stopped(
    visit: Callable[..., Visitor], server: Server, tmp_path: Path
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.choose_mode("move")
    page.click("#plan-add")
    expect(page.locator("#run-problem")).to_contain_text("Draw a box")  # a step is complete or none
    page.fill("#object", "black heart")
    visitor.draw(0.08, 0.68, 0.34, 0.94)
    page.click("#plan-add")
    visitor.choose_mode("edit")
    page.fill("#prompt-edit", "Recolor the circle blue.")
    page.click("#plan-add")
    cards = page.locator("#plan-steps li")
    cards.nth(1).get_by_title("Change").click()
    page.fill("#prompt-edit", "Recolor the circle green.")
    page.click("#plan-add")
    assert [card.locator("p").text_content() for card in cards.all()] == [
        "Move black heart",
        "Recolor the circle green.",
    ]
    assert find_faults(page) == []
    page.keyboard.press("Control+z")  # not in a field: the step is what it was
    expect(cards.nth(1)).to_contain_text("blue")
    page.keyboard.press("Control+Shift+z")
    expect(cards.nth(1)).to_contain_text("green")

    page.click("#plan-run")
    done = page.locator('#plan-steps li[data-progress="done"]')
    expect(done).to_have_count(2, timeout=PATIENCE_MS)
    visitor.wait_until_idle()
    (job,) = server.jobs()[:1]  # both as one
    assert (job["kind"], job["state"], len(job["images"])) == ("plan", "succeeded", 2)
    with page.expect_request(f"**/v1/jobs/{job['id']}/images/1"):  # what it has come to
        page.click("#jobs-open")
    page.keyboard.press("Escape")
    ends = page.evaluate(
        "[...document.querySelectorAll('#plan-steps, #plan-steps *')].map((one) => one.getBoundingClientRect().right)"
    )
    assert max(ends) <= ends[0] + 1  # no button is cut off

    after = np.asarray(visitor.download(tmp_path / "planned.png").convert("RGB"), dtype=float)
    before = np.asarray(Image.open(EXAMPLES / "shapes.png").convert("RGB"), dtype=float)
    assert (
        np.abs(after[580:640, 130:190].mean(axis=(0, 1)) - before[120:170, 370:420].mean(axis=(0, 1))).max()
        < 40
    )
    red, green, blue = after[360:400, 370:420].mean(axis=(0, 1))  # the circle was purple
    assert green > red + 40
    assert green > blue + 40

    cards.nth(0).get_by_title("Change").click()
    visitor.set("steps", 60)
    page.click("#plan-add")
    cards.nth(0).get_by_title("Redo from here").click()
    expect(visitor.see("#progress-text")).to_contain_text("Step", timeout=PATIENCE_MS)
    visitor.reload()  # what waits for a result survives
    expect(cards.nth(1)).to_have_attribute("data-progress", "waiting")
    number = len(server.jobs())
    page.click("#cancel")
    visitor.wait_until_idle()
    expect(page.locator("[data-notice=plan]")).to_contain_text("Canceled. The steps after it were not run")
    expect(page.locator(".notice")).to_have_count(1)  # both in one
    visitor.choose_mode("camera")
    expect(page.locator(".notice")).to_have_count(0)
    visitor.choose_mode("edit")
    assert len(server.jobs()) == number
    cards.nth(1).get_by_title("Redo from here").click()
    visitor.wait_until_idle()
    expect(page.locator("#strip-items li")).to_have_count(4, timeout=PATIENCE_MS)
    expect(page.locator("#strip-items [aria-current]")).to_have_attribute(
        "aria-label", "Edit 3, from Move 1: Recolor the circle green."
    )


def test_plan_when_a_step_fails_then_the_results_before_it_stay_and_another_browser_opens_them(
    visit: Callable[..., Visitor], server: Server
) -> None:
    visitor = visit()
    page = visitor.page
    visitor.choose_example("shapes")
    visitor.expect_model()
    visitor.choose_mode("edit")
    page.fill("#prompt-edit", "Recolor the circle green.")
    page.click("#plan-add")
    visitor.choose_mode("move")
    page.fill("#object", "violet elephant")
    visitor.draw(0.5, 0.2, 0.8, 0.4)
    page.click("#plan-add")
    page.evaluate(WATCH_CUE)
    page.click("#plan-run")
    notice = page.locator("[data-notice=run]")
    expect(notice).to_contain_text("Step 2 of 2", timeout=PATIENCE_MS)
    assert page.evaluate("() => window.wasCueHidden") is True
    expect(notice).to_contain_text("elephant")
    cards = page.locator("#plan-steps li")
    expect(cards.nth(0)).to_have_attribute("data-progress", "done")
    expect(cards.nth(1)).to_have_attribute("data-progress", "open")
    expect(page.locator("#strip-items li")).to_have_count(2)
    job = server.jobs()[0]
    assert (job["kind"], job["state"], job["error"]["plan_step"]) == ("plan", "failed", 2)

    other = visit()
    other.page.click("#jobs-open")
    row = other.page.locator("#jobs-list li").first
    expect(row).to_contain_text("Recolor the circle green. → Move violet elephant")
    row.get_by_role("button", name="Open").click()
    expect(other.page.locator("#result")).to_have_attribute("data-job", f"{job['id']}-1")
    expect(other.page.locator("#prompt-edit")).to_have_value("Recolor the circle green.")
    expect(other.page.locator("#strip-items li")).to_have_count(2)  # with what went in
