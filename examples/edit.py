"""Edit one image with a prompt."""

import torch

from joyimage import JoyImageEditPipeline
from joyimage.tiny.examples import load_example

# A folder or hub id of the published model works in place of "tiny"; leave out steps and guidance then.
pipe = JoyImageEditPipeline.from_pretrained("tiny")

image = load_example("shapes").image  # or Image.open("photo.jpg")
output = pipe(
    image=image,
    prompt="Recolor the heart orange.",
    num_inference_steps=4,
    guidance_scale=1.0,
    generator=torch.Generator().manual_seed(0),
)
output.images[0].save("recolored.png")
