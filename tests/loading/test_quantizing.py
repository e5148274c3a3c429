"""`joyimage quantize`: files that comfy-kitchen and gguf read, whole or not at all, resumable."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gguf
import pytest
import torch
from comfy_kitchen.backends.eager import quantization as eager
from safetensors.torch import load_file

from joyimage.cli.main import main
from joyimage.errors import InvalidInputError
from joyimage.loading import load_pipeline
from joyimage.pipeline import quantizing
from joyimage.pipeline.quantizing import quantize_file
from tests.loading import formats

if TYPE_CHECKING:
    from pathlib import Path

KEY = "double_blocks.0.attn.img_attn_qkv.weight"


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
@pytest.mark.parametrize("format", quantizing.FORMATS)
def test_quantize_when_written_then_the_pipeline_loads_the_file(
    part: str, format: str, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / ("out.gguf" if format.startswith("gguf") else "out.safetensors")
    counts = []
    quantize_file(checkpoint, output, format=format, part=part, progress=lambda *pair: counts.append(pair))
    assert counts[-1][0] == counts[-1][1] == len(counts)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    file: dict[str, Any] = {part: output}
    pipe = load_pipeline(checkpoint, device="cpu", quantization="none", **file).pipe
    plain = load_pipeline(checkpoint, device="cpu").pipe
    for name, value in plain.components[part].state_dict().items():
        error = (pipe.components[part].state_dict()[name] - value).norm() / value.norm()
        assert error < 0.13, name


def test_quantize_when_int8_then_comfy_kitchen_reads_the_values(checkpoint: Path, tmp_path: Path) -> None:
    quantize_file(checkpoint, tmp_path / "a.safetensors", format="int8_convrot")
    tensors = load_file(tmp_path / "a.safetensors")
    layer = "model.diffusion_model." + KEY.removesuffix(".weight")
    marker = json.loads(bytes(tensors[f"{layer}.comfy_quant"].tolist()))
    assert marker == {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64}
    values = eager.dequantize_int8_convrot_weight(
        tensors[f"{layer}.weight"], tensors[f"{layer}.weight_scale"], marker["convrot_groupsize"]
    )
    pipe = load_pipeline(
        checkpoint, transformer=tmp_path / "a.safetensors", device="cpu", quantization="none"
    ).pipe
    assert torch.equal(pipe.transformer.get_parameter(KEY), values)


def test_quantize_when_gguf_then_the_gguf_package_reads_it(checkpoint: Path, tmp_path: Path) -> None:
    quantize_file(checkpoint, tmp_path / "a.gguf", format="gguf-q8_0")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    weights = load_file(checkpoint / "transformer" / "diffusion_pytorch_model.safetensors")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors.keys() == weights.keys()
    expected, _ = formats.block_bytes(weights[KEY], "Q8_0")
    assert (tensors[KEY].data == expected).all()
    assert "comfy.gguf.orig_shape.img_in.weight" in reader.fields


def test_quantize_when_interrupted_then_the_next_run_continues(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_file(checkpoint, tmp_path / "a.safetensors", format="fp8", progress=stop)
    assert not (tmp_path / "a.safetensors").exists()

    made = []
    original = quantizing._tensors
    monkeypatch.setattr(quantizing, "_tensors", lambda *given: made.append(given[1]) or original(*given))
    quantize_file(checkpoint, tmp_path / "a.safetensors", format="fp8")
    quantize_file(checkpoint, tmp_path / "b.safetensors", format="fp8")
    assert len(made) == 2 * len(set(made)) - 5
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_quantize_when_arguments_are_wrong_then_nothing_is_written(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").touch()
    for name, chosen, message in (
        ("a.gguf", "fp8", "ends with .safetensors"),
        ("a.safetensors", "int3", "expected int8_convrot, fp8, nf4, gguf-q8_0"),
        ("there.safetensors", "fp8", "exists already"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            quantize_file(checkpoint, tmp_path / name, format=chosen)
    assert len(list(tmp_path.iterdir())) == 1


def test_quantize_when_called_as_a_command_then_it_prints_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tiny.safetensors"
    assert main(["quantize", "tiny", "--format", "nf4", "-o", str(output)]) == 0
    assert str(output) in capsys.readouterr().out.replace("\n", "")
    assert output.is_file()
