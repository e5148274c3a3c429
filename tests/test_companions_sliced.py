"""One edit on two processes that have slices of the transformer's layers: the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from joyimage.acceleration import report
from joyimage.cli.options import RunOptions
from joyimage.cli.runners import LocalRunner, load_runner
from joyimage.errors import InvalidInputError
from joyimage.loading import load_pipeline
from joyimage.tiny.examples import load_example
from tests.forked import forked_companions
from tests.test_companions import EDITS, TINY, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module", autouse=True)
def forked() -> Iterator[None]:
    with forked_companions():
        yield


def test_edit_when_two_processes_have_slices_of_the_layers_then_as_one(tmp_path: Path) -> None:
    layer, adapter = "double_blocks.0.attn.img_attn_qkv", tmp_path / "adapter.safetensors"
    matrices = {f"{layer}.lora_A.weight": torch.ones(1, 192), f"{layer}.lora_B.weight": torch.ones(576, 1)}
    save_file(matrices, adapter)
    image, alone = load_example("shapes").image, LocalRunner(load_pipeline(**TINY))
    sliced = load_runner(RunOptions(**TINY, gpus=2, gpu_layout="tensor"))
    assert isinstance(sliced, LocalRunner)
    assert sliced.companions is not None
    try:
        assert report(sliced.loaded.pipe).parallelism == "tensor 2"
        with pytest.raises(InvalidInputError, match="an adapter needs whole ones"):
            run(sliced, {**EDITS["guided"], "loras": [str(adapter)]}, image)
        for name in ("guided", "the best of two", "fast"):
            together, expected = (run(runner, EDITS[name], image) for runner in (sliced, alone))
            assert max(int(abs(a - b).max()) for a, b in zip(together, expected, strict=True)) <= 1, name
    finally:
        sliced.companions.end()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"gpus": 2, "quantize": "int8"},
            "`quantization` is 'int8', but the layout \"tensor\" divides whole layers",
        ),
        (
            {"gpus": 2, "offload": "disk"},
            "`offload` is 'disk', but the layout \"tensor\" divides whole layers",
        ),
        ({}, "`gpu_layout` is 'tensor', which several devices share an edit by; give `gpus` too"),
    ],
)
def test_layout_when_it_cannot_be_then_rejected_before_any_process_starts(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_runner(RunOptions(**TINY, **options, gpu_layout="tensor"))
