"""What every call promises: it runs alone, with the checkpoint's defaults, and rejects nonsense by name first."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from joyimage.errors import InvalidInputError, InvalidResultError, InvalidTypeError
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

SIDE = 64


@pytest.fixture(scope="module")
def edit() -> Any:
    """A pipeline with random weights."""
    pipe = random_models.make_pipeline()
    pipe.register_to_config(base_size=SIDE, default_num_inference_steps=3, default_guidance_scale=1.0)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def plus() -> Any:
    """An Edit-Plus pipeline with random weights."""
    pipe = random_models.make_plus_pipeline()
    pipe.register_to_config(base_size=SIDE, default_num_inference_steps=3, default_guidance_scale=1.0)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(params=["edit", "plus"])
def pipe(request: pytest.FixtureRequest) -> Any:
    """Each of the two pipelines."""
    return request.getfixturevalue(request.param)


def call(pipe: Any, seed: int = 0, **options: Any) -> Any:
    name = "images" if "Plus" in type(pipe).__name__ else "image"
    image = random_models.make_image(1, SIDE, SIDE)
    settings = {name: [image], "prompt": "red", "generator": torch.Generator().manual_seed(seed)}
    return pipe(**{**settings, **options})


def steps_of(pipe: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> int:
    """Number of forwards of the transformer in a call without guidance."""
    count = 0
    forward = pipe.transformer.forward

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        return forward(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(pipe.transformer, "forward", counted)
        call(pipe, **options)
    return count


def test_steps_when_not_given_then_the_checkpoints_and_when_given_then_those_even_if_the_same(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps_of(pipe, monkeypatch) == 3
    assert steps_of(pipe, monkeypatch, num_inference_steps=40) == 40
    assert pipe.num_timesteps == 40


def test_guidance_when_not_given_then_the_checkpoints_and_when_given_then_that(pipe: Any) -> None:
    seen: list[float] = []

    def look(pipe: Any, _step: int, _time: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(pipe.guidance_scale)
        return {}

    call(pipe, callback_on_step_end=look, num_inference_steps=1)
    call(pipe, callback_on_step_end=look, num_inference_steps=1, guidance_scale=4.0)

    assert seen == [1.0, 4.0]


@pytest.mark.parametrize("number", [np.int64(2), 2.0, np.float32(2)])
def test_numbers_when_numpys_or_a_sliders_then_as_python_s(
    edit: Any, number: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps_of(edit, monkeypatch, num_inference_steps=number) == 2
    made = call(edit, num_inference_steps=1, num_images_per_prompt=number, height=np.int32(64), width=64.0)
    assert len(made.images) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"sigmas": [1.0, float("nan")]},
        {"sigmas": [1.0, -0.5]},
        {"sigmas": [0.5, 1.0]},
        {"sigmas": [2.0, 1.0]},
        {"sigmas": []},
        {"timesteps": [float("inf")]},
        {"timesteps": [500, 800]},
        {"timesteps": [5000]},
        {"generator": 42},
        {"generator": "x"},
        {"generator": np.random.default_rng(0)},
        {"generator": [torch.Generator(), 3], "num_images_per_prompt": 2},
        {"num_inference_steps": 0},
        {"num_inference_steps": 2.5},
        {"num_inference_steps": True},
        {"num_inference_steps": "4"},
        {"height": 0, "width": 64},
        {"guidance_scale": float("nan")},
        {"prompt": "half \ud800 pair"},
        {"prompt": 5},
        {"latents": "nan"},
        {"sigmas": "x"},
        {"sigmas": ["x"]},
        {"sigmas": 5},
        {"timesteps": [None]},
        {"guidance_scale": "4"},
        {"guidance_scale": [1.0, 2.0]},
        {"max_sequence_length": "x"},
        {"max_sequence_length": float("nan")},
        {"callback_on_step_end": 5},
        {"callback_on_step_end": "x"},
    ],
    ids=lambda options: next(iter(options)),  # generators have their address in their text
)
def test_argument_when_nonsense_then_rejected_by_name_before_any_work(
    pipe: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("work was done")

    name = next(iter(options))
    if name == "latents":
        shape = (1, 16, 1, 8, 8) if "Plus" in type(pipe).__name__ else (1, 1, 16, 1, 8, 8)
        options = {"latents": torch.full(shape, float("nan"))}
        channels = pipe.transformer.config.in_channels
        options["latents"] = torch.full([channels if side == 16 else side for side in shape], float("nan"))
    monkeypatch.setattr(type(pipe), "_encode_conditioning", fail)

    with pytest.raises((InvalidInputError, InvalidTypeError), match=f"`{name}`"):
        call(pipe, **options)


def test_latents_when_no_tensor_then_rejected_by_name(pipe: Any) -> None:
    for latents in ("x", [1.0], np.zeros(3)):
        with pytest.raises(InvalidTypeError, match="`latents` is of type"):
            call(pipe, latents=latents)


def test_box_when_text_then_rejected_with_an_example(edit: Any) -> None:
    image = random_models.make_image(0, SIDE, SIDE)
    for box in ("1,1,40,40", 5, [None] * 4, ["a", "b", "c", "d"]):
        with pytest.raises(InvalidInputError, match=r"`box` is .*expected four numbers"):
            edit.move(image, "heart", box)


def test_notebook_when_it_shows_output_or_session_then_an_image_and_what_is_cached(edit: Any) -> None:
    output = call(edit)
    assert output._repr_png_().startswith(b"\x89PNG")
    assert call(edit, output_type="latent")._repr_png_() is None

    session = edit.session(random_models.make_image(0, SIDE, SIDE))
    assert "with an image of 64x64 pixels" in repr(session)
    assert "with no image" in repr(edit.session())


def test_scheduler_when_it_cannot_work_then_named_and_when_it_can_then_used(edit: Any) -> None:
    own = edit.scheduler
    try:
        edit.scheduler = DDIMScheduler()
        with pytest.raises(InvalidInputError, match="`scheduler` is DDIMScheduler"):
            call(edit)
        edit.scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
        assert len(call(edit).images) == 1
    finally:
        edit.scheduler = own


def test_result_when_not_finite_then_an_error_and_never_a_black_image(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = pipe.transformer.forward

    def overflow(*arguments: Any, **keywords: Any) -> Any:
        made = forward(*arguments, **keywords)
        first = made[0] if isinstance(made, tuple) else made.sample
        first.view(-1)[0] = float("nan")
        return made

    monkeypatch.setattr(pipe.transformer, "forward", overflow)

    with pytest.raises(InvalidResultError, match="not finite"):
        call(pipe)


def test_threads_when_two_use_one_pipeline_then_each_gets_its_own_image(pipe: Any) -> None:
    options = [
        {"seed": 1, "num_inference_steps": 2},
        {"seed": 2, "num_inference_steps": 4, "guidance_scale": 3.0},
    ]
    alone = [np.asarray(call(pipe, **one).images[0]) for one in options]
    made: dict[int, list[Any]] = {0: [], 1: []}
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(3):
                made[number].append(np.asarray(call(pipe, **options[number]).images[0]))
        except BaseException as error:  # noqa: BLE001 - asserted on below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    for number in (0, 1):
        assert all(np.array_equal(image, alone[number]) for image in made[number])


def test_callback_when_it_calls_the_pipeline_again_then_no_deadlock(edit: Any) -> None:
    inner: list[Any] = []

    def nest(pipe: Any, step: int, _time: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1 and not inner:
            inner.append(copy.copy(pipe).encode_prompt("blue"))
        return {}

    call(edit, callback_on_step_end=nest, num_inference_steps=2)

    assert len(inner) == 1


def test_pipeline_when_copied_then_the_copy_works(edit: Any) -> None:
    twin = copy.deepcopy(edit)

    assert np.array_equal(np.asarray(call(twin).images[0]), np.asarray(call(edit).images[0]))


@pytest.mark.parametrize("wrap", [False, True])
def test_guidance_when_diffusers_callback_cuts_it_off_then_the_rest_runs_without(
    pipe: Any, wrap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cutoff: Any = SDCFGCutoffCallback(cutoff_step_ratio=0.5)
    callback = MultiPipelineCallbacks([cutoff]) if wrap else cutoff
    batches: list[int] = []
    forward = pipe.transformer.forward

    def counted(*arguments: Any, **keywords: Any) -> Any:
        batches.append(len(keywords["encoder_hidden_states"]))
        return forward(*arguments, **keywords)

    monkeypatch.setattr(pipe.transformer, "forward", counted)

    made = call(pipe, callback_on_step_end=callback, num_inference_steps=4, guidance_scale=3.0)

    assert len(made.images) == 1
    assert sum(batches) == 2 * 3 + 1  # guidance in the first three steps
    assert pipe.num_timesteps == 4


def test_guidance_when_cut_off_with_several_outputs_of_one_prompt_then_the_rest_runs_without(
    pipe: Any,
) -> None:
    cutoff: Any = SDCFGCutoffCallback(cutoff_step_ratio=0.5)
    settings = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent"}
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]

    both = call(
        pipe, callback_on_step_end=cutoff, num_images_per_prompt=2, generator=generators, **settings
    ).images

    for seed in (0, 1):
        alone = call(pipe, seed, callback_on_step_end=cutoff, **settings).images
        assert torch.allclose(both[seed], alone[0], atol=1e-4)


def test_callback_when_it_returns_rows_for_other_outputs_then_rejected_by_name(pipe: Any) -> None:
    cutoff: Any = SDCFGCutoffCallback(cutoff_step_ratio=0.5)

    with pytest.raises(InvalidInputError, match="`prompt_embeds` with 1 rows for 2 outputs"):
        call(
            pipe,
            prompt=["red", "Make the car blue"],
            callback_on_step_end=cutoff,
            num_inference_steps=2,
            guidance_scale=3.0,
        )


def test_latents_dtype_when_not_floating_then_rejected_before_any_work(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(pipe), "_encode_conditioning", lambda *_: pytest.fail("work was done"))

    with pytest.raises(InvalidInputError, match="`latents_dtype` is 'int8'"):
        call(pipe, latents_dtype="int8")


def test_pipelines_when_compared_then_siblings(edit: Any, plus: Any) -> None:
    assert not isinstance(plus, type(edit))
    assert not isinstance(edit, type(plus))
    assert (edit.takes_several_images, plus.takes_several_images) == (False, True)


def test_interrupt_when_asked_for_then_what_is_there_is_decoded_and_said(pipe: Any) -> None:
    def stop(pipe: Any, step: int, _time: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 1
        return {}

    made = call(pipe, callback_on_step_end=stop, num_inference_steps=5)

    assert made.interrupted
    assert made.images[0].size == (SIDE, SIDE)
    assert not call(pipe).interrupted


def test_parts_when_only_the_prompt_is_encoded_then_vae_and_transformer_may_be_missing(edit: Any) -> None:
    whole, _ = edit.encode_prompt("red", template_type="image")
    parts = {**edit.components, "vae": None, "transformer": None}
    half = type(edit)(**parts)

    made, _ = half.encode_prompt("red", template_type="image")

    assert torch.equal(made, whole)
    with pytest.raises(InvalidInputError, match="`vae` is missing"):
        call(half)


def _in_inference_mode(part: nn.Module, run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Tell whether a class of layers ran in torch's inference mode."""
    seen: set[bool] = set()
    forward = type(part).forward

    def watched(self: nn.Module, *given: Any, **named: Any) -> Any:
        seen.add(torch.is_inference_mode_enabled())
        return forward(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(type(part), "forward", watched)
        run()
    assert len(seen) == 1
    return seen.pop()


def test_tensors_when_they_leave_an_edit_then_they_can_have_a_gradient(
    edit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, block = edit.text_encoder.model.language_model.layers[0], edit.transformer.double_blocks[0]
    image, latents = random_models.make_image(1, SIDE, SIDE), []

    def keep(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents.append(tensors["latents"])
        return {}

    assert _in_inference_mode(
        encoder, lambda: edit.encode_prompt_multiple_images("red", images=[image]), monkeypatch
    )
    assert _in_inference_mode(block, lambda: call(edit, callback_on_step_end=keep), monkeypatch)
    states, mask = edit.encode_prompt_multiple_images("red", images=[image])
    scale = torch.ones((), requires_grad=True)
    for tensor in (states, mask, *latents):
        assert not tensor.is_inference()
        (tensor * scale).square().sum().backward()  # which saves the tensor
    assert scale.grad is not None


def test_activations_when_a_hook_reads_them_then_they_can_have_a_gradient(
    edit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = np.asarray(call(edit).images[0])
    image, read = random_models.make_image(1, SIDE, SIDE), []
    encoder, block = edit.text_encoder.model.language_model.layers[0], edit.transformer.double_blocks[0]
    handles = [
        layer.register_forward_hook(lambda *called: read.append(called[2][0]))
        for layer in (encoder.mlp, block.attn)
    ]

    assert not _in_inference_mode(
        encoder, lambda: edit.encode_prompt_multiple_images("red", images=[image]), monkeypatch
    )
    assert not _in_inference_mode(block, lambda: call(edit), monkeypatch)
    assert np.array_equal(np.asarray(call(edit).images[0]), plain)
    for handle in handles:
        handle.remove()

    assert read
    assert not any(tensor.is_inference() for tensor in read)
    assert _in_inference_mode(block, lambda: call(edit), monkeypatch)


def test_aspect_ratio_when_beyond_the_models_limit_then_rejected_naming_fit(edit: Any) -> None:
    thin = random_models.make_image(0, 3, 1200)

    with pytest.raises(InvalidInputError, match="`fit` is 'exact'"):
        edit(image=thin, prompt="red", fit="exact")
    assert edit(image=thin, prompt="red", fit="pad").images


def _hook_sequentially(pipe: Any) -> None:
    for part in (pipe.text_encoder, pipe.transformer, pipe.vae):
        add_hook_to_module(part, AlignDevicesHook(execution_device="meta"))


@pytest.mark.parametrize(
    "place",
    [lambda _: None, lambda pipe: pipe.vae.to("meta"), lambda pipe: pipe.to("meta"), _hook_sequentially],
    ids=["on the CPU", "a part elsewhere", "all elsewhere", "offloaded"],
)
def test_compute_device_when_parts_are_placed_then_where_diffusers_runs_them(
    place: Callable[[Any], None],
) -> None:
    pipe = random_models.make_pipeline()

    place(pipe)

    assert pipe.compute_device == pipe._execution_device
