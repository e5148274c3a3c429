"""The loop: predict, guide, step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from joyimage.model.reuse import Reuse
from joyimage.pipeline.guidance import combine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


_BRANCHES = {"cond": "prompt_embeds", "uncond": "negative_prompt_embeds"}


@dataclass(frozen=True, kw_only=True)
class References:
    """References of the outputs that can share a pass of the transformer.

    Attributes:
        rows: Which outputs, `[outputs of the group]`, on the device of the latents.
        items: Clean latents of each reference, `[outputs of the group, C, 1, H, W]`; sizes may differ.
    """

    rows: Tensor
    items: list[Tensor]

    def to(self, dtype: torch.dtype) -> References:
        """Return the same with another dtype."""
        return replace(self, items=[item.to(dtype) for item in self.items])


def group_references(references: Sequence[Sequence[Tensor]], device: torch.device) -> list[References]:
    """Put outputs whose references are alike in number and size together.

    Args:
        references: Of each output, latents `[C, 1, H, W]`.
        device: Of the latents.

    Returns:
        One group per kind, together holding every output once.
    """
    kinds: dict[tuple[torch.Size, ...], list[int]] = {}
    for output, items in enumerate(references):
        kinds.setdefault(tuple(item.shape for item in items), []).append(output)
    return [
        References(
            rows=torch.tensor(outputs, device=device),
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
    scheduler.set_begin_index(0)  # so that it needn't search its list, which waits for the device
    dtype = next(embed.dtype for embed in embeds.values() if embed is not None)
    references = [group.to(dtype) for group in references]
    reuse = Reuse(timesteps, num_branches=sum(embed is not None for embed in embeds.values()))
    _prepare(pipe, reuse, references, latents[:, 0], embeds, masks)
    with pipe.progress_bar(total=len(timesteps)) as progress_bar:
        for step, timestep in enumerate(timesteps):
            pipe._current_timestep = timestep
            reuse.begin(step)

            rows = latents[:, 0].to(dtype)
            targets = [rows[group.rows] for group in references] if len(references) > 1 else [rows]
            velocities = []
            for branch, name in _BRANCHES.items():
                embed = embeds[name]
                if branch == "cond" or (embed is not None and pipe.do_classifier_free_guidance):
                    assert embed is not None
                    velocity = _predict(pipe, reuse, references, targets, branch, embed, masks[name])
                    velocities.append(velocity.to(latents.dtype))
            velocity = velocities[0]
            if len(velocities) > 1:
                velocity = combine(velocities[0], velocities[1], pipe.guidance_scale)

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


def _prepare(
    pipe: Any,
    reuse: Reuse,
    references: list[References],
    targets: Tensor,
    embeds: dict[str, Tensor | None],
    masks: dict[str, Tensor | None],
) -> None:
    """Have all that needs the host done before the loop, whose steps then never stop the device."""
    for name in _BRANCHES.values():
        embed, mask = embeds[name], masks[name]
        for number, group in enumerate(references if embed is not None else ()):
            assert embed is not None
            pipe.transformer.prepare(
                [*group.items, targets[: len(group.rows)]],
                _rows(embed, number, references, reuse),
                None if mask is None else _rows(mask, number, references, reuse),
                reuse=reuse,
            )


def _predict(
    pipe: Any,
    reuse: Reuse,
    references: list[References],
    targets: list[Tensor],
    branch: str,
    embeds: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Run one guidance branch and return the target's velocity, `[B, 1, C, 1, H, W]`."""
    timesteps = pipe.scheduler.timesteps
    velocities = []
    for number, (group, target) in enumerate(zip(references, targets, strict=True)):
        # Step caches keep one state per branch and group; some ask where in the schedule they are.
        with pipe.transformer.cache_context(
            branch if number == 0 else f"{branch} {number}",
            step_index=reuse.step,
            sigma=pipe.scheduler.sigmas[reuse.step],
            num_inference_steps=len(timesteps),
        ):
            velocity = pipe.transformer(
                hidden_states=[*group.items, target],
                timestep=timesteps[reuse.step].expand(len(target)),
                encoder_hidden_states=_rows(embeds, number, references, reuse),
                encoder_hidden_states_mask=None if mask is None else _rows(mask, number, references, reuse),
                return_dict=False,
                target_only=True,
                reuse=reuse,
            )[0]
        velocities.append(velocity)
    if len(references) == 1:
        return velocities[0].unsqueeze(1)
    order = reuse.once(
        "order", (timesteps,), lambda: torch.cat([group.rows for group in references]).argsort()
    )
    return torch.cat(velocities)[order].unsqueeze(1)


def _rows(tensor: Tensor, number: int, references: list[References], reuse: Reuse) -> Tensor:
    """Return a group's rows, always the same object, so that what is made of it can be kept."""
    if len(references) == 1:
        return tensor
    return reuse.once(f"rows {number}", (tensor,), lambda: tensor[references[number].rows])
