"""Images of every documented kind become upright RGB of the chosen size."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.joyimage.image_processor import JoyImageEditImageProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from joyimage.pipeline.images import JoyImageEditImageProcessor as OurProcessor
from joyimage.pipeline.images import fit_to_size, to_images, to_pixels
from joyimage.types import ImageSize
from tests import random_models

IMAGE = random_models.make_image(0, 48, 80)
PIXELS = np.asarray(IMAGE)
GRAY = IMAGE.convert("L")
TENSOR = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)
WIDE_GRAY = Image.fromarray(np.asarray(GRAY).astype(np.uint16) * 257)


def rotated() -> Image.Image:
    """`IMAGE` as a camera held sideways stores it."""
    stored = IMAGE.transpose(Image.Transpose.ROTATE_90)
    stored.getexif()[0x0112] = 6  # to be turned clockwise for showing
    return stored


@pytest.mark.parametrize(
    ("given_image", "expected"),
    [
        pytest.param(IMAGE, IMAGE, id="RGB"),
        pytest.param(IMAGE.convert("RGBA"), IMAGE, id="RGBA"),
        pytest.param(GRAY, GRAY.convert("RGB"), id="L"),
        pytest.param(GRAY.convert("LA"), GRAY.convert("RGB"), id="LA"),
        pytest.param(WIDE_GRAY, GRAY.convert("RGB"), id="16-bit"),
        pytest.param(WIDE_GRAY.convert("I"), GRAY.convert("RGB"), id="32-bit with 16-bit values"),
        pytest.param(rotated(), IMAGE, id="EXIF rotation"),
        pytest.param(PIXELS, IMAGE, id="array"),
        pytest.param(np.asarray(GRAY), GRAY.convert("RGB"), id="gray array"),
        pytest.param(np.asarray(GRAY)[:, :, None], GRAY.convert("RGB"), id="array of one channel"),
        pytest.param(PIXELS.astype(np.uint16) * 257, IMAGE, id="16-bit array"),
        pytest.param((PIXELS / 255).astype(np.float32), IMAGE, id="float array"),
        pytest.param(TENSOR, IMAGE, id="tensor"),
        pytest.param(TENSOR / 255, IMAGE, id="float tensor"),
        pytest.param((TENSOR / 255).to(torch.float64), IMAGE, id="double tensor"),
    ],
)
def test_to_images_when_one_of_any_kind_then_upright_rgb(given_image: Any, expected: Image.Image) -> None:
    (image,) = to_images(given_image)

    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_to_images_when_16_bit_image_is_dark_then_stays_dark() -> None:
    dark = Image.fromarray(np.full((32, 32), 200, dtype=np.uint16))

    (image,) = to_images(dark)

    assert np.asarray(image).max() == 1


def test_to_images_when_palette_then_its_colors() -> None:
    (image,) = to_images(IMAGE.quantize(16))

    assert np.array_equal(np.asarray(image), np.asarray(IMAGE.quantize(16).convert("RGB")))


def test_to_images_when_transparent_then_on_white() -> None:
    layer = IMAGE.convert("RGBA")
    layer.putalpha(0)

    (image,) = to_images(layer)

    assert np.asarray(image).min() == 255


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param([IMAGE, PIXELS, TENSOR], id="list of several kinds"),
        pytest.param(np.stack([PIXELS] * 3), id="array"),
        pytest.param(torch.stack([TENSOR] * 3), id="tensor"),
    ],
)
def test_to_images_when_batch_then_each(batch: Any) -> None:
    images = to_images(batch)

    assert len(images) == 3
    for image in images:
        assert np.array_equal(np.asarray(image), PIXELS)


def _cut_short() -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:6000]))


def _closed() -> Image.Image:
    image = Image.new("RGB", (8, 8))
    image.close()
    return image


@pytest.mark.parametrize(
    ("given_image", "error"),
    [
        pytest.param(_cut_short(), ValueError, id="cut short, not yet decoded"),
        pytest.param(_closed(), ValueError, id="closed"),
        pytest.param("image.png", TypeError, id="path"),
        pytest.param(3, TypeError, id="number"),
        pytest.param([], ValueError, id="empty list"),
        pytest.param(PIXELS.astype(np.float32), ValueError, id="floats up to 255"),
        pytest.param(PIXELS / 255 * 2 - 1, ValueError, id="floats below 0"),
        pytest.param(np.full((32, 32, 3), np.nan), ValueError, id="not a number"),
        pytest.param(PIXELS.astype(np.int64), ValueError, id="64-bit integers"),
        pytest.param(PIXELS[:, :, :2], ValueError, id="two channels"),
        pytest.param(np.zeros((0, 32, 3), dtype=np.uint8), ValueError, id="no pixels"),
        pytest.param(torch.zeros(32, 32), ValueError, id="tensor without channels"),
    ],
)
def test_to_images_when_it_is_none_then_rejected_by_name(given_image: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="`image`"):
        to_images(given_image)


def test_to_images_when_the_channels_of_a_tensor_are_last_then_its_own_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"tensor of shape \[96, 80, 3\]; expected \[C, H, W\]"):
        to_images(torch.zeros(96, 80, 3))


@settings(max_examples=40, deadline=None)
@given(side=st.integers(16, 400), other=st.integers(16, 400))
def test_fit_to_size_when_any_image_then_as_diffusers(side: int, other: int) -> None:
    image = IMAGE.resize((side, other))

    fitted = fit_to_size(image, ImageSize(160, 96))

    expected = JoyImageEditImageProcessor().resize_center_crop(image, (96, 160))
    assert np.array_equal(np.asarray(fitted), np.asarray(expected))


def test_to_pixels_when_rgb_then_minus_one_to_one() -> None:
    black_and_white = [Image.new("RGB", (32, 16), "black"), Image.new("RGB", (32, 16), "white")]

    pixels = to_pixels(black_and_white, torch.device("cpu"), torch.float32)

    assert pixels.shape == (2, 3, 1, 16, 32)
    assert pixels[0].unique().tolist() == [-1]
    assert pixels[1].unique().tolist() == [1]


def test_choose_size_when_nothing_given_then_square() -> None:
    assert OurProcessor(base_size=512).choose_size() == ImageSize(512, 512)


def test_choose_size_when_size_given_then_images_do_not_matter() -> None:
    images = [IMAGE, GRAY.rotate(90, expand=True)]

    assert OurProcessor(base_size=256).choose_size(images, ImageSize(200, 300)) == ImageSize(208, 304)


def test_choose_size_when_images_need_unlike_sizes_then_rejected() -> None:
    with pytest.raises(ValueError, match="`image` holds images of different shapes"):
        OurProcessor(base_size=256).choose_size([IMAGE, IMAGE.rotate(90, expand=True)])


@pytest.mark.parametrize("height", [None, 64])
def test_preprocess_when_an_image_is_given_then_pixels_of_its_bucket_or_of_the_request(
    height: int | None,
) -> None:
    processor = OurProcessor(base_size=64)
    image = random_models.make_image(0, 64, 96)

    pixels = processor.preprocess(image, height, height)

    assert pixels.shape == (1, 3, *((64, 64) if height else (48, 80)))
    assert pixels.min() >= -1
    assert pixels.max() <= 1
