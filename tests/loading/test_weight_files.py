"""Pipelines from single files: decoded, kept quantized, quantized while loading, saved and loaded again."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file, save_file

from joyimage import JoyImageEditPipeline, JoyImageEditPlusPipeline
from joyimage.acceleration.quantization import QuantizedLinear, choose_matmul, formats_of, quantized
from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.loading import load_pipeline
from joyimage.model.checkpoint.parts import text_encoder_name
from joyimage.model_source import find_source
from joyimage.pipeline import components, loading
from joyimage.pipeline.components import PUBLISHED_FOLDER
from tests import random_models
from tests.loading import formats
from tests.loading.original import make_original_vae, vae_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def edit(pipe: Any) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    pipe.register_to_config(base_size=64)
    return pipe(
        image=Image.new("RGB", (64, 64), "teal"),
        prompt="Make it red.",
        num_inference_steps=1,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images


def assert_close(one: Tensor, other: Tensor) -> None:
    """Compare edits with equal weights: a layer that decodes its weight multiplies in another order."""
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def _bytes(value: Tensor) -> Tensor:
    return value.contiguous().view(torch.uint8) if value.ndim else value


def weights_of(checkpoint: Path, part: str, stem: str = "diffusion_pytorch_model") -> dict[str, Tensor]:
    return load_file(checkpoint / part / f"{stem}.safetensors")


@pytest.fixture
def fp8_file(checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / "transformer_fp8.safetensors"
    formats.write_marked(
        path, weights_of(checkpoint, "transformer"), "float8_e4m3fn", prefix="model.diffusion_model."
    )
    return path


@pytest.fixture
def text_encoder_file(checkpoint: Path, tmp_path: Path) -> Path:
    """The text encoder as ComfyUI names it: without the language half's own prefix, and without a head."""
    path = tmp_path / "text_encoder.safetensors"
    weights = weights_of(checkpoint, "text_encoder", "model")
    renamed = {key.replace("model.language_model.", "model."): value for key, value in weights.items()}
    save_file({key: value for key, value in renamed.items() if not key.startswith("lm_head")}, path)
    return path


def test_load_pipeline_when_the_transformer_is_a_file_then_kept_and_decoded_edits_are_equal(
    checkpoint: Path, fp8_file: Path
) -> None:
    kept = load_pipeline(checkpoint, transformer=fp8_file, device="cpu").pipe
    decoded = load_pipeline(checkpoint, transformer=fp8_file, device="cpu", quantization="none").pipe

    assert formats_of(kept.transformer)["float8_e4m3fn"] == 16
    assert not formats_of(decoded.transformer)
    for name, module in kept.transformer.named_modules():
        if isinstance(module, QuantizedLinear):
            values = decoded.transformer.get_submodule(name).get_parameter("weight")
            assert torch.equal(module.encoded.decode(torch.float32), values), name
    assert_close(edit(kept), edit(decoded))
    assert not torch.allclose(edit(kept), edit(load_pipeline(checkpoint, device="cpu").pipe), atol=1e-4)


def test_load_pipeline_when_the_transformer_is_a_gguf_then_its_values_are_used(
    checkpoint: Path, tmp_path: Path
) -> None:
    values = formats.write_gguf(tmp_path / "a.gguf", weights_of(checkpoint, "transformer"), "Q8_0")
    kept = load_pipeline(checkpoint, transformer=tmp_path / "a.gguf", device="cpu").pipe
    plain = load_pipeline(checkpoint, device="cpu").pipe
    plain.transformer.load_state_dict(
        {key: value.reshape(plain.transformer.state_dict()[key].shape) for key, value in values.items()}
    )
    assert_close(edit(kept), edit(plain))


def test_load_pipeline_when_the_text_encoder_is_a_comfyui_file_then_edits_are_those_of_the_folder(
    checkpoint: Path, text_encoder_file: Path
) -> None:
    pipe = load_pipeline(checkpoint, text_encoder=text_encoder_file, device="cpu").pipe
    assert_close(edit(pipe), edit(load_pipeline(checkpoint, device="cpu").pipe))
    with pytest.raises(CheckpointError, match=r"has no `lm_head.weight`, which `describe`"):
        pipe.describe(Image.new("RGB", (64, 64)), "What is this?")


def test_load_pipeline_when_three_files_are_given_then_configs_are_the_packages(
    checkpoint: Path,
    fp8_file: Path,
    text_encoder_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shutil.copytree(
        checkpoint, tmp_path / "published", ignore=shutil.ignore_patterns("*.safetensors", "tokenizer")
    )
    for module in (components, loading):
        monkeypatch.setattr(module, "PUBLISHED_FOLDER", folder)
    vae = checkpoint / "vae" / "diffusion_pytorch_model.safetensors"

    plus = shutil.copy(fp8_file, tmp_path / "joy_edit_PLUS.safetensors")
    by_name = load_pipeline(
        device="cpu", transformer=plus, text_encoder=text_encoder_file, vae=vae, dtype="bfloat16"
    )
    by_model = load_pipeline(fp8_file, text_encoder=text_encoder_file, vae=vae, device="cpu")

    assert type(by_name.pipe) is JoyImageEditPlusPipeline
    assert by_name.pipe.text_encoder.dtype == torch.bfloat16
    assert type(by_model.pipe) is JoyImageEditPipeline
    assert by_model.model == str(fp8_file)
    expected = load_pipeline(checkpoint, transformer=fp8_file, device="cpu").pipe
    assert_close(edit(by_model.pipe), edit(expected))


def test_vae_when_it_has_the_original_codes_names_then_it_loads(tmp_path: Path) -> None:
    vae = make_original_vae()
    save_file({f"vae.{k}": v.clone() for k, v in vae_weights(vae).items()}, tmp_path / "vae.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**vae.config, "_class_name": "AutoencoderKLWan"}))
    source = components.open_part(tmp_path / "vae.safetensors", "vae")
    built = components.build_component(source, tmp_path, dtype=torch.float32, device=torch.device("cpu"))
    for key, value in vae.state_dict().items():
        assert torch.equal(built.state_dict()[key], value), key


@pytest.mark.parametrize("quantization", ["int8", "fp8", "nf4"])
def test_pipeline_when_quantized_while_loading_then_it_saves_and_loads_the_same(
    quantization: str, checkpoint: Path, tmp_path: Path
) -> None:
    pipe = load_pipeline(checkpoint, device="cpu", quantization=quantization).pipe
    assert formats_of(pipe.transformer).total() == 16
    assert formats_of(pipe.text_encoder).total() == 21
    before = edit(pipe)

    pipe.save_pretrained(tmp_path / "saved")
    again = JoyImageEditPipeline.from_pretrained(tmp_path / "saved")

    assert formats_of(again.transformer) == formats_of(pipe.transformer)
    assert formats_of(again.text_encoder) == formats_of(pipe.text_encoder)
    for part in ("transformer", "text_encoder"):
        stored = again.components[part].state_dict()
        assert stored.keys() == pipe.components[part].state_dict().keys()
        for key, value in pipe.components[part].state_dict().items():
            assert torch.equal(_bytes(stored[key]), _bytes(value)), key
    assert_close(edit(again), before)
    plain = edit(load_pipeline(checkpoint, device="cpu").pipe)
    assert 1e-4 < (before - plain).norm() / plain.norm() < 0.5


def test_quantized_layers_when_an_adapter_attaches_then_it_changes_the_edit_and_unloads(
    checkpoint: Path, fp8_file: Path
) -> None:
    pipe = load_pipeline(checkpoint, transformer=fp8_file, device="cpu").pipe
    plain = edit(pipe)
    layers = ["img_attn_qkv", "txt_attn_proj"]
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
    adapter = pipe.transformer.get_parameter("double_blocks.0.attn.img_attn_qkv.lora_A.default.weight")
    assert adapter.dtype == torch.float32
    assert not torch.allclose(edit(pipe), plain, atol=1e-4)
    pipe.unload_lora_weights()
    assert_close(edit(pipe), plain)


def test_quantized_layer_when_the_model_changes_precision_then_the_stored_tensors_do_not() -> None:
    weight = torch.randn(48, 64)
    for name in ("int8", "fp8", "nf4"):
        layer = QuantizedLinear(quantized(weight, name), torch.zeros(48))
        values = layer.encoded.decode(torch.float32)
        layer.to(torch.bfloat16)
        assert layer.bias is not None
        assert layer.bias.dtype == torch.bfloat16
        assert torch.equal(layer.encoded.decode(torch.float32), values)
        assert layer(torch.randn(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_quantized_layer_when_inputs_are_quantized_too_then_outputs_stay_close(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 256, generator=generator)
    rows = torch.randn(2, 20, 256, generator=generator)
    layer = QuantizedLinear(quantized(weight, name), torch.randn(96, generator=generator), name)
    expected = torch.nn.functional.linear(rows, weight, layer.bias)
    error = (layer(rows) - expected).norm() / expected.norm()
    assert 1e-4 < error < {"int8": 0.015, "fp8": 0.05}[name]


@pytest.mark.parametrize("width", [256, 64, 48])  # rotated in groups of 256 and 64, and not at all
@pytest.mark.parametrize("has_one_scale", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_quantized_layer_when_its_integers_multiply_then_as_the_decoded_weight(
    width: int, has_one_scale: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    encoded = quantized(torch.randn(96, width, generator=generator), "int8")
    if has_one_scale:  # as files of other programs have
        encoded.parts["_scale"] = encoded.parts["_scale"].mean().reshape(())
    rows = 100 * torch.randn(2, 3, width, generator=generator)
    bias = torch.randn(96, generator=generator).to(dtype)
    exact = torch.nn.functional.linear(rows.to(dtype).float(), encoded.decode(torch.float32), bias.float())

    decoded, scaled = (
        QuantizedLinear(encoded, bias, matmul)(rows.to(dtype)) for matmul in ("decode", "scaled")
    )

    def error(output: torch.Tensor) -> float:
        return float((output.float() - exact).norm() / exact.norm())

    assert scaled.dtype == dtype
    if dtype == torch.float16:  # whose range the sums of integers exceed
        assert torch.equal(scaled, decoded)
    else:
        assert error(scaled) < max(1.5 * error(decoded), 1e-6)


@pytest.mark.parametrize(
    ("format", "expected"),
    [("int8", "scaled"), ("int8_blockwise", "decode"), ("fp8", "decode"), ("nf4", "decode")],
)
def test_choose_matmul_when_the_device_is_a_cpu_then_inputs_are_not_rounded(
    format: str, expected: str
) -> None:
    assert choose_matmul(quantized(torch.randn(64, 64), format), torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.3.mlp.up_proj.weight", "model.language_model.layers.3.mlp.up_proj.weight"),
        ("model.language_model.layers.3.mlp.up_proj.weight", None),
        (
            "language_model.model.layers.3.mlp.up_proj.weight",
            "model.language_model.layers.3.mlp.up_proj.weight",
        ),
        ("text_encoders.qwen3vl_8b.transformer.model.norm.weight", "model.language_model.norm.weight"),
        ("visual.merger.norm.weight", "model.visual.merger.norm.weight"),
        ("model.visual.deepstack_merger_list.0.norm.weight", None),
        ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        ("lm_head.weight", None),
    ],
)
def test_text_encoder_name_when_another_program_wrote_it_then_it_is_ours(
    name: str, expected: str | None
) -> None:
    assert text_encoder_name(name) == (expected or name)


def test_find_source_when_files_are_wrong_then_the_message_says_what_to_do(
    checkpoint: Path, fp8_file: Path, text_encoder_file: Path, tmp_path: Path
) -> None:
    for arguments, message in (
        (
            {"transformer": fp8_file},
            r"text encoder and the vae are missing: give --text-encoder FILE and --vae",
        ),
        ({"model": fp8_file, "transformer": fp8_file}, r"Leave out `model`"),
        ({"model": text_encoder_file}, r"holds the text encoder; expected the transformer"),
        ({"model": checkpoint, "vae": fp8_file}, r"holds the transformer; expected the vae. .*--transformer"),
        ({"model": checkpoint, "vae": tmp_path / "no"}, r"`vae` is .*no, which is not a file"),
    ):
        with pytest.raises((CheckpointError, InvalidInputError), match=message):
            find_source(**arguments)
    source = find_source(checkpoint, transformer=fp8_file)
    assert (source.base, source.files) == (checkpoint, {"transformer": fp8_file})


def test_published_folder_when_read_then_it_describes_the_published_model(published_configs: Path) -> None:
    ours = json.loads((PUBLISHED_FOLDER / "transformer" / "config.json").read_text())
    assert ours == json.loads((published_configs / "transformer" / "config.json").read_text())
    parts = components.published_components()
    assert parts["tokenizer"].convert_tokens_to_ids("<|image_pad|>") == 151655
    assert parts["processor"].image_processor.size["shortest_edge"] == 65536
    empty = components._build_text_encoder(PUBLISHED_FOLDER / "text_encoder")
    assert sum(value.numel() for value in empty.parameters()) == 8_767_123_696


@pytest.mark.parametrize("name", ["QuantoConfig", "BitsAndBytesConfig"])
def test_from_pretrained_when_diffusers_cannot_quantize_here_then_the_message_says_why(
    name: str, checkpoint: Path
) -> None:
    import diffusers
    from diffusers.quantizers.pipe_quant_config import PipelineQuantizationConfig

    settings = {"QuantoConfig": {"weights_dtype": "int8"}, "BitsAndBytesConfig": {"load_in_8bit": True}}[name]
    config = PipelineQuantizationConfig(quant_mapping={"transformer": getattr(diffusers, name)(**settings)})
    with pytest.raises(InvalidInputError, match=r"`quantization_config` cannot be used here: .*(quanto|GPU)"):
        JoyImageEditPipeline.from_pretrained(checkpoint, quantization_config=config)


def test_from_pretrained_when_torchao_quantizes_then_close_to_the_plain_edit_and_the_folder_loads_again(
    checkpoint: Path, tmp_path: Path
) -> None:
    torchao: Any = pytest.importorskip("torchao.quantization", reason="torchao isn't installed")
    from diffusers.quantizers.pipe_quant_config import PipelineQuantizationConfig
    from diffusers.quantizers.quantization_config import TorchAoConfig

    int8 = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    config = PipelineQuantizationConfig(quant_mapping={"transformer": int8})
    plain = JoyImageEditPipeline.from_pretrained(checkpoint)
    smaller = JoyImageEditPipeline.from_pretrained(checkpoint, quantization_config=config)
    smaller.save_pretrained(tmp_path / "saved")
    expected, made = edit(plain), edit(smaller)

    assert "Int8" in type(smaller.transformer.blocks[0].attn.img_attn_qkv.weight).__name__
    assert 0 < float((made - expected).norm() / expected.norm()) < 0.05
    assert torch.equal(edit(JoyImageEditPipeline.from_pretrained(tmp_path / "saved")), made)


def test_random_models_transformer_when_made_then_is_the_size_the_counts_above_rely_on() -> None:
    names = random_models.make_transformer().state_dict()
    assert sum(formats.is_quantizable(name, value) for name, value in names.items()) == 16
