"""One edit on several processes that the first one starts: command line and server."""

from __future__ import annotations

import multiprocessing
import re
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from joyimage.acceleration import report
from joyimage.acceleration.parallel import ParallelError
from joyimage.cli.options import RunOptions
from joyimage.cli.runners import LocalRunner, load_runner
from joyimage.companions import Companions
from joyimage.devices import check_gpus
from joyimage.edits import from_dict
from joyimage.errors import InvalidInputError, JoyImageError
from joyimage.loading import load_pipeline
from joyimage.tiny.examples import load_example
from joyimage.types import ImageSize
from tests.forked import forked_companions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

TINY: dict[str, Any] = {"model": "tiny", "device": "cpu", "dtype": "float32"}
RECOLOR = "Recolor the heart orange."
EDITS: dict[str, dict[str, Any]] = {
    "guided": {"kind": "edit", "prompt": RECOLOR, "guidance_scale": 3.0},
    "without guidance": {"kind": "edit", "prompt": RECOLOR, "guidance_scale": 1.0},
    "the best of two": {"kind": "edit", "prompt": RECOLOR, "guidance_scale": 2.0, "num_candidates": 2},
    "fast": {"kind": "edit", "prompt": RECOLOR, "guidance_scale": 3.0, "speed": "fast"},
    "moved": {"kind": "move", "object": "heart", "box": [4, 60, 34, 92], "guidance_scale": 2.0},
}


@pytest.fixture(scope="module", autouse=True)
def forked() -> Iterator[None]:
    with forked_companions():
        yield


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalRunner]:
    """What `--gpus 2 --device cpu` runs edits with."""
    runner = load_runner(RunOptions(**TINY, gpus=2))
    assert isinstance(runner, LocalRunner)
    assert runner.companions is not None
    yield runner
    runner.companions.end()


@pytest.fixture(scope="module")
def alone() -> LocalRunner:
    return LocalRunner(load_pipeline(**TINY))


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return load_example("shapes").image


def run(runner: LocalRunner, given: dict[str, Any], image: Image.Image) -> list[np.ndarray]:
    edit = from_dict({"seed": 3, "num_inference_steps": 4, **given})
    result = runner.run(edit.resolve(runner.defaults(edit), ImageSize.of(image)), [image], quiet=True)
    return [np.asarray(one.convert("RGB"), dtype=int) for one in result.images]


@pytest.mark.parametrize("name", EDITS)
def test_edit_when_two_processes_share_it_then_as_one(
    shared: LocalRunner, alone: LocalRunner, image: Image.Image, name: str
) -> None:
    together, expected = (run(runner, EDITS[name], image) for runner in (shared, alone))

    assert len(together) == len(expected)
    assert max(int(abs(a - b).max()) for a, b in zip(together, expected, strict=True)) <= 1
    assert report(shared.loaded.pipe).parallelism == "guidance 2"


def test_edit_when_rejected_then_the_next_one_is_shared_again(
    shared: LocalRunner, alone: LocalRunner, image: Image.Image
) -> None:
    with pytest.raises(InvalidInputError, match="There is no elephant"):
        run(shared, {"kind": "move", "object": "elephant", "box": [4, 60, 34, 92]}, image)

    given = EDITS["guided"]
    assert abs(run(shared, given, image)[0] - run(alone, given, image)[0]).max() <= 1


def test_start_when_edits_are_shared_already_then_rejected_and_they_stay_so(
    shared: LocalRunner, alone: LocalRunner, image: Image.Image
) -> None:
    with pytest.raises(InvalidInputError, match="This process shares edits with others already"):
        load_runner(RunOptions(**TINY, gpus=2))

    given = EDITS["without guidance"]
    assert abs(run(shared, given, image)[0] - run(alone, given, image)[0]).max() <= 1


def test_start_when_another_process_cannot_load_then_says_why() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.send("There is no room.")
    process: Any = SimpleNamespace(name="joyimage 2 of 2", sentinel=theirs, is_alive=lambda: True)

    with pytest.raises(ParallelError, match=r"joyimage 2 of 2.*There is no room\."):
        Companions([process], [ours], TemporaryDirectory())._await_loaded()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
@pytest.mark.parametrize(
    ("gpus", "device", "layout", "message"),
    [
        (3, "cpu", "guidance", "`gpus` is 3; expected 1, 2, 4, 8."),
        (2, None, "guidance", "`gpus` is 2, but torch sees no accelerator."),
        (2, "cuda", "tensor", "`gpus` is 2, but this machine has 0 cuda devices."),
        (2, "cuda:1", "guidance", "`gpus` is 2 and `device` is 'cuda:1', which is one; leave out its index."),
        (
            4,
            "cpu",
            "guidance",
            "`gpus` is 4 and `device` is 'cpu', where at most 2 processes can share an edit",
        ),
        (2, "cpu", "rows", "`gpu_layout` is 'rows'; expected guidance, tensor."),
        (
            1,
            "cpu",
            "tensor",
            "`gpu_layout` is 'tensor', which several devices share an edit by; give `gpus` too",
        ),
    ],
)
def test_gpus_when_they_cannot_share_an_edit_then_the_message_says_why(
    gpus: int, device: str | None, layout: str, message: str
) -> None:
    with pytest.raises(JoyImageError, match=re.escape(message)):
        check_gpus(gpus, device, layout)
