"""The last step: latents of the target to images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from joyimage.errors import InvalidResultError
from joyimage.pipeline.vae import decode_frame

if TYPE_CHECKING:
    from torch import Tensor

    from joyimage.pipeline.base import JoyImagePipeline


def decode_target(
    pipe: JoyImagePipeline, target: Tensor, output_type: str, *, enable_denormalization: bool
) -> Any:
    """Decode the target.

    Args:
        pipe: Holds the VAE and the image processor.
        target: Latents, `[B, 1, C, 1, H, W]`.
        output_type: "pil", "np", "pt" or "latent".
        enable_denormalization: Whether the latents were normalized with the VAE's statistics.

    Returns:
        PIL images, an array `[B, H, W, 3]` in [0, 1], a tensor `[B, 3, H, W]` in [0, 1], or latents
        `[B, C, H, W]` in float32.

    Raises:
        InvalidResultError: A latent or a pixel is not finite.
    """
    latents = target[:, 0]
    check_finite(latents, "latents")
    if output_type == "latent":
        return latents.squeeze(2).float()
    if enable_denormalization:
        latents = pipe.denormalize_latents(latents)
    pixels = decode_frame(pipe.vae, latents.to(next(pipe.vae.parameters()).dtype))
    check_finite(pixels, "pixels")
    return pipe.image_processor.postprocess(pixels[:, :, 0].float(), output_type=output_type)


def check_finite(values: Tensor, what: str) -> None:
    """Reject a result that is not an image.

    Args:
        values: Latents or pixels.
        what: Name of the values, for the error's message.

    Raises:
        InvalidResultError: A value is not finite.
    """
    if values.is_meta:  # shapes only: there is nothing to check
        return
    if not bool(torch.isfinite(values).all()):
        raise InvalidResultError(
            f"The model produced {what} that are not finite, so there is no image. In float16 or with an adapter at a "
            "large scale values overflow: use bfloat16 or float32, or a smaller scale."
        )
