"""The loop: predict, guide, step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from joyimage.pipeline.guidance import combine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class References:
    """References of the outputs that can share a pass of the transformer.

    Attributes:
        outputs: Which outputs.
        items: Clean latents of each reference, `[len(outputs), C, 1, H, W]`; sizes may differ.
    """

    outputs: list[int]
    items: list[Tensor]


def group_references(references: Sequence[Sequence[Tensor]]) -> list[References]:
    """Put outputs whose references are alike in number and size together.

    Args:
        references: Of each output, latents `[C, 1, H, W]`.

    Returns:
        One group per kind, together holding every output once.
    """
    kinds: dict[tuple[torch.Size, ...], list[int]] = {}
    for output, items in enumerate(references):
        kinds.setdefault(tuple(item.shape for item in items), []).append(output)
    return [
        References(
            outputs=outputs,
            items=[torch.stack(item) for item in zip(*(references[i] for i in outputs), strict=True)],
        )
        for outputs in kinds.values()
    ]


def denoise(
    pipe: Any,
    latents: Tensor,
    references: list[References],
    embeds: dict[str, Tensor | None],
    masks: dict[str, Tensor | None],
    *,
    callback: Callable[..., dict[str, Any]] | None,
    callback_tensors: list[str],
    show: Callable[[Tensor], Tensor] = lambda latents: latents,
    unshow: Callable[[Tensor], Tensor] = lambda latents: latents,
) -> Tensor:
    """Turn noise into the target, in the steps that the scheduler is set to.

    Args:
        pipe: Gives transformer, scheduler, progress bar, guidance scale and the interrupt flag; callbacks may
            change the latter two.
        latents: Noise, `[B, 1, C, 1, H, W]`.
        references: From `group_references`.
        embeds: "prompt_embeds" and "negative_prompt_embeds" (None without guidance), `[B, L, D]`.
        masks: Of the same names, `[B, L]`, or None where nothing is padded.
        callback: Called after each step.
        callback_tensors: What it is given.
        show: Makes of the target's latents what callbacks know by that name.
        unshow: Undoes `show`.

    Returns:
        The target's latents, `[B, 1, C, 1, H, W]`.
    """
    scheduler = pipe.scheduler
    timesteps = scheduler.timesteps
    with pipe.progress_bar(total=len(timesteps)) as progress_bar:
        for step, timestep in enumerate(timesteps):
            pipe._current_timestep = timestep

            cond, negative = embeds["prompt_embeds"], embeds["negative_prompt_embeds"]
            velocity = _predict(pipe, step, latents, references, "cond", cond, masks["prompt_embeds"])
            if negative is not None and pipe.do_classifier_free_guidance:
                mask = masks["negative_prompt_embeds"]
                uncond = _predict(pipe, step, latents, references, "uncond", negative, mask)
                velocity = combine(velocity, uncond, pipe.guidance_scale)

            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]

            if callback is not None:
                shown = {**embeds, "latents": show(latents)}
                changed = (
                    callback(pipe, step, timestep, {name: shown[name] for name in callback_tensors}) or {}
                )
                if "latents" in changed:
                    latents = unshow(changed["latents"])
                embeds = {name: changed.get(name, embed) for name, embed in embeds.items()}
            progress_bar.update()
            if pipe.interrupt:
                break
    pipe._current_timestep = None
    return latents


def _predict(
    pipe: Any,
    step: int,
    latents: Tensor,
    references: list[References],
    branch: str,
    embeds: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """Run one guidance branch and return the target's velocity, shape and dtype of `latents`."""
    assert embeds is not None
    timesteps = pipe.scheduler.timesteps
    velocity = torch.empty_like(latents)
    for number, group in enumerate(references):
        outputs = slice(None) if len(references) == 1 else group.outputs
        items = [item.to(embeds.dtype) for item in [*group.items, latents[outputs, 0]]]
        same_size = all(item.shape == items[0].shape for item in items)
        # Step caches keep one state per branch and group; some ask where in the schedule they are.
        with pipe.transformer.cache_context(
            branch if number == 0 else f"{branch} {number}",
            step_index=step,
            sigma=pipe.scheduler.sigmas[step],
            num_inference_steps=len(timesteps),
        ):
            predicted = pipe.transformer(
                hidden_states=torch.stack(items, dim=1) if same_size else items,
                timestep=timesteps[step].expand(len(items[0])),
                encoder_hidden_states=embeds[outputs],
                encoder_hidden_states_mask=None if mask is None else mask[outputs],
                return_dict=False,
            )[0]
        target = predicted[:, -1] if same_size else predicted[-1]
        velocity[outputs, 0] = target.to(latents.dtype)
    return velocity
