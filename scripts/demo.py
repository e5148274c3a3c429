"""What `make demo` runs: scored edits of example images with the embedded model, and a before/after sheet."""

from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from joyimage.cli.console import fail
from joyimage.errors import JoyImageError
from joyimage.imaging import write_image
from joyimage.spatial import CameraMove, ObjectMove, ObjectRotation
from joyimage.tiny.examples import load_example
from joyimage.tiny.worlds.instructions import expected_edit
from joyimage.tiny.worlds.scores import score

PROMPTS = {
    "shapes": "Recolor the heart orange.",
    "red_box": ObjectMove("black heart", None).prompt,
    "car": ObjectRotation("car", "left").prompt,
    "turntable": CameraMove(yaw=-45).prompt,
}
_SCALE = 2


def main(arguments: list[str]) -> int:
    """Edit the example images, write images and a sheet, print paths, seconds and verdicts.

    Args:
        arguments: Folder to write to, `demo-output` without; then names of examples, all without.
    """
    import torch

    from joyimage.loading import load_pipeline

    folder = Path(arguments[0] if arguments else "demo-output")
    names = arguments[1:] or list(PROMPTS)
    folder.mkdir(parents=True, exist_ok=True)
    pipe = load_pipeline("tiny", device="cpu").pipe
    rows = []
    for name in names:
        example, prompt = load_example(name), PROMPTS[name]
        started = time.perf_counter()
        after = pipe(
            image=example.image,
            prompt=prompt,
            num_inference_steps=pipe.config.default_num_inference_steps,
            guidance_scale=pipe.config.default_guidance_scale,
            generator=torch.Generator().manual_seed(0),
        ).images[0]
        seconds = time.perf_counter() - started
        faults = score(expected_edit(example.scene, prompt, example.box), after).faults
        write_image(example.image, folder / f"before-{name}.png")
        write_image(after, folder / f"after-{name}.png")
        verdict = f"not as requested: {', '.join(faults)}" if faults else "as requested"
        print(f"{folder / f'after-{name}.png'}  {seconds:.2f} s  {verdict}  {prompt.splitlines()[0]}")
        rows.append((prompt, example.image, after))
    write_image(draw_sheet(rows), folder / "sheet.png")
    print(folder / "sheet.png")
    return 0


def draw_sheet(edits: list[tuple[str, Image.Image, Image.Image]]) -> Image.Image:
    """Draw a column for each edit: its prompt, the image before, the image after."""
    side, gap, line = 96 * _SCALE, 12, 16
    texts = [
        [part for row in prompt.splitlines() for part in textwrap.wrap(row, side // 6)]
        for prompt, *_ in edits
    ]
    head = gap + line * max(map(len, texts))
    sheet = Image.new("RGB", (len(edits) * (side + gap) + gap, head + 2 * (side + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (text, (_, *images)) in enumerate(zip(texts, edits, strict=True)):
        left = gap + number * (side + gap)
        pen.multiline_text((left, gap // 2), "\n".join(text), fill="black", font=ImageFont.load_default(12))
        for row, image in enumerate(images):
            scaled = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(scaled, (left, head + row * (side + gap)))
    return sheet


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (JoyImageError, OSError) as error:
        sys.exit(fail(str(error)))
