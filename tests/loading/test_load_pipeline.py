"""`load_pipeline` chooses class, device, precision and adapters, and checks them before it reads weights."""

from __future__ import annotations

import json
import struct
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from joyimage import JoyImageEditPipeline, JoyImageEditPlusPipeline, devices
from joyimage.checkpoints import register_checkpoint, registered_folder, registered_names
from joyimage.devices import as_out_of_memory, choose_device, choose_dtype, typed_device_errors
from joyimage.errors import CheckpointError, DeviceError, InvalidInputError, OutOfMemoryError
from joyimage.loading import Adapter, default_model, load_pipeline
from joyimage.model.file_kind import describe_as_model, describe_file
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

needs_cpu_only = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has an accelerator")


@pytest.fixture
def adapter_folder(tmp_path: Path) -> Callable[[str], Path]:
    """Write a LoRA adapter into a folder of a name."""
    from peft import LoraConfig

    def write(name: str) -> Path:
        model = random_models.make_pipeline().transformer
        model.add_adapter(LoraConfig(r=2, target_modules=["img_attn_qkv"], init_lora_weights=False))
        model.save_lora_adapter(tmp_path / name)
        return tmp_path / name

    return write


def test_load_pipeline_when_folder_is_edit_then_edit_class_on_cpu_in_float32(checkpoint: Path) -> None:
    loaded = load_pipeline(checkpoint, device="cpu")

    assert type(loaded.pipe) is JoyImageEditPipeline
    assert (loaded.device, loaded.dtype, loaded.offload, loaded.adapters) == ("cpu", "float32", "none", ())
    assert loaded.pipe.transformer.dtype == torch.float32
    assert loaded.model == str(checkpoint)


def test_load_pipeline_when_folder_is_edit_plus_then_plus_class(plus_checkpoint: Path) -> None:
    assert type(load_pipeline(plus_checkpoint, device="cpu").pipe) is JoyImageEditPlusPipeline


def test_load_pipeline_when_dtype_and_base_size_are_given_then_they_are_used(checkpoint: Path) -> None:
    loaded = load_pipeline(checkpoint, device="cpu", dtype="bfloat16", base_size=512)

    assert loaded.dtype == "bfloat16"
    assert loaded.pipe.vae.dtype == torch.bfloat16
    assert loaded.pipe.config["base_size"] == 512


def test_load_pipeline_when_several_adapters_then_all_are_active_with_their_scales(
    checkpoint: Path, adapter_folder: Callable[[str], Path]
) -> None:
    folder = adapter_folder("style.v1")

    loaded = load_pipeline(
        checkpoint, device="cpu", loras=[f"{folder}:0.5", Adapter(path=folder, scale=-2.0)]
    )

    names = [adapter.name for adapter in loaded.adapters]
    assert names == ["style", "style_2"]
    layer: Any = loaded.pipe.transformer.get_submodule("double_blocks.0.attn.img_attn_qkv")
    assert set(layer.active_adapters) == set(names)
    assert layer.scaling["style"] / layer.scaling["style_2"] == pytest.approx(-0.25)


def test_load_pipeline_when_checkpoint_is_unusable_then_argument_is_rejected_first(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"dtype": "float8"}, r"`dtype` is 'float8'; expected float32, float16, bfloat16"),
        ({"offload": "cloud"}, r"`offload` is 'cloud'; expected auto, none, model, block, disk"),
        ({"offload": "model", "device": "cpu"}, r"`offload` is 'model', but .* the device is the CPU"),
        ({"quantization": "int3"}, r"`quantization` is 'int3'; expected none, int8, fp8, nf4"),
        ({"base_size": 500}, r"`base_size` is 500"),
        ({"loras": [f"{missing}.safetensors"]}, r"The adapter .*missing.safetensors does not exist"),
        ({"device": "banana"}, r"`device` is 'banana'; expected cuda, xpu, mps, cpu"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            load_pipeline(missing, **arguments)


def test_load_pipeline_when_model_is_a_file_then_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")

    with pytest.raises(
        CheckpointError, match=r"model.gguf is a GGUF file with a damaged or incomplete table"
    ):
        load_pipeline(tmp_path / "model.gguf", device="cpu")


def safetensors(**dtypes: str) -> bytes:
    entries = {
        name.replace("__", "."): {"dtype": dtype, "shape": [1], "data_offsets": [0, 1]}
        for name, dtype in dtypes.items()
    }
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + b"\0"


@pytest.mark.parametrize(
    ("content", "kind", "advice"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "Git LFS pointer",
            "git lfs pull",
        ),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file", "--transformer"),
        (b"PK\x03\x04rest", "pickled PyTorch checkpoint", "joyimage convert"),
        (safetensors(a__weight="BF16"), "a single safetensors file", "--transformer"),
        (safetensors(a__weight="F8_E4M3"), "fp8 weights", "--transformer"),
        (safetensors(a__weight="F8_E4M3", a__weight_scale="F32"), "scaled fp8 weights", "--transformer"),
        (
            safetensors(a__weight="BF16")[:30],
            "safetensors file that was cut short",
            "Download the file again",
        ),
        (b"", "an empty file", "Download the file again"),
        (b"\0" * 100, "a file of zeros", "Download the file again"),
        (b"a poem", "not a file of weights", "folder that holds the checkpoint"),
    ],
)
def test_describe_file_when_kind_is_known_then_names_it_and_the_way_out(
    tmp_path: Path, content: bytes, kind: str, advice: str
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(content)

    assert kind in describe_file(path)
    assert advice in describe_as_model(path)


@given(content=st.binary(max_size=200))
def test_describe_file_when_bytes_are_random_then_never_fails(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "random"
    path.write_bytes(content)

    assert describe_as_model(path).startswith(f"{path} is ")


def test_load_pipeline_when_id_is_the_original_then_points_to_the_published_one() -> None:
    with pytest.raises(CheckpointError, match=r"use jdopensource/JoyAI-Image-Edit-Diffusers, or .*convert"):
        load_pipeline("jdopensource/JoyAI-Image-Edit", device="cpu")


def test_load_pipeline_when_hub_is_offline_then_one_sentence_with_command_and_size(
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = "jdopensource/JoyAI-Image-Edit-Diffusers"
    with pytest.raises(CheckpointError) as caught:
        load_pipeline(name, device="cpu")

    assert f"hf download {name}` (about 50 GB" in str(caught.value)
    assert "HF_HUB_OFFLINE" in str(caught.value)
    assert caplog.text == ""


@given(scale=st.floats(-100, 100), stem=st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True))
def test_adapter_parse_when_path_and_scale_then_both_are_read_back(scale: float, stem: str) -> None:
    adapter = Adapter.parse(f"folder/{stem}:{scale!r}")

    assert (adapter.path.name, adapter.scale) == (stem, scale)


@pytest.mark.parametrize("text", ["C:/styles/ink.safetensors", "ink.safetensors", "a:b"])
def test_adapter_parse_when_text_after_the_colon_is_no_number_then_it_is_part_of_the_path(text: str) -> None:
    assert str(Adapter.parse(text).path) == text
    assert Adapter.parse(text).scale == 1.0


@pytest.mark.parametrize("scale", ["1e9", "0.5.5", "-", "200"])
def test_adapter_parse_when_scale_is_out_of_range_then_names_it(scale: str) -> None:
    with pytest.raises(InvalidInputError, match=r"The scale of the adapter .*expected a number"):
        Adapter.parse(f"ink.safetensors:{scale}")


@pytest.mark.parametrize("scale", ["abc", "nan", "inf", "", "0,5"])
def test_adapter_parse_when_a_file_is_followed_by_no_number_then_the_scale_is_named(
    tmp_path: Path, scale: str
) -> None:
    (tmp_path / "ink.safetensors").touch()

    with pytest.raises(InvalidInputError, match=rf"is '{scale}'; expected a number, for example .*ink"):
        Adapter.parse(f"{tmp_path / 'ink.safetensors'}:{scale}")


def test_adapter_parse_when_a_file_has_that_name_then_it_is_the_path(tmp_path: Path) -> None:
    (tmp_path / "ink:0.5").touch()

    assert Adapter.parse(str(tmp_path / "ink:0.5")).path == tmp_path / "ink:0.5"


@needs_cpu_only
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "xpu"])
def test_choose_device_when_machine_lacks_it_then_lists_what_there_is(device: str) -> None:
    with pytest.raises(DeviceError, match=rf"`device` is '{device}', but .*Devices of this machine: cpu\."):
        choose_device(device)


@given(device=st.text(max_size=12))
def test_choose_device_when_text_is_random_then_a_device_or_our_error(device: str) -> None:
    message = ""
    try:
        chosen = choose_device(device)
    except DeviceError as error:
        message, chosen = str(error), "cpu"
    assert torch.device(chosen).type in {"cuda", "xpu", "mps", "cpu"}
    assert not message or repr(device) in message


@pytest.mark.parametrize(
    ("dtype", "seconds", "is_warned"),
    [("bfloat16", 0.06, True), ("bfloat16", 0.002, False), ("float16", 0.06, True), ("float32", 0.06, False)],
)
def test_dtype_when_the_cpu_takes_long_in_it_then_warned_with_the_measured_factor(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, seconds: float, is_warned: bool
) -> None:
    devices.slowdown.cache_clear()
    monkeypatch.setattr(devices, "_seconds_of_product", lambda name: 0.001 if name == "float32" else seconds)

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        load_pipeline(checkpoint, device="cpu", dtype=dtype)
    devices.slowdown.cache_clear()

    warned = [str(one.message) for one in found if "this processor" in str(one.message)]
    assert len(warned) == is_warned
    assert all(f"In {dtype}, this processor takes 60 times as long" in text for text in warned)


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, "bfloat16"), (0.9, "float32"), (200.0, "float32")])
def test_dtype_when_auto_then_what_the_cpu_was_measured_to_compute_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: float, expected: str
) -> None:
    devices.fastest_dtype.cache_clear()
    monkeypatch.setattr(devices, "_seconds_of_block", lambda name: 1.0 if name == "float32" else seconds)

    chosen = choose_dtype("auto", "cpu")
    devices.fastest_dtype.cache_clear()

    assert chosen == expected
    assert choose_dtype("auto", "cuda:0") == "bfloat16"
    with pytest.raises(InvalidInputError, match="expected float32, float16, bfloat16, auto"):
        choose_dtype("int3", "cpu")


def test_block_when_measured_then_takes_time_in_every_precision() -> None:
    assert all(devices._seconds_of_block(dtype) > 0 for dtype in ("float32", "bfloat16"))


@needs_cpu_only
def test_default_model_when_there_is_no_accelerator_then_tiny() -> None:
    assert choose_device() == "cpu"
    assert choose_dtype(None, "cpu") == "float32"
    assert choose_dtype(None, "cuda:1") == "bfloat16"
    assert default_model() == "tiny"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_typed_device_errors_when_memory_runs_out_then_says_what_to_try(error: Exception) -> None:
    with pytest.raises(OutOfMemoryError, match="Try fewer images at once"), typed_device_errors():
        raise error


def test_typed_device_errors_when_another_error_then_it_stays() -> None:
    assert as_out_of_memory(RuntimeError("shapes differ")) is None
    with pytest.raises(RuntimeError, match="shapes differ"), typed_device_errors():
        raise RuntimeError("shapes differ")


def test_registered_folder_when_name_is_registered_then_its_folder_else_none(tmp_path: Path) -> None:
    assert "tiny" in registered_names()
    folder = registered_folder("tiny")
    assert folder is not None
    assert (folder / "model_index.json").is_file()
    assert registered_folder(str(tmp_path)) is None


def test_registered_folder_when_folder_is_missing_then_says_reinstall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered_names()  # registers what the package ships: in the dict that stays, not in the one of this test
    monkeypatch.setattr("joyimage.checkpoints._FOLDERS", {})
    register_checkpoint("lost", lambda: tmp_path / "lost")

    with pytest.raises(CheckpointError, match=r"'lost' is not part of this installation: .*Reinstall"):
        registered_folder("lost")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUF\x03\x00\x00\x00", r"style is a GGUF file; expected a safetensors file"),
        (b"PK\x03\x04", r"style is a pickled PyTorch checkpoint; expected a safetensors"),
        (None, r"The adapter folder .*style holds no safetensors file"),
    ],
)
def test_load_pipeline_when_an_adapter_is_unusable_then_it_is_rejected_before_the_checkpoint(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "style"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)

    with pytest.raises(CheckpointError, match=message):
        load_pipeline(tmp_path / "missing", device="cpu", loras=[path])


_LAYER = "diffusion_model.double_blocks.0.attn.img_attn_proj"
_MATRICES = {f"{_LAYER}.lora_A.weight": torch.ones(2, 8), f"{_LAYER}.lora_B.weight": torch.ones(8, 2)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no tensors; expected LoRA matrices"),
        ({"embed.weight": torch.ones(2, 2)}, "holds no LoRA matrices: its first tensor is `embed.weight`"),
        (
            {"double_blocks.0.img_attn_qkv.weight": torch.ones(24, 8)},
            "holds no LoRA matrices.*the transformer: give it with --transformer",
        ),
        (
            {f"text_encoder.layers.0.q_proj.lora_{name}.weight": torch.ones(2, 2) for name in "AB"},
            "holds only tensors for the text encoder or VAE",
        ),
        ({key: value * torch.nan for key, value in _MATRICES.items()}, "not finite: the file is damaged"),
        ({key: value.to(torch.int8) for key, value in _MATRICES.items()}, "in int8; expected floating-point"),
        ({**_MATRICES, f"{_LAYER}.alpha": torch.tensor(0.0)}, "strength 0 .* it changes nothing"),
        ({f"{_LAYER}.hada_w1_a": torch.ones(2, 2)}, "is a LoHa adapter"),
        (
            {key.replace("double_blocks", "single_blocks"): value for key, value in _MATRICES.items()},
            "names no layer of this transformer",
        ),
    ],
)
def test_load_pipeline_when_an_adapter_does_not_fit_then_it_is_rejected_before_the_checkpoint(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    save_file(tensors, tmp_path / "style.safetensors")

    with pytest.raises(CheckpointError, match=rf"The adapter .*style\.safetensors .*{message}"):
        load_pipeline(tmp_path / "missing", device="cpu", loras=[tmp_path / "style.safetensors"])


def test_load_pipeline_when_an_adapter_folder_holds_two_then_the_message_names_them(tmp_path: Path) -> None:
    for name in ("ink", "oil"):
        save_file(_MATRICES, tmp_path / f"{name}.safetensors")

    with pytest.raises(CheckpointError, match=r"2 safetensors files \(ink\S+, oil\S+\): give one of them"):
        load_pipeline(tmp_path / "missing", device="cpu", loras=[tmp_path])
