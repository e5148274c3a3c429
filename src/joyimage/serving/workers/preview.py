"""What a half-made image looks like.

Two ways: a linear map from latents to colors, which costs next to nothing, and the VAE's own decode, for
which the edit has to wait and which is therefore done only as often as it hardly counts.
"""

from __future__ import annotations

import io
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from joyimage.pipeline.images import to_pixels
from joyimage.pipeline.vae import decode_frame, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

logger = logging.getLogger(__name__)

Kind = Literal["latent", "decoded"]
SHARE = 0.05
"""Most of an edit's time that decoded previews may take."""

_SAMPLE_PX = 128
_PATCHES = 8  # colors along a side of the sample
_SAMPLES = 4


@dataclass(frozen=True)
class Preview:
    """What an image may become.

    Attributes:
        file: WebP.
        kind: "latent", blurred and of rough colors, or "decoded", as it would look.
    """

    file: bytes = field(repr=False)
    kind: Kind


class Previewer:
    """Draws the previews of one pipeline.

    Args:
        pipe: The pipeline.
        longest_px: Longest side of a preview from latents; of a decoded one, twice that.
        mode: "auto" decodes where that takes less than `SHARE` of the time since the last decoded one,
            "latent" never, "decoded" at every step.
    """

    def __init__(self, pipe: Any, longest_px: int = 256, mode: str = "auto") -> None:
        self._pipe = pipe
        self._longest_px = longest_px
        self._mode = mode
        self._colors = LatentPreview(pipe, longest_px)
        self._seconds_per_pixel: float | None = None  # of a decode; None before the first

    def begin(self, shown: Sequence[bool], steps: int, *, may_decode: bool) -> PassPreviews:
        """Return the previews of one batch.

        Args:
            shown: For each task of the batch, whether it has previews.
            steps: Number of denoising steps.
            may_decode: Whether there is enough memory to decode previews.
        """
        return PassPreviews(self, shown, steps, may_decode=may_decode)

    def is_worth_decoding(self, num_pixels: int, since_s: float) -> bool:
        """Tell whether to decode now.

        Args:
            num_pixels: Pixels of all images that would be decoded.
            since_s: Seconds since that was done last, or since the pass began.
        """
        if self._mode != "auto":
            return self._mode == "decoded"
        return self._seconds_per_pixel is not None and self._seconds_per_pixel * num_pixels < SHARE * since_s

    def record_decode(self, num_pixels: int, seconds: float) -> None:
        """Learn from a decode what the next one will take."""
        self._seconds_per_pixel = seconds / num_pixels

    def color(self, latents: Tensor) -> Preview:
        """Draw latents `[C, H, W]`."""
        return Preview(_write(self._colors.draw(latents)), "latent")

    def decode(self, latents: Tensor) -> np.ndarray | None:
        """Decode latents `[B, C, H, W]` to small 8-bit images `[B, h, w, 3]`; None without the memory."""
        started = time.perf_counter()
        try:
            pixels = self._decode_small(latents)
        except torch.OutOfMemoryError:
            logger.warning(
                "There is no memory for decoded previews; from now on they are drawn from latents."
            )
            self._mode = "latent"
            torch.cuda.empty_cache()
            return None
        scale = self._pipe.vae_scale_factor_spatial
        num_pixels = len(latents) * latents.shape[2] * latents.shape[3] * scale**2
        self.record_decode(num_pixels, time.perf_counter() - started)
        return pixels

    @torch.no_grad()
    def _decode_small(self, latents: Tensor) -> np.ndarray:
        pipe = self._pipe
        raw = pipe.denormalize_latents(latents.unsqueeze(2))
        pixels = decode_frame(pipe.vae, raw.to(next(pipe.vae.parameters()).dtype))[:, :, 0].float()
        scale = min(1.0, 2 * self._longest_px / max(pixels.shape[2:]))
        size = [max(1, round(side * scale)) for side in pixels.shape[2:]]
        small = torch.nn.functional.interpolate(pixels, size=size, mode="area")
        return ((small + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


class PassPreviews:
    """The previews of one batch, step by step.

    Args:
        previewer: Previewer that draws them.
        shown: For each task of the batch, whether it has previews.
        steps: Number of denoising steps.
        may_decode: Whether there is enough memory to decode previews.
    """

    def __init__(self, previewer: Previewer, shown: Sequence[bool], steps: int, *, may_decode: bool) -> None:
        self._previewer = previewer
        self._shown = shown
        self._steps = steps
        self._may_decode = may_decode
        self._guesses = StepPreview()
        self._decoded_at = time.perf_counter()
        self._denoised_at = self._decoded_at
        self._num_pixels = 0

    def after_step(self, pipe: Any, step: int, latents: Tensor) -> list[Callable[[], Preview] | None]:
        """Take what has to be taken between two steps, and return what draws the previews any time later.

        Args:
            pipe: The pipeline.
            step: From 0.
            latents: As callbacks have them.

        Returns:
            Of each task, what draws the preview of its first output; None where there is none.
        """
        # Edit shows references and target on the second axis, Edit-Plus the target alone.
        target = latents[:, -1, :, 0] if latents.ndim == 6 else latents[:, :, 0]
        nothing: list[Callable[[], Preview] | None] = [None] * len(self._shown)
        if step + 1 == self._steps:
            self._num_pixels = (
                len(target) * target.shape[2] * target.shape[3] * pipe.vae_scale_factor_spatial**2
            )
            target.flatten()[0].item()  # waits for the device, so that what follows is the decode alone
            self._denoised_at = time.perf_counter()
            return nothing
        if not any(self._shown):
            return nothing
        guess = self._guesses.guess(target.float(), pipe.scheduler.sigmas, step)
        firsts = guess[:: len(guess) // len(self._shown)]
        small = firsts.cpu()
        images = self._decode(firsts, pipe) if self._may_decode else None
        draw: list[Callable[[], Preview]] = (
            [partial(self._previewer.color, one) for one in small]
            if images is None
            else [partial(_write_decoded, one) for one in images]
        )
        return [one if is_shown else None for one, is_shown in zip(draw, self._shown, strict=True)]

    def end(self) -> None:
        """Say that the pass's own decode is done; what it took tells what a preview's would take."""
        if self._num_pixels:
            self._previewer.record_decode(self._num_pixels, time.perf_counter() - self._denoised_at)

    def _decode(self, latents: Tensor, pipe: Any) -> np.ndarray | None:
        num_pixels = len(latents) * latents.shape[2] * latents.shape[3] * pipe.vae_scale_factor_spatial**2
        if not self._previewer.is_worth_decoding(num_pixels, time.perf_counter() - self._decoded_at):
            return None
        images = self._previewer.decode(latents)
        self._decoded_at = time.perf_counter()
        return images


class LatentPreview:
    """Draw latents as small images.

    The map is fitted to the VAE that is there: a few images of random colors are encoded, and least
    squares finds how the latents of a place go with its color. It suits any VAE, and nothing is shipped.

    Args:
        pipe: The pipeline.
        longest_px: Longest side of a preview.
    """

    def __init__(self, pipe: Any, longest_px: int = 256) -> None:
        self._longest_px = longest_px
        self._weights = _fit(pipe)

    def draw(self, latents: Tensor) -> Image.Image:
        """Draw standardized latents `[C, H, W]`, one pixel per latent and then enlarged.

        Returns:
            The preview, RGB.
        """
        channels, height, width = latents.shape
        columns = latents.detach().float().cpu().reshape(channels, -1).T.numpy()
        colors = _with_constant(columns) @ self._weights
        pixels = ((colors + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        image = Image.fromarray(pixels.reshape(height, width, 3))
        scale = self._longest_px / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return image.resize(size, Image.Resampling.BICUBIC)


class StepPreview:
    """Guess from the latents between steps where they are heading.

    Between two steps the latents went along the velocity; continuing along it to noise level 0 gives the
    image that the model is heading for. After the first step only the latents themselves are known.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def guess(self, latents: Tensor, sigmas: Tensor, step: int) -> Tensor:
        """Return the guess; shape of `latents`, which are those after `step`."""
        last, self._last = self._last, latents
        # Where candidates were dropped, or another attempt has begun, the last latents are those of other images.
        if last is None or step == 0 or last.shape != latents.shape:
            return latents
        before, after = float(sigmas[step]), float(sigmas[step + 1])
        velocity = (latents - last) / (after - before)
        return latents - after * velocity


def _write_decoded(pixels: np.ndarray) -> Preview:
    return Preview(_write(Image.fromarray(pixels)), "decoded")


def _write(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=70, method=0)
    return file.getvalue()


@torch.no_grad()
def _fit(pipe: Any) -> np.ndarray:
    """Return the weights, `[C + 1, 3]`; the last row is the constant."""
    rng = np.random.default_rng(0)
    patches = [rng.integers(0, 256, (_PATCHES, _PATCHES, 3), dtype=np.uint8) for _ in range(_SAMPLES)]
    images = [
        Image.fromarray(patch).resize((_SAMPLE_PX, _SAMPLE_PX), Image.Resampling.BICUBIC) for patch in patches
    ]
    parameter = next(pipe.vae.parameters())
    latents, colors = [], []
    for image in images:
        pixels = to_pixels([image], parameter.device, parameter.dtype)
        encoded = pipe.normalize_latents(encode_frame(pipe.vae, pixels).mode())[0, :, 0]
        latents.append(encoded.float().cpu().flatten(1).T.numpy())
        small = image.resize((encoded.shape[2], encoded.shape[1]), Image.Resampling.BOX)
        colors.append(np.asarray(small, dtype=np.float32).reshape(-1, 3) / 127.5 - 1)
    weights, *_ = np.linalg.lstsq(_with_constant(np.concatenate(latents)), np.concatenate(colors), rcond=None)
    return weights


def _with_constant(columns: np.ndarray) -> np.ndarray:
    return np.concatenate([columns, np.ones((len(columns), 1), columns.dtype)], axis=1)
