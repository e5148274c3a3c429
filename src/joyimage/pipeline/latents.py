"""Starting noise, posterior draws, the normalization of latents, and references that share a forward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from diffusers.utils import torch_utils

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    from torch import Tensor

Generators: TypeAlias = torch.Generator | list[torch.Generator] | None


@dataclass(frozen=True, kw_only=True)
class References:
    """References of the outputs that can share a forward of the transformer.

    Attributes:
        rows: Indices of the outputs, `[outputs of the group]`, on the device of the latents.
        items: Clean latents of each reference, `[outputs of the group, C, 1, H, W]`; sizes may differ.
    """

    rows: Tensor
    items: list[Tensor]

    def to(self, dtype: torch.dtype) -> References:
        """Return the references with their latents in another dtype."""
        return replace(self, items=[item.to(dtype) for item in self.items])


def group_references(references: Iterable[Iterable[Tensor]], device: torch.device) -> list[References]:
    """Group outputs whose references agree in number and sizes.

    Args:
        references: For each output the latents `[C, 1, H, W]` of its references; a tensor `[B, N, C, 1, H, W]` too.
        device: Device of the latents.

    Returns:
        One group per combination of sizes; together they hold every output once.
    """
    by_output = [list(items) for items in references]
    groups: dict[tuple[torch.Size, ...], list[int]] = {}
    for output, items in enumerate(by_output):
        groups.setdefault(tuple(item.shape for item in items), []).append(output)
    return [
        References(
            rows=torch.tensor(outputs, device=device),
            items=[torch.stack(item) for item in zip(*(by_output[i] for i in outputs), strict=True)],
        )
        for outputs in groups.values()
    ]


def split_outputs(groups: Iterable[References]) -> list[References]:
    """Return one group per output, in the order of the groups."""
    return [
        References(rows=group.rows[i : i + 1], items=[item[i : i + 1] for item in group.items])
        for group in groups
        for i in range(len(group.rows))
    ]


def select_outputs(groups: Iterable[References], rows: Sequence[int]) -> list[References]:
    """Return the groups of some outputs, which are counted anew in the order of `rows`."""
    by_output = {
        int(output): [item[place] for item in group.items]
        for group in groups
        for place, output in enumerate(group.rows)
    }
    device = next(iter(groups)).rows.device
    return group_references([by_output[row] for row in rows], device)


def draw_noise(
    shape: tuple[int, ...], generator: Generators, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Draw the target's starting noise.

    Args:
        shape: `[B, 1, C, T, H, W]` or `[B, C, T, H, W]`.
        generator: One for all outputs, one each, or None for the global one.
        device: Device of the noise.
        dtype: Precision of the noise.

    Raises:
        InvalidInputError: The list of generators has another length than the batch.
    """
    if isinstance(generator, list) and len(generator) != shape[0]:
        raise InvalidInputError(
            f"`generator` is a list of {len(generator)}; expected {shape[0]}, one per output."
        )
    draw = cast("Any", torch_utils).randn_tensor
    return draw(shape, generator=generator, device=device, dtype=dtype)


def draw_posterior(
    posteriors: Sequence[DiagonalGaussianDistribution], generator: Generators, how: str = "sample"
) -> Tensor:
    """Draw the latents of one image per output.

    Args:
        posteriors: For each output the VAE's posterior of its image.
        generator: One for all outputs, one each, or None for the global one.
        how: "sample" or "mode".

    Returns:
        Raw latents, `[B, C, 1, H/8, W/8]`.
    """
    draws: list[Tensor] = []
    for output, posterior in enumerate(posteriors):
        own = generator[output] if isinstance(generator, list) else generator
        draws.append(posterior.mode() if how == "mode" else posterior.sample(own))
    return torch.cat(draws)


def resolve_dtype(dtype: str | torch.dtype | None, default: torch.dtype) -> torch.dtype:
    """Return the precision of the latents between steps.

    Args:
        dtype: A floating dtype or its name; None takes `default`.
        default: Precision of the embeddings.

    Raises:
        InvalidInputError: `dtype` is not a floating dtype.
    """
    if dtype is None:
        return default
    resolved: Any = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    is_usable = isinstance(resolved, torch.dtype) and resolved.is_floating_point
    if not is_usable or torch.finfo(resolved).bits < 16:  # nothing is computed in fp8
        raise InvalidInputError(
            f"`latents_dtype` is {dtype!r}; expected a floating dtype of 16 bits or more, such as 'float32'."
        )
    return resolved


def statistics(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, `[1, C, 1, 1, 1]`, device and dtype of `like`."""
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(vae.config["latents_mean"]).view(shape).to(like.device, like.dtype)
    std = torch.tensor(vae.config["latents_std"]).view(shape).to(like.device, like.dtype)
    return mean, std
