"""What the network sees of a pair: images at trained sizes, framed as the pipeline frames them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from joyimage.errors import InvalidInputError
from joyimage.pipeline.images import JoyImageEditImageProcessor, fit_to_size
from joyimage.spatial.frame import Placement
from joyimage.spatial.move import draw_red_box
from joyimage.training.data.alignment import find_shift, shift_image

if TYPE_CHECKING:
    from PIL import Image

    from joyimage.training.data.examples import Example

# Aspect ratios of a pair's images that differ by more than this show different parts of the scene.
_SAME_SHAPE = 1.03


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What has to be known of a checkpoint before its weights are loaded.

    Attributes:
        model: Name of the checkpoint.
        takes_several: Whether one edit takes several references.
        base_size: Side of its square size in pixels.
    """

    model: str
    takes_several: bool
    base_size: int


@dataclass(frozen=True, kw_only=True)
class FramedExample:
    """A pair at the sizes that the network sees.

    Attributes:
        example: The pair as it was found.
        references: Images before the edit, with the red box of a move.
        target: Image after the edit.
        notes: What a user should know, such as a shift between the images.
    """

    example: Example
    references: tuple[Image.Image, ...]
    target: Image.Image
    notes: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each reference and of the target, which comes last."""
        return tuple(image.size for image in (*self.references, self.target))


def frame_example(example: Example, checkpoint: Checkpoint, *, align: bool = False) -> FramedExample:
    """Bring a pair to the sizes at which the pipeline would edit its references.

    Args:
        example: The pair.
        checkpoint: The checkpoint that is trained.
        align: Whether a shift between reference and target is taken out.

    Raises:
        ImageError: An image cannot be read.
        InvalidInputError: The checkpoint does not take so many references, or a box does not lie in the image.
    """
    processor = JoyImageEditImageProcessor(base_size=checkpoint.base_size)
    if len(example.references) > 1 and not checkpoint.takes_several:
        raise InvalidInputError(
            f"{example.name} has {len(example.references)} references; {checkpoint.model} takes one. Train an "
            "Edit-Plus checkpoint, or leave references out."
        )
    originals = [source.open() for source in example.references]
    target = example.target.open()
    sizes = [processor.choose_size([image]) for image in originals]
    references = [fit_to_size(image, size) for image, size in zip(originals, sizes, strict=True)]
    framed = fit_to_size(target, sizes[-1] if sizes else processor.choose_size([target]))
    notes: list[str] = []
    if originals:
        before, after = (image.width / image.height for image in (originals[-1], target))
        if not 1 / _SAME_SHAPE < before / after < _SAME_SHAPE:
            notes.append(
                f"reference {originals[-1].width}x{originals[-1].height} and target {target.width}x{target.height} "
                "have unlike shapes: the network sees another part of the target"
            )
        framed, shift_note = _aligned(references[-1], framed, align=align)
        notes += shift_note
    if example.box is not None:
        placement = Placement.crop(originals[0].size, references[0].size)
        left, top, right, bottom = (round(side) for side in placement.to_target(example.box))
        references[0] = draw_red_box(references[0], (left, top, right, bottom))
    return FramedExample(example=example, references=tuple(references), target=framed, notes=tuple(notes))


def _aligned(reference: Image.Image, target: Image.Image, *, align: bool) -> tuple[Image.Image, list[str]]:
    """Return the target, moved onto its reference if that is wanted, and a note where the two are shifted."""
    if reference.size != target.size:
        return target, []
    shift = find_shift(np.asarray(reference.convert("L")), np.asarray(target.convert("L")))
    if shift is None:
        return target, []
    across, down = shift
    if align:
        return shift_image(target, -across, -down), [f"target moved back by {across},{down} pixels"]
    return target, [f"target shifted by {across},{down} pixels against its reference (--align corrects it)"]
