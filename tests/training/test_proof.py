"""An adapter learns a task that the tiny model cannot do, and the model keeps what it could; minutes on two cores."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from joyimage.evaluation.editors import pipeline_editor
from joyimage.evaluation.runner import evaluate
from joyimage.pipeline.edit import JoyImageEditPipeline
from joyimage.tiny.suite import DrawnScenes
from joyimage.training import train
from joyimage.training.config import config_from_dict
from tests.training.pairs import CAPTION, GREEN, frame_mask, scene, write_other_tasks, write_pairs
from tests.training.test_lora_training import PROGRAM, ROOT, make_config

if TYPE_CHECKING:
    from joyimage.training.config import TrainingConfig

NUM_PAIRS = 200
NUM_OTHERS = 30
FIRST_HELD_OUT = 5000
# A pixel of the frame counts as green up to this distance in 8-bit RGB; the rest may differ by 20 dB.
GREEN_DISTANCE = 90.0
FRAME_SHARE = 0.85
KEPT_PSNR = 20.0


def proof_config(folder: Path, output: Path) -> TrainingConfig:
    pairs = write_pairs(folder / "frames", NUM_PAIRS)
    others = write_other_tasks(folder / "others", NUM_OTHERS)
    return config_from_dict(
        {
            "model": "tiny",
            "device": "cpu",
            "output": str(output),
            "data": [
                {
                    "target": str(pairs / "target"),
                    "control": [str(pairs / "control")],
                    "caption": CAPTION,
                    "held_out": 0.0,
                    "caption_dropout": 0.05,
                },
                {
                    "pairs": str(others / "pairs.jsonl"),
                    "weight": 1.0,
                    "held_out": 0.0,
                    "caption_dropout": 0.05,
                },
            ],
            "train": {
                "steps": 450,
                "batch_size": 6,
                "learning_rate": 1e-3,
                "warmup_steps": 20,
                "ema": 0.99,
            },
            "validate": {"every": 0},
        }
    )


def frame_done(pipe: Any, num: int = 40) -> float:
    """Return the share of scenes that training never showed that get their frame and keep the rest."""
    scenes = [scene(FIRST_HELD_OUT + number) for number in range(num)]
    images = pipe(
        image=[Image.fromarray(one) for one in scenes],
        prompt=[CAPTION] * num,
        generator=[torch.Generator().manual_seed(number) for number in range(num)],
    ).images
    mask = frame_mask(96)
    done: list[bool] = []
    for image, source in zip(images, scenes, strict=True):
        pixels = np.asarray(image.convert("RGB"), dtype=float)
        share = (np.linalg.norm(pixels - GREEN, axis=-1)[mask] < GREEN_DISTANCE).mean()
        psnr = 10 * np.log10(255**2 / np.square(pixels - source)[~mask].mean())
        done.append(bool(share > FRAME_SHARE and psnr > KEPT_PSNR))
    return float(np.mean(done))


def other_tasks(pipe: Any) -> dict[str, float]:
    found = evaluate(pipeline_editor(pipe), DrawnScenes(), num=16, batch_size=16, progress=False)
    return {task: result.done for task, result in found.tasks.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_adapter_when_trained_on_200_pairs_then_held_out_done_and_other_tasks_are_kept(
    tmp_path: Path,
) -> None:
    pipe: Any = JoyImageEditPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    before = other_tasks(pipe)
    assert frame_done(pipe) < 0.05

    pipe.load_lora_weights(
        train(proof_config(tmp_path, tmp_path / "green.safetensors"), progress=False).adapter
    )

    assert frame_done(pipe) >= 0.9
    after = other_tasks(pipe)
    assert np.mean(list(after.values())) >= np.mean(list(before.values())) - 0.02


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_train_when_killed_at_ten_random_moments_then_the_same_bytes_as_unbroken(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 8)
    settings = {"steps": 40, "gradient_accumulation": 2, "save_every": 1}
    whole = train(make_config(pairs, tmp_path / "whole.safetensors", train=settings), progress=False).adapter
    program = PROGRAM.format(pairs=str(pairs), output=str(tmp_path / "killed.safetensors"))
    (tmp_path / "program.py").write_text(program.replace('"steps": 3', '"steps": 40'))
    rng = random.Random(0)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(tmp_path / "program.py")],
            env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
            stderr=subprocess.DEVNULL,
        )

    for _ in range(10):
        process = start()
        time.sleep(rng.uniform(2, 12))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start().wait() == 0

    assert Path(tmp_path / "killed.safetensors").read_bytes() == whole.read_bytes()
