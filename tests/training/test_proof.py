"""An adapter learns a task that the tiny model cannot do, and the model keeps what it could; minutes on two cores."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors import safe_open

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
NUM_FRAMED = 60
NUM_PER_TASK = 200
# A pixel of the frame counts as green up to this distance in 8-bit RGB; the rest may differ by 20 dB.
GREEN_DISTANCE = 90.0
FRAME_SHARE = 0.85
KEPT_PSNR = 20.0


def proof_config(folder: Path, output: Path, **memory: Any) -> TrainingConfig:
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
                "steps": 300,
                "batch_size": 6,
                "learning_rate": 1e-3,
                "warmup_steps": 20,
                "ema": 0.99,
            },
            "memory": memory,
            "validate": {"every": 0},
        }
    )


def frame_done(pipe: Any, num: int = NUM_FRAMED) -> float:
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


def other_tasks(pipe: Any, num: int = NUM_PER_TASK) -> dict[str, float]:
    found = evaluate(pipeline_editor(pipe), DrawnScenes(), num=num, batch_size=20, progress=False)
    return {task: result.done for task, result in found.tasks.items()}


@dataclass
class Scores:
    """Shares done: of the new task, and of those that the model could do before."""

    frame: float
    others: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean share of the other tasks."""
        return float(np.mean(list(self.others.values())))


def score(name: str, adapter: Path | None) -> Scores:
    """Return the scores of the plain embedded model with an adapter, and print them for the docs."""
    pipe: Any = JoyImageEditPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    if adapter is not None:
        pipe.load_lora_weights(adapter)
    scores = Scores(frame_done(pipe), other_tasks(pipe))
    print(name, scores, f"mean {scores.mean:.4f}")  # noqa: T201 - for the docs
    return scores


def train_and_score(name: str, folder: Path, **memory: Any) -> Scores:
    started = time.process_time()
    result = train(proof_config(folder, folder / f"{name}.safetensors", **memory), progress=False)
    print(f"{name}: {time.process_time() - started:.0f} s of CPU time, cache {result.cache_bytes} bytes")  # noqa: T201 - for the docs
    return score(name, result.adapter)


@pytest.fixture(scope="module")
def before() -> Scores:
    return score("without", None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    return train_and_score("trained", tmp_path_factory.mktemp("proof"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_adapter_when_trained_on_200_pairs_then_held_out_done_and_other_tasks_are_kept(
    before: Scores, trained: Scores
) -> None:
    assert before.frame < 0.05
    assert trained.frame >= 0.9
    lost = {task: before.others[task] - done for task, done in trained.others.items()}
    assert max(lost.values()) <= 0.02, lost


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_adapter_when_trained_on_an_int8_base_then_as_good_on_the_plain_model(
    before: Scores, trained: Scores, tmp_path: Path
) -> None:
    int8 = train_and_score("int8", tmp_path, quantization="int8")

    assert int8.frame >= max(0.9, trained.frame - 0.03)
    assert int8.mean >= max(before.mean, trained.mean) - 0.03


def saved_step(run: Path) -> int:
    """Return the step of a run's saved state; 0 before the first."""
    path = run / "state.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["step"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_train_when_killed_at_ten_random_moments_then_the_same_bytes_as_unbroken(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 12)
    settings = {"steps": 40, "gradient_accumulation": 2, "save_every": 1}
    whole = train(
        make_config(pairs, tmp_path / "whole/a.safetensors", train=settings), progress=False
    ).adapter
    program = PROGRAM.format(pairs=str(pairs), output=str(tmp_path / "killed/a.safetensors"))
    (tmp_path / "program.py").write_text(program.replace('"steps": 3', '"steps": 40'))
    run = tmp_path / "killed/a-run"
    rng = random.Random(0)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(tmp_path / "program.py")],
            env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
            stderr=subprocess.DEVNULL,
        )

    def kill(process: subprocess.Popen[bytes]) -> None:
        # CPU time, not seconds: the moment is as random on a busy machine.
        after = psutil.Process(process.pid).cpu_times().user + rng.uniform(0, 0.5)
        while process.poll() is None and psutil.Process(process.pid).cpu_times().user < after:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()

    # Two moments while pairs are encoded, eight at random steps: whatever a kill leaves, the run resumes.
    moments = [("cache", rng.randint(1, 6)), ("cache", rng.randint(7, 11))]
    moments += [("step", step) for step in sorted(rng.sample(range(1, 38), 8))]
    killed_at: list[tuple[str, int]] = []
    for what, number in moments:
        process = start()

        def reached(what: str = what) -> int:
            return len(list(run.rglob("cache/*/*.safetensors"))) if what == "cache" else saved_step(run)

        while process.poll() is None and reached() < number:
            time.sleep(0.01)
        kill(process)
        assert process.returncode == -signal.SIGKILL
        killed_at.append((what, reached()))
    assert start().wait() == 0

    print("killed at", killed_at)  # noqa: T201 - for the docs
    assert len(set(killed_at)) >= 5  # a slow start may be killed before its first new step
    assert Path(tmp_path / "killed/a.safetensors").read_bytes() == whole.read_bytes()
