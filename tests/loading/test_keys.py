"""Key layouts of the transformer: the original code's and the published one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from joyimage.errors import CheckpointError
from joyimage.model.checkpoint.headers import shapes_of
from joyimage.model.checkpoint.layouts import (
    from_original,
    key_from_original,
    settings_from_shapes,
    unwrap,
)
from tests import random_models
from tests.loading.original import WIDE_TRANSFORMER, transformer_weights

PUBLISHED_KEYS = list(random_models.make_reference_transformer().state_dict())
ORIGINAL_KEYS = list(transformer_weights(random_models.make_reference_transformer()))

numbers = st.integers(min_value=0, max_value=10**6)


def with_block(keys: list[str]) -> st.SearchStrategy[str]:
    """Draw keys of blocks of any number, and all others."""
    return st.builds(lambda key, block: key.replace(".0.", f".{block}.", 1), st.sampled_from(keys), numbers)


@given(with_block(PUBLISHED_KEYS))
def test_key_from_original_gives_the_published_name(key: str) -> None:
    assert key_from_original(key.replace(".attn.", ".")) == key


@given(st.lists(with_block(ORIGINAL_KEYS), unique=True))
def test_key_from_original_gives_each_key_another_name(keys: list[str]) -> None:
    assert len({key_from_original(key) for key in keys}) == len(keys)


@given(st.text())
def test_key_from_original_when_repeated_changes_nothing_more(key: str) -> None:
    once = key_from_original(key)

    assert key_from_original(once) == once


def test_from_original_gives_every_key_of_diffusers() -> None:
    renamed = from_original(dict.fromkeys(ORIGINAL_KEYS, 0))

    assert set(renamed) == set(PUBLISHED_KEYS)
    assert set(ORIGINAL_KEYS) != set(PUBLISHED_KEYS)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.diffusion_model.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_from_original_when_wrapped_takes_wrapper_and_prefix_off(prefix: str, wrapper: str | None) -> None:
    weights = {f"{prefix}{key}": 0 for key in ORIGINAL_KEYS}
    checkpoint = weights if wrapper is None else {wrapper: weights, "step": 3}

    assert set(from_original(checkpoint)) == set(PUBLISHED_KEYS)


def test_unwrap_when_one_name_lacks_the_prefix_leaves_all_as_they_are() -> None:
    checkpoint = {"model.a": 1, "b": 2}

    assert unwrap(checkpoint) == checkpoint


def test_from_original_when_both_layouts_have_a_key_names_it() -> None:
    key = "double_blocks.0.img_attn_qkv.weight"

    with pytest.raises(CheckpointError, match=r"double_blocks\.0\.attn\.img_attn_qkv\.weight"):
        from_original({key: 0, key_from_original(key): 0})


def test_settings_from_shapes_finds_the_published_configuration() -> None:
    with torch.device("meta"):
        transformer = random_models.ReferenceTransformer(
            **{**random_models.TRANSFORMER_CONFIG, **WIDE_TRANSFORMER}
        )

    settings = settings_from_shapes(shapes_of(transformer))

    assert settings == {**random_models.TRANSFORMER_CONFIG, **WIDE_TRANSFORMER}


def test_settings_from_shapes_when_heads_are_narrow_asks_for_the_config() -> None:
    shapes = shapes_of(random_models.make_reference_transformer())

    with pytest.raises(CheckpointError, match="`rope_dim_list`: give the `config`"):
        settings_from_shapes(shapes)


def test_settings_from_shapes_when_weights_are_another_model_names_the_key() -> None:
    with pytest.raises(CheckpointError, match=r"lack a `img_in\.weight`"):
        settings_from_shapes({"unet.weight": (1, 2)})
