"""Every format of weight files: the values that joyimage reads are those of the program that defines it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from joyimage.errors import CheckpointError
from joyimage.model.checkpoint.encodings.base import WEIGHT
from joyimage.model.checkpoint.encodings.float4 import Nf4
from joyimage.model.checkpoint.encodings.ggml import encode_q8_0
from joyimage.model.checkpoint.encodings.int8 import Int8, convrot, rotate
from joyimage.model.checkpoint.files import WeightFile
from joyimage.model.checkpoint.source import WeightSource
from tests import random_models
from tests.loading import formats
from tests.loading.original import WIDE_TRANSFORMER, transformer_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16)
GOLDEN = Path(__file__).parents[1] / "data" / "nf4.safetensors"


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Weights of a random transformer, wide enough for groups of 256 inputs."""
    return random_models.make_transformer(**WIDE_TRANSFORMER).state_dict()


def assert_same(source: WeightSource, values: Mapping[str, Callable[[torch.dtype], Tensor]]) -> None:
    """Compare all weights bit for bit, in every precision."""
    assert source.weights.keys() == values.keys()
    for dtype in DTYPES:
        for name, value in source.decoded(dtype):
            assert value.dtype == dtype
            torch.testing.assert_close(value, values[name](dtype), rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize("name", formats.MARKED)
def test_weights_when_comfyui_wrote_them_then_they_equal_comfy_kitchens(
    name: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    values = formats.write_marked(tmp_path / "file.safetensors", weights, name)
    source = WeightSource([tmp_path / "file.safetensors"], "transformer")
    assert source.formats[name] > 0
    assert_same(source, values)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", "transformer.", "model."])
@pytest.mark.parametrize("in_header", [False, True])
def test_weights_when_names_have_a_prefix_then_they_are_found(
    prefix: str, in_header: bool, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "file.safetensors"
    values = formats.write_marked(path, weights, "int8_convrot", prefix=prefix, in_header=in_header)
    assert_same(WeightSource([path], "transformer"), values)


def test_weights_when_settings_are_nested_as_in_older_files_then_they_are_rotated_back(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "file.safetensors"
    values = formats.write_marked(path, weights, "int8_convrot")
    tensors = load_file(path)
    nested = formats.as_bytes(
        {"format": "int8_tensorwise", "params": {"convrot": True, "convrot_groupsize": 256}}
    )
    save_file({k: nested.clone() if k.endswith(".comfy_quant") else v for k, v in tensors.items()}, path)
    assert_same(WeightSource([path], "transformer"), values)


@pytest.mark.parametrize("with_inputs", [False, True])
def test_weights_when_fp8_is_in_the_old_layout_then_they_equal_the_new_ones(
    with_inputs: bool, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "file.safetensors"
    values = formats.write_marked(path, weights, "float8_e4m3fn", prefix="model.diffusion_model.")
    old = {
        "model.diffusion_model.scaled_fp8": torch.empty(2 if with_inputs else 0, dtype=torch.float8_e4m3fn)
    }
    for key, tensor in load_file(path).items():
        if key.endswith(".weight_scale"):
            old[key.replace(".weight_scale", ".scale_weight")] = tensor
            if with_inputs:
                old[key.replace(".weight_scale", ".scale_input")] = torch.ones(())
        elif not key.endswith(".comfy_quant"):
            old[key] = tensor
    save_file(old, path)
    assert_same(WeightSource([path], "transformer"), values)


def test_weights_when_fp8_has_no_scale_then_it_is_cast(weights: dict[str, Tensor], tmp_path: Path) -> None:
    stored = {k: v.to(torch.float8_e4m3fn) if formats.is_quantizable(k, v) else v for k, v in weights.items()}
    save_file(stored, tmp_path / "file.safetensors")
    source = WeightSource([tmp_path / "file.safetensors"], "transformer")
    assert_same(source, {name: value.to for name, value in stored.items()})


def test_weights_when_nvfp4_is_in_modelopts_layout_then_they_equal_comfyuis(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    tensors, values = {}, {}
    for key, weight in weights.items():
        if formats.is_quantizable(key, weight):
            parts, values[key] = formats.encode_modelopt(weight)
            tensors.update({key + suffix: part.contiguous() for suffix, part in parts.items()})
        else:
            tensors[key], values[key] = weight, weight.to
    save_file(tensors, tmp_path / "file.safetensors")
    assert_same(WeightSource([tmp_path / "file.safetensors"], "transformer"), values)


def test_weights_when_nvfp4_has_input_factors_then_they_are_part_of_the_values(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "file.safetensors"
    values = formats.write_marked(path, weights, "nvfp4")
    key = "double_blocks.0.attn.img_attn_proj"
    factors = torch.rand(weights[f"{key}.weight"].shape[1]) + 0.5
    save_file({**load_file(path), f"{key}.pre_quant_scale": factors}, path)
    source = WeightSource([path], "transformer")
    expected = values[f"{key}.weight"](torch.float32) * factors
    assert torch.equal(source.read(f"{key}.weight").decode(torch.float32), expected)


@pytest.mark.parametrize("name", ["mxfp8", "nvfp4"])
def test_weights_when_the_format_pads_then_the_padding_is_left_out(name: str, tmp_path: Path) -> None:
    padded = torch.nn.functional.pad(torch.randn(100, 160), (0, 0, 0, 28))
    key = "double_blocks.0.attn.img_attn_qkv.weight"
    values = formats.write_marked(tmp_path / "file.safetensors", {key: padded}, name)
    source = WeightSource([tmp_path / "file.safetensors"], "transformer")
    source.check({key: (100, 160)})
    assert torch.equal(source.read(key).decode(torch.float32), values[key](torch.float32)[:100])


@pytest.mark.parametrize("blocks", [(1, 1), (1, 32), (64, 64)])
def test_int8_when_blocks_have_scales_then_each_block_is_multiplied(blocks: tuple[int, int]) -> None:
    rows, columns = 128, 192
    generator = np.random.default_rng(0)
    stored = generator.integers(-128, 128, (rows, columns), dtype=np.int8)
    scale = generator.random((rows // blocks[0], columns // blocks[1]), dtype=np.float32)
    expected = stored.astype(np.float32) * np.kron(scale, np.ones(blocks, dtype=np.float32))
    parts = {WEIGHT: torch.from_numpy(stored), "_scale": torch.from_numpy(scale)}
    encoding = Int8(block_size=blocks[1])
    assert torch.equal(encoding.decode(parts, torch.float32), torch.from_numpy(expected))
    assert encoding.name == "int8_blockwise"


@pytest.mark.parametrize("block_type", formats.BLOCK_TYPES)
def test_weights_when_a_gguf_has_blocks_then_they_equal_ggufs(
    block_type: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    values = formats.write_gguf(tmp_path / "file.gguf", weights, block_type)
    source = WeightSource([tmp_path / "file.gguf"], "transformer")
    assert source.formats[block_type] > 0
    assert_same(source, {name: value.to for name, value in values.items()})


@pytest.mark.parametrize("kind", ["F16", "BF16"])
@pytest.mark.parametrize("with_original_shapes", [False, True])
def test_weights_when_a_gguf_flattens_the_patch_embedding_then_it_has_five_dimensions_again(
    kind: str, with_original_shapes: bool, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "file.gguf"
    values = formats.write_gguf(path, weights, kind, with_original_shapes=with_original_shapes)
    source = WeightSource([path], "transformer")
    source.check({name: tuple(value.shape) for name, value in weights.items()})
    assert_same(source, {name: value.to for name, value in values.items()})
    assert source.read("img_in.weight").decode(torch.float32).ndim == 5


def test_weights_when_names_are_the_original_codes_then_they_are_ours(tmp_path: Path) -> None:
    transformer = random_models.make_transformer(**WIDE_TRANSFORMER)
    original = transformer_weights(transformer)
    save_file({f"model.{key}": value.clone() for key, value in original.items()}, tmp_path / "a.safetensors")
    source = WeightSource([tmp_path / "a.safetensors"], "transformer")
    assert_same(source, {name: value.to for name, value in transformer.state_dict().items()})


def test_int8_when_encoded_then_comfy_kitchen_reads_the_same_values() -> None:
    weight = torch.randn(64, 512)
    encoding = convrot(512)
    parts = encoding.encode(weight)
    theirs, _ = formats.encode(weight, "int8_convrot")
    assert torch.equal(parts[WEIGHT], theirs[""])
    assert torch.equal(parts["_scale"], theirs["_scale"])


@pytest.mark.parametrize(("in_features", "size"), [(512, 256), (1024, 256), (4304 - 16, 64), (100, None)])
def test_convrot_when_the_widest_group_does_not_divide_then_a_narrower_one_is_used(
    in_features: int, size: int | None
) -> None:
    assert convrot(in_features).rotation == size


@pytest.mark.parametrize("size", [64, 256])
def test_rotation_when_applied_twice_then_it_gives_the_values_back(size: int) -> None:
    values = torch.randn(3, 512)
    torch.testing.assert_close(rotate(rotate(values, size), size), values, rtol=1e-5, atol=1e-5)


def test_q8_0_when_encoded_then_the_bytes_are_ggufs() -> None:
    weight = torch.cat([torch.randn(7, 128), torch.zeros(1, 128)])
    expected, _ = formats.block_bytes(weight, "Q8_0")
    assert torch.equal(encode_q8_0(weight), torch.from_numpy(expected))


def test_nf4_when_encoded_then_each_value_is_the_nearest_code() -> None:
    weight = torch.randn(16, 128)
    encoding, parts = Nf4.encode(weight)
    values = encoding.decode(parts, torch.float32)
    scale = weight.reshape(-1, 64).abs().amax(1, keepdim=True)
    distances = (weight.reshape(-1, 64, 1) - parts[".quant_map"] * scale.unsqueeze(2)).abs()
    assert torch.allclose((values.reshape(-1, 64) - weight.reshape(-1, 64)).abs(), distances.amin(2))
    assert (values - weight).norm() / weight.norm() < 0.12


@pytest.mark.parametrize("name", ["plain", "nested"])
def test_nf4_when_bitsandbytes_wrote_it_then_the_values_equal_its_own(name: str, tmp_path: Path) -> None:
    golden = load_file(GOLDEN)
    key = f"double_blocks.0.attn.img_attn_{name}.weight"
    layer = {
        one.replace(f"attn_{name}", "attn_qkv"): part for one, part in golden.items() if one.startswith(key)
    }
    save_file(layer, tmp_path / "file.safetensors")
    source = WeightSource([tmp_path / "file.safetensors"], "transformer")
    values = source.read("double_blocks.0.attn.img_attn_qkv.weight").decode(torch.float32)
    assert torch.equal(values, golden[f"{name}.values"])


def test_nf4_when_encoded_then_the_tensors_are_bitsandbytes_own() -> None:
    golden = load_file(GOLDEN)
    _, parts = Nf4.encode(golden["weight"])
    for suffix, part in parts.items():
        assert torch.equal(part, golden[f"double_blocks.0.attn.img_attn_plain.weight{suffix}"]), suffix


# Files that cannot be used ----------------------------------------------------------------------------------


def reject(path: Path, part: str = "transformer") -> str:
    with pytest.raises(CheckpointError) as caught:
        WeightSource([path], part)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "architecture", "message"),
    [
        ("blk.0.attn_q.weight", "qwen3vl", "a GGUF of Qwen3-VL without its vision tower"),
        ("blk.0.attn_q.weight", "llama", "a GGUF of 'llama' without its vision tower"),
        ("v.blk.0.attn_q.weight", "clip", "the vision tower"),
    ],
)
def test_file_when_llama_cpp_wrote_it_then_the_message_names_it(
    name: str, architecture: str, message: str, tmp_path: Path
) -> None:
    formats.write_gguf(tmp_path / "a.gguf", {name: torch.randn(8, 32)}, "Q8_0", architecture=architecture)
    assert message in reject(tmp_path / "a.gguf", "text_encoder")


@pytest.mark.parametrize(
    ("key", "part", "message"),
    [
        ("diffusion_model.double_blocks.0.img_attn_qkv.lora_A.weight", "transformer", "--lora"),
        ("model.layers.0.self_attn.q_proj.weight", "text_encoder", "without the vision tower"),
        (
            "encoder.conv1.weight",
            "transformer",
            "holds the VAE; expected the transformer. Give it with --vae",
        ),
        ("model.visual.deepstack_merger_list.0.norm.weight", "vae", "Give it with --text-encoder"),
        ("single_blocks.0.linear1.weight", "transformer", "another model"),
    ],
)
def test_file_when_it_holds_something_else_then_the_message_names_it(
    key: str, part: str, message: str, tmp_path: Path
) -> None:
    save_file({key: torch.zeros(4, 4)}, tmp_path / "a.safetensors")
    assert message in reject(tmp_path / "a.safetensors", part)


def test_shards_when_one_holds_language_layers_alone_then_they_are_one_text_encoder(tmp_path: Path) -> None:
    names = (
        "model.visual.deepstack_merger_list.0.norm.weight",
        "model.language_model.layers.35.mlp.up_proj.weight",
    )
    paths = [tmp_path / f"model-{number}-of-2.safetensors" for number in (1, 2)]
    for path, name in zip(paths, names, strict=True):
        save_file({name: torch.zeros(4, 4)}, path)

    assert set(WeightSource(paths, "text_encoder").weights) == set(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "int3_magic"}, "'int3_magic'; expected one of int8_tensorwise"),
        ({"no_format": 1}, "None; expected one of"),
        ({"format": "nvfp4"}, "lacks `double_blocks.0.attn.img_attn_qkv.weight_scale_2`"),
    ],
)
def test_file_when_a_marker_is_not_known_then_the_message_says_which(
    change: dict[str, Any], message: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    key = "double_blocks.0.attn.img_attn_qkv"
    formats.write_marked(path, {f"{key}.weight": weights[f"{key}.weight"]}, "int8_convrot")
    save_file({**load_file(path), f"{key}.comfy_quant": formats.as_bytes(change)}, path)
    assert message in reject(path)


def test_file_when_integers_have_no_scale_then_the_message_says_so(tmp_path: Path) -> None:
    key = "double_blocks.0.attn.img_attn_qkv.weight"
    save_file({key: torch.zeros(4, 4, dtype=torch.int8)}, tmp_path / "a.safetensors")
    assert "is stored as I8 without the scales" in reject(tmp_path / "a.safetensors")


@pytest.mark.parametrize("keep", [3, 6, 30, 200, 0.5, 0.99])
def test_gguf_when_it_is_cut_short_then_the_message_says_download(
    keep: float, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "a.gguf"
    formats.write_gguf(path, weights, "Q8_0")
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    assert "ownload" in reject(path)


def test_gguf_when_a_type_is_not_known_then_the_message_says_which(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    formats.write_gguf(path, {"double_blocks.0.attn.img_attn_qkv.weight": torch.randn(4, 32)}, "Q8_0")
    content = path.read_bytes()
    place = content.index(b"img_attn_qkv.weight") + len(b"img_attn_qkv.weight") + 4 + 16
    path.write_bytes(content[:place] + (16).to_bytes(4, "little") + content[place + 4 :])
    assert "has the GGUF type number 16" in reject(path)


def test_weight_file_when_it_is_larger_than_the_memory_of_the_machine_then_a_tensor_is_read(
    tmp_path: Path,
) -> None:
    num_bytes = 4 * (psutil.virtual_memory().total + psutil.swap_memory().total)
    header = json.dumps({"a": {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}}).encode()
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + num_bytes)  # sparse: takes no disk

    assert WeightFile(path).read("a")[-3:].tolist() == [0, 0, 0]
