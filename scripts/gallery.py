"""What `make gallery` runs: edits of scenes that the embedded model never saw, as a page of the docs."""

from __future__ import annotations

import sys
from pathlib import Path

from joyimage.cli.console import fail
from joyimage.errors import JoyImageError
from joyimage.imaging import write_image, write_text
from joyimage.tiny.worlds.scenes import EVALUATION_SEEDS_START, TASKS, generate
from joyimage.tiny.worlds.scores import score
from scripts.demo import draw_sheet

_COLUMNS = 5


def main(folder: Path = Path("docs/gallery")) -> int:
    """Edit the first scenes of the evaluation, not cherry-picked, and write a sheet per task and index.md."""
    import torch

    from joyimage.loading import load_pipeline

    folder.mkdir(parents=True, exist_ok=True)
    pipe = load_pipeline("tiny", device="cpu").pipe
    pipe.set_progress_bar_config(disable=True)
    page = [
        "# Gallery",
        "",
        "The first scenes of the evaluation, not cherry-picked, edited by the embedded model at its default settings:"
        " inputs above, results below. `make gallery` draws this page.",
    ]
    for task in TASKS:
        edits, done = [], 0
        for number in range(_COLUMNS):
            seed = EVALUATION_SEEDS_START + number
            case = generate(task, seed, pipe.config.base_size)
            after = pipe(
                image=case.source_image,
                prompt=case.prompt,
                num_inference_steps=pipe.config.default_num_inference_steps,
                guidance_scale=pipe.config.default_guidance_scale,
                generator=torch.Generator().manual_seed(seed),
            ).images[0]
            done += score(case, after).done
            blank = case.target_image.point(lambda _: 255)
            edits.append((case.prompt, case.source_image or blank, after))
        write_image(draw_sheet(edits), folder / f"{task}.png")
        title = task.capitalize()
        page += ["", f"## {title}", "", f"{done} of {_COLUMNS} done.", "", f"![{title}]({task}.png)"]
    write_text(folder / "index.md", "\n".join(page) + "\n")
    print(folder / "index.md")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*map(Path, sys.argv[1:2])))
    except (JoyImageError, OSError) as error:
        sys.exit(fail(str(error)))
