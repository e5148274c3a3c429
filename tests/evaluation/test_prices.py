"""The price of speed presets on the tiny checkpoint, and their calibration on a user's images."""

from __future__ import annotations

import json
import os
import re
import sys
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from joyimage import JoyImageEditPipeline
from joyimage.acceleration.presets import PRESETS, SpeedPreset, read_presets, write_presets
from joyimage.cli.main import main
from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.evaluation.calibration import calibrate
from joyimage.evaluation.prices import compare_images, measure_prices, to_price_json, to_price_table
from joyimage.tiny.examples import load_example
from joyimage.tiny.suite import DrawnScenes
from scripts import speed_table, st_lpips
from scripts.st_lpips import load_st_lpips

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def pipe() -> Any:
    """The tiny checkpoint."""
    pipe = JoyImageEditPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def prices(pipe: Any) -> Any:
    """Prices of one scene per row."""
    return {price.speed: price for price in measure_prices(pipe, DrawnScenes(), num=1, progress=False)}


def test_prices_when_measured_then_the_presets_keep_what_they_state(prices: Any) -> None:
    exact, balanced, fast = prices["exact"], prices["balanced"], prices["fast"]

    assert (exact.forwards, exact.fewer, exact.psnr) == (32, 1, None)
    assert balanced.fewer >= 1.6
    assert balanced.psnr >= 46
    assert fast.fewer >= 2.2
    assert balanced.done >= exact.done
    assert fast.done >= exact.done


def test_prices_when_shown_then_table_and_json_have_every_preset(prices: Any) -> None:
    table = to_price_table(list(prices.values()), num=1, rows=9)

    for price in prices.values():
        assert re.search(rf"\| {price.speed} +\| +{price.forwards:.1f} ", table)
    assert [row["speed"] for row in json.loads(json.dumps(to_price_json(list(prices.values()))))] == list(
        PRESETS
    )


def test_prices_when_a_distance_is_asked_for_then_the_table_has_its_mean_and_its_largest_value(
    pipe: Any,
) -> None:
    seen: list[float] = []

    def distance(a: Any, b: Any) -> float:
        seen.append(float(np.abs(a.astype(float) - b).mean()))
        return seen[-1]

    measured = measure_prices(
        pipe, DrawnScenes(), num=1, num_inference_steps=4, progress=False, distance=distance
    )

    assert measured[0].distance is None
    assert len(seen) == 9 * (len(measured) - 1)
    assert measured[1].distance == (pytest.approx(np.mean(seen[:9])), max(seen[:9]))
    table = to_price_table(measured, num=1, rows=9, distance_name="difference")
    assert f"| {np.mean(seen[:9]):.5f} | {max(seen[:9]):.5f} |" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1


def test_st_lpips_when_images_differ_more_then_it_grows() -> None:
    pytest.importorskip("stlpips_pytorch")
    before = set(sys.modules)
    distance = load_st_lpips()
    image = np.asarray(load_example("shapes").image.convert("RGB"))
    noise = np.random.default_rng(0).normal(size=image.shape)

    values = [
        distance(image, np.clip(image + strength * noise, 0, 255).astype(np.uint8))
        for strength in (0, 5, 20, 80)
    ]

    assert values[0] == 0
    assert values == sorted(set(values))
    assert not {"torchvision", "IPython", "torchsummary"} & (set(sys.modules) - before)


@pytest.mark.parametrize("content", ["nothing", "code"])
def test_st_lpips_when_its_file_is_not_all_weights_then_rejected_and_nothing_runs(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("stlpips_pytorch")
    path, folder = tmp_path / "weights.pth", tmp_path / "ran"
    torch.save({} if content == "nothing" else _MakesFolder(folder), path)
    monkeypatch.setattr(st_lpips, "WEIGHTS", str(path))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

    with pytest.raises((RuntimeError, UnpicklingError), match=r"Missing key|Weights only load failed"):
        load_st_lpips()

    assert not folder.exists()


class _MakesFolder:
    """Makes a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._folder,)


@pytest.mark.parametrize(
    ("num", "message"), [("1", "pip install --no-deps stlpips-pytorch==0.0.2"), ("0", "`num` is 0")]
)
def test_speed_table_when_nothing_can_be_measured_then_one_sentence_before_a_model_is_loaded(
    num: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setattr(speed_table, "load_pipeline", lambda *_a, **_b: pytest.fail("a model was loaded"))
    monkeypatch.setattr(sys, "argv", ["speed_table", "--num", num])

    assert speed_table.main() == 2

    shown = capsys.readouterr()
    assert message in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_compare_images_when_one_differs_then_mean_and_pooled_psnr() -> None:
    gray, lighter = np.full((4, 4, 3), 100, np.uint8), np.full((4, 4, 3), 110, np.uint8)

    mean, pooled = compare_images([gray, gray], [gray, lighter])

    one = 10 * np.log10(255**2 / 100)
    assert mean == pytest.approx((60 + one) / 2)
    assert pooled == pytest.approx(10 * np.log10(255**2 / 50))
    assert compare_images([gray], [gray]) == (60, None)


def test_calibrate_when_a_target_is_out_of_reach_then_the_preset_leaves_out_nothing(pipe: Any) -> None:
    image = load_example("shapes").image

    found = calibrate(
        pipe, [image], ["Recolor the heart orange."], {"fast": 100.0, "balanced": 5.0}, num_inference_steps=3
    )

    assert found["fast"].preset == SpeedPreset()
    assert found["fast"].forwards == found["fast"].exact_forwards == 3
    assert found["balanced"].preset.threshold == 0.6
    assert pipe.speed_presets == PRESETS


def test_calibrate_when_prompts_do_not_match_then_rejected(pipe: Any) -> None:
    with pytest.raises(InvalidInputError, match="2 prompts for 1 images"):
        calibrate(pipe, [Image.new("RGB", (96, 96))], ["a", "b"], {})


def test_calibrate_command_when_run_on_a_folder_then_its_presets_are_used_from_then_on(
    pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    pipe.save_pretrained(folder)
    image = tmp_path / "shapes.png"
    load_example("shapes").image.save(image)
    command = [
        "calibrate",
        str(image),
        "--prompt",
        "Remove the heart.",
        "--model",
        str(folder),
        "--steps",
        "3",
    ]

    assert main([*command, "--balanced", "0", "--fast", "100"]) == 0

    shown = capsys.readouterr().out
    assert "balanced: SeaCache with threshold 0.6" in shown
    assert "fast: all blocks in every step; 1.00 times fewer forwards" in shown
    loaded: Any = JoyImageEditPipeline.from_pretrained(folder)
    assert loaded.speed_presets["balanced"].threshold == 0.6
    assert loaded.speed_presets["fast"] == SpeedPreset()
    assert main(command) == 2
    assert "exists; give `--overwrite`" in capsys.readouterr().err


def test_calibrate_command_when_the_model_is_no_folder_then_asks_for_a_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["calibrate", "image.png", "--prompt", "x", "--model", "tiny"]) == 2
    assert "`--model` is 'tiny', which is not a folder" in capsys.readouterr().err


def test_presets_when_written_and_read_then_the_same_and_others_are_the_usual_ones(tmp_path: Path) -> None:
    mine = SpeedPreset(threshold=0.123, guidance_sigmas=(0.1, 0.8), guidance_period=4)
    write_presets({"exact": PRESETS["exact"], "fast": mine}, tmp_path / "speed.json")

    assert read_presets(tmp_path / "speed.json") == {**PRESETS, "fast": mine}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "cannot be read as JSON"),
        ('{"quick": {}}', "some of balanced, fast"),
        ('{"exact": {}}', "some of balanced, fast"),
        ('{"fast": {"limit": 1}}', "some of threshold"),
        ('{"fast": {"threshold": -1}}', "`fast.threshold` in .* is -1"),
        ('{"fast": {"threshold": NaN}}', "`fast.threshold` in .* is nan"),
        ('{"fast": {"threshold": true}}', "`fast.threshold` in .* is True"),
        ('{"fast": {"guidance_sigmas": [0]}}', "`fast.guidance_sigmas`"),
        ('{"fast": {"guidance_period": 0}}', "`fast.guidance_period`"),
        ('{"fast": {"num_full_steps": 0}}', "`fast.num_full_steps`"),
    ],
)
def test_presets_when_the_file_is_damaged_then_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text(text)

    with pytest.raises(CheckpointError, match=message):
        read_presets(tmp_path / "speed.json")
