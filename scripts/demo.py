"""What `make demo` runs: two edits of shipped scenes with the embedded model, and a before/after sheet."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from joyimage.cli.console import fail
from joyimage.cli.pictures import read_picture, write_picture

EXAMPLES = ("move.png", "recolor.png")
_SCALE = 3


def main(folder: Path = Path("demo-output"), examples: tuple[str, ...] = EXAMPLES) -> int:
    """Edit the scenes, write images and sheet into `folder`, print paths and seconds."""
    import torch

    from joyimage.loading import load_pipeline

    examples_path = Path(str(files("joyimage.tiny") / "examples"))
    prompts = {
        one["file"]: one["prompt"]
        for one in json.loads((examples_path / "examples.json").read_text(encoding="utf-8"))
    }
    folder.mkdir(parents=True, exist_ok=True)
    pipe = load_pipeline("tiny", device="cpu").pipe
    rows = []
    for name in examples:
        before = read_picture(examples_path / name)
        started = time.perf_counter()
        after = pipe(
            image=before,
            prompt=prompts[name],
            num_inference_steps=pipe.config.default_num_inference_steps,
            guidance_scale=pipe.config.default_guidance_scale,
            generator=torch.Generator().manual_seed(0),
        ).images[0]
        seconds = time.perf_counter() - started
        write_picture(before, folder / f"before-{name}")
        write_picture(after, folder / f"after-{name}")
        print(f"{folder / f'after-{name}'}  {seconds:.2f} s  {prompts[name]}")
        rows.append((prompts[name], before, after))
    write_picture(draw_sheet(rows), folder / "sheet.png")
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
        sys.exit(main(*map(Path, sys.argv[1:2]), examples=tuple(sys.argv[2:]) or EXAMPLES))
    except (ValueError, OSError) as error:
        sys.exit(fail(str(error)))
