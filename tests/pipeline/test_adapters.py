"""The pipeline's adapter methods, under diffusers' names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from PIL import Image

from joyimage.errors import InvalidInputError
from tests import random_models
from tests.model.test_lora import LAYERS, make_adapter

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = random_models.make_pipeline()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(autouse=True)
def _unload(pipe: Any) -> Any:
    yield
    pipe.unload_lora_weights()


def edit(pipe: Any, **options: Any) -> np.ndarray:
    return pipe(
        image=Image.new("RGB", (64, 64), "teal"),
        prompt="Make it red.",
        num_inference_steps=1,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **options,
    ).images.numpy()


def strong(seed: int) -> dict[str, torch.Tensor]:
    return {key: value * 2 for key, value in make_adapter(LAYERS, seed).items()}


def test_adapters_when_loaded_blended_disabled_and_deleted_then_each_output_follows(pipe: Any) -> None:
    plain = edit(pipe)
    pipe.load_lora_weights(strong(0), adapter_name="one")
    one = edit(pipe)
    pipe.load_lora_weights(strong(40), adapter_name="two")
    assert pipe.get_active_adapters() == ["two"]
    two = edit(pipe)

    pipe.set_adapters(["one", "two"], [1.0, 0.0])
    assert pipe.get_list_adapters() == {"transformer": ["one", "two"]}
    assert np.allclose(edit(pipe), one, atol=1e-4)
    pipe.set_adapters("two", 0.5)
    half = edit(pipe)
    pipe.disable_lora()
    assert np.allclose(edit(pipe), plain, atol=1e-4)
    pipe.enable_lora()
    pipe.delete_adapters("two")
    pipe.set_adapters("one")
    assert np.allclose(edit(pipe), one, atol=1e-4)
    pipe.delete_adapters(["one"])
    assert pipe.get_list_adapters() == {}
    assert np.allclose(edit(pipe), plain, atol=1e-4)
    different = (plain, one, two, half)
    assert all(not np.allclose(a, b, atol=1e-3) for i, a in enumerate(different) for b in different[i + 1 :])


@pytest.mark.parametrize("scale", [0.5, 0.0, -1.0, np.float32(0.5)])
def test_scale_of_a_call_when_given_then_as_set_adapters_and_gone_afterwards(pipe: Any, scale: Any) -> None:
    pipe.load_lora_weights(strong(0), adapter_name="one")
    pipe.set_adapters("one", 0.7)
    before = edit(pipe)

    scaled = edit(pipe, attention_kwargs={"scale": scale})
    after = edit(pipe)
    pipe.set_adapters("one", 0.7 * float(scale))

    assert np.allclose(scaled, edit(pipe), atol=1e-5)
    assert np.array_equal(after, before)
    assert not np.allclose(scaled, before, atol=1e-3)


def test_scale_of_a_call_when_the_call_fails_then_adapters_keep_their_strength(pipe: Any) -> None:
    pipe.load_lora_weights(strong(0), adapter_name="one")
    before = edit(pipe)

    def fail(*_: Any) -> Any:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        edit(pipe, attention_kwargs={"scale": 0.0}, callback_on_step_end=fail)

    assert np.array_equal(edit(pipe), before)


@pytest.mark.parametrize("state", ["none", "disabled", "fused"])
def test_scale_of_a_call_when_no_adapter_acts_then_a_warning_says_so(pipe: Any, state: str) -> None:
    if state != "none":
        pipe.load_lora_weights(strong(0))
        (pipe.disable_lora if state == "disabled" else pipe.fuse_lora)()
    before = edit(pipe)

    with pytest.warns(UserWarning, match="scale of 0.5 for adapters has no effect") as told:
        scaled = edit(pipe, attention_kwargs={"scale": 0.5})

    assert told[0].filename == __file__
    assert np.array_equal(scaled, before)
    if state == "fused":
        pipe.unfuse_lora()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (0.5, "expected a dict"),
        ({"scale": "much"}, "attention_kwargs"),
        ({"scale": float("nan")}, "expected a finite number"),
        ({"ip_adapter_masks": []}, "'ip_adapter_masks'; only 'scale'"),
    ],
)
def test_attention_kwargs_when_wrong_then_rejected_before_work(pipe: Any, given: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        edit(pipe, attention_kwargs=given)


def test_fuse_when_called_then_unload_keeps_it_and_unfuse_takes_it_out(pipe: Any) -> None:
    plain = edit(pipe)
    pipe.load_lora_weights(strong(0))
    adapted = edit(pipe)

    pipe.fuse_lora()
    assert pipe.num_fused_loras == 1
    fused = edit(pipe)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()

    assert np.allclose(fused, adapted, atol=1e-4)
    assert np.allclose(edit(pipe), plain, atol=1e-4)


def test_save_lora_weights_when_loaded_again_then_the_same_output(pipe: Any, tmp_path: Path) -> None:
    pipe.load_lora_weights(strong(0), metadata={"r": 3, "lora_alpha": 6})
    adapted = edit(pipe)
    config = pipe.transformer.peft_config["default"].to_dict()
    layers = get_peft_model_state_dict(pipe.transformer, adapter_name="default")
    pipe.unload_lora_weights()

    pipe.save_lora_weights(tmp_path, layers, transformer_lora_adapter_metadata=config)
    pipe.load_lora_weights(tmp_path)

    assert np.allclose(edit(pipe), adapted, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda pipe: pipe.set_adapters("three"), "no adapter 'three'; loaded: one"),
        (lambda pipe: pipe.delete_adapters("three"), "no adapter 'three'"),
        (lambda pipe: pipe.set_adapters(["one"], [1.0, 2.0]), "2 numbers for 1 adapters"),
        (lambda pipe: pipe.load_lora_weights(strong(0), adapter_name="one"), "loaded already"),
        (lambda pipe: pipe.load_lora_weights(strong(0), adapter_name=5), "`adapter_name` is 5"),
        (lambda pipe: pipe.load_lora_weights(strong(0), adapter_name="x", hotswap=True), "are loaded: one"),
        (lambda pipe: pipe.load_lora_weights(strong(0), metadata=5), "`metadata` is 5"),
        (
            lambda pipe: pipe.load_lora_weights("a.safetensors", metadata={"r": 2}),
            "file states its own strength",
        ),
        (lambda pipe: pipe.load_lora_weights(None), "The adapter is None; expected a file"),
        (lambda pipe: pipe.load_lora_weights(" "), "The adapter is ' '; expected a file"),
        (lambda pipe: pipe.load_lora_weights({"a": np.zeros(2)}), "ndarray under the key 'a'"),
        (lambda pipe: pipe.load_lora_weights(".", weight_name=5), "`weight_name` is 5"),
        (lambda pipe: pipe.set_adapters(5), "`adapter_names` is 5"),
        (lambda pipe: pipe.set_adapters("one", "1"), "`adapter_weights` is '1'"),
        (lambda pipe: pipe.set_adapters("one", float("nan")), "`adapter_weights` is nan"),
        (lambda pipe: pipe.set_adapters("one", {"double_blocks": float("inf")}), "`adapter_weights` is inf"),
        (lambda pipe: pipe.fuse_lora(lora_scale=float("nan")), "`lora_scale` is nan"),
        (lambda pipe: pipe.fuse_lora(adapter_names=["three"]), "no adapter 'three'"),
        (lambda pipe: pipe.fuse_lora(components=["vae"]), "`components` is ..vae"),
        (lambda pipe: pipe.delete_adapters(None), "`adapter_names` is None"),
    ],
)
def test_adapters_when_arguments_do_not_fit_then_one_sentence_and_nothing_changes(
    pipe: Any, call: Any, words: str
) -> None:
    pipe.load_lora_weights(strong(0), adapter_name="one")
    weights = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}

    with pytest.raises(InvalidInputError, match=words):
        call(pipe)

    assert pipe.get_list_adapters() == {"transformer": ["one"]}
    assert pipe.get_active_adapters() == ["one"]
    after = pipe.transformer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
