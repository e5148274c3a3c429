"""`joyimage quantize`: files that comfy-kitchen and gguf read, whole or not at all, resumable."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gguf
import pytest
import torch
from comfy_kitchen.backends.eager import quantization as eager
from safetensors.torch import load_file

from joyimage.acceleration.quantization import formats_of, quantized
from joyimage.cli.main import main
from joyimage.errors import InvalidInputError
from joyimage.loading import load_pipeline
from joyimage.pipeline import quantizing
from joyimage.pipeline.components import open_part
from joyimage.pipeline.quantizing import quantize_file
from joyimage.tiny import weights_folder
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


@pytest.mark.parametrize("block_type", ["Q8_0", "Q4_0"])
def test_quantize_when_gguf_then_the_gguf_package_reads_the_blocks_that_it_would_write(
    block_type: str, checkpoint: Path, tmp_path: Path
) -> None:
    quantize_file(checkpoint, tmp_path / "a.gguf", format=f"gguf-{block_type.lower()}")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    weights = load_file(checkpoint / "transformer" / "diffusion_pytorch_model.safetensors")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors.keys() == weights.keys()
    expected, _ = formats.block_bytes(weights[KEY], block_type)
    assert tensors[KEY].tensor_type.name == block_type
    assert (tensors[KEY].data == expected).all()
    assert "comfy.gguf.orig_shape.img_in.weight" in reader.fields


@pytest.mark.parametrize("name", ["mxfp8", "nvfp4"])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_quantized_when_in_blocks_then_the_tensors_are_those_of_comfy_kitchen(
    name: str, scale: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = scale * torch.randn(96, 320, generator=generator)
    weight[:, 32:64] = -0.0  # a block of zeros
    weight[5] *= 1000
    weight[7] = (8 * weight[7] / scale).round() * scale / 8  # values halfway between two codes
    expected, values = formats.encode(weight, name)

    found = quantized(weight, name)

    assert found.parts.keys() == expected.keys()
    for part, tensor in expected.items():
        assert torch.equal(as_bytes(found.parts[part]), as_bytes(tensor)), part
    assert torch.equal(found.decode(torch.bfloat16), values(torch.bfloat16))


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("shape", [(256, 384), (100, 200), (64, 64)])
def test_quantized_when_int8_blockwise_then_each_block_has_its_own_largest_value(
    shape: tuple[int, int],
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[:100, :100] *= 1000

    found = quantized(weight, "int8_blockwise")

    assert found.encoding.marker() == {"format": "int8_blockwise", "group_size": 128}
    for row in range(0, shape[0], 128):
        for column in range(0, shape[1], 128):
            block = weight[row : row + 128, column : column + 128]
            assert found.parts["_scale"][row // 128, column // 128] == block.abs().max() / 127
    error = (found.decode(torch.float32) - weight).abs()
    assert (error[128:].numel() == 0) or error[128:].max() <= weight[128:].abs().max() / 254 * 1.001
    assert error.max() <= weight.abs().max() / 254 * 1.001


@pytest.mark.parametrize("format", ["nf4", "nvfp4", "gguf-q4_0"])
def test_quantize_when_in_four_bits_then_values_and_outputs_of_language_layers_have_eight(
    format: str, tmp_path: Path
) -> None:
    output = tmp_path / ("out.gguf" if format.startswith("gguf") else "out.safetensors")
    source = open_part(
        quantize_file(weights_folder(), output, format=format, part="text_encoder"), "text_encoder"
    )

    found = {name: source.weights[name].encoding.name for name in source.weights}
    eight = "Q8_0" if format.startswith("gguf") else "int8_convrot"
    four = "Q4_0" if format.startswith("gguf") else format
    sensitive = {name for name, stored in found.items() if stored == eight}
    assert sensitive == {
        name
        for name in found
        if "language_model.layers." in name and ("v_proj" in name or "down_proj" in name)
    }
    assert sum(stored == four for stored in found.values()) == 5 * len(sensitive) // 2
    assert set(found.values()) == {eight, four, "plain"}
    if format == "nf4":  # while loading as in the file
        pipe = load_pipeline("tiny", device="cpu", quantization="nf4").pipe
        assert formats_of(pipe.text_encoder) == {eight: len(sensitive), four: 5 * len(sensitive) // 2}
        assert set(formats_of(pipe.transformer)) == {"nf4"}


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
        (
            "a.safetensors",
            "int3",
            "expected int8_convrot, int8_blockwise, fp8, mxfp8, nvfp4, nf4, gguf-q8_0, gguf-q4",
        ),
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
