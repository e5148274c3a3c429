"""Convert weights in any format to a folder or to one file, and damaged downloads."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from joyimage import JoyImageEditPipeline
from joyimage.acceleration.quantization import formats_of
from joyimage.cli.commands.convert import convert
from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.loading import load_pipeline
from joyimage.pipeline import components, repacking
from joyimage.pipeline.components import open_part
from joyimage.pipeline.quantizing import FORMATS, convert_file, quantize_file
from tests.loading import formats

if TYPE_CHECKING:
    from pathlib import Path


def values_of(path: Path, part: str) -> dict[str, torch.Tensor]:
    source = open_part(path, part)
    return {name: source.read(name).decode(torch.float32) for name in source.weights}


@pytest.mark.parametrize("name", [*FORMATS, "float8_e5m2", "Q4_K", "Q5_0"])
def test_convert_when_the_source_is_a_quantized_file_then_a_plain_file_has_its_values(
    name: str, checkpoint: Path, tmp_path: Path
) -> None:
    weights = load_file(checkpoint / "transformer" / "diffusion_pytorch_model.safetensors")
    is_wide = all(value.shape[-1] % 256 == 0 for value in weights.values() if value.ndim == 2)
    if name.endswith("_K") and not is_wide:
        weights = {key: value.repeat(1, 4) if value.ndim == 2 else value for key, value in weights.items()}
    source = tmp_path / f"source.{'gguf' if name.startswith(('gguf', 'Q')) else 'safetensors'}"
    if name in FORMATS:
        quantize_file(checkpoint, source, format=name)
    elif name.startswith("Q"):
        formats.write_gguf(source, weights, name)
    else:
        formats.write_marked(source, weights, name)

    convert(source, tmp_path / "plain.safetensors", format="fp32")

    expected, found = (
        values_of(source, "transformer"),
        values_of(tmp_path / "plain.safetensors", "transformer"),
    )
    assert found.keys() == expected.keys()
    assert set(open_part(tmp_path / "plain.safetensors", "transformer").formats) == {"plain"}
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("name", FORMATS)
def test_convert_when_one_quantized_file_becomes_another_then_it_is_that_of_the_decoded_values(
    name: str, checkpoint: Path, tmp_path: Path
) -> None:
    suffix = "gguf" if name.startswith("gguf") else "safetensors"
    quantize_file(checkpoint, tmp_path / "source.gguf", format="gguf-q8_0")
    convert_file(tmp_path / "source.gguf", tmp_path / "plain.safetensors", format="bf16")

    convert_file(tmp_path / "source.gguf", tmp_path / f"direct.{suffix}", format=name)
    convert_file(tmp_path / "plain.safetensors", tmp_path / f"indirect.{suffix}", format=name)

    direct, indirect = (
        values_of(tmp_path / f"{one}.{suffix}", "transformer") for one in ("direct", "indirect")
    )
    matrices = [key for key in direct if direct[key].ndim == 2 and key.startswith("double_blocks")]
    assert matrices
    for key in matrices:
        assert torch.equal(direct[key], indirect[key]), key


def test_convert_when_the_source_is_a_quantized_folder_then_a_plain_folder_gives_the_same_weights(
    checkpoint: Path, tmp_path: Path
) -> None:
    pipe = load_pipeline(checkpoint, device="cpu", quantization="int8").pipe
    pipe.save_pretrained(tmp_path / "quantized")

    convert(tmp_path / "quantized", tmp_path / "plain", format="fp32", max_shard_size="1MB")

    plain = JoyImageEditPipeline.from_pretrained(tmp_path / "plain")
    decoded = load_pipeline(tmp_path / "quantized", device="cpu", quantization="none").pipe
    for part in ("transformer", "text_encoder", "vae"):
        assert not formats_of(plain.components[part])
        expected = decoded.components[part].state_dict()
        for key, value in plain.components[part].state_dict().items():
            assert torch.equal(value, expected[key]), key
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "quantized"]


def test_convert_when_three_files_are_given_then_the_folder_loads(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tmp_path / "published"
    shutil.copytree(checkpoint, published, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer"))
    for module in (components, repacking):
        monkeypatch.setattr(module, "PUBLISHED_FOLDER", published)
    transformer = quantize_file(checkpoint, tmp_path / "a_plus.gguf", format="gguf-q8_0")
    text_encoder = quantize_file(checkpoint, tmp_path / "b.safetensors", format="fp8", part="text_encoder")
    vae = convert_file(checkpoint, tmp_path / "c.safetensors", format="fp32", part="vae")

    convert(transformer, tmp_path / "out", text_encoder=text_encoder, vae=vae, format="fp32")

    loaded = load_pipeline(tmp_path / "out", device="cpu")
    assert type(loaded.pipe).__name__ == "JoyImageEditPlusPipeline"
    expected = values_of(transformer, "transformer")
    for key, value in loaded.pipe.transformer.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_convert_when_format_and_output_do_not_fit_then_it_says_what_to_do(
    checkpoint: Path, tmp_path: Path
) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("out", {"format": "fp8"}, r"`format` is 'fp8'; expected bf16, fp16, fp32 for a folder"),
        (
            "out.gguf",
            {"format": "bf16"},
            r"`output` is .*out\.gguf; expected a name that ends with \.safetensors",
        ),
        ("out.safetensors", {"format": "fp8", "part": "vae"}, r"`part` is 'vae'; expected transformer or"),
        ("out.safetensors", {"format": "int3"}, r"`format` is 'int3'; expected"),
    ]
    for output, arguments, message in cases:
        with pytest.raises(InvalidInputError, match=message):
            convert(checkpoint, tmp_path / output, **arguments)
    assert not list(tmp_path.iterdir())


DAMAGES: dict[str, Any] = {
    "cut short": (lambda content: content[:-100], r"says \d+: download the file again"),
    "lfs": (
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        r"is a Git LFS pointer, not the weights themselves",
    ),
    "html": (
        lambda _: b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>",
        r"is a web page \(HTML\), as a failed download leaves it",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_download_when_loaded_or_converted_then_one_message_says_what_the_file_is(
    damage: str, checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    change, message = DAMAGES[damage]
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    file = shutil.copyfile(path, tmp_path / "transformer.safetensors")

    for attempt in (
        lambda: load_pipeline(folder, device="cpu"),
        lambda: load_pipeline(checkpoint, transformer=file, device="cpu"),
        lambda: load_pipeline(folder, device="cpu", offload="disk"),
        lambda: convert(folder, tmp_path / "out"),
        lambda: convert(file, tmp_path / "out.safetensors"),
        lambda: convert(checkpoint, tmp_path / "out", transformer=file),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["checkpoint", "transformer.safetensors"]


def test_vae_of_another_width_when_loaded_or_converted_then_the_message_names_both_shapes(
    checkpoint: Path, tmp_path: Path
) -> None:
    weights = load_file(checkpoint / "vae" / "diffusion_pytorch_model.safetensors")
    wide = {key: torch.cat([value, value]) if value.ndim == 5 else value for key, value in weights.items()}
    from safetensors.torch import save_file

    save_file(wide, tmp_path / "vae.safetensors")

    for attempt in (
        lambda: load_pipeline(checkpoint, vae=tmp_path / "vae.safetensors", device="cpu"),
        lambda: convert(checkpoint, tmp_path / "out", vae=tmp_path / "vae.safetensors"),
    ):
        with pytest.raises(
            CheckpointError, match=r"has the shape \[\d+, .*\], but the config asks for \[\d+, "
        ):
            attempt()
