"""Identity edits come back in their place: no shift, no loss beyond the model's own resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from joyimage.pipeline.framing import Framing, edited_mask, lay, restore
from joyimage.pipeline.images import fit_to_size
from joyimage.spatial.frame import Placement
from tests import tiny

SAMPLES_PATH = Path(__file__).parents[3] / "shared" / "data" / "images"
SHAPES = [(333, 200), (200, 333), (400, 100), (100, 400), (33, 17), (96, 96), (1274, 1160)]
FITS = ["crop", "pad", "exact"]


def drawn(width: int, height: int) -> Image.Image:
    return tiny.make_picture(3, height, width)


def psnr(first: Image.Image, second: Image.Image) -> float:
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return 10 * float(np.log10(255**2 / max(1e-9, np.square(difference).mean())))


def shift_of(first: Image.Image, second: Image.Image) -> tuple[int, int]:
    """Return the whole-pixel shift that correlates best, by phase correlation."""
    one, other = (
        np.fft.fft2(np.asarray(picture.convert("L"), dtype=np.float64)) for picture in (first, second)
    )
    cross = one * np.conj(other)
    peak = np.fft.ifft2(cross / np.maximum(np.abs(cross), 1e-9)).real
    row, column = np.unravel_index(np.argmax(peak), peak.shape)
    height, width = peak.shape
    return (int(row + height // 2) % height - height // 2, int(column + width // 2) % width - width // 2)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_identity_edit_when_restored_then_within_a_pixel_and_half_a_decibel(
    fit: str, size: tuple[int, int]
) -> None:
    picture = drawn(*size)
    framing = Framing(fit=fit, restore=True)
    pipe: Any = tiny.make_pipeline()
    pipe.register_to_config(base_size=256)
    canvas_size = framing.choose_size(pipe.image_processor, [picture], None, None)
    canvas, placement = framing.place(picture, canvas_size)

    restored, mask = framing.finish(canvas, picture, placement)

    # What scaling to the canvas and back loses anyway, with nothing but the library's own resize.
    ceiling = picture.resize(placement.scaled, Image.Resampling.BILINEAR).resize(
        size, Image.Resampling.BICUBIC
    )
    assert mask is None
    assert restored.size == size
    assert shift_of(restored, picture) == (0, 0)
    assert psnr(restored, picture) > psnr(ceiling, picture) - 0.5


@pytest.mark.parametrize("name", ["moving_input.png", "camera_input.png", "plate.jpg", "test_2.jpg"])
@pytest.mark.parametrize("fit", FITS)
def test_identity_edit_when_a_real_picture_then_within_a_pixel_and_half_a_decibel(
    fit: str, name: str
) -> None:
    if not SAMPLES_PATH.is_dir():
        pytest.skip("the sample pictures aren't part of the project")
    picture = Image.open(SAMPLES_PATH / name).convert("RGB")
    make = {"crop": Placement.crop, "pad": Placement.pad, "exact": Placement.exact}[fit]
    placement = make(picture.size, (1024, 960))

    restored = restore(lay(picture, placement), picture, placement)

    ceiling = picture.resize(placement.scaled, Image.Resampling.BILINEAR).resize(
        picture.size, Image.Resampling.BICUBIC
    )
    assert shift_of(restored, picture) == (0, 0)
    assert psnr(restored, picture) > psnr(ceiling, picture) - 0.5


def test_crop_when_laid_then_bitwise_what_the_pipeline_crops() -> None:
    picture = drawn(333, 200)

    laid = lay(picture, Placement.crop(picture.size, (96, 64)))

    assert np.array_equal(np.asarray(laid), np.asarray(fit_to_size(picture, 64, 96)))


def test_pad_when_laid_then_the_border_goes_on_and_is_cut_off_again() -> None:
    picture = drawn(200, 50)
    framing = Framing(fit="pad")

    canvas, placement = framing.place(picture, (96, 96))
    pixels = np.asarray(canvas)
    result, _ = framing.finish(canvas, picture, placement)

    left, top, right, bottom = placement.on_canvas
    assert canvas.size == (96, 96)
    assert (pixels[:top] == pixels[top]).all()
    assert (pixels[bottom:] == pixels[bottom - 1]).all()
    assert result.size == (right - left, bottom - top) == (96, 24)


def noisy(picture: Image.Image) -> np.ndarray:
    """What a VAE does: a slight shift of all colours, and noise."""
    rng = np.random.default_rng(0)
    noise = rng.normal((3, -2, 4), 4, (*picture.size[::-1], 3))
    return np.asarray(picture, dtype=np.float64) + noise


def test_preserve_when_a_corner_is_edited_then_the_rest_is_the_source_to_the_bit() -> None:
    picture = tiny.make_picture(1, 256, 256)
    edited = noisy(picture)
    edited[40:90, 30:100] = (250, 30, 200)
    result = Image.fromarray(edited.clip(0, 255).astype(np.uint8))

    framing = Framing(preserve=True)
    kept, mask = framing.finish(result, picture, Placement.exact(picture.size, picture.size))

    assert mask is not None
    touched = np.asarray(mask)
    source, final = np.asarray(picture), np.asarray(kept)
    assert (touched[40:90, 30:100] == 255).mean() > 0.97
    assert (touched == 0).mean() > 0.85
    assert np.array_equal(final[touched == 0], source[touched == 0])
    assert np.abs(final[60, 60].astype(int) - (247, 32, 196)).max() <= 2
    # Seamless: the mask falls from 255 to 0 in steps, not in one.
    assert ((touched > 0) & (touched < 255)).any()


def test_preserve_when_nothing_was_edited_then_the_source_itself() -> None:
    picture = tiny.make_picture(1, 256, 256)
    result = Image.fromarray(noisy(picture).clip(0, 255).astype(np.uint8))

    mask, corrected = edited_mask(result, picture)

    assert not np.asarray(mask).any()
    assert psnr(corrected, picture) > psnr(result, picture)


@pytest.mark.parametrize("restored", [False, True])
def test_region_when_given_then_nothing_changes_outside(restored: bool) -> None:
    picture = drawn(300, 200)
    placement = Placement.crop(picture.size, (128, 96))
    black = Image.new("RGB", (128, 96))

    result, mask = Framing(region=(0.25, 0.25, 0.5, 0.5), restore=restored).finish(black, picture, placement)

    assert mask is not None
    source = picture if restored else lay(picture, placement)
    untouched = np.asarray(mask) == 0
    assert 0.8 < untouched.mean() < 0.97
    assert np.array_equal(np.asarray(result)[untouched], np.asarray(source)[untouched])
    assert (np.asarray(result)[np.asarray(mask) == 255] == 0).all()


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = tiny.make_pipeline()
    pipe.register_to_config(base_size=64)
    return pipe


def run(pipe: Any, **arguments: Any) -> Any:
    settings = {"prompt": "blue", "num_inference_steps": 1, "guidance_scale": 1.0}
    return pipe(**settings, generator=torch.Generator().manual_seed(0), **arguments)


def test_pipeline_when_restored_then_size_and_transparency_of_the_picture(pipe: Any) -> None:
    picture = drawn(150, 90).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((150, 90)))

    output = run(pipe, image=picture, fit="pad", restore=True)

    assert output.images[0].size == (150, 90)
    assert np.array_equal(np.asarray(output.images[0].getchannel("A")), np.asarray(picture.getchannel("A")))
    assert (output.width, output.height) == (80, 48)


def test_pipeline_when_exif_says_rotated_then_restored_upright(pipe: Any) -> None:
    stored = drawn(90, 150)
    stored.getexif()[0x0112] = 6

    assert run(pipe, image=stored, restore=True).images[0].size == (150, 90)


def test_pipeline_when_exact_then_own_aspect_ratio(pipe: Any) -> None:
    output = run(pipe, image=drawn(170, 100), fit="exact")

    assert output.images[0].size == (80, 48)
    assert run(pipe, image=drawn(170, 100), fit="exact", height=32, width=112).images[0].size == (112, 32)


def test_pipeline_when_several_outputs_and_pictures_then_each_on_its_own(pipe: Any) -> None:
    pictures = [drawn(150, 90), drawn(300, 180)]
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]

    output = pipe(
        image=pictures,
        prompt=["blue", "red"],
        num_images_per_prompt=2,
        num_inference_steps=1,
        generator=generators,
        restore=True,
        preserve=True,
    )

    assert [image.size for image in output.images] == [(150, 90), (150, 90), (300, 180), (300, 180)]
    assert [mask.size for mask in output.masks] == [image.size for image in output.images]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"fit": "stretch"}, "`fit`"),
        ({"restore": 1}, "`restore`"),
        ({"restore": True, "image": None}, "need an image"),
        ({"preserve": True, "output_type": "np"}, "`output_type`"),
        ({"region": (0, 0, 900, 20)}, "`box`"),
        ({"region": Image.new("L", (3, 3))}, "`region`"),
        ({"region": 7}, "`region`"),
        ({"region": np.zeros((2, 2, 2))}, "`region`"),
        ({"fit": "exact", "height": 50, "width": 64}, "`height`"),
        ({"fit": "exact", "image": [drawn(64, 64), drawn(150, 90)], "prompt": ["a", "b"]}, "unlike shape"),
    ],
)
def test_framing_when_an_argument_is_wrong_then_refused(
    pipe: Any, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        pipe(**{"image": drawn(64, 64), "prompt": "blue", **arguments})
