"""What an editor knows about a loaded pipeline: its class, its arguments, its output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from PIL import Image
from typing import assert_type

from joyimage import JoyImageEditPipeline, JoyImageEditPipelineOutput, JoyImageEditPlusPipeline
from joyimage.loading import load_pipeline

pipe = JoyImageEditPipeline.from_pretrained("tiny")
assert_type(pipe, JoyImageEditPipeline)
assert_type(JoyImageEditPlusPipeline.from_pretrained("tiny"), JoyImageEditPlusPipeline)
moved = pipe.move(Image.new("RGB", (96, 96)), "heart", [0.1, 0.1, 0.4, 0.4])
assert_type(moved, JoyImageEditPipelineOutput)
assert_type(moved.images, list[Image.Image])
assert_type(moved.height, int | None)
assert_type(moved.prompt, str | None)
assert_type(load_pipeline("tiny").pipe, JoyImageEditPipeline | JoyImageEditPlusPipeline)
"""

MISTAKES = {
    'pipe(prompt="x", num_inference_step=4)': "num_inference_step",
    "pipe.rotate(image)": "object",
    'load_pipeline("tiny", devise="cpu")': "devise",
    'pipe.move(image, "heart", [0, 0, 1, 1]).image': "image",
}


def check_types(program: str, folder: Path) -> list[tuple[int, str]]:
    """Return line and message of each error that basedpyright finds in a program of a user."""
    path = folder / "program.py"
    path.write_text(program, encoding="utf-8")
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "standard", "extraPaths": [str(Path(__file__).parents[1] / "src")]}),
        encoding="utf-8",
    )
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "basedpyright",
            "--pythonpath",
            sys.executable,
            "--project",
            str(folder),
            "--outputjson",
            str(path),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    found = json.loads(run.stdout)["generalDiagnostics"]
    return [(one["range"]["start"]["line"], one["message"]) for one in found if one["severity"] == "error"]


def test_types_when_a_user_writes_a_program_then_pipeline_and_output_are_known_and_mistakes_are_found(
    tmp_path: Path,
) -> None:
    program = PROGRAM + 'image = Image.new("RGB", (96, 96))\n'
    first = program.count("\n")

    found = check_types(program + "\n".join(MISTAKES) + "\n", tmp_path)

    assert [message for line, message in found if line < first] == []
    for number, (statement, word) in enumerate(MISTAKES.items()):
        assert any(line == first + number and word in message for line, message in found), statement
