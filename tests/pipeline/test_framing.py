"""Identity edits come back in their place: no shift, no loss beyond the model's own resolution."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from joyimage.pipeline.edit import JoyImageEditPipeline
from joyimage.pipeline.edit_mask import edited_mask
from joyimage.pipeline.framing import FramedImage, Framing
from joyimage.pipeline.images import (
    JoyImageEditImageProcessor,
    apply_placement,
    fit_to_size,
    to_images,
    to_pixels,
)
from joyimage.pipeline.region import region_mask
from joyimage.spatial.frame import Placement
from joyimage.tiny.examples import load_example
from joyimage.types import ImageSize
from tests import random_models

SAMPLES_PATH = Path(__file__).parents[3] / "shared" / "data" / "images"
SHAPES = [(333, 200), (200, 333), (400, 100), (100, 400), (33, 17), (96, 96), (1274, 1160)]
FITS = ["crop", "pad", "exact"]


def drawn(width: int, height: int) -> Image.Image:
    return random_models.make_image(3, height, width)


def framed(source: Image.Image, placement: Placement, layer: Image.Image | None = None) -> FramedImage:
    """An image that lies at its target size by a placement."""
    image = apply_placement(source, placement)
    return FramedImage(source=source, layer=layer, placement=placement, image=image)


def psnr(first: Image.Image, second: Image.Image) -> float:
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return 10 * float(np.log10(255**2 / max(1e-9, np.square(difference).mean())))


def ceiling(image: Image.Image, scaled: tuple[int, int]) -> float:
    """Return the best that Pillow's kernels make of an image scaled there and back, in dB.

    50 dB at most: beyond that they differ by roundings.
    """
    small = image.resize(scaled, Image.Resampling.BILINEAR)
    kernels = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
    return min(50.0, max(psnr(small.resize(image.size, kernel), image) for kernel in kernels))


def shift_of(first: Image.Image, second: Image.Image) -> tuple[int, int]:
    """Return the whole-pixel shift that correlates best, by phase correlation."""
    one, other = (np.fft.fft2(np.asarray(image.convert("L"), dtype=np.float64)) for image in (first, second))
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
    image = drawn(*size)
    framing = Framing(fit=fit, restore=True)
    pipe: Any = random_models.make_pipeline()
    pipe.register_to_config(base_size=256)
    target_size = framing.choose_size(pipe.image_processor, [image], None)
    placed = framing.place(image, target_size)
    target, placement = placed.image, placed.placement

    restored, mask = framing.finish(target, framed(image, placement))

    assert mask is None
    assert restored.size == size
    assert shift_of(restored, image) == (0, 0)
    assert psnr(restored, image) > ceiling(image, placement.scaled) - 0.5


@pytest.mark.parametrize("name", ["moving_input.png", "camera_input.png", "plate.jpg", "test_2.jpg"])
@pytest.mark.parametrize("fit", FITS)
def test_identity_edit_when_a_real_image_then_within_a_pixel_and_half_a_decibel(fit: str, name: str) -> None:
    if not SAMPLES_PATH.is_dir():
        pytest.skip("the sample images aren't part of the project")
    image = Image.open(SAMPLES_PATH / name).convert("RGB")
    make = {"crop": Placement.crop, "pad": Placement.pad, "exact": Placement.exact}[fit]
    placement = make(image.size, (1024, 960))

    restored, _ = Framing(restore=True).finish(apply_placement(image, placement), framed(image, placement))

    assert shift_of(restored, image) == (0, 0)
    assert psnr(restored, image) > ceiling(image, placement.scaled) - 0.5


def test_shift_when_there_is_one_then_found() -> None:
    pixels = np.asarray(drawn(200, 120))

    rolled = Image.fromarray(np.roll(pixels, (1, -2), (0, 1)))
    assert shift_of(rolled, Image.fromarray(pixels)) == (1, -2)
    assert best_roll(rolled, Image.fromarray(pixels)) == (1, -2)


def best_roll(first: Image.Image, second: Image.Image) -> tuple[int, int]:
    """Return the roll of `second` by up to 3 pixels that is nearest to `first`."""
    one, other = (np.asarray(image, dtype=np.float64) for image in (first, second))
    rolls = [(down, across) for down in range(-3, 4) for across in range(-3, 4)]
    return min(rolls, key=lambda roll: np.square(one - np.roll(other, roll, (0, 1)))[3:-3, 3:-3].mean())


@pytest.mark.parametrize("fit", FITS)
def test_round_trip_of_the_vae_when_restored_then_in_place_and_as_good_as_at_the_target_size(
    fit: str,
) -> None:
    pipe: Any = JoyImageEditPipeline.from_pretrained("tiny")
    # A scene as this VAE was trained on, scaled to another shape.
    image = load_example("more_shapes").image.resize((333, 200), Image.Resampling.LANCZOS)
    framing = Framing(fit=fit, restore=True)
    placed = framing.place(image, framing.choose_size(pipe.image_processor, [image], None))
    target, placement = placed.image, placed.placement
    with torch.no_grad():
        latents = pipe.vae.encode(to_pixels([target], torch.device("cpu"), torch.float32)).latent_dist.mode()
        pixels = pipe.vae.decode(latents).sample[0, :, 0].clamp(-1, 1)
    result = Image.fromarray(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())

    restored, _ = framing.finish(result, framed(image, placement))

    shown = placement.in_target
    again = apply_placement(restored, placement)
    assert best_roll(restored, image) == (0, 0)
    assert psnr(again.crop(shown), target.crop(shown)) > psnr(result.crop(shown), target.crop(shown)) - 0.5


def test_restore_when_less_than_a_pixel_was_cropped_then_the_result_reaches_the_edge() -> None:
    image = Image.new("RGB", (257, 256), "white")
    framing = Framing(restore=True)
    placed = framing.place(image, ImageSize(256, 256))
    target, placement = placed.image, placed.placement

    restored, _ = framing.finish(Image.new("RGB", target.size), framed(image, placement))

    assert placement.scaled == (257, 256)
    assert not np.asarray(restored).any()


def test_restore_when_a_border_was_cropped_then_it_runs_into_the_result_without_a_step() -> None:
    image = Image.new("RGB", (400, 256), "white")
    framing = Framing(restore=True)
    placed = framing.place(image, ImageSize(256, 256))
    target, placement = placed.image, placed.placement

    restored, _ = framing.finish(Image.new("RGB", target.size, (155,) * 3), framed(image, placement))

    row = np.asarray(restored)[128, :, 0].astype(int)
    assert (row[:72] == 255).all()
    assert (row[328:] == 255).all()
    assert (row[90:310] == 155).all()
    assert np.abs(np.diff(row)).max() <= 25


def test_restore_when_half_transparent_then_looks_the_same_on_white() -> None:
    layer = drawn(256, 256).convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize((256, 256)))
    white = Image.new("RGBA", layer.size, "white")
    flat = Image.alpha_composite(white, layer).convert("RGB")
    placement = Placement.crop(flat.size, flat.size)

    restored, _ = Framing(restore=True).finish(flat, framed(flat, placement, layer))
    kept, _ = Framing(restore=True, preserve=True).finish(flat, framed(flat, placement, layer))

    assert psnr(Image.alpha_composite(white, restored).convert("RGB"), flat) > 55
    assert np.array_equal(np.asarray(kept), np.asarray(layer))


def test_restore_when_the_image_has_a_profile_then_only_one_of_rgb_is_kept() -> None:
    image = drawn(64, 64)
    placement = Placement.crop(image.size, image.size)
    for space, is_kept in ((b"RGB ", True), (b"CMYK", False)):
        image.info = {"icc_profile": bytes(16) + space + bytes(108), "dpi": (72, 72)}

        restored, _ = Framing(restore=True).finish(image, framed(image, placement))

        assert set(restored.info) == ({"icc_profile"} if is_kept else set())


def test_crop_when_laid_then_bitwise_what_the_pipeline_crops() -> None:
    image = drawn(333, 200)

    laid = apply_placement(image, Placement.crop(image.size, (96, 64)))

    assert np.array_equal(np.asarray(laid), np.asarray(fit_to_size(image, ImageSize(96, 64))))


def test_pad_when_laid_then_the_border_is_extended_and_is_cut_off_again() -> None:
    image = drawn(200, 50)
    framing = Framing(fit="pad")

    placed = framing.place(image, ImageSize(96, 96))
    target, placement = placed.image, placed.placement
    pixels = np.asarray(target)
    result, _ = framing.finish(target, framed(image, placement))

    left, top, right, bottom = placement.in_target
    assert target.size == (96, 96)
    assert (pixels[:top] == pixels[top]).all()
    assert (pixels[bottom:] == pixels[bottom - 1]).all()
    assert result.size == (right - left, bottom - top) == (96, 24)


def noisy(image: Image.Image) -> np.ndarray:
    """What a VAE does: a slight shift of all colors, and noise."""
    rng = np.random.default_rng(0)
    noise = rng.normal((3, -2, 4), 4, (*image.size[::-1], 3))
    return np.asarray(image, dtype=np.float64) + noise


def test_preserve_when_a_corner_is_edited_then_the_rest_is_the_source_to_the_bit() -> None:
    image = random_models.make_image(1, 256, 256)
    edited = noisy(image)
    edited[40:90, 30:100] = (250, 30, 200)
    result = Image.fromarray(edited.clip(0, 255).astype(np.uint8))

    framing = Framing(preserve=True)
    kept, mask = framing.finish(result, framed(image, Placement.exact(image.size, image.size)))

    assert mask is not None
    touched = np.asarray(mask)
    source, final = np.asarray(image), np.asarray(kept)
    assert (touched[40:90, 30:100] == 255).mean() > 0.97
    assert (touched == 0).mean() > 0.85
    assert np.array_equal(final[touched == 0], source[touched == 0])
    assert np.abs(final[60, 60].astype(int) - (247, 32, 196)).max() <= 2
    # Seamless: the mask falls from 255 to 0 in steps, not in one.
    assert ((touched > 0) & (touched < 255)).any()


@pytest.mark.parametrize(("step", "is_edit"), [(10, False), (22, True)])
def test_preserve_when_a_patch_changes_faintly_then_an_edit_from_16_of_255_on(
    step: int, is_edit: bool
) -> None:
    image = Image.new("RGB", (160, 128), (120, 130, 140))
    result = np.array(image)
    result[40:80, 60:110] += np.uint8(step)

    mask, _ = edited_mask(Image.fromarray(result), image)

    assert bool(np.asarray(mask)[50:70, 70:100].all()) == is_edit
    assert bool(np.asarray(mask).any()) == is_edit


def test_preserve_when_nothing_was_edited_then_the_source_itself() -> None:
    image = random_models.make_image(1, 256, 256)
    result = Image.fromarray(noisy(image).clip(0, 255).astype(np.uint8))

    mask, corrected = edited_mask(result, image)

    assert not np.asarray(mask).any()
    assert psnr(corrected, image) > psnr(result, image)


EDITS_OF_THE_LIGHT = {
    "night": lambda image: ImageEnhance.Brightness(image).enhance(0.35),
    "brighter": lambda image: image.point(lambda value: min(255, value + 60)),
    "inverted": lambda image: image.point(lambda value: 255 - value),
}


@pytest.mark.parametrize("name", EDITS_OF_THE_LIGHT)
def test_preserve_when_all_of_the_image_was_edited_then_the_edit_is_not_undone(name: str) -> None:
    image = random_models.make_image(1, 256, 256)
    result = EDITS_OF_THE_LIGHT[name](image)

    kept, mask = Framing(preserve=True).finish(result, framed(image, Placement.exact(image.size, image.size)))

    assert mask is not None
    clearly = np.abs(np.asarray(result).astype(int) - np.asarray(image)).max(axis=2) > 40
    assert (np.asarray(mask)[clearly] > 0).mean() > 0.99
    assert psnr(kept, result) > 28
    assert psnr(kept, result) > psnr(kept, image) + 10


def test_preserve_when_most_of_the_image_was_edited_then_the_rest_is_still_the_source() -> None:
    image = random_models.make_image(1, 256, 256)
    edited = noisy(image)
    edited[:, :180] = np.asarray(random_models.make_image(2, 256, 256))[:, :180]
    result = Image.fromarray(edited.clip(0, 255).astype(np.uint8))

    kept, _ = Framing(preserve=True).finish(result, framed(image, Placement.exact(image.size, image.size)))

    assert np.array_equal(np.asarray(kept)[:, 200:], np.asarray(image)[:, 200:])
    assert psnr(kept.crop((0, 0, 170, 256)), result.crop((0, 0, 170, 256))) > 28


@pytest.mark.parametrize("fit", FITS)
def test_preserve_when_nothing_was_edited_and_restored_then_the_image_to_the_bit(fit: str) -> None:
    """Detail that the smaller target can't show is no edit."""
    rng = np.random.default_rng(0)
    detail = rng.normal(0, 25, (480, 700, 3))
    image = Image.fromarray((np.asarray(drawn(700, 480)) + detail).clip(0, 255).astype(np.uint8))
    framing = Framing(fit=fit, restore=True, preserve=True)
    placed = framing.place(image, ImageSize(304, 208))
    target, placement = placed.image, placed.placement
    result = Image.fromarray(noisy(target).clip(0, 255).astype(np.uint8))

    kept, mask = framing.finish(result, framed(image, placement))

    assert mask is not None
    assert not np.asarray(mask).any()
    assert np.array_equal(np.asarray(kept), np.asarray(image))


def test_preserve_when_the_published_move_then_old_and_new_place_and_little_else() -> None:
    if not SAMPLES_PATH.is_dir():
        pytest.skip("the sample images aren't part of the project")
    image = Image.open(SAMPLES_PATH / "moving_input.png").convert("RGB")
    result = Image.open(SAMPLES_PATH / "moving_output.png").convert("RGB")
    framing = Framing(restore=True, preserve=True)
    placement = framing.place(image, ImageSize(1024, 960)).placement

    kept, mask = framing.finish(result, framed(image, placement))

    assert mask is not None
    taken = np.asarray(mask)
    assert (taken[440:600, 640:720] == 255).all()  # where she was
    assert (taken[440:580, 1090:1170] == 255).all()  # where she is
    assert 0.08 < (taken > 0).mean() < 0.2
    assert np.array_equal(np.asarray(kept)[taken == 0], np.asarray(image)[taken == 0])


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("box", [(75, 50, 150, 100), (0, 0, 300, 40), (140, 20, 160, 180)], ids=str)
@pytest.mark.parametrize("target", [(128, 96), (300, 200), (640, 432)], ids=str)
def test_region_when_given_then_nothing_changes_outside(
    target: tuple[int, int], box: tuple[int, int, int, int], restored: bool
) -> None:
    image = drawn(300, 200).point([value // 2 + 60 for value in range(256)] * 3)
    placement = Placement.crop(image.size, target)
    black = Image.new("RGB", target)

    framing = Framing(region=box, restore=restored)
    result, mask = framing.finish(black, framing.place(image, ImageSize(*target)))

    assert mask is not None
    source = image if restored else apply_placement(image, placement)
    changed = (np.asarray(result) != np.asarray(source)).any(axis=2)
    left, top, right, bottom = box if restored else placement.to_target(box)
    row, column = np.mgrid[: changed.shape[0], : changed.shape[1]]
    inside = (column + 1 > left) & (row + 1 > top) & (column < right) & (row < bottom)
    assert not changed[~inside].any()
    assert (np.asarray(mask)[inside] == 255).any()
    assert changed[inside].mean() > 0.4
    assert np.asarray(mask)[inside].min() < 255  # seamless


@pytest.mark.parametrize(
    "region",
    [
        np.array([24.0, 24, 72, 72]),
        torch.tensor([0.25, 0.25, 0.75, 0.75]),
        torch.nn.functional.pad(torch.ones(48, 48), (24, 24, 24, 24)),
        Image.fromarray(np.pad(np.ones((48, 48), np.float32), 24)),
        Image.fromarray(np.pad(np.full((48, 48), 65535, np.uint16), 24)),
    ],
    ids=["array-box", "tensor-box", "tensor-mask", "float-image", "16-bit-image"],
)
def test_region_when_of_any_kind_then_the_same_mask(region: Any) -> None:
    expected = region_mask((24, 24, 72, 72), ImageSize(96, 96))

    assert np.array_equal(np.asarray(region_mask(region, ImageSize(96, 96))), np.asarray(expected))


def test_region_when_a_mask_with_grays_then_taken_as_it_is() -> None:
    image = drawn(96, 96)
    region = Image.linear_gradient("L").resize((96, 96))

    framing = Framing(region=region, restore=True)
    _, mask = framing.finish(image, framing.place(image, ImageSize(96, 96)))

    assert mask is not None
    assert np.array_equal(np.asarray(mask), np.asarray(region))


def test_feather_when_given_then_the_edge_is_that_wide_and_never_outside() -> None:
    image = Image.new("RGB", (400, 400), "white")
    hard = np.zeros((400, 400), dtype=np.uint8)
    hard[100:300, 100:300] = 255

    widths = []
    for feather in (0, 4, 16):
        framing = Framing(region=hard, restore=True, feather=feather)
        _, mask = framing.finish(image, framing.place(image, ImageSize.of(image)))
        soft = np.asarray(mask)
        assert not soft[hard == 0].any()
        widths.append(int((soft[200, 100:200] < 255).sum()))

    assert widths[0] == 0
    assert widths[1] == pytest.approx(4, abs=1)
    assert widths[2] == pytest.approx(16, abs=1)


@pytest.mark.parametrize(
    "box", [(500, 300, 560, 340), (0, 0, 90, 60), (1100, 700, 1200, 800), (0, 390, 1200, 420)], ids=str
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_close_up_when_chosen_then_the_region_fills_the_target_and_nothing_outside_changes(
    box: tuple[int, int, int, int], mode: str
) -> None:
    image = drawn(1200, 800)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    framing = Framing(region=box, restore=True, close_up=True)
    (source,) = to_images(image)
    processor = JoyImageEditImageProcessor(base_size=256)

    size = framing.choose_size(processor, [source], None)
    placed = framing.place(source, size, image)
    black = Image.new("RGB", size.pil)
    result, mask = framing.finish(black, placed)
    same, _ = framing.finish(placed.image, placed)

    across, down = placed.placement.factors
    assert across == pytest.approx(down, rel=0.02)
    whole = max(box[2] - box[0], box[3] - box[1]) > 600
    assert across > (0.2 if whole else 1)  # larger than the whole image would be shown
    assert result.size == image.size
    assert result.mode == image.mode
    changed = (np.asarray(result) != np.asarray(image)).any(axis=2)
    inside = np.zeros_like(changed)
    inside[box[1] : box[3], box[0] : box[2]] = True
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.6
    assert mask is not None
    assert not np.asarray(mask)[~inside].any()
    # What the model returns unchanged stays where it was.
    assert psnr(to_images(same)[0].crop(box), source.crop(box)) > (25 if whole else 30)


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = random_models.make_pipeline()
    pipe.register_to_config(base_size=64)
    return pipe


def run(pipe: Any, **arguments: Any) -> Any:
    settings = {"prompt": "blue", "num_inference_steps": 1, "guidance_scale": 1.0}
    return pipe(**settings, generator=torch.Generator().manual_seed(0), **arguments)


def test_pipeline_when_restored_then_size_and_transparency_of_the_image(pipe: Any) -> None:
    image = drawn(150, 90).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((150, 90)))

    output = run(pipe, image=image, fit="pad", restore=True)

    assert output.images[0].size == (150, 90)
    assert np.array_equal(np.asarray(output.images[0].getchannel("A")), np.asarray(image.getchannel("A")))
    assert (output.width, output.height) == (80, 48)


def test_pipeline_when_exif_says_rotated_then_restored_upright(pipe: Any) -> None:
    stored = drawn(90, 150)
    stored.getexif()[0x0112] = 6

    assert run(pipe, image=stored, restore=True).images[0].size == (150, 90)


def test_pipeline_when_exact_then_own_aspect_ratio(pipe: Any) -> None:
    output = run(pipe, image=drawn(170, 100), fit="exact")

    assert output.images[0].size == (80, 48)


def test_pipeline_when_exact_size_has_another_shape_then_warned_that_it_stretches(pipe: Any) -> None:
    with pytest.warns(UserWarning, match="32 and 112 for an image of 170x100.*stretches"):
        output = run(pipe, image=drawn(170, 100), fit="exact", height=32, width=112)

    assert output.images[0].size == (112, 32)


def test_pipeline_when_exact_size_has_nearly_the_images_shape_then_no_warning(pipe: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(pipe, image=drawn(170, 100), fit="exact", height=64, width=112)


def test_pipeline_when_several_outputs_and_images_then_each_on_its_own(pipe: Any) -> None:
    images = [drawn(150, 90), drawn(300, 180)]
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]

    output = pipe(
        image=images,
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
        ({"region": (0, 0, 900, 20)}, "`region`"),
        ({"close_up": True, "restore": True}, "`close_up` needs a region"),
        ({"feather": 3}, "`feather` needs a region"),
        ({"region": (0, 0, 20, 20), "feather": -1}, "`feather` is -1"),
        ({"region": (0, 0, 20, 20), "close_up": True}, "expected `restore` with it"),
        ({"region": (0, 0, 20, 20), "close_up": "yes"}, "`close_up` is 'yes'"),
        ({"region": (0, 0, 1, 20), "image": drawn(200, 40), "height": 64, "width": 64}, "is cropped"),
        ({"region": Image.new("L", (3, 3))}, "`region`"),
        ({"region": 7}, "`region`"),
        ({"region": np.zeros((2, 2, 2))}, "`region`"),
        ({"fit": "exact", "height": 50, "width": 64}, "`height`"),
        (
            {"fit": "exact", "image": [drawn(64, 64), drawn(150, 90)], "prompt": ["a", "b"]},
            "different shapes",
        ),
    ],
)
def test_framing_when_an_argument_is_wrong_then_rejected(
    pipe: Any, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        pipe(**{"image": drawn(64, 64), "prompt": "blue", **arguments})


@pytest.mark.parametrize("output_type", ["np", "pt", "latent"])
@pytest.mark.parametrize("fit", ["crop", "exact"])
def test_pipeline_when_nothing_is_to_be_finished_then_any_output_type(
    pipe: Any, fit: str, output_type: str
) -> None:
    output = run(pipe, image=drawn(150, 90), fit=fit, output_type=output_type)

    assert len(output.images) == 1
    assert output.masks is None


def test_pipeline_when_interrupted_then_what_is_there_is_finished_as_any_result(pipe: Any) -> None:
    def stop(pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = True
        return tensors

    output = run(pipe, image=drawn(150, 90), restore=True, preserve=True, callback_on_step_end=stop)

    assert output.interrupted
    assert [image.size for image in output.images] == [(150, 90)]
    assert len(output.masks) == 1
