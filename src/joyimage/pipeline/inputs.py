"""Everything that can be refused is refused here, before any work."""

from __future__ import annotations

import itertools
import math
import numbers
from typing import TYPE_CHECKING, Any, cast

from joyimage.errors import InvalidInputError, InvalidTypeError
from joyimage.pipeline.schedule import SCHEDULES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def check_call(
    *,
    prompt: str | list[str] | None,
    height: int | None,
    width: int | None,
    num_inference_steps: int = 1,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    guidance_scale: float = 1.0,
    negative_prompt: str | list[str] | None,
    num_images_per_prompt: int = 1,
    generator: Any = None,
    prompt_embeds: torch.Tensor | None,
    prompt_embeds_mask: torch.Tensor | None,
    negative_prompt_embeds: torch.Tensor | None,
    negative_prompt_embeds_mask: torch.Tensor | None,
    output_type: str = "pil",
    schedule: str = "diffusers",
    reference_latents: str = "sample",
    text_dim: int,
    num_train_timesteps: int = 1000,
) -> int:
    """Check the arguments of a call against one another, the width of embeddings and the largest timestep.

    Returns:
        Number of prompts.

    Raises:
        InvalidTypeError: A prompt is no string.
        InvalidInputError: An argument is out of range or doesn't fit another.
    """
    num_prompts = _check_prompt("prompt", prompt, prompt_embeds, prompt_embeds_mask, text_dim)
    if negative_prompt is not None or negative_prompt_embeds is not None:
        num_negative = _check_prompt(
            "negative_prompt", negative_prompt, negative_prompt_embeds, negative_prompt_embeds_mask, text_dim
        )
        if num_negative != num_prompts and not isinstance(negative_prompt, str):
            raise InvalidInputError(
                f"`negative_prompt` has {num_negative} entries for {num_prompts} prompts; "
                "give one string, or one each."
            )
    if (height is None) != (width is None):
        raise InvalidInputError(
            f"`height` and `width` go together: got height={height}, width={width}. "
            "Give both, or neither to follow the image."
        )
    for name, number in (("height", height), ("width", width)):
        if number is not None and (not _is_whole(number) or number < 1):
            raise InvalidInputError(f"`{name}` is {number!r}; expected a positive number of pixels.")
    for name, number in (
        ("num_inference_steps", num_inference_steps),
        ("num_images_per_prompt", num_images_per_prompt),
    ):
        if not _is_whole(number) or number < 1:
            raise InvalidInputError(f"`{name}` is {number!r}; expected a whole number of 1 or more.")
    if timesteps is not None and sigmas is not None:
        raise InvalidInputError("`timesteps` and `sigmas` are both given; they exclude each other, give one.")
    for name, values in (("timesteps", timesteps), ("sigmas", sigmas)):
        if values is not None:
            _check_levels(name, values, largest=1 if name == "sigmas" else num_train_timesteps)
    if not math.isfinite(guidance_scale):
        raise InvalidInputError(f"`guidance_scale` is {guidance_scale}; expected a finite number.")
    num_outputs = num_prompts * int(num_images_per_prompt)
    _check_generator(generator)
    if isinstance(generator, list) and len(generator) != num_outputs:
        raise InvalidInputError(
            f"`generator` is a list of {len(generator)}; expected {num_outputs}, one per output."
        )
    for name, value, allowed in (
        ("output_type", output_type, OUTPUT_TYPES),
        ("schedule", schedule, SCHEDULES),
        ("reference_latents", reference_latents, ("sample", "mode")),
    ):
        if value not in allowed:
            raise InvalidInputError(f"`{name}` is {value!r}; expected one of {', '.join(allowed)}.")
    return num_prompts


def check_pictures(pictures: Sequence[Any] | None, num_prompts: int) -> None:
    """Check that there is one picture for all prompts, or one each.

    Raises:
        InvalidInputError: There are more or fewer.
    """
    if pictures is not None and len(pictures) not in {1, num_prompts}:
        raise InvalidInputError(
            f"`image` holds {len(pictures)} pictures for {num_prompts} prompts; "
            "expected one, or one per prompt."
        )


def check_latents(latents: torch.Tensor | None, shape: tuple[int, ...]) -> None:
    """Check the shape of given noise.

    Raises:
        InvalidInputError: It has another shape than `shape`, or a value is not finite.
    """
    if latents is None:
        return
    if tuple(latents.shape) != shape:
        raise InvalidInputError(f"`latents` has shape {list(latents.shape)}; expected {list(shape)}.")
    _check_finite("latents", latents)


def check_divisible(height: int | None, width: int | None, divisor: int) -> None:
    """Check that patches cover the output.

    Raises:
        InvalidInputError: A side isn't divisible.
    """
    for name, pixels in (("height", height), ("width", width)):
        if pixels is not None and pixels % divisor:
            below, above = pixels - pixels % divisor, pixels - pixels % divisor + divisor
            raise InvalidInputError(
                f"`{name}` is {pixels}; "
                f"expected a multiple of {divisor}, such as {below or divisor} or {above}."
            )


def check_callback(names: Sequence[str] | None, allowed: Sequence[str]) -> None:
    """Check the tensors that a callback asks for.

    Raises:
        InvalidInputError: One of them can't be given.
    """
    for name in names or ():
        if name not in allowed:
            raise InvalidInputError(
                f"`callback_on_step_end_tensor_inputs` has {name!r}; expected some of {', '.join(allowed)}."
            )


def _check_prompt(
    name: str,
    prompt: str | list[str] | None,
    embeds: torch.Tensor | None,
    mask: torch.Tensor | None,
    text_dim: int,
) -> int:
    embeds_name = f"{name}_embeds"
    if (prompt is None) == (embeds is None):
        came = "neither" if prompt is None else "both"
        raise InvalidInputError(f"`{name}` and `{embeds_name}`: {came} given; expected exactly one of them.")
    if embeds is not None:
        if embeds.ndim != 3 or embeds.shape[-1] != text_dim:
            raise InvalidInputError(
                f"`{embeds_name}` has shape {list(embeds.shape)}; expected [prompts, tokens, {text_dim}]."
            )
        if mask is None or tuple(mask.shape) != tuple(embeds.shape[:2]):
            came = "nothing" if mask is None else f"shape {list(mask.shape)}"
            raise InvalidInputError(
                f"`{embeds_name}_mask` goes with `{embeds_name}`: "
                f"expected {list(embeds.shape[:2])}, got {came}."
            )
        _check_finite(embeds_name, embeds)
        return len(embeds)
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(one, str) for one in prompts):
        raise InvalidTypeError(f"`{name}` is {prompt!r}; expected a string or a list of strings.")
    if not prompts:
        raise InvalidInputError(f"`{name}` is an empty list; expected at least one string.")
    for one in prompts:
        try:
            one.encode()
        except UnicodeEncodeError:
            raise InvalidInputError(
                f"`{name}` holds half of a surrogate pair: {one[:80]!r}; expected valid Unicode."
            ) from None
    return len(prompts)


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
    config = scheduler.config
    if "FlowMatch" not in type(scheduler).__name__ and not config.get("use_flow_sigmas", False):
        raise InvalidInputError(
            f"`scheduler` is {type(scheduler).__name__}, which is not for flow matching; expected "
            "FlowMatchEulerDiscreteScheduler, or a scheduler with `use_flow_sigmas`."
        )


def _is_whole(number: Any) -> bool:
    """Tell whether a number is whole, numpy's and floats such as 20.0 included."""
    return (
        isinstance(number, numbers.Real)
        and not isinstance(number, bool)
        and float(cast("float", number)).is_integer()
    )


def _check_levels(name: str, values: Sequence[float], largest: float) -> None:
    """Check custom noise levels or timesteps.

    Raises:
        InvalidInputError: There is none, one is out of range, or they rise.
    """
    if len(values) == 0:
        raise InvalidInputError(f"`{name}` is empty; expected one value per step.")
    levels = [float(value) for value in values]
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
        InvalidTypeError: It is no generator of torch and no list of these.
    """
    import torch

    every = generator if isinstance(generator, list) else [generator]
    for one in every:
        if one is not None and not isinstance(one, torch.Generator):
            raise InvalidTypeError(
                f"`generator` is {generator!r}; expected a torch.Generator or a list of these, for example "
                "torch.Generator().manual_seed(42)."
            )


def _check_finite(name: str, tensor: torch.Tensor) -> None:
    """Check given numbers.

    Raises:
        InvalidInputError: One is not finite.
    """
    if not bool(tensor.isfinite().all()):
        raise InvalidInputError(f"`{name}` has values that are not finite; expected finite numbers.")
