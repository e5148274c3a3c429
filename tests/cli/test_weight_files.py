"""Weight files and `--quantize` on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image
from safetensors.torch import load_file

from joyimage.checkpoints import registered_folder
from joyimage.serving.settings import ServerSettings
from joyimage.serving.workers.loading import load_runner
from tests.loading import formats

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import CommandResult

    Joyimage = Callable[..., CommandResult]


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """The tiny model's transformer as a GGUF."""
    weights = load_file(registered_folder("tiny") / "transformer" / "diffusion_pytorch_model.safetensors")
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
