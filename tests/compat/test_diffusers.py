"""Names inside diffusers that joyimage relies on."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
from diffusers.models import modeling_utils

from joyimage.compat.diffusers import parallel_shards


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
            seen.append(modeling_utils.HF_ENABLE_PARALLEL_LOADING)

    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(end_first), threads.submit(end_second)]:
            future.result()

    assert seen == [True]
    assert modeling_utils.HF_ENABLE_PARALLEL_LOADING is setting


def test_parallel_shards_when_a_load_fails_then_the_setting_is_restored(setting: bool) -> None:
    with pytest.raises(OSError, match="gone"), parallel_shards():
        raise OSError("gone")

    assert modeling_utils.HF_ENABLE_PARALLEL_LOADING is setting
