"""What `make demo` runs: two edits of shipped scenes with the embedded model, and a before/after sheet."""

from __future__ import annotations

import json
import sys
import time
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageDraw

from joyimage.cli.console import fail
from joyimage.cli.pictures import read_picture, write_picture

_EXAMPLES = ("move.png", "recolour.png")
_SCALE = 3


def main(folder: Path = Path("demo-output")) -> int:
    """Edit the scenes, write pictures and sheet into `folder`, print paths and seconds."""
    import torch

    from joyimage.pipeline.edit import JoyImageEditPipeline

    examples_path = Path(str(files("joyimage.tiny") / "examples"))
    prompts = {
        one["file"]: one["prompt"]
        for one in json.loads((examples_path / "examples.json").read_text(encoding="utf-8"))
    }
    folder.mkdir(exist_ok=True)
    pipe = JoyImageEditPipeline.from_pretrained("tiny")
    rows = []
    for name in _EXAMPLES:
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


def draw_sheet(rows: list[tuple[str, Image.Image, Image.Image]]) -> Image.Image:
    """Draw each edit's prompt over its picture before and after."""
    side = 96 * _SCALE
    gap, line = 12, 22
    sheet = Image.new("RGB", (2 * side + 3 * gap, len(rows) * (side + line + gap) + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (prompt, before, after) in enumerate(rows):
        top = gap + number * (side + line + gap)
        pen.text((gap, top), prompt, fill="black")
        for place, picture in enumerate((before, after)):
            scaled = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(scaled, (gap + place * (side + gap), top + line))
    return sheet


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(fail(str(error)))
