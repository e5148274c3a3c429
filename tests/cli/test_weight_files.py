"""Weight files, `--quantize` and `--offload` on the command line and in the server's settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from joyimage.acceleration.streaming import stream_of
from joyimage.checkpoints import registered_folder
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from joyimage.serving.settings import ServerSettings
from joyimage.serving.workers.loading import load_runner
from tests.loading import formats
from tests.optional import present

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """The tiny model's transformer as a GGUF."""
    weights = load_file(
        present(registered_folder("tiny")) / "transformer" / "diffusion_pytorch_model.safetensors"
    )
    formats.write_gguf(tmp_path / "tiny.gguf", weights, "Q8_0")
    return tmp_path / "tiny.gguf"


def test_edit_when_the_transformer_is_a_gguf_then_an_image_is_written(
    joyimage: Joyimage, gguf_file: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (96, 96), "teal").save(tmp_path / "in.png")
    common = ["edit", tmp_path / "in.png", "Make it red.", "--steps", 1, "--device", "cpu"]
    out = tmp_path / "out.png"
    result = joyimage(*common, "--model", "tiny", "--transformer", gguf_file, "-o", out)
    assert (result.code, out.is_file()) == (0, True), result.err

    result = joyimage(*common, "--transformer", gguf_file, "-o", out)
    assert result.code == 2
    assert "text encoder and the vae are missing: give --text-encoder FILE and --vae FILE" in result.err
    result = joyimage(*common, "--quantize", "int3", "-o", out)
    assert "`--quantize` is 'int3'; expected none, int8, fp8, nf4" in result.err


def test_server_when_a_transformer_file_is_set_then_it_is_loaded(gguf_file: Path) -> None:
    settings = ServerSettings(model="tiny", transformer=gguf_file, quantize="none", device="cpu")
    assert load_runner(settings) is not None
    settings = ServerSettings(transformer=gguf_file, device="cpu")
    with pytest.raises(ValueError, match="text encoder and the vae are missing"):
        load_runner(settings)


def test_edit_when_memory_runs_out_then_the_next_plan_is_announced_in_one_line_and_the_image_is_written(
    joyimage: Joyimage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (96, 96), "teal").save(tmp_path / "in.png")
    common = ["--steps", 1, "--seed", 1, "--model", "tiny", "--device", "cpu"]
    arguments = ["edit", tmp_path / "in.png", "Make it red.", *common]
    assert joyimage(*arguments, "-o", tmp_path / "expected.png").code == 0
    forward = JoyImageEditTransformer3DModel.forward
    failures = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")]

    def fail_once(*given: Any, **named: Any) -> Any:
        if failures:
            raise failures.pop()
        return forward(*given, **named)

    monkeypatch.setattr(JoyImageEditTransformer3DModel, "forward", fail_once)
    result = joyimage(*arguments, "-o", tmp_path / "out.png")

    assert result.code == 0, result.err
    lines = [line for line in result.err.splitlines() if "Memory plan" in line]
    assert len(lines) == 1
    assert lines[0].startswith("Memory plan 'disk': predicted peak")
    images = [Image.open(tmp_path / name).tobytes() for name in ("out.png", "expected.png")]
    assert images[0] == images[1]


def test_eval_when_a_memory_plan_and_a_format_are_given_then_they_are_used(joyimage: Joyimage) -> None:
    common = ["eval", "tiny", "--num", 1, "--steps", 1, "--device", "cpu", "--json"]
    result = joyimage(*common, "--offload", "disc")
    assert result.code == 2
    assert "`--offload` is 'disc'; expected auto, none, model, block, disk." in result.err
    result = joyimage(*common, "--offload", "disk", "--quantize", "nf4")
    assert result.code == 2
    assert "leave out one of them" in result.err
    result = joyimage(*common, "--offload", "disk")
    assert result.code == 0, result.err
    assert json.loads(result.out)
    assert "Memory plan 'disk'" in result.err


def test_server_when_a_memory_plan_is_set_then_blocks_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOYIMAGE_OFFLOAD", "disk")
    runner = load_runner(ServerSettings(model="tiny", device="cpu"))
    assert stream_of(runner.pipe.transformer) is not None
    monkeypatch.setenv("JOYIMAGE_OFFLOAD", "disc")
    with pytest.raises(ValueError, match="offload"):
        ServerSettings(model="tiny", device="cpu")
