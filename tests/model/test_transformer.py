"""What the transformer promises beyond its numbers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch import Tensor

from joyimage.model.transformer import JoyImageEditTransformer3DModel
from tests import random_models
from tests.model.drive import assert_close, draw, gradients_of, inputs, list_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.mark.parametrize("rope_type", ["rope", "mrope"])
@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_forward_when_texts_of_unlike_length_then_batch_equals_single_runs(side: str, rope_type: str) -> None:
    model = random_models.make_transformer(rope_type=rope_type)
    texts = [draw(1, length, 48, seed=length) for length in (3, 7, 5)]
    arguments = inputs(batch_size=3)
    states, mask = torch.full((3, 9, 48), 50.0), torch.zeros(3, 9, dtype=torch.long)
    for row, text in enumerate(texts):
        place = slice(0, text.shape[1]) if side == "right" else slice(9 - text.shape[1], 9)
        states[row, place], mask[row, place] = text[0], 1

    batch = model(**{**arguments, "encoder_hidden_states": states}, encoder_hidden_states_mask=mask).sample

    for row, text in enumerate(texts):
        single = model(arguments["hidden_states"][row : row + 1], arguments["timestep"][row], text).sample
        assert_close(batch[row : row + 1], single, "batch")


@pytest.mark.parametrize(
    "mask", [None, torch.ones(2, 7), torch.ones(2, 7, dtype=torch.bool), "trailing columns"]
)
@torch.no_grad()
def test_forward_when_nothing_is_padded_then_no_mask_reaches_attention(
    mask: Tensor | str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    from joyimage.model import attention

    attend = attention.attend
    monkeypatch.setattr(
        attention, "attend", lambda q, k, v, mask, **kw: (seen.append(mask), attend(q, k, v, mask, **kw))[1]
    )
    arguments = inputs(batch_size=2)
    if isinstance(mask, str):  # padding that every sample has is cut off
        mask = torch.ones(2, 7)
        mask[:, 5:] = 0

    random_models.make_transformer()(**arguments, encoder_hidden_states_mask=mask)

    assert seen == [None, None]


@torch.no_grad()
def test_forward_when_list_of_one_size_then_equals_stacked_input() -> None:
    model = random_models.make_transformer()
    stacked = inputs(num_items=3)

    as_list = model(
        **{**stacked, "hidden_states": list(stacked["hidden_states"].unbind(1))}, return_dict=False
    )[0]

    assert isinstance(as_list, list)
    assert torch.equal(torch.stack(as_list, dim=1), model(**stacked).sample)


@torch.no_grad()
def test_forward_when_a_reference_changes_then_target_and_other_reference_do_too() -> None:
    model = random_models.make_transformer()
    arguments = list_inputs([(4, 4), (6, 2), (4, 6)])
    before = model(**arguments).sample
    arguments["hidden_states"][0] = arguments["hidden_states"][0] + 1

    after = model(**arguments).sample

    assert all((new - old).abs().max() > 1e-3 for new, old in zip(after, before, strict=True))


@pytest.mark.parametrize("kind", ["plain", "mask and text positions"])
def test_gradients_when_checkpointing_then_the_same(kind: str) -> None:
    model = random_models.make_transformer(rope_type="rope" if kind == "plain" else "mrope").train()
    arguments = inputs(batch_size=2)
    if kind != "plain":
        arguments["encoder_hidden_states_mask"] = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    plain = gradients_of(model, arguments)

    model.enable_gradient_checkpointing()
    checkpointed = gradients_of(model, arguments)

    assert checkpointed.keys() == plain.keys()
    for name, gradient in plain.items():
        assert_close(checkpointed[name], gradient, "gradients")


def test_training_when_inference_ran_first_then_gradients_flow() -> None:
    model = random_models.make_transformer()
    with torch.inference_mode():
        model(**inputs())

    gradients = gradients_of(model, inputs())

    assert gradients["img_in.weight"].abs().max() > 0


@torch.no_grad()
def test_rotary_tables_when_many_sizes_then_few_are_kept() -> None:
    model = random_models.make_transformer(num_layers=1)
    for height in range(2, 50, 2):
        model(**inputs(size=(height, 2)))

    assert 0 < len(model.item_rope._tables) <= 16


@pytest.fixture
def _same_backend_afterwards() -> Iterator[None]:
    # `set_attention_backend` changes that of every model.
    before = _AttentionBackendRegistry.get_active_backend()[0]
    yield
    _AttentionBackendRegistry.set_active_backend(before)


@pytest.mark.usefixtures("_same_backend_afterwards")
@pytest.mark.parametrize("backend", ["native", "_native_math"])
@torch.no_grad()
def test_attention_backend_when_set_then_used_and_agrees(backend: str) -> None:
    model = random_models.make_transformer()
    expected = model(**inputs()).sample

    model.set_attention_backend(backend)

    processors: list[Any] = list(model.attn_processors.values())
    assert {str(processor._attention_backend.value) for processor in processors} == {backend}
    assert_close(model(**inputs()).sample, expected, "forward")


def test_attention_processors_when_listed_then_one_per_block() -> None:
    model = random_models.make_transformer()

    assert list(model.attn_processors) == [f"double_blocks.{index}.attn.processor" for index in range(2)]


@torch.no_grad()
def test_block_when_compiled_as_one_graph_then_the_same() -> None:
    model = random_models.make_transformer()
    expected = model(**inputs()).sample

    # The Python part of compilation only: it is what fails on a graph break, and needs no C++ compiler.
    model.compile_repeated_blocks(fullgraph=True, backend="eager")

    assert_close(model(**inputs()).sample, expected, "forward")


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_transformer_when_compiled_before_its_first_forward_then_the_same(guard: Callable[[], Any]) -> None:
    expected = random_models.make_transformer()(**inputs()).sample
    model = torch.compile(random_models.make_transformer(), backend="eager", fullgraph=True)

    with guard():
        output = model(**inputs()).sample

    assert_close(output, expected, "forward")


@torch.no_grad()
def test_transformer_when_exported_then_the_same_and_without_switches_of_gradients() -> None:
    model = random_models.make_transformer()
    arguments = {**inputs(), "return_dict": False}

    program = torch.export.export(random_models.make_transformer(), (), arguments)

    assert_close(program.module()(**arguments)[0], model(**arguments)[0], "forward")
    assert "set_grad_enabled" not in program.graph_module.code


def test_half_precision_when_loaded_then_time_embedding_stays_fp32(tmp_path: Path) -> None:
    random_models.make_transformer().save_pretrained(tmp_path)

    model = JoyImageEditTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)

    fp32 = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    assert fp32 == {name for name, _ in model.named_parameters() if "time_embedder" in name}
    output = model(**{name: value.to(torch.bfloat16) for name, value in inputs().items()}).sample
    assert output.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "config",
    [random_models.TRANSFORMER_CONFIG, random_models.LEGACY_TRANSFORMER_CONFIG],
    ids=["today", "older"],
)
@torch.no_grad()
def test_from_pretrained_when_config_of_either_generation_then_same_model(
    config: dict[str, Any], tmp_path: Path
) -> None:
    model = random_models.make_transformer()
    model.save_pretrained(tmp_path)
    header = {"_class_name": "JoyImageEditTransformer3DModel", "_diffusers_version": "0.38.0.dev0"}
    (tmp_path / "config.json").write_text(json.dumps({**header, **config}))

    loaded = JoyImageEditTransformer3DModel.from_pretrained(tmp_path)

    assert_close(loaded(**inputs()).sample, model(**inputs()).sample, "forward")
    assert loaded.config["num_layers"] == 2
    assert "heads_num" not in loaded.config


@torch.no_grad()
def test_save_pretrained_when_loaded_again_then_same_model(tmp_path: Path) -> None:
    model = random_models.make_transformer(rope_type="mrope")
    model.save_pretrained(tmp_path, max_shard_size="200KB")

    loaded = JoyImageEditTransformer3DModel.from_pretrained(tmp_path)

    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_close(loaded(**inputs()).sample, model(**inputs()).sample, "forward")


def test_parameter_names_when_built_then_the_published_ones() -> None:
    names = set(random_models.make_transformer(num_layers=1).state_dict())

    linears = [
        "img_in",
        *(f"condition_embedder.time_embedder.linear_{index}" for index in (1, 2)),
        "condition_embedder.time_proj",
        *(f"condition_embedder.text_embedder.linear_{index}" for index in (1, 2)),
        *(
            f"double_blocks.0.attn.{stream}_attn_{part}"
            for stream in ("img", "txt")
            for part in ("qkv", "proj")
        ),
        *(
            f"double_blocks.0.{stream}_mlp.net.{part}"
            for stream in ("img", "txt")
            for part in ("0.proj", "2")
        ),
        "proj_out",
    ]
    norms = [f"double_blocks.0.attn.{stream}_attn_{part}_norm" for stream in ("img", "txt") for part in "qk"]
    tables = [f"double_blocks.0.{stream}_mod.modulate_table" for stream in ("img", "txt")]
    expected = {f"{name}.{kind}" for name in linears for kind in ("weight", "bias")}
    assert names == expected | {f"{name}.weight" for name in norms} | set(tables)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_states": torch.zeros(16, 1, 4, 6)}, "hidden_states"),
        ({"hidden_states": []}, "hidden_states"),
        ({"hidden_states": torch.zeros(1, 2, 8, 1, 4, 6)}, "hidden_states"),
        ({"hidden_states": torch.zeros(1, 2, 16, 1, 3, 6)}, "multiples of the patch"),
        ({"hidden_states": [torch.zeros(1, 16, 1, 4, 4), torch.zeros(2, 16, 1, 4, 4)]}, "hidden_states"),
        ({"encoder_hidden_states": None}, "encoder_hidden_states"),
        ({"encoder_hidden_states": torch.zeros(2, 7, 48)}, "encoder_hidden_states"),
        ({"encoder_hidden_states_mask": torch.ones(1, 8)}, "encoder_hidden_states_mask"),
        ({"timestep": torch.zeros(3)}, "timestep"),
    ],
)
def test_forward_when_a_shape_does_not_fit_then_value_error_names_it(
    changes: dict[str, Any], named: str
) -> None:
    model = random_models.make_transformer(num_layers=1)

    with pytest.raises(ValueError, match=named):
        model(**{**inputs(), **changes})


def test_forward_when_several_items_and_patch_over_frames_then_value_error() -> None:
    model = random_models.make_transformer(num_layers=1, patch_size=[2, 2, 2])

    with pytest.raises(ValueError, match="one frame"):
        model(**{**inputs(), "hidden_states": torch.zeros(1, 2, 16, 2, 4, 6)})
