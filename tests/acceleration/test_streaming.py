"""Streamed blocks give the same image bit for bit, with one read per block and step."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from joyimage.acceleration import streaming
from joyimage.acceleration.quantization import formats_of
from joyimage.acceleration.reporting import report
from joyimage.acceleration.streaming import BlockStream, stream_of
from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.loading import load_pipeline
from joyimage.pipeline import components, denoise
from joyimage.pipeline import loading as pipeline_loading
from joyimage.pipeline.quantizing import quantize_file
from joyimage.pipeline.streamed import stream_from_host
from tests import random_models
from tests.loading import formats

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 2
CPU = torch.device("cpu")
IMAGE = Image.effect_noise((64, 64), 90).convert("RGB")


def edit(pipe: Any, **arguments: Any) -> torch.Tensor:
    arguments = {"num_inference_steps": STEPS, "guidance_scale": 3.0, **arguments}
    return pipe(
        image=IMAGE,
        prompt="Make the car red",
        output_type="pt",
        generator=torch.Generator().manual_seed(1),
        **arguments,
    ).images


def write_adapter(folder: Path, output: Path) -> Path:
    """Write a LoRA adapter with random weights for the transformer of a checkpoint."""
    from peft import LoraConfig

    transformer = load_pipeline(folder, device="cpu").pipe.transformer
    transformer.add_adapter(LoraConfig(r=2, target_modules=["img_attn_qkv"], init_lora_weights=False))
    transformer.save_lora_adapter(output / "lora")
    return output / "lora"


def stream_in(pipe: Any, part: str = "transformer") -> BlockStream:
    stream = stream_of(getattr(pipe, part))
    assert stream is not None
    return stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streamed") / "checkpoint"
    random_models.make_pipeline().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def resident(folder: Path) -> torch.Tensor:
    return edit(load_pipeline(folder, device="cpu").pipe)


@pytest.fixture
def streamed(folder: Path) -> Any:
    return load_pipeline(folder, device="cpu", offload="disk").pipe


def test_disk_when_edited_then_same_image_bit_for_bit_and_no_block_stays(
    streamed: Any, resident: torch.Tensor
) -> None:
    assert torch.equal(edit(streamed), resident)

    for part in ("transformer", "text_encoder"):
        for block in stream_in(streamed, part)._blocks:
            assert all(p.untyped_storage().nbytes() <= 8 for p in block.module.parameters())


def test_disk_when_loaded_then_the_first_block_gets_a_mapping_that_can_go_again(streamed: Any) -> None:
    for part in ("transformer", "text_encoder"):
        source: Any = stream_in(streamed, part).source
        weights = source._weights.weights.values()
        assert not any("_mapping" in vars(weight.file) for weight in weights)


def test_disk_when_both_branches_run_then_each_block_is_read_once_per_step(streamed: Any) -> None:
    edit(streamed)

    assert report(streamed).offload == "disk"
    assert stream_in(streamed).num_loads == STEPS * len(streamed.transformer.double_blocks)


def test_disk_when_branches_have_forwards_of_their_own_then_blocks_are_still_read_once(
    streamed: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoise, "can_batch_branches", lambda *_: False)  # as for a large image
    expected = edit(load_pipeline(folder, device="cpu").pipe)

    assert torch.equal(edit(streamed), expected)

    assert stream_in(streamed).num_loads == STEPS * len(streamed.transformer.double_blocks)


def test_disk_when_edited_twice_then_vision_and_language_blocks_are_fetched_in_the_order_of_use(
    streamed: Any,
) -> None:
    encoder = stream_in(streamed, "text_encoder")
    edit(streamed)
    first = encoder.num_loads
    edit(streamed, negative_prompt="Another prompt")
    again = encoder.num_loads - first

    # After the first traversal the block that is fetched ahead is the one that comes.
    assert again <= len(encoder._blocks)


def test_disk_when_vocabularies_are_streamed_then_an_edit_does_not_read_the_language_head(
    folder: Path, resident: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "LARGE_LAYER_SIZE", 4096)
    pipe = load_pipeline(folder, device="cpu", offload="disk").pipe
    source = stream_in(pipe, "text_encoder").source
    read: list[str] = []
    read_weights = source.read
    monkeypatch.setattr(source, "read", lambda names: (read.extend(names), read_weights(names))[1])

    assert torch.equal(edit(pipe), resident)

    assert "model.language_model.embed_tokens.weight" in read
    assert "lm_head.weight" not in read


def test_host_when_edited_then_same_image_bit_for_bit(folder: Path, resident: torch.Tensor) -> None:
    pipe = load_pipeline(folder, device="cpu").pipe

    stream_from_host(pipe, CPU)

    assert report(pipe).offload == "block"
    assert torch.equal(edit(pipe), resident)


def test_stream_when_restored_then_blocks_stay_and_same_image(streamed: Any, resident: torch.Tensor) -> None:
    for part in ("transformer", "text_encoder"):
        stream_in(streamed, part).restore()

    assert stream_of(streamed.transformer) is None
    assert torch.equal(edit(streamed), resident)


def test_streamed_pipeline_when_saved_then_the_folder_has_all_weights(
    streamed: Any, resident: torch.Tensor, tmp_path: Path
) -> None:
    streamed.save_pretrained(tmp_path / "saved")

    assert torch.equal(edit(load_pipeline(tmp_path / "saved", device="cpu").pipe), resident)


def test_adapter_when_blocks_are_streamed_then_same_image_as_resident(folder: Path, tmp_path: Path) -> None:
    lora = write_adapter(folder, tmp_path)
    expected = edit(load_pipeline(folder, device="cpu", loras=[lora]).pipe)

    pipe = load_pipeline(folder, device="cpu", offload="disk", loras=[lora]).pipe

    assert torch.equal(edit(pipe), expected)
    assert not torch.equal(expected, edit(load_pipeline(folder, device="cpu").pipe))


def test_stream_when_forward_fails_then_next_edit_works(streamed: Any, resident: torch.Tensor) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    hook = streamed.transformer.double_blocks[-1].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        edit(streamed)
    hook.remove()

    assert torch.equal(edit(streamed), resident)


def test_disk_when_dtype_is_lower_then_as_resident_in_that_dtype(folder: Path) -> None:
    resident = load_pipeline(folder, device="cpu", dtype="bfloat16").pipe
    pipe = load_pipeline(folder, device="cpu", dtype="bfloat16", offload="disk").pipe

    dtypes = {name: p.dtype for name, p in resident.transformer.named_parameters()}
    assert {name: p.dtype for name, p in pipe.transformer.named_parameters()} == dtypes
    assert torch.equal(edit(pipe), edit(resident))


def test_source_when_a_weight_is_in_no_file_then_named(streamed: Any) -> None:
    with pytest.raises(CheckpointError, match=r"no weight `lm_head\.bias`"):
        stream_in(streamed).source.read(["lm_head.bias"])


FORMATS = ("int8_convrot", "nf4", "gguf-q8_0", "float8_e4m3fn", "mxfp8", "Q4_0")


def write_file(folder: Path, output: Path, part: str, name: str) -> Path:
    """Write a part of a checkpoint as one quantized file: by joyimage, or as other programs do."""
    path = output / f"{part}.{'gguf' if name.startswith(('gguf', 'Q')) else 'safetensors'}"
    if name in {"int8_convrot", "nf4", "gguf-q8_0"}:
        return quantize_file(folder, path, format=name, part=part)
    weights = load_file(next((folder / part).glob("*.safetensors")))
    if name.startswith("Q"):
        formats.write_gguf(path, weights, name)
    else:
        formats.write_marked(path, weights, name, prefix="model.diffusion_model.")
    return path


@pytest.fixture(scope="module", params=FORMATS)
def quantized_file(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_file(folder, tmp_path_factory.mktemp("files"), "transformer", request.param)


@pytest.mark.parametrize("quantization", [None, "none"])
def test_disk_when_the_transformer_is_a_quantized_file_then_same_image_as_resident_bit_for_bit(
    quantization: str | None, folder: Path, quantized_file: Path
) -> None:
    arguments: Any = {"transformer": quantized_file, "device": "cpu", "quantization": quantization}
    resident = load_pipeline(folder, **arguments).pipe
    streamed = load_pipeline(folder, **arguments, offload="disk").pipe

    assert formats_of(streamed.transformer) == formats_of(resident.transformer)
    assert bool(formats_of(streamed.transformer)) == (quantization is None)
    assert torch.equal(edit(streamed), edit(resident))

    stream = stream_in(streamed)
    assert stream.num_loads == STEPS * len(streamed.transformer.double_blocks)
    for block in stream._blocks:
        own = [*block.module.parameters(), *block.module.buffers()]
        assert all(tensor.untyped_storage().nbytes() <= 8 for tensor in own)


def test_disk_when_all_parts_are_single_files_then_same_image_as_resident_and_lora_and_saving_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tmp_path / "published"
    shutil.copytree(folder, published, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer"))
    for module in (components, pipeline_loading):
        monkeypatch.setattr(module, "PUBLISHED_FOLDER", published)
    files = {
        part: write_file(folder, tmp_path, part, "int8_convrot") for part in ("transformer", "text_encoder")
    }
    arguments: Any = {
        **files,
        "vae": folder / "vae" / "diffusion_pytorch_model.safetensors",
        "device": "cpu",
        "loras": [write_adapter(folder, tmp_path)],
    }
    resident = load_pipeline(**arguments).pipe
    streamed = load_pipeline(**arguments, offload="disk").pipe

    assert formats_of(streamed.text_encoder)
    assert report(streamed).quantization == report(resident).quantization
    expected = edit(resident)
    assert torch.equal(edit(streamed), expected)

    for pipe in (resident, streamed):
        pipe.unload_lora_weights()
    without = edit(resident)
    assert not torch.equal(without, expected)
    streamed.save_pretrained(tmp_path / "saved")
    for offload in ("none", "disk"):
        assert torch.equal(
            edit(load_pipeline(tmp_path / "saved", device="cpu", offload=offload).pipe), without
        )


def test_host_when_quantized_while_loading_then_same_image_bit_for_bit(folder: Path) -> None:
    pipe = load_pipeline(folder, device="cpu", quantization="int8").pipe
    expected = edit(pipe)

    stream_from_host(pipe, CPU)

    assert torch.equal(edit(pipe), expected)


def test_disk_when_weights_are_to_be_quantized_then_it_says_what_to_do(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"write a quantized file with `joyimage quantize` first"):
        load_pipeline(folder, device="cpu", offload="disk", quantization="int8")


def test_fuse_when_weights_are_quantized_or_streamed_then_it_says_what_to_do(
    folder: Path, tmp_path: Path
) -> None:
    lora = write_adapter(folder, tmp_path)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"quantization": "int8"}, "stored as int8"),
        ({"offload": "disk"}, "streamed"),
    ]
    for arguments, state in cases:
        pipe = load_pipeline(folder, device="cpu", loras=[lora], **arguments).pipe
        before = edit(pipe)
        with pytest.raises(InvalidInputError, match=rf"which are {state}.*Use the adapters without fusing"):
            pipe.fuse_lora()
        assert torch.equal(edit(pipe), before)


def test_dora_when_weights_are_quantized_and_streamed_then_as_on_decoded_weights(
    folder: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig

    file = write_file(folder, tmp_path, "transformer", "int8_convrot")
    arguments: Any = {"transformer": file, "device": "cpu"}
    decoded = load_pipeline(folder, **arguments, quantization="none").pipe
    config = LoraConfig(r=2, target_modules=["img_attn_proj"], init_lora_weights=False, use_dora=True)
    decoded.transformer.add_adapter(config)
    decoded.transformer.save_lora_adapter(tmp_path / "dora")
    expected = edit(decoded)

    for offload in ("none", "disk"):
        pipe = load_pipeline(folder, **arguments, offload=offload, loras=[tmp_path / "dora"]).pipe
        torch.testing.assert_close(edit(pipe), expected, rtol=1e-3, atol=1e-3)
