"""Try several prompts on one image: a session encodes the image once, so each further edit is faster."""

import torch

from joyimage import JoyImageEditPipeline
from joyimage.tiny.examples import load_example

PROMPTS = ("Recolor the heart orange.", "Remove the purple circle.")

pipe = JoyImageEditPipeline.from_pretrained("tiny")
with pipe.session(load_example("shapes").image) as session:
    for number, prompt in enumerate(PROMPTS):
        output = session(
            prompt,
            num_inference_steps=4,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0),
        )
        output.images[0].save(f"session-{number}.png")
