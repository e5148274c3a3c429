"""What the prompts of a call become: states for the conditional and the unconditional guidance branch.

Dimension key: B outputs, L text tokens, D text width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from joyimage.pipeline.inputs import PromptInputs

Encode: TypeAlias = "Callable[[list[str], int], tuple[Tensor, Tensor]]"
"""Encodes prompts. The number says how many branches they hold: the images of the call belong to each branch in
turn. Returns states `[prompts, L, D]` and mask `[prompts, L]`."""


@dataclass(frozen=True)
class TextStates:
    """States of the prompts of one guidance branch.

    Attributes:
        states: `[B, L, D]`.
        mask: `[B, L]`, 1 where real; None where nothing is padded.
    """

    states: Tensor
    mask: Tensor | None = None

    def to(self, dtype: torch.dtype) -> TextStates:
        """Return the states in another dtype."""
        return replace(self, states=self.states.to(dtype))

    def select(self, rows: list[int]) -> TextStates:
        """Return the states of some outputs."""
        return TextStates(self.states[rows], None if self.mask is None else self.mask[rows])


@dataclass(frozen=True)
class Conditioning:
    """What the transformer is told, from the encoder to the loop.

    Attributes:
        cond: States of the prompts.
        uncond: States of the negative prompts; None without guidance.
    """

    cond: TextStates
    uncond: TextStates | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the states."""
        return self.cond.states.dtype

    def to(self, dtype: torch.dtype) -> Conditioning:
        """Return the conditioning in another dtype."""
        return Conditioning(self.cond.to(dtype), None if self.uncond is None else self.uncond.to(dtype))

    def select(self, rows: list[int]) -> Conditioning:
        """Return the conditioning of some outputs."""
        return Conditioning(self.cond.select(rows), None if self.uncond is None else self.uncond.select(rows))

    def branches(self, *, guided: bool) -> dict[str, TextStates]:
        """Return the branches of a step by name, the conditional one first.

        Args:
            guided: Whether the step has guidance.
        """
        if self.uncond is None or not guided:
            return {"cond": self.cond}
        return {"cond": self.cond, "uncond": self.uncond}


def encode_conditioning(
    prompts: PromptInputs,
    encode: Encode,
    device: torch.device,
    *,
    num_prompts: int,
    num_images_per_prompt: int,
    default_negative_prompt: str,
    guided: bool,
) -> Conditioning:
    """Encode the prompts of both guidance branches in one batch, or take the embeddings that are given.

    Args:
        prompts: Prompts or embeddings, checked.
        encode: Encodes prompts about the images of the call.
        device: Device of the states.
        num_prompts: Number of prompts of each branch.
        num_images_per_prompt: Outputs per prompt; those of one prompt are adjacent.
        default_negative_prompt: Taken where no negative prompt is given.
        guided: Whether the unconditional branch is needed.
    """
    texts: dict[str, str | list[str] | None] = {"cond": prompts.prompt}
    given = {"cond": (prompts.prompt_embeds, prompts.prompt_embeds_mask)}
    if guided:
        texts["uncond"] = prompts.negative_prompt or default_negative_prompt
        given["uncond"] = (prompts.negative_prompt_embeds, prompts.negative_prompt_embeds_mask)
    encoded = {
        name: (states, mask)
        for name, (states, mask) in given.items()
        if states is not None and mask is not None
    }
    missing = [name for name in texts if name not in encoded]
    if missing:
        batch: list[str] = []
        for name in missing:
            text = texts[name]
            batch += [text] * num_prompts if isinstance(text, str) else text or []
        states, mask = encode(batch, len(missing))
        parts = zip(torch.split(states, num_prompts), torch.split(mask, num_prompts), strict=True)
        encoded |= dict(zip(missing, parts, strict=True))
    branches = {
        name: _trim(states.to(device), mask.to(device), num_images_per_prompt)
        for name, (states, mask) in encoded.items()
    }
    return Conditioning(branches["cond"], branches.get("uncond"))


def repeat_per_output(states: Tensor, mask: Tensor, num_images_per_prompt: int) -> tuple[Tensor, Tensor]:
    """Repeat each prompt for its outputs, which stay adjacent.

    Args:
        states: `[prompts, L, D]`.
        mask: `[prompts, L]`.
        num_images_per_prompt: Outputs per prompt.

    Returns:
        States `[B, L, D]` and mask `[B, L]`.
    """
    return (
        states.repeat_interleave(num_images_per_prompt, dim=0),
        mask.repeat_interleave(num_images_per_prompt, dim=0),
    )


def _trim(states: Tensor, mask: Tensor, num_images_per_prompt: int) -> TextStates:
    """Drop the tokens that only the other branch needs, and the mask where nothing is padded."""
    is_used = mask.bool().any(dim=0)
    states, mask = repeat_per_output(states[:, is_used], mask[:, is_used], num_images_per_prompt)
    return TextStates(states, None if bool(mask.bool().all()) else mask)
