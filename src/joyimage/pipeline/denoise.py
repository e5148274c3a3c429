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
    scheduler, transformer = pipe.scheduler, pipe.transformer
    timesteps = scheduler.timesteps
    with pipe.progress_bar(total=len(timesteps)) as progress_bar:
        for step, timestep in enumerate(timesteps):
            pipe._current_timestep = timestep
            items = latents if reference_latents is None else torch.cat([reference_latents, latents], dim=1)
            sigma = scheduler.sigmas[step]

            def predict(branch: str, name: str) -> Tensor:
                context = {"step_index": step, "sigma": sigma, "num_inference_steps": len(timesteps)}  # noqa: B023
                with transformer.cache_context(branch, **context):
                    return transformer(
                        hidden_states=items.to(embeds[name].dtype),  # noqa: B023
                        timestep=timestep.expand(len(items)),  # noqa: B023
                        encoder_hidden_states=embeds[name],
                        encoder_hidden_states_mask=masks[name],
                        return_dict=False,
                    )[0][:, -1:].to(latents.dtype)  # noqa: B023

            velocity = predict("cond", "prompt_embeds")
            if embeds["negative_prompt_embeds"] is not None:
                velocity = combine(velocity, predict("uncond", "negative_prompt_embeds"), guidance_scale)
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
