"""Edit several images in one call: each result equals that of a call of its own with the same seed."""

import torch

from joyimage import JoyImageEditPipeline
from joyimage.tiny.examples import load_example

EDITS = {
    "recolored.png": ("shapes", "Recolor the heart orange."),
    "removed.png": ("more_shapes", "Remove the black cross."),
    "added.png": ("shapes", "Add an orange cross on the right."),
}

pipe = JoyImageEditPipeline.from_pretrained("tiny")
output = pipe(
    image=[load_example(name).image for name, _ in EDITS.values()],
    prompt=[prompt for _, prompt in EDITS.values()],
    num_inference_steps=4,
    guidance_scale=1.0,
    # One generator per image, so that the order and the size of the batch do not matter.
    generator=[torch.Generator().manual_seed(seed) for seed in range(len(EDITS))],
)
for path, image in zip(EDITS, output.images, strict=True):
    image.save(path)
