"""Streamed blocks give the same image bit for bit, with one read per block and step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from joyimage.acceleration import streaming
from joyimage.acceleration.reporting import report
from joyimage.acceleration.streaming import BlockStream, stream_of
from joyimage.errors import CheckpointError
from joyimage.loading import load_pipeline
from joyimage.pipeline import denoise
from joyimage.pipeline.streamed import stream_from_host
from tests import random_models

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 2
CPU = torch.device("cpu")
IMAGE = Image.effect_noise((64, 64), 90).convert("RGB")
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
    monkeypatch.setattr(streaming, "LARGE_LAYER_BYTES", 4096)
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
    from peft import LoraConfig

    adapted = load_pipeline(folder, device="cpu").pipe
    adapted.transformer.add_adapter(LoraConfig(r=2, target_modules=["img_attn_qkv"], init_lora_weights=False))
    adapted.transformer.save_lora_adapter(tmp_path / "lora")
    expected = edit(adapted)

    pipe = load_pipeline(folder, device="cpu", offload="disk", loras=[tmp_path / "lora"]).pipe

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
