"""Streamed blocks on a GPU give the image of a resident model, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from joyimage.acceleration import report
from joyimage.loading import load_pipeline

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.gpu

IMAGE = Image.effect_noise((64, 64), 90).convert("RGB")


def edit(pipe: Any) -> torch.Tensor:
    return pipe(
        image=IMAGE,
        prompt="Make the car red",
        num_inference_steps=3,
        guidance_scale=3.0,
        output_type="pt",
        generator=torch.Generator().manual_seed(1),
    ).images.cpu()


@pytest.mark.parametrize("offload", ["block", "disk"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_when_streamed_to_the_gpu_then_same_image_bit_for_bit(
    checkpoint: Path, offload: str, dtype: str
) -> None:
    expected = edit(load_pipeline(checkpoint, device="cuda", dtype=dtype).pipe)

    pipe = load_pipeline(checkpoint, device="cuda", dtype=dtype, offload=offload).pipe

    assert report(pipe).offload == offload
    assert torch.equal(edit(pipe), expected)
