"""The loop: predict, guide, step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from joyimage.pipeline.guidance import combine

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def denoise(
    pipe: Any,
    latents: Tensor,
    reference_latents: Tensor | None,
    embeds: dict[str, Tensor | None],
    masks: dict[str, Tensor | None],
    *,
    guidance_scale: float,
    callback: Callable[..., dict[str, Any]] | None,
    callback_tensors: list[str],
) -> Tensor:
    """Turn noise into the target, in the steps that the scheduler is set to.

    Args:
        pipe: Gives transformer, scheduler, progress bar and the interrupt flag.
        latents: Noise, `[B, 1, C, T, H, W]`.
        reference_latents: Clean references, `[B, N, C, T, H, W]`; None for text-to-image.
        embeds: "prompt_embeds" and "negative_prompt_embeds" (None without guidance), `[B, L, D]`.
        masks: Of the same names, `[B, L]`, or None where nothing is padded.
        guidance_scale: Classifier-free guidance.
        callback: Called after each step.
        callback_tensors: What it is given.

    Returns:
        The target's latents, `[B, 1, C, T, H, W]`.
    """
    scheduler = pipe.scheduler
    timesteps = scheduler.timesteps
    with pipe.progress_bar(total=len(timesteps)) as progress_bar:
        for step, timestep in enumerate(timesteps):
            pipe._current_timestep = timestep
            items = latents if reference_latents is None else torch.cat([reference_latents, latents], dim=1)
            velocity = _predict(pipe, step, items, "cond", embeds["prompt_embeds"], masks["prompt_embeds"])
            negative = embeds["negative_prompt_embeds"]
            if negative is not None:
                uncond = _predict(pipe, step, items, "uncond", negative, masks["negative_prompt_embeds"])
                velocity = combine(velocity, uncond, guidance_scale)
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            if callback is not None:
                shown = {**embeds, "latents": latents}
                if reference_latents is not None:
                    shown["latents"] = torch.cat([reference_latents, latents], dim=1)
                changed = callback(pipe, step, timestep, {name: shown[name] for name in callback_tensors}) or {}
                if "latents" in changed:
                    latents = changed["latents"][:, -1:]
                embeds = {name: changed.get(name, embed) for name, embed in embeds.items()}
            progress_bar.update()
            if pipe.interrupt:
                break
    pipe._current_timestep = None
    return latents


def _predict(
    pipe: Any, step: int, items: Tensor, branch: str, embeds: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Run one guidance branch and return the target's velocity, `[B, 1, C, T, H, W]`, dtype of `items`."""
    assert embeds is not None
    timesteps = pipe.scheduler.timesteps
    # Step caches keep one state per branch, and some of them ask where in the schedule they are.
    with pipe.transformer.cache_context(
        branch, step_index=step, sigma=pipe.scheduler.sigmas[step], num_inference_steps=len(timesteps)
    ):
        velocity = pipe.transformer(
            hidden_states=items.to(embeds.dtype),
            timestep=timesteps[step].expand(len(items)),
            encoder_hidden_states=embeds,
            encoder_hidden_states_mask=mask,
            return_dict=False,
        )[0]
    return velocity[:, -1:].to(items.dtype)
