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
from joyimage.model.adapters.recipe import SamplingRecipe
from joyimage.tiny.examples import load_example
from tests.forked import forked_companions
from tests.test_companions import EDITS, RECOLOR, TINY, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module", autouse=True)
def forked() -> Iterator[None]:
    with forked_companions():
        yield


def save_adapter(path: Path, seed: int, header: dict[str, str] | None = None) -> str:
    """Draw an adapter of the first block, of layers that are sliced by outputs and by inputs."""
    generator, matrices = torch.Generator().manual_seed(seed), {}
    for layer, outputs, inputs in (("attn.img_attn_qkv", 576, 192), ("img_mlp.net.2", 192, 768)):
        for name, shape in (("lora_A", (2, inputs)), ("lora_B", (outputs, 2))):
            drawn = 0.2 * torch.randn(shape, generator=generator)
            matrices[f"double_blocks.0.{layer}.{name}.weight"] = drawn
    save_file(matrices, path, header)
    return str(path)


def test_edit_when_two_processes_have_slices_of_the_layers_then_as_one(tmp_path: Path) -> None:
    style = save_adapter(tmp_path / "style.safetensors", 0)
    recipe = SamplingRecipe(num_inference_steps=3, guidance_scale=1.0, shift=2.0)
    quick = save_adapter(tmp_path / "quick.safetensors", 1, recipe.to_header())
    edits = {
        **{name: EDITS[name] for name in ("guided", "the best of two", "fast")},
        "adapters": {**EDITS["guided"], "loras": [f"{style}:0.5", f"{quick}:-0.4"], "speed": "exact"},
        "without them": EDITS["without guidance"],
        "turbo adapter": {"kind": "edit", "prompt": RECOLOR, "loras": [quick], "speed": "turbo"},
    }
    image, alone = load_example("shapes").image, LocalRunner(load_pipeline(**TINY))
    sliced = load_runner(RunOptions(**TINY, gpus=2, gpu_layout="tensor"))
    assert isinstance(sliced, LocalRunner)
    assert sliced.companions is not None
    made: dict[str, Any] = {}
    try:
        assert report(sliced.loaded.pipe).parallelism == "tensor 2"
        for name, edit in edits.items():
            together, expected = (run(runner, edit, image) for runner in (sliced, alone))
            assert max(int(abs(a - b).max()) for a, b in zip(together, expected, strict=True)) <= 1, name
            made[name] = together[0]
    finally:
        sliced.companions.end()
    assert abs(made["adapters"] - made["guided"]).max() > 20
    assert abs(made["turbo adapter"] - made["without them"]).max() > 20


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
