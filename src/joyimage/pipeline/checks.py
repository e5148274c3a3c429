"""The checks that reject arguments which cannot work, before any work starts."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from joyimage.errors import InvalidInputError, InvalidTypeError
from joyimage.pipeline.latents import resolve_dtype
from joyimage.pipeline.schedule import SCHEDULES

if TYPE_CHECKING:
    from torch import Tensor

    from joyimage.pipeline.inputs import PromptInputs, SamplingInputs
    from joyimage.types import ImageSize


OUTPUT_TYPES = ("pil", "np", "pt", "latent")
MAX_COUNT = 1000
"""Most steps and most images of one call: as many steps as the model has timesteps."""

MAX_SIDE = 16_384
"""Longest side of a requested size in pixels, as for `--size`."""


def checked_prompt_count(
    prompts: PromptInputs, sampling: SamplingInputs, *, text_dim: int, num_train_timesteps: int = 1000
) -> int:
    """Check the arguments of a call, each alone and against the others.

    Args:
        prompts: Prompts or their embeddings.
        sampling: How to sample.
        text_dim: Width D of embeddings that the transformer takes.
        num_train_timesteps: Largest timestep.

    Returns:
        Number of prompts.

    Raises:
        InvalidTypeError: A prompt is not a string, or a generator is not torch's.
        InvalidInputError: An argument is out of range or does not fit another.
    """
    num_prompts = _count_prompts(prompts, text_dim)
    _check_numbers(sampling)
    if sampling.timesteps is not None and sampling.sigmas is not None:
        raise InvalidInputError("`timesteps` and `sigmas` are both given; they exclude each other, give one.")
    if sampling.timesteps is not None:
        _check_levels("timesteps", sampling.timesteps, largest=num_train_timesteps)
    if sampling.sigmas is not None:
        _check_levels("sigmas", sampling.sigmas, largest=1)
    _check_number("guidance_scale", sampling.guidance_scale)
    if not _is_whole(sampling.max_sequence_length):
        raise InvalidInputError(
            f"`max_sequence_length` is {sampling.max_sequence_length!r}; expected a whole number of tokens."
        )
    is_normalized = cast("object", sampling.enable_denormalization)
    if not isinstance(is_normalized, (bool, np.bool_)):
        raise InvalidInputError(f"`enable_denormalization` is {is_normalized!r}; expected True or False.")
    _check_attention_kwargs(sampling.attention_kwargs)
    num_outputs = num_prompts * int(sampling.num_images_per_prompt)
    _check_generator(sampling.generator)
    if isinstance(sampling.generator, list) and len(sampling.generator) != num_outputs:
        raise InvalidInputError(
            f"`generator` is a list of {len(sampling.generator)}; expected {num_outputs}, one per output."
        )
    _check_choice("output_type", sampling.output_type, OUTPUT_TYPES)
    _check_choice("schedule", sampling.schedule, tuple(SCHEDULES))
    _check_choice("reference_latents", sampling.reference_latents, ("sample", "mode"))
    resolve_dtype(sampling.latents_dtype, torch.float32)
    return num_prompts


def _check_attention_kwargs(given: object) -> None:
    """Check the argument by which diffusers' pipelines scale adapters for one call.

    Raises:
        InvalidTypeError: It is not a dict.
        InvalidInputError: It has another key than "scale", or that is not a finite number.
    """
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise InvalidTypeError(f'`attention_kwargs` is {given!r}; expected a dict such as {{"scale": 0.5}}.')
    unknown = [key for key in cast("Mapping[object, object]", given) if key != "scale"]
    if unknown:
        raise InvalidInputError(f"`attention_kwargs` has the key {unknown[0]!r}; only 'scale' is accepted.")
    if "scale" in given:
        _check_number("attention_kwargs['scale']", cast("Mapping[str, Any]", given)["scale"])


def check_image_count(num_images: int, num_prompts: int) -> None:
    """Check that there is one image for all prompts, or one each.

    Raises:
        InvalidInputError: There is another number of images.
    """
    if num_images not in {1, num_prompts}:
        raise InvalidInputError(
            f"`image` holds {num_images} images for {num_prompts} prompts; expected one, or one per prompt."
        )


def check_latents(latents: Tensor | object | None, shape: tuple[int, ...]) -> None:
    """Check the shape and the values of given noise.

    Raises:
        InvalidTypeError: It is not a tensor of floating-point numbers.
        InvalidInputError: It has another shape than `shape`, or a value is not finite.
    """
    if latents is None:
        return
    latents = _checked_tensor("latents", latents)
    if tuple(latents.shape) != shape:
        raise InvalidInputError(f"`latents` has shape {list(latents.shape)}; expected {list(shape)}.")
    _check_finite("latents", latents)


def check_size(height: int | None, width: int | None) -> None:
    """Check a requested size.

    Args:
        height: Requested height in pixels, or None.
        width: Requested width in pixels, or None.

    Raises:
        InvalidInputError: Only one side is given, or a side is not a positive whole number, or too large.
    """
    if (height is None) != (width is None):
        raise InvalidInputError(
            f"`height` and `width` go together: got height={height}, width={width}. "
            "Give both, or neither to follow the image."
        )
    for name, number in (("height", height), ("width", width)):
        if number is not None and not (_is_whole(number) and 1 <= number <= MAX_SIDE):
            raise InvalidInputError(
                f"`{name}` is {number!r}; expected a positive number of pixels, at most {MAX_SIDE}."
            )


def check_text(name: str, value: object, expected: str) -> None:
    """Check that an argument is text with something in it.

    Raises:
        InvalidTypeError: It is not a string.
        InvalidInputError: It is empty.
    """
    if not isinstance(value, str):
        raise InvalidTypeError(f"`{name}` is {value!r}; expected {expected}, as a string.")
    if not value.strip():
        raise InvalidInputError(f"`{name}` is empty; expected {expected}.")


def check_count(name: str, value: object) -> None:
    """Check that an argument is a whole number of at least 1.

    Raises:
        InvalidInputError: It is something else.
    """
    if not _is_whole(value) or cast("float", value) < 1:
        raise InvalidInputError(f"`{name}` is {value!r}; expected 1 or more.")


def check_divisible(size: ImageSize, divisor: int) -> None:
    """Check that patches cover the output.

    Raises:
        InvalidInputError: A side is not divisible by `divisor`.
    """
    for name, pixels in (("height", size.height), ("width", size.width)):
        if pixels % divisor:
            below, above = pixels - pixels % divisor, pixels - pixels % divisor + divisor
            raise InvalidInputError(
                f"`{name}` is {pixels}; "
                f"expected a multiple of {divisor}, such as {below or divisor} or {above}."
            )


def check_callback(function: object, names: Sequence[str], allowed: Sequence[str]) -> None:
    """Check a callback, and the names of the tensors that it asks for.

    Args:
        function: The caller's function; None where there is none.
        names: Tensors that it asks for.
        allowed: Tensors that callbacks may ask for.

    Raises:
        InvalidTypeError: It cannot be called.
        InvalidInputError: A tensor is not available to callbacks.
    """
    if function is not None and not callable(function):
        raise InvalidTypeError(f"`callback_on_step_end` is {function!r}; expected a function.")
    for name in names:
        if name not in allowed:
            raise InvalidInputError(
                f"`callback_on_step_end_tensor_inputs` has {name!r}; expected some of {', '.join(allowed)}."
            )


def check_parts(pipe: Any) -> None:
    """Check that a pipeline has all parts that an edit needs, and a scheduler for flow matching.

    Raises:
        InvalidInputError: A part is missing, or the scheduler is of another kind.
    """
    for name in ("scheduler", "vae", "transformer"):
        if getattr(pipe, name) is None:
            raise InvalidInputError(
                f"`{name}` is missing in this pipeline; it can encode prompts only. Load it with its {name}."
            )
    scheduler = pipe.scheduler
    if "FlowMatch" not in type(scheduler).__name__ and not scheduler.config.get("use_flow_sigmas", False):
        raise InvalidInputError(
            f"`scheduler` is {type(scheduler).__name__}, which is not for flow matching; expected "
            "FlowMatchEulerDiscreteScheduler, or a scheduler with `use_flow_sigmas`."
        )


def _count_prompts(prompts: PromptInputs, text_dim: int) -> int:
    """Check the prompts of both guidance branches and return the number of prompts.

    Raises:
        InvalidInputError: A branch has neither text nor embeddings or both, or the branches differ in number.
    """
    num_prompts = _count_prompt(
        "prompt", prompts.prompt, prompts.prompt_embeds, prompts.prompt_embeds_mask, text_dim
    )
    negative, embeds = prompts.negative_prompt, prompts.negative_prompt_embeds
    if negative is None and embeds is None:
        return num_prompts
    mask = prompts.negative_prompt_embeds_mask
    num_negative = _count_prompt("negative_prompt", negative, embeds, mask, text_dim)
    if num_negative != num_prompts and not isinstance(negative, str):
        raise InvalidInputError(
            f"`negative_prompt` has {num_negative} entries for {num_prompts} prompts; "
            "give one string, or one each."
        )
    return num_prompts


def _count_prompt(name: str, prompt: Any, embeds: object, mask: Any, text_dim: int) -> int:
    """Check the prompts of one guidance branch and return their number.

    Raises:
        InvalidTypeError: A prompt is not a string.
        InvalidInputError: There are neither prompts nor embeddings, or both, or one of them cannot be used.
    """
    embeds_name = f"{name}_embeds"
    if (prompt is None) == (embeds is None):
        came = "neither" if prompt is None else "both"
        raise InvalidInputError(f"`{name}` and `{embeds_name}`: {came} given; expected exactly one of them.")
    if embeds is not None:
        embeds = _checked_tensor(embeds_name, embeds)
        if embeds.ndim != 3 or embeds.shape[-1] != text_dim:
            raise InvalidInputError(
                f"`{embeds_name}` has shape {list(embeds.shape)}; expected [prompts, tokens, {text_dim}]."
            )
        if not isinstance(mask, torch.Tensor) or tuple(mask.shape) != tuple(embeds.shape[:2]):
            is_tensor = isinstance(mask, torch.Tensor)
            came = f"shape {list(mask.shape)}" if is_tensor else "nothing" if mask is None else repr(mask)
            raise InvalidInputError(
                f"`{embeds_name}_mask` goes with `{embeds_name}`: "
                f"expected {list(embeds.shape[:2])}, got {came}."
            )
        _check_finite(embeds_name, embeds)
        return len(embeds)
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, (list, tuple)) or not all(
        isinstance(one, str) for one in cast("Sequence[object]", prompts)
    ):
        raise InvalidTypeError(f"`{name}` is {prompt!r}; expected a string or a list of strings.")
    if not prompts:
        raise InvalidInputError(f"`{name}` is an empty list; expected at least one string.")
    for one in cast("Sequence[str]", prompts):
        try:
            one.encode()
        except UnicodeEncodeError:
            raise InvalidInputError(
                f"`{name}` holds half of a surrogate pair: {one[:80]!r}; expected valid Unicode."
            ) from None
    return len(cast("Sequence[str]", prompts))


def _check_numbers(sampling: SamplingInputs) -> None:
    """Check the size and the counts of a call.

    Raises:
        InvalidInputError: A number is not whole or out of range, or only one side of the size is given.
    """
    check_size(sampling.height, sampling.width)
    for name, number in (
        ("num_inference_steps", sampling.num_inference_steps),
        ("num_images_per_prompt", sampling.num_images_per_prompt),
    ):
        if not _is_whole(number) or not 1 <= number <= MAX_COUNT:
            raise InvalidInputError(
                f"`{name}` is {number!r}; expected a whole number from 1 to {MAX_COUNT:,}."
            )


def _is_whole(number: Any) -> bool:
    """Tell whether a number is whole, numpy's and floats such as 20.0 included."""
    return (
        not isinstance(number, bool)
        and isinstance(number, numbers.Real)
        and float(cast("float", number)).is_integer()
    )


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Check that an argument is one of several words.

    Raises:
        InvalidInputError: It is something else.
    """
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInputError(f"`{name}` is {value!r}; expected one of {', '.join(allowed)}.")


def _check_number(name: str, value: Any) -> None:
    """Check that an argument is a finite number, numpy's and tensors of one value included.

    Raises:
        InvalidTypeError: It is not a number.
        InvalidInputError: It is not finite.
    """
    (number,) = _read_numbers(name, [value], "a finite number")
    if not math.isfinite(number):
        raise InvalidInputError(f"`{name}` is {value}; expected a finite number.")


def _read_numbers(name: str, values: Any, expected: str = "a list of numbers") -> list[float]:
    """Return numbers as Python's.

    Raises:
        InvalidTypeError: They are not numbers, or not a list of numbers.
    """
    try:
        is_rejected = isinstance(values, str) or any(isinstance(value, str) for value in values)
        numbers_ = [] if is_rejected else [float(value) for value in values]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        is_rejected, numbers_ = True, []
    if is_rejected:
        shown = values[0] if expected != "a list of numbers" else values
        raise InvalidTypeError(f"`{name}` is {shown!r}; expected {expected}.")
    return numbers_


def _check_levels(name: str, values: Any, largest: float) -> None:
    """Check custom noise levels or timesteps.

    Raises:
        InvalidTypeError: They are not a list of numbers.
        InvalidInputError: There is none, one is out of range, or they rise.
    """
    is_list = isinstance(values, (Sequence, np.ndarray, torch.Tensor))
    if not is_list or getattr(cast("object", values), "ndim", 1) != 1:
        raise InvalidTypeError(f"`{name}` is {values!r}; expected a list of numbers.")
    levels = _read_numbers(name, values)
    if not levels:
        raise InvalidInputError(f"`{name}` is empty; expected one value per step.")
    for level in levels:
        if not 0 <= level <= largest:  # NaN as well
            raise InvalidInputError(
                f"`{name}` has the value {level:g}; expected numbers from 0 to {largest:g}."
            )
    for before, after in itertools.pairwise(levels):
        if after > before:
            raise InvalidInputError(f"`{name}` rises from {before:g} to {after:g}; expected falling values.")


def _check_generator(generator: Any) -> None:
    """Check that draws can be made.

    Raises:
        InvalidTypeError: It is neither torch's generator nor a list of these.
    """
    if generator is None:
        return
    every = cast("list[object]", generator) if isinstance(generator, list) else [generator]
    for one in every:
        if not isinstance(one, torch.Generator):
            raise InvalidTypeError(
                f"`generator` is {generator!r}; expected a torch.Generator or a list of these, for example "
                "torch.Generator().manual_seed(42)."
            )


def _checked_tensor(name: str, value: object) -> Tensor:
    """Return an argument that holds floating-point numbers which can be read.

    Raises:
        InvalidTypeError: It is something else.
    """
    if not isinstance(value, torch.Tensor):
        raise InvalidTypeError(f"`{name}` is of type {type(value).__name__}; expected a torch tensor.")
    if value.is_meta or value.layout != torch.strided or not value.is_floating_point():
        kind = (
            f"{str(value.layout).removeprefix('torch.')} tensor of {str(value.dtype).removeprefix('torch.')}"
        )
        where = " on the meta device" if value.is_meta else ""
        raise InvalidTypeError(
            f"`{name}` is a {kind}{where}; expected a dense tensor of floating-point numbers."
        )
    return value


def _check_finite(name: str, tensor: Tensor) -> None:
    """Check given numbers.

    Raises:
        InvalidInputError: One is not finite.
    """
    if not bool(tensor.isfinite().all()):
        raise InvalidInputError(f"`{name}` has values that are not finite; expected finite numbers.")
