"""Follow an edit with a callback: print how far the latents move in each denoising step."""

from typing import Any

import torch

from joyimage import JoyImageEditPipeline
from joyimage.tiny.examples import load_example

pipe = JoyImageEditPipeline.from_pretrained("tiny")
before: list[torch.Tensor] = []


def print_change(_pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Print the mean change of the latents since the last step."""
    latents = tensors["latents"]
    if before:
        change = float((latents - before[-1]).abs().mean())
        print(f"step {step}, timestep {float(timestep):.0f}: changed by {change:.3f}")
    before.append(latents.clone())
    return tensors


output = pipe(
    image=load_example("shapes").image,
    prompt="Remove the purple circle.",
    num_inference_steps=4,
    guidance_scale=1.0,
    generator=torch.Generator().manual_seed(0),
    callback_on_step_end=print_change,
    callback_on_step_end_tensor_inputs=["latents"],
)
output.images[0].save("removed.png")
