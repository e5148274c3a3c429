"""The loop: predict, guide, step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from joyimage.compat.accelerate import offload_hook
from joyimage.compat.diffusers import hook_registry, is_parallel
from joyimage.model.attention import takes_masks
from joyimage.model.reuse import Reuse
from joyimage.pipeline.guidance import combine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


_BRANCHES = {"cond": "prompt_embeds", "uncond": "negative_prompt_embeds"}

_TOGETHER_UP_TO = 1024
"""Image tokens of a pass up to which both branches share it, although the shorter text is padded and masked.

On two CPU cores that takes 25 % off the loop at 64 tokens, 12 % at 512 and nothing from 1,024 on.
"""


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
    dtype = pipe.transformer.dtype  # the parts may have unlike precisions
    embeds = {name: None if embed is None else embed.to(dtype) for name, embed in embeds.items()}
    references = [group.to(dtype) for group in references]
    together = _run_together(pipe.transformer, latents[:, 0], references)
    num_passes = 1 if together else sum(embed is not None for embed in embeds.values())
    reuse = Reuse(timesteps, num_branches=num_passes)
    for branches in _plan_passes(embeds, together=together):
        _prepare(pipe, reuse, references, latents[:, 0], branches, embeds, masks)
    with pipe.progress_bar(total=len(timesteps)) as progress_bar:
        for step, timestep in enumerate(timesteps):
            pipe._current_timestep = timestep
            reuse.begin(step)

            rows = latents[:, 0].to(dtype)
            targets = [rows[group.rows] for group in references] if len(references) > 1 else [rows]
            wanted = embeds if pipe.do_classifier_free_guidance else {**embeds, _BRANCHES["uncond"]: None}
            velocities = [
                velocity.to(latents.dtype)
                for branches in _plan_passes(wanted, together=together)
                for velocity in _predict(pipe, reuse, references, targets, branches, embeds, masks)
            ]
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


def _run_together(transformer: Any, target: Tensor, references: list[References]) -> bool:
    """Tell whether both guidance branches go through the transformer in one pass, or one after the other.

    One pass pays where a pass is short, and where its weights come to the device block by block. Step caches
    keep a state for each branch, and not every attention kernel takes the mask that unequal texts need.
    """
    if transformer.is_cache_enabled or is_parallel(transformer):
        return False
    if not all(takes_masks(block.attn) for block in transformer.double_blocks):
        return False
    patch = math.prod(transformer.settings.patch_size)
    num_tokens = max(
        len(group.rows) * sum(item[0, 0].numel() for item in [target, *group.items]) // patch
        for group in references
    )
    return num_tokens <= _TOGETHER_UP_TO or _streams_weights(transformer)


def _streams_weights(transformer: Any) -> bool:
    """Tell whether blocks come to the device one by one and leave it again."""
    block = transformer.double_blocks[0]
    for module in block.modules():
        if bool(getattr(offload_hook(module), "offload", False)):
            return True
        if hooks := hook_registry(module):
            return hooks.get_hook("group_offloading") is not None
    return False


def _plan_passes(embeds: dict[str, Tensor | None], *, together: bool) -> list[tuple[str, ...]]:
    """Return the branches of each pass, those that have embeddings."""
    branches = tuple(branch for branch, name in _BRANCHES.items() if embeds[name] is not None)
    return [branches] if together else [(branch,) for branch in branches]


def _prepare(
    pipe: Any,
    reuse: Reuse,
    references: list[References],
    targets: Tensor,
    branches: tuple[str, ...],
    embeds: dict[str, Tensor | None],
    masks: dict[str, Tensor | None],
) -> None:
    """Have all that needs the host done before the loop, whose steps then never stop the device."""
    for number, group in enumerate(references):
        target = targets[: len(group.rows)]
        pipe.transformer.prepare(
            _repeat([*group.items, target], len(branches), reuse),
            *_texts(reuse, references, number, branches, embeds, masks),
            reuse=reuse,
        )


def _predict(
    pipe: Any,
    reuse: Reuse,
    references: list[References],
    targets: list[Tensor],
    branches: tuple[str, ...],
    embeds: dict[str, Tensor | None],
    masks: dict[str, Tensor | None],
) -> list[Tensor]:
    """Run guidance branches in one pass and return the target's velocity of each, `[B, 1, C, 1, H, W]`."""
    timesteps = pipe.scheduler.timesteps
    parts: list[tuple[Tensor, ...]] = []
    for number, (group, target) in enumerate(zip(references, targets, strict=True)):
        texts, mask = _texts(reuse, references, number, branches, embeds, masks)
        # Step caches keep one state per branch and group; some ask where in the schedule they are.
        with pipe.transformer.cache_context(
            branches[0] if number == 0 else f"{branches[0]} {number}",
            step_index=reuse.step,
            sigma=pipe.scheduler.sigmas[reuse.step],
            num_inference_steps=len(timesteps),
        ):
            velocity = pipe.transformer(
                hidden_states=[
                    *_repeat(group.items, len(branches), reuse),
                    target if len(branches) == 1 else torch.cat([target] * len(branches)),
                ],
                timestep=timesteps[reuse.step].expand(len(texts)),
                encoder_hidden_states=texts,
                encoder_hidden_states_mask=mask,
                return_dict=False,
                target_only=True,
                reuse=reuse,
            )[0]
        parts.append(velocity.chunk(len(branches)))
    if len(references) == 1:
        return [velocity.unsqueeze(1) for velocity in parts[0]]
    order = reuse.once(
        "order", (timesteps,), lambda: torch.cat([group.rows for group in references]).argsort()
    )
    return [torch.cat(velocities)[order].unsqueeze(1) for velocities in zip(*parts, strict=True)]


def _repeat(items: list[Tensor], times: int, reuse: Reuse) -> list[Tensor]:
    """Return items once for each branch of a pass, always the same objects."""
    if times == 1:
        return items
    return [reuse.once("repeated", (item,), lambda item=item: torch.cat([item] * times)) for item in items]


def _texts(
    reuse: Reuse,
    references: list[References],
    number: int,
    branches: tuple[str, ...],
    embeds: dict[str, Tensor | None],
    masks: dict[str, Tensor | None],
) -> tuple[Tensor, Tensor | None]:
    """Return embeddings and mask of a group's rows, one branch behind the other.

    They are always the same objects, so that what is made of them can be kept.
    """

    def rows(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or len(references) == 1:
            return tensor
        return reuse.once(f"rows {number}", (tensor,), lambda: tensor[references[number].rows])

    names = [_BRANCHES[branch] for branch in branches]
    states = [state for name in names if (state := rows(embeds[name])) is not None]
    own = [rows(masks[name]) for name in names]
    if len(states) == 1:
        return states[0], own[0]
    sources = (*states, *(mask for mask in own if mask is not None))
    return reuse.once("together", sources, lambda: _pad_together(states, own))


def _pad_together(states: list[Tensor], masks: list[Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Return texts `[B, L, D]` of unlike lengths as one batch, and its mask, None where nothing is padded."""
    length = max(state.shape[1] for state in states)
    padded = [nn.functional.pad(state, (0, 0, 0, length - state.shape[1])) for state in states]
    if all(mask is None for mask in masks) and all(state.shape[1] == length for state in states):
        return torch.cat(padded), None
    masks = [
        state.new_ones(state.shape[:2], dtype=torch.long) if mask is None else mask
        for state, mask in zip(states, masks, strict=True)
    ]
    return torch.cat(padded), torch.cat(
        [nn.functional.pad(mask, (0, length - mask.shape[1])) for mask in masks if mask is not None]
    )
