"""Several references with an Edit-Plus checkpoint: `--ref` on the command line, `refs` in a batch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from joyimage.imaging import read_record
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]
PROMPT = "Let her wear the dress."
SIZES = ((96, 64), (64, 96), (80, 80))


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = random_models.make_plus_pipeline()
    made.register_to_config(default_num_inference_steps=2, default_guidance_scale=3.0)
    return made


@pytest.fixture(scope="module")
def folder(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three images and the checkpoint `plus`."""
    folder = tmp_path_factory.mktemp("references")
    pipe.save_pretrained(folder / "plus")
    for number, size in enumerate(SIZES):
        random_models.make_image(number, *size).save(folder / f"{number}.png")
    return folder


def test_edit_when_several_references_then_as_the_library_with_the_checkpoints_own_defaults(
    joyimage: Joyimage, folder: Path, pipe: Any
) -> None:
    common = ("--model", folder / "plus", "--device", "cpu", "--seed", 3)
    refs = ("--ref", folder / "1.png", "--ref", folder / "2.png")

    outcome = joyimage("edit", folder / "0.png", PROMPT, "-o", folder / "edited.png", *refs, *common)
    row = {"image": "0.png", "refs": ["1.png", "2.png"], "prompt": PROMPT, "output": "row.png"}
    (folder / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    batch = joyimage("batch", folder / "rows.jsonl", "-o", folder / "made", *common)

    assert (outcome.code, batch.code) == (0, 0), outcome.err + batch.err
    images = [Image.open(folder / f"{number}.png") for number in range(3)]
    here = pipe(images=images, prompt=PROMPT, generator=torch.Generator().manual_seed(3)).images[0]
    for path in (folder / "edited.png", folder / "made" / "row.png"):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(here))
        record = read_record(path)
        assert record is not None
        assert (record["num_inference_steps"], record["guidance_scale"]) == (2, 3.0)
        assert len(record["references_sha256"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--fit", "pad"), "takes several images, each at its own size; leave out `--fit`"),
        (("--ref", "missing.png"), "missing.png can't be read"),
    ],
)
def test_edit_when_references_and_an_option_do_not_go_together_then_one_line(
    joyimage: Joyimage, folder: Path, options: tuple[str, ...], message: str
) -> None:
    outcome = joyimage(
        *("edit", folder / "0.png", PROMPT, "-o", folder / "none.png", "--model", folder / "plus"),
        *("--device", "cpu", *options),
    )

    assert outcome.code == 2
    assert message in outcome.err.splitlines()[-1]
    assert not (folder / "none.png").exists()
