"""Names inside diffusers that joyimage relies on."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import TYPE_CHECKING, Any, cast

import pytest
from diffusers.hooks.hooks import HookRegistry, ModelHook
from diffusers.models import modeling_utils
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from diffusers.models.cache_utils import CacheMixin
from torch import nn

from joyimage.compat import diffusers as compat
from joyimage.compat.diffusers import parallel_shards
from joyimage.model.attention import JointAttnProcessor
from joyimage.model.blocks import JoyImageTransformerBlock
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=[False, True])
def setting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(modeling_utils, "HF_ENABLE_PARALLEL_LOADING", request.param)
    return request.param


def test_switch_when_diffusers_loads_shards_then_is_read_from_its_module() -> None:
    source = inspect.getsource(modeling_utils.ModelMixin.from_pretrained)

    assert "= HF_ENABLE_PARALLEL_LOADING" in source, (
        "diffusers no longer reads `modeling_utils.HF_ENABLE_PARALLEL_LOADING` when it loads a model:"
        " adapt joyimage/compat/diffusers.py, or lower the upper bound of diffusers in pyproject.toml."
    )


def test_parallel_shards_when_two_loads_overlap_then_stay_on_until_both_end(setting: bool) -> None:
    both_open, first_closed = Barrier(2), Event()
    seen: list[bool] = []

    def end_first() -> None:
        with parallel_shards():
            both_open.wait(10)
        first_closed.set()

    def end_second() -> None:
        with parallel_shards():
            both_open.wait(10)
            assert first_closed.wait(10)
            seen.append(cast("Any", modeling_utils).HF_ENABLE_PARALLEL_LOADING)

    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(end_first), threads.submit(end_second)]:
            future.result()

    assert seen == [True]
    assert cast("Any", modeling_utils).HF_ENABLE_PARALLEL_LOADING is setting


def test_parallel_shards_when_a_load_fails_then_the_setting_is_restored(setting: bool) -> None:
    with pytest.raises(OSError, match="gone"), parallel_shards():
        raise OSError("gone")

    assert cast("Any", modeling_utils).HF_ENABLE_PARALLEL_LOADING is setting


@pytest.fixture
def _same_backend_afterwards() -> Iterator[None]:
    # `transformer.set_attention_backend` changes the backend of every model in this process.
    before = _AttentionBackendRegistry.get_active_backend()[0]
    yield
    _AttentionBackendRegistry.set_active_backend(before)


@pytest.mark.usefixtures("_same_backend_afterwards")
def test_attention_backend_when_set_by_the_public_method_then_read_from_each_processor() -> None:
    transformer = random_models.make_transformer()
    processors = list(transformer.attn_processors.values())
    before = [compat.attention_backend(processor) for processor in processors]

    transformer.set_attention_backend("_native_math")

    assert set(before) == {"native"}
    assert {compat.attention_backend(processor) for processor in processors} == {"_native_math"}
    compat.set_attention_backend(processors[0], "native")
    assert compat.attention_backend(processors[0]) == "native"


def test_hook_registry_when_diffusers_installs_a_hook_then_found_until_it_is_removed() -> None:
    module = nn.Linear(2, 2)
    assert compat.hook_registry(module) is None

    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(ModelHook(), "a hook")
    assert compat.hook_registry(module) is registry

    registry.remove_hook("a hook")
    assert compat.hook_registry(module) is None


def test_is_parallel_when_never_enabled_then_false_and_diffusers_still_sets_the_name() -> None:
    assert not compat.is_parallel(random_models.make_transformer())
    assert "._parallel_config = config" in inspect.getsource(modeling_utils.ModelMixin.enable_parallelism)


def test_step_caches_when_reset_then_by_the_method_of_diffusers() -> None:
    assert callable(CacheMixin._reset_stateful_cache)
    compat.reset_step_caches(nn.Linear(2, 2))  # a model without caches


def test_causal_padding_when_read_then_rows_and_columns() -> None:
    assert compat.causal_padding(WanCausalConv3d(1, 1, (3, 3, 5), padding=(1, 1, 2))) == (1, 2)


def test_is_padded_before_when_all_earlier_frames_are_zeros_then_true() -> None:
    assert compat.is_padded_before(WanCausalConv3d(1, 1, (3, 3, 3), padding=(1, 1, 1)))
    assert not compat.is_padded_before(WanCausalConv3d(1, 1, (3, 1, 1), padding=(0, 0, 0)))


def test_registries_when_our_classes_are_registered_then_found_by_step_caches() -> None:
    assert compat.AttentionProcessorRegistry.get(JointAttnProcessor) is not None
    assert compat.TransformerBlockRegistry.get(JoyImageTransformerBlock) is not None
