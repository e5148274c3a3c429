"""Between the caller's items and one token sequence [target | reference 1 | reference 2 | … | text].

Callers put the references first and the target last; the network wants the target first, with rotary index 0.
Dimension key: B batch, C channels, T frames, L tokens, D model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from joyimage.errors import InvalidInputError
from joyimage.model.rope import Grid

Items = Tensor | Sequence[Tensor]
"""Latents `[B, C, T, H, W]`, `[B, items, C, T, H, W]`, or a list of the former of any heights and widths."""


def split_items(hidden_states: Items, in_channels: int, patch_size: Grid) -> list[Tensor]:
    """Return the items as the network orders them: target, reference 1, reference 2 and so on.

    Args:
        hidden_states: Latents in one of the three layouts of `Items`, target last.
        in_channels: Channels that every item must have.
        patch_size: Patch (t, h, w) that must divide every item.

    Returns:
        Latents `[B, C, T, H, W]` each.

    Raises:
        InvalidInputError: Wrong axes or channels, sizes that the patch does not divide, unequal batch sizes,
            or no item.
    """
    if isinstance(hidden_states, Tensor):
        if hidden_states.ndim not in {5, 6}:
            raise InvalidInputError(
                "`hidden_states` must be [B, C, T, H, W], [B, items, C, T, H, W] or a list of the former:"
                f" got shape {tuple(hidden_states.shape)}."
            )
        items = list(hidden_states.unbind(1)) if hidden_states.ndim == 6 else [hidden_states]
    else:
        items = list(hidden_states)
    if not items:
        raise InvalidInputError("`hidden_states` holds no item: give at least the target's latents.")
    for item in items:
        if item.ndim != 5 or item.shape[1] != in_channels or item.shape[0] != items[0].shape[0]:
            raise InvalidInputError(
                f"Each item of `hidden_states` must be [{items[0].shape[0]}, {in_channels}, T, H, W]:"
                f" got shape {tuple(item.shape)}."
            )
        if any(size == 0 or size % patch for size, patch in zip(item.shape[2:], patch_size, strict=True)):
            raise InvalidInputError(
                f"Latents (T, H, W) must be multiples of the patch {patch_size}: got {tuple(item.shape[2:])}."
            )
    if len(items) > 1 and patch_size[0] != 1:
        raise InvalidInputError(f"Several items need a patch of one frame: got `patch_size`={patch_size}.")
    return [items[-1], *items[:-1]]


def join_items(items: Sequence[Tensor], like: Items) -> Tensor | list[Tensor]:
    """Return items, given target first, in the layout that the caller's `like` had, target last."""
    ordered = [*items[1:], items[0]]
    if not isinstance(like, Tensor):
        return ordered
    return torch.stack(ordered, dim=1) if like.ndim == 6 else ordered[0]


def item_grid(item: Tensor, patch_size: Grid) -> Grid:
    """Return the size of an item in tokens."""
    t, h, w = (size // patch for size, patch in zip(item.shape[2:], patch_size, strict=True))
    return t, h, w


def patchify(item: Tensor, patch_size: Grid) -> Tensor:
    """Return `[B, C, T, H, W]` as patches `[B, L, C * pt * ph * pw]`, ordered like a Conv3d weight's rows."""
    t, h, w = item_grid(item, patch_size)
    pt, ph, pw = patch_size
    patches = item.reshape(item.shape[0], item.shape[1], t, pt, h, ph, w, pw)
    patches = patches.permute(0, 2, 4, 6, 1, 3, 5, 7)  # [B, t, h, w, C, pt, ph, pw]
    return patches.flatten(4).flatten(1, 3)


def unpatchify(tokens: Tensor, grid: Grid, patch_size: Grid) -> Tensor:
    """Return `[B, L, pt * ph * pw * C]` laid out as `[B, C, T, H, W]`.

    As trained: channels are fastest here and slowest in `patchify`.
    """
    t, h, w = grid
    pt, ph, pw = patch_size
    pixels = tokens.reshape(tokens.shape[0], t, h, w, pt, ph, pw, -1)
    pixels = pixels.permute(0, 7, 1, 4, 2, 5, 3, 6)  # [B, C, t, pt, h, ph, w, pw]
    return pixels.reshape(tokens.shape[0], -1, t * pt, h * ph, w * pw)


@dataclass(frozen=True, kw_only=True)
class PackedText:
    """Text states with the padding that no sample needs taken out.

    Attributes:
        states: `[B, L, D]`.
        mask: `[B, L]` bool, True for real tokens; None where nothing is padded.
    """

    states: Tensor
    mask: Tensor | None

    def token_index(self) -> Tensor:
        """Return each token's place in its own text, padding not counted, `[1 or B, L]`."""
        if self.mask is None:
            return torch.arange(self.states.shape[1], device=self.states.device).unsqueeze(0)
        return (self.mask.cumsum(dim=1) - 1).clamp(min=0)


def pack_text(states: Tensor, mask: Tensor | None = None) -> PackedText:
    """Drop the columns that are padding in every sample, and the mask where nothing padded is left.

    A mask shuts the fast attention kernels out: it survives only where texts of different lengths share a batch.

    Args:
        states: Text states `[B, L, D]`.
        mask: `[B, L]`, bool or number, non-zero for real tokens; None means that all are real.

    Returns:
        The states to attend to.

    Raises:
        InvalidInputError: The mask's shape isn't that of the states.
    """
    if mask is None:
        return PackedText(states=states, mask=None)
    if mask.shape != states.shape[:2]:
        raise InvalidInputError(
            "`encoder_hidden_states_mask` must be [B, L] like `encoder_hidden_states`:"
            f" got {tuple(mask.shape)} for {tuple(states.shape)}."
        )
    mask = mask.to(device=states.device, dtype=torch.bool)
    if bool(mask.all()):
        return PackedText(states=states, mask=None)
    used = mask.any(dim=0)  # [L]
    states, mask = states[:, used], mask[:, used]
    return PackedText(states=states, mask=None if bool(mask.all()) else mask)
