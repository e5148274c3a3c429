"""Move an object into a box, then turn another one and move the camera: the three spatial edits."""

import torch

from joyimage import JoyImageEditPipeline
from joyimage.spatial import View
from joyimage.tiny.examples import load_example

pipe = JoyImageEditPipeline.from_pretrained("tiny")
generator = torch.Generator().manual_seed(0)

# The box is (left, top, right, bottom): pixels, or fractions of the image if no number exceeds 1.
moved = pipe.move(load_example("shapes").image, "black heart", (0.05, 0.7, 0.31, 0.96), generator=generator)
moved.images[0].save("moved.png")
print(moved.prompt)

turned = pipe.rotate(load_example("car").image, "car", View.FRONT_RIGHT, generator=generator)
turned.images[0].save("turned.png")

orbited = pipe.camera(load_example("turntable").image, yaw=90, generator=generator)
orbited.images[0].save("orbited.png")
