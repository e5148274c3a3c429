"""The parts that several kinds of edits share: how an image is sampled, and how an input image is framed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joyimage.edits.compound_forms import Region, Size, Texts
from joyimage.edits.fields import own_settings, setting
from joyimage.edits.forms import Choice, Flag, Integer, Number, Text
from joyimage.spatial.frame import FITS

if TYPE_CHECKING:
    from joyimage.types import ImageSize

SPEEDS = ("exact", "balanced", "fast", "turbo")
"""Speed presets; what each leaves out is in `joyimage.acceleration.presets`."""

USUAL_ATTEMPTS = 4
"""Attempts where only the verdict to reach is given."""

LARGEST_SEED = 2**53 - 1
"""JSON numbers are exact up to here in every language."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Default settings of a checkpoint.

    Attributes:
        num_inference_steps: Number of denoising steps.
        guidance_scale: Classifier-free guidance scale.
        speed: Speed preset: "turbo" with a turbo adapter.
    """

    num_inference_steps: int = 40
    guidance_scale: float = 4.0
    speed: str = "exact"


def unused_negative_prompt(guidance_scale: float) -> str:
    """Return what is to be said of a negative prompt where there is no guidance."""
    return (
        f"`negative_prompt` has no effect: `guidance_scale` is {guidance_scale:g}, and guidance is off at 1 and"
        " below."
    )


@dataclass(frozen=True, kw_only=True)
class CheckedFields:
    """Checks its fields when it is built."""

    def __post_init__(self) -> None:
        """Check every field that is given, and store its canonical value.

        Raises:
            FieldError: A field has a value that is not accepted.
        """
        for name, one in own_settings(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, one.check(name, value))


@dataclass(frozen=True, kw_only=True)
class Sampling(CheckedFields):
    """How an image is sampled; fields of every edit that makes images."""

    num_inference_steps: int | None = setting(
        Integer(1, 1000),
        "Number of denoising steps: more take longer and refine more. Default: the checkpoint's own (published: "
        "40, tiny: 4).",
        aliases=("steps",),
        flag="--steps",
    )
    guidance_scale: float | None = setting(
        Number(0, 100),
        "Classifier-free guidance scale: higher follows the prompt more closely; 1 or less turns guidance "
        "off and halves the time. Default: the checkpoint's own (published: 4.0, tiny: 1.0).",
        aliases=("guidance", "true_cfg_scale"),
        flag="--guidance",
    )
    negative_prompt: str | None = setting(
        Text(may_be_blank=True),
        "What to avoid in the image. Needs guidance above 1.",
        aliases=("negative",),
        flag="--negative",
    )
    seed: int | None = setting(
        Integer(0, LARGEST_SEED),
        "Random seed; the same seed gives the same image. Default: random, and printed.",
        group="Output",
    )
    num_images: int | None = setting(
        Integer(1, 1000),
        "Number of images to make, with consecutive seeds. Default: 1.",
        aliases=("n", "num", "num_outputs", "num_images_per_prompt"),
        flag="--num",
        group="Output",
    )
    num_candidates: int | None = setting(
        Integer(1, 64),
        "Number of candidates with consecutive seeds, of which the best is kept; the worse half is dropped early. "
        "Default: 1.",
        aliases=("candidates",),
        flag="--candidates",
        group="Output",
    )
    until: float | None = setting(
        Number(0, 1),
        "Try again until the verdict, from 0 to 1, is at least this. Default: one attempt; 0.8 if a number of "
        "attempts is given.",
        group="Output",
    )
    max_attempts: int | None = setting(
        Integer(1, 64),
        "Maximum number of attempts to reach the requested verdict. Default: 4.",
        group="Output",
    )
    judge: bool | None = setting(
        Flag(),
        "Judge whether the edit was made and everything else is unchanged, by the model and by pixels. Default: no.",
        group="Output",
    )
    size: ImageSize | None = setting(
        Size(),
        "Requested size in pixels, WIDTHxHEIGHT; the nearest size that the model was trained at is used. "
        "Default: the one nearest to the image.",
        group="Output",
    )
    speed: str | None = setting(
        Choice(SPEEDS),
        '"exact" computes every step; "balanced" and "fast" reuse results of earlier steps, at a stated price; '
        '"turbo" takes few steps and needs a turbo adapter. Default: exact.',
        group="Model",
    )
    loras: tuple[str, ...] | None = setting(
        Texts(),
        "LoRA adapter with an optional scale, PATH[:SCALE]. With a server, the name of one that it offers.",
        aliases=("lora",),
        flag="--lora",
        group="Model",
    )

    @property
    def chooses(self) -> bool:
        """Whether the best of several candidates or attempts is kept."""
        return (self.num_candidates or 1) > 1 or self.until is not None or self.max_attempts is not None

    @property
    def most_candidates(self) -> int:
        """Maximum number of candidates that may be made."""
        has_attempts = self.until is not None or self.max_attempts is not None
        return (self.num_candidates or 1) * ((self.max_attempts or USUAL_ATTEMPTS) if has_attempts else 1)


@dataclass(frozen=True, kw_only=True)
class Framing(CheckedFields):
    """How an input image is resized for the model, and which of its pixels are kept."""

    fit: str | None = setting(
        Choice(FITS),
        '"crop" to a trained size, "pad" to one and cut the padding off the result, or "exact": keep the '
        "aspect ratio, sides rounded to 16 pixels. Default: crop.",
        group="Image",
    )
    restore: bool | None = setting(
        Flag(),
        "Map the result back onto the input at its own size. Default: no.",
        group="Image",
    )
    preserve: bool | None = setting(
        Flag(),
        "Keep the input's own pixels where the edit changed nothing. Default: no.",
        group="Image",
    )
    region: tuple[float, ...] | str | None = setting(
        Region(),
        "Change nothing outside LEFT,TOP,RIGHT,BOTTOM (pixels, or fractions of the sides), or outside the "
        "white of a mask file.",
        group="Image",
    )
    feather: float | None = setting(
        Number(0, 10_000),
        "Width in pixels of the image over which the edge of the region is blended inward. Default: 12 per 1024 "
        "pixels of the longer side.",
        group="Image",
    )


SAMPLING_DEFAULTS: dict[str, Any] = {"num_images": 1}
FRAMING_DEFAULTS: dict[str, Any] = {"fit": "crop", "restore": False, "preserve": False}
