"""Draw the example images of the package again, from the seeds of their scenes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image

from joyimage.spatial import draw_red_box
from joyimage.tiny.worlds.drawing import BACKGROUNDS
from joyimage.tiny.worlds.scenes import generate
from joyimage.tiny.worlds.truth import FlatScene, Scene, TurntableScene, VehicleScene, scene_to_dict

_FOLDER = Path("src/joyimage/tiny/examples")
_SIZE = 96
_MOVE_BOX = (4, 67, 30, 92)
_MOVE = "Move the black heart into the red box and finally remove the red box."
# Every command succeeded, by the exact scores, with each of the seeds 0 to 7.
_COMMANDS = {
    "shapes": (
        'joyimage edit shapes.png "Recolor the heart orange." -o recolored.png',
        'joyimage edit shapes.png "Remove the purple circle." -o removed.png',
        'joyimage edit shapes.png "Replace the green star with a blue triangle." -o replaced.png',
        'joyimage edit shapes.png "Add an orange cross on the right." -o added.png',
        'joyimage move shapes.png "black heart" 4,67,30,92 -o moved.png',
    ),
    "more_shapes": (
        'joyimage edit more_shapes.png "Recolor the heart orange." -o more_recolored.png',
        'joyimage edit more_shapes.png "Remove the black cross." -o more_removed.png',
        'joyimage move more_shapes.png "green heart" 8,58,34,84 -o more_moved.png',
    ),
    "red_box": (f'joyimage edit red_box.png "{_MOVE}" -o by_prompt.png',),
    "car": (
        "joyimage rotate car.png car front-right -o front_right.png",
        "joyimage rotate car.png car left -o left.png",
    ),
    "turntable": (
        "joyimage camera turntable.png --yaw 90 -o yaw.png",
        "joyimage camera turntable.png --pitch 15 -o pitch.png",
        "joyimage camera turntable.png --zoom in -o zoom.png",
    ),
}
_BATCH = (
    {"image": "shapes.png", "prompt": "Recolor the heart orange."},
    {"image": "more_shapes.png", "prompt": "Remove the black cross."},
    {"image": "shapes.png", "object": "black heart", "box": list(_MOVE_BOX)},
    {"image": "car.png", "object": "car", "view": "left"},
    {"image": "turntable.png", "yaw": 90},
)


def draw_scenes() -> dict[str, Scene]:
    """Return the scenes of the examples by name; none of them is drawn by training."""
    shapes, more = generate("move", 1_900_000_000, _SIZE), generate("recolor", 1_900_000_001, _SIZE)
    car, table = generate("rotate", 1_900_000_000, _SIZE), generate("camera", 1_900_000_007, _SIZE)
    assert car.vehicle is not None
    assert car.views is not None
    assert table.turntable is not None
    assert table.poses is not None
    backgrounds = {rgb: name for name, rgb in BACKGROUNDS.items()}
    flat = [
        FlatScene(objects=case.before, background=backgrounds[case.background], size=_SIZE)
        for case in (shapes, more)
        if case.background is not None
    ]
    return {
        "shapes": flat[0],
        "more_shapes": flat[1],
        "red_box": flat[0],
        "car": VehicleScene(vehicle=car.vehicle, view=car.views[0], size=_SIZE),
        "turntable": TurntableScene(turntable=table.turntable, pose=table.poses[0], size=_SIZE),
    }


def main(folder: Path = _FOLDER) -> int:
    """Write every image, its description and the batch."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in draw_scenes().items():
        image, box = Image.fromarray(scene.render()), None
        if name == "red_box":
            image, box = draw_red_box(image, _MOVE_BOX), _MOVE_BOX
        image.save(folder / f"{name}.png", optimize=True)
        description = {"scene": scene_to_dict(scene), "box": box, "commands": _COMMANDS[name]}
        text = json.dumps(description, indent=2) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    rows = "".join(json.dumps(row) + "\n" for row in _BATCH)
    (folder / "edits.jsonl").write_text(rows, encoding="utf-8")
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
