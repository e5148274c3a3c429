"""What a half-made picture looks like: a linear map from latents to colours, which costs next to nothing."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from joyimage.pipeline.images import to_pixels
from joyimage.pipeline.vae import encode_frame

if TYPE_CHECKING:
    from torch import Tensor

_SAMPLE_PX = 128
_PATCHES = 8  # colours along a side of the sample
_SAMPLES = 4


class LatentPreview:
    """Draw latents as small pictures.

    The map is fitted to the VAE that is there: a few pictures of random colours are encoded, and least
    squares finds how the latents of a place go with its colour. It suits any VAE, and nothing is shipped.

    Args:
        pipe: The pipeline.
        longest_px: Longest side of a preview.
    """

    def __init__(self, pipe: Any, longest_px: int = 256) -> None:
        self._longest_px = longest_px
        self._weights = _fit(pipe)

    def draw(self, latents: Tensor) -> Image.Image:
        """Draw standardised latents `[C, H, W]`, one pixel per latent and then enlarged.

        Returns:
            The preview, RGB.
        """
        channels, height, width = latents.shape
        columns = latents.detach().float().cpu().reshape(channels, -1).T.numpy()
        colours = _with_constant(columns) @ self._weights
        pixels = ((colours + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(pixels.reshape(height, width, 3))
        scale = self._longest_px / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return picture.resize(size, Image.Resampling.BICUBIC)

    def encode(self, latents: Tensor) -> bytes:
        """Draw latents as a WebP file."""
        file = io.BytesIO()
        self.draw(latents).save(file, "WEBP", quality=70, method=0)
        return file.getvalue()


class StepPreview:
    """Guess from the latents between steps where they are heading.

    Between two steps the latents went along the velocity; going on along it to noise level 0 gives the
    picture that the model has in mind. After the first step only the latents themselves are known.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def guess(self, latents: Tensor, sigmas: Tensor, step: int) -> Tensor:
        """Return the guess; shape of `latents`, which are those after `step`."""
        last, self._last = self._last, latents
        if last is None:
            return latents
        before, after = float(sigmas[step]), float(sigmas[step + 1])
        velocity = (latents - last) / (after - before)
        return latents - after * velocity


@torch.no_grad()
def _fit(pipe: Any) -> np.ndarray:
    """Return the weights, `[C + 1, 3]`; the last row is the constant."""
    rng = np.random.default_rng(0)
    patches = [rng.integers(0, 256, (_PATCHES, _PATCHES, 3), dtype=np.uint8) for _ in range(_SAMPLES)]
    pictures = [
        Image.fromarray(patch).resize((_SAMPLE_PX, _SAMPLE_PX), Image.Resampling.BICUBIC) for patch in patches
    ]
    parameter = next(pipe.vae.parameters())
    latents, colours = [], []
    for picture in pictures:
        pixels = to_pixels([picture], parameter.device, parameter.dtype)
        encoded = pipe.normalize_latents(encode_frame(pipe.vae, pixels).mode())[0, :, 0]
        latents.append(encoded.float().cpu().flatten(1).T.numpy())
        small = picture.resize((encoded.shape[2], encoded.shape[1]), Image.Resampling.BOX)
        colours.append(np.asarray(small, dtype=np.float32).reshape(-1, 3) / 127.5 - 1)
    weights, *_ = np.linalg.lstsq(
        _with_constant(np.concatenate(latents)), np.concatenate(colours), rcond=None
    )
    return weights


def _with_constant(columns: np.ndarray) -> np.ndarray:
    return np.concatenate([columns, np.ones((len(columns), 1), columns.dtype)], axis=1)
