"""A session gives the numbers of single calls, and leaves out what it has done before."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch

from joyimage.pipeline import base as base_module
from joyimage.pipeline.feature_cache import FeatureCache, digest
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Iterator

CALL: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = random_models.make_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@contextmanager
def counting(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count passes of the vision tower, conversations that continue, and encoded images."""
    counts: Counter[str] = Counter()
    encode_frame = base_module.encode_frame
    monkeypatch.setattr(base_module, "encode_frame", lambda *a: (counts.update(["vae"]), encode_frame(*a))[1])
    hooks = [
        pipe.text_encoder.model.visual.blocks[0].register_forward_hook(lambda *_: counts.update(["vision"])),
        pipe.text_encoder.model.language_model.register_forward_hook(lambda *_: counts.update(["language"])),
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("one_pass_up_to", [0, 256])
def test_session_when_images_and_prompts_change_then_results_are_bitwise_those_of_single_calls(
    pipe: Any, guidance_scale: float, one_pass_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joyimage.pipeline.text_encoder.MAX_JOINT_PREFIX_TOKENS", one_pass_up_to)
    first, second = random_models.make_image(0), random_models.make_image(1)
    call = {**CALL, "guidance_scale": guidance_scale}
    session = pipe.session()

    for image, prompt, size in (
        (first, "make it blue", {}),
        (first, "make it green", {}),
        (second, "make it blue", {}),
        (first, "make it blue", {"height": 192, "width": 336}),
        (first, "make it blue", {}),
    ):
        session.image = image
        got = session(prompt, generator=seeded(), **size, **call)
        alone = pipe(image, prompt, generator=seeded(), **size, **call)

        assert torch.equal(got.images, alone.images)


@pytest.mark.parametrize(("one_pass_up_to", "first"), [(0, 2), (256, 1)])  # with the prefix apart, or not
def test_session_when_a_image_comes_again_then_it_is_read_and_encoded_once(
    pipe: Any, one_pass_up_to: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joyimage.pipeline.text_encoder.MAX_JOINT_PREFIX_TOKENS", one_pass_up_to)
    session = pipe.session(random_models.make_image(0))
    with counting(pipe, monkeypatch) as counts:
        session("make it blue", **CALL)
        assert counts == {"vision": 1, "vae": 1, "language": first}

        session("make it green", **CALL)
        assert counts == {"vision": 1, "vae": 1, "language": first + 1}  # the new prompt and the negative one

        session("make it green", **CALL)
        assert counts == {"vision": 1, "vae": 1, "language": first + 1}


def test_session_when_the_images_pixels_change_in_place_then_it_is_read_anew(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = random_models.make_image(0)
    session = pipe.session(image)
    session("make it blue", **CALL)

    image.paste((0, 0, 0), (0, 0, 128, 128))
    with counting(pipe, monkeypatch) as counts:
        got = session("make it blue", generator=seeded(), **CALL)

    assert counts["vision"] == counts["vae"] == 1
    assert torch.equal(got.images, pipe(image, "make it blue", generator=seeded(), **CALL).images)


def test_session_when_it_ends_then_nothing_is_kept_and_the_pipeline_is_as_before(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pipe.session(random_models.make_image(0)) as session:
        session("make it blue", **CALL)
        assert session.cache.num_bytes > 0

    assert len(session.cache) == session.cache.num_bytes == 0
    with counting(pipe, monkeypatch) as counts:
        pipe(random_models.make_image(0), "make it blue", **CALL)
    assert counts["vision"] == 1


def test_session_when_a_call_fails_then_later_calls_of_the_pipeline_keep_nothing(pipe: Any) -> None:
    session = pipe.session(random_models.make_image(0))

    with pytest.raises(ValueError, match="num_inference_steps"):
        session("make it blue", num_inference_steps=0)

    assert pipe._feature_cache is None


def test_session_when_two_threads_have_one_then_each_uses_its_own_cache_and_none_stays(pipe: Any) -> None:
    sessions = [pipe.session(random_models.make_image(seed)) for seed in (0, 1)]
    barrier = threading.Barrier(2)
    errors: list[BaseException] = []

    def work(session: Any) -> None:
        def meet(*_: Any) -> dict[str, Any]:
            assert pipe._feature_cache is session.cache
            return {}

        barrier.wait()
        try:
            for _ in range(3):
                session("make it blue", **CALL, callback_on_step_end=meet)
        except BaseException as error:  # noqa: BLE001 - asserted on below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert pipe._feature_cache is None
    assert [session.cache.miss_count["posterior"] for session in sessions] == [1, 1]


def test_session_when_spatial_edits_are_asked_for_then_they_are_the_pipelines(pipe: Any) -> None:
    image = random_models.make_image(0)
    session = pipe.session(image)
    call = {"num_inference_steps": 1, "guidance_scale": 1.0}

    for name, arguments in (
        ("move", {"object": "car", "box": (40, 40, 120, 120)}),
        ("rotate", {"object": "car", "view": "left"}),
        ("camera", {"yaw": 45}),
    ):
        got = getattr(session, name)(**arguments, generator=seeded(), **call)
        alone = getattr(pipe, name)(image, **arguments, generator=seeded(), **call)

        assert got.prompt == alone.prompt
        assert got.images[0].tobytes() == alone.images[0].tobytes()


def test_session_when_max_bytes_is_negative_then_rejected(pipe: Any) -> None:
    with pytest.raises(ValueError, match="`max_bytes` is -1"):
        pipe.session(max_bytes=-1)


def test_cache_when_full_then_least_recently_used_goes_first() -> None:
    cache = FeatureCache(max_bytes=100)
    for key in "abc":
        cache.get_or_compute((key,), lambda: torch.zeros(10))  # 40 bytes
        cache.get_or_compute(("a",), lambda: torch.zeros(10))

    made: list[str] = []
    for key in "acb":
        cache.get_or_compute((key,), lambda key=key: made.append(key))

    assert made == ["b"]
    assert cache.miss_count == {"a": 1, "b": 2, "c": 1}
    assert cache.num_bytes <= 100


def test_cache_when_a_value_is_larger_than_the_bound_then_it_is_not_kept() -> None:
    cache = FeatureCache(max_bytes=100)
    cache.get_or_compute(("small",), lambda: torch.zeros(10))

    cache.get_or_compute(("large",), lambda: {"nested": [torch.zeros(100)]})

    assert len(cache) == 1
    assert cache.num_bytes == 40


def test_digest_when_images_differ_in_one_pixel_size_or_mode_then_so_do_their_names() -> None:
    image = random_models.make_image(0)
    changed = image.copy()
    changed.putpixel((3, 5), (1, 2, 3))
    names = {digest(one) for one in (image, changed, image.convert("L"), image.resize((8, 8)))}

    assert len(names) == 4
    assert digest(image.copy()) == digest(image)
