"""Free words are shown as what they run as; candidates are one choice, and the best comes back with its verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

from joyimage.serving.workers.local import LocalRunner
from tests import random_models
from tests.serving.parts import SIDE, LiveServer, make_settings, png

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.web.parts import Visitor


def test_free_words_when_they_ask_for_a_camera_move_then_said_before_it_runs(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    advice = visitor.page.locator("#edit-advice")

    visitor.page.fill("#prompt-edit", "show it from the left")
    expect(advice).to_contain_text("Runs as: move the camera: yaw -90°")
    visitor.page.fill("#prompt-edit", "put the cup on the left shelf")
    expect(advice).to_contain_text("Choose Move above and draw a box")
    visitor.page.fill("#prompt-edit", "Make the left car red.")
    expect(advice).to_be_hidden()


def test_candidates_when_four_are_tried_then_the_best_with_its_verdict(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    pipe = random_models.make_pipeline()
    pipe.register_to_config(base_size=SIDE, default_num_inference_steps=4, default_guidance_scale=1.0)
    server = LiveServer(make_settings(tmp_path), LocalRunner(pipe, preview_px=32))
    try:
        visitor = visit(server)
        visitor.choose_file({"name": "a.png", "mimeType": "image/png", "buffer": png(0)})
        visitor.page.fill("#prompt-edit", "Make it red.")
        visitor.page.click("#settings summary")
        visitor.page.select_option("#candidates", "4")
        expect(visitor.page.locator("#settings-summary")).to_contain_text("best of 4")
        visitor.page.click("#run")

        verdict = visitor.see("#verdict")
        expect(verdict).to_contain_text("best of 4")
        expect(verdict).to_contain_text("the model's answers about both images")
    finally:
        server.close()
