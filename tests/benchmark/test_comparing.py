"""`joyimage bench --a --b`: two settings of one model, and what limits their stages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import nn

from joyimage.benchmark.comparing import Side, to_comparison
from joyimage.benchmark.limits import Work, count_work
from joyimage.benchmark.stages import STAGES
from joyimage.cli.main import main
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path


def compare(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    command = ["bench", "--model", "tiny", "--device", "cpu", "--rounds", "1", "--json", *arguments]
    assert main(command) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_bench_when_two_settings_are_given_then_both_are_run_alike_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = compare(capsys, "--a", "steps=4 guidance=3", "--b", "steps=4 guidance=3 speed=fast")

    a, b = report["sides"]["a"], report["sides"]["b"]
    assert (a["steps"], a["guidance"], a["speed"], a["forwards"]) == (4, 3.0, "exact", 8)
    assert (b["steps"], b["guidance"], b["speed"]) == (4, 3.0, "fast")
    assert b["forwards"] < 8
    assert 20 < report["psnr_db"] < 99
    for side in (a, b):
        assert len(side["seconds"]["denoising"]["samples"]) == 2
        assert set(side["limits"]) == set(STAGES)
        for shares in side["limits"].values():
            assert set(shares) == {"matmul", "attention", "copies", "other"}
            assert min(shares.values()) >= 0
        assert side["limits"]["denoising"]["matmul"] > 0
    text = to_comparison(report)
    assert "B: steps=4 guidance=3 speed=fast (4 steps, guidance 3, speed fast, float32" in text
    assert "| A: denoising |" in text


def test_bench_when_only_one_side_is_given_then_the_other_is_the_default_and_loaded_apart(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Image.new("RGB", (96, 96), "white").save(tmp_path / "a.png")

    report = compare(
        capsys, "--b", "quantize=int8 steps=1", "--image", str(tmp_path / "a.png"), "--prompt", "Remove it."
    )

    a, b = report["sides"]["a"], report["sides"]["b"]
    assert (a["steps"], b["steps"], a["settings"]) == (4, 1, "")
    assert report["psnr_db"] < 99


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz=3", r"`stepz` is not a field here; did you mean `steps`"),
        ("steps=many", r"`steps` is 'many'; expected"),
        ("steps", r"has 'steps'; expected NAME=VALUE"),
        ("steps=1 steps=2", r"each name is expected once"),
        ("num_images=2", r"`num_images` is not a field here"),
        ('negative="x', r"No closing quotation"),
    ],
)
def test_side_when_it_cannot_be_read_then_the_message_names_it(text: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        Side.parse("--a", text)


def test_side_when_it_has_both_kinds_of_settings_then_told_apart() -> None:
    side = Side.parse("--a", 'steps=16 guidance=3 dtype=bfloat16 negative="a dog"')

    assert side.call == {"num_inference_steps": 16, "guidance_scale": 3.0, "negative_prompt": "a dog"}
    assert side.loading == {"dtype": "bfloat16"}


def test_bench_when_an_image_has_no_prompt_then_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["bench", "--a", "steps=1", "--image", str(tmp_path / "a.png")]) == 2
    assert "`--image` and `--prompt` belong together" in capsys.readouterr().err


class KnownWork:
    """A pipeline that does one product, one attention and one addition of known sizes while it denoises."""

    def __init__(self) -> None:
        self.scheduler = self
        self.progress_bar: Any = None

    def set_timesteps(self) -> None:
        """Begin the second stage."""

    def __call__(self) -> None:
        self.scheduler.set_timesteps()
        query = torch.randn(1, 2, 8, 4)
        left, right, numbers = torch.randn(4, 8), torch.randn(8, 16), torch.zeros(100)
        with self.progress_bar(total=1):
            left @ right
            nn.functional.scaled_dot_product_attention(query, query, query)
            numbers + 1.0


def test_work_when_its_size_is_known_then_counted_by_kind_in_its_stage() -> None:
    pipe = KnownWork()

    work = count_work(pipe, pipe)

    assert work["denoising"].matmul_flops == 2 * 4 * 8 * 16
    assert work["denoising"].attention_flops == 2 * 2 * 2 * 8 * 8 * 4
    assert work["denoising"].moved_bytes >= 800
    assert work["decoding"] == Work()
    peaks = {"matmul_tflops": 1e-9, "attention_tflops": 1e-9, "copy_gbs": 1e-6}
    shares = Work(matmul_flops=500, attention_flops=250, moved_bytes=100).shares(2.0, peaks)
    assert shares == pytest.approx({"matmul": 0.25, "attention": 0.125, "copies": 0.05, "other": 0.575})
