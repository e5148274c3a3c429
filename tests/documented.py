"""Score what documented commands and snippets make, by the truth of the example images that they work on."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from joyimage.edits import Camera, Rotate, from_dict
from joyimage.spatial import CameraMove, ObjectMove, ObjectRotation, resolve_box
from joyimage.tiny.examples import NAMES, load_example, read_example
from joyimage.tiny.worlds.drawing import BACKGROUNDS
from joyimage.tiny.worlds.instructions import expected_edit, expected_generation
from joyimage.tiny.worlds.scores import score
from joyimage.tiny.worlds.truth import FlatScene, Scene, TurntableScene, VehicleScene
from joyimage.understanding import intent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from joyimage.tiny.worlds.drawing import PixelBox
    from joyimage.tiny.worlds.scenes import EditCase

EDITING_COMMANDS = ("edit", "move", "rotate", "camera", "generate", "batch")
# Options that take no value; every other one takes the word behind it.
_FLAGS = {
    "--restore",
    "--preserve",
    "--json",
    "--metadata",
    "--ray",
    "--overwrite",
    "--debug",
    "--judge",
    "--literal",
}
_BACKGROUND_NAMES = {rgb: name for name, rgb in BACKGROUNDS.items()}


@dataclass(frozen=True)
class Command:
    """A command line, taken apart without the help of the product.

    Attributes:
        name: The subcommand.
        positional: Words that belong to no option.
        options: Values by the option's name without dashes; "" for flags.
    """

    name: str
    positional: tuple[str, ...]
    options: dict[str, str]

    @classmethod
    def from_words(cls, words: list[str]) -> Command:
        """Take `joyimage NAME ...` apart."""
        positional, options = [], {}
        rest = iter(words[2:])
        for word in rest:
            if not re.match(r"--?[a-z]", word):
                positional.append(word)
                continue
            name, _, value = word.partition("=")
            is_flag = name in _FLAGS or name.startswith("--no-")
            options[name.lstrip("-")] = value or ("" if is_flag else next(rest))
        if "o" in options:
            options["output"] = options.pop("o")
        return cls(words[1], tuple(positional), options)


class Scorer:
    """Knows what images show, and asserts that edits of them did what was asked.

    Attributes:
        scored: What was scored, in order.
    """

    def __init__(self) -> None:
        self.scored: list[str] = []
        self._known: list[tuple[tuple[int, int], bytes, Scene, PixelBox | None]] = []

    def learn_examples(self, folder: Path) -> None:
        """Learn the images that have a description beside them."""
        for path in folder.glob("*.png"):
            if path.with_suffix(".json").exists():
                example = read_example(path.with_suffix(".json"))
                self._learn(example.image, example.scene, example.box)

    def learn_shipped(self) -> None:
        """Learn the images inside the package."""
        for name in NAMES:
            example = load_example(name)
            self._learn(example.image, example.scene, example.box)

    def check(
        self, source: Image.Image | None, prompt: str, result: Image.Image, box: PixelBox | None = None
    ) -> None:
        """Assert that `result` is what `prompt` asks for.

        Args:
            source: The image that was edited; None for text-to-image.
            prompt: The instruction.
            result: The edited image.
            box: Red box of a move; None if the image shows it or there is none.
        """
        if source is None:
            case = expected_generation(prompt, result.width)
        else:
            scene, own_box = self._find(source)
            case = expected_edit(scene, prompt, box or own_box)
        verdict = score(case, result)
        assert verdict.done, f"{prompt}: {', '.join(verdict.faults)}"
        self.scored.append(prompt)
        self._learn(result, _scene_after(case), None)

    def check_command(self, command: Command) -> None:
        """Assert that the files that a command wrote are what it was asked for."""
        if command.name == "batch":
            self._check_batch(command)
            return
        output = Path(command.options["output"])
        num = int(command.options.get("num", 1))
        outputs = [output] if num == 1 else [output.with_stem(f"{output.stem}-{n + 1}") for n in range(num)]
        for path in outputs:
            with Image.open(path) as result:
                self.check(*self._request(command), result=result.convert("RGB"), **self._box(command))

    @contextlib.contextmanager
    def watching(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Score every edit that Python code makes with a pipeline or a client inside of this block."""
        from joyimage.client import Client
        from joyimage.pipeline.edit import JoyImageEditPipeline

        with monkeypatch.context() as patch:
            for name in ("move", "rotate", "camera", "__call__"):
                method = getattr(JoyImageEditPipeline, name)
                patch.setattr(JoyImageEditPipeline, name, self._scored_method(name, method))
            patch.setattr(Client, "edit", self._scored_client_edit(Client.edit))
            patch.setattr(Client, "plan", self._scored_client_plan(Client.plan))
            with contextlib.suppress(ImportError):
                from openai.resources.images import Images

                patch.setattr(Images, "edit", self._scored_openai_edit(Images.edit))
            yield

    def _learn(self, image: Image.Image, scene: Scene | None, box: PixelBox | None) -> None:
        if scene is not None:
            rgb = image.convert("RGB")
            self._known.append((rgb.size, rgb.tobytes(), scene, box))

    def _find(self, image: Image.Image) -> tuple[Scene, PixelBox | None]:
        rgb = image.convert("RGB")
        for size, pixels, scene, box in self._known:
            if size == rgb.size and pixels == rgb.tobytes():
                return scene, box
        raise AssertionError(f"no truth is known for an image of {rgb.size}: take one of the examples")

    def _request(self, command: Command) -> tuple[Image.Image | None, str]:
        if command.name == "generate":
            return None, command.positional[0]
        source = _open(Path(command.positional[0]))
        if command.name == "edit":
            if "like" in command.options:
                from joyimage.imaging import read_record

                return source, (read_record(Path(command.options["like"])) or {})["prompt"]
            return source, _in_template(command.positional[1])
        if command.name == "move":
            return source, ObjectMove(command.positional[1], None).prompt
        if command.name == "rotate":
            return source, ObjectRotation(command.positional[1], command.positional[2]).prompt
        angles = {name: float(command.options[name]) for name in ("yaw", "pitch") if name in command.options}
        return source, CameraMove(**angles, zoom=command.options.get("zoom", "unchanged")).prompt

    def _box(self, command: Command) -> dict[str, Any]:
        if command.name != "move":
            return {}
        numbers = [float(number) for number in command.positional[2].split(",")]
        form = command.options.get("box-form", "xyxy")
        return {"box": resolve_box(numbers, _open(Path(command.positional[0])).size, form)}

    def _check_batch(self, command: Command) -> None:
        source, output = Path(command.positional[0]), Path(command.options["output"])
        if source.is_dir():
            entries: list[dict[str, Any]] = [{"image": path.name} for path in sorted(source.glob("*.png"))]
        else:
            entries = [json.loads(line) for line in source.read_text("utf-8").splitlines()]
        folder = source if source.is_dir() else source.parent
        report = [json.loads(line) for line in (output / "report.jsonl").read_text("utf-8").splitlines()]
        assert len(report) == len(entries) > 0
        for line, entry in zip(report, entries, strict=True):
            image = _open(folder / entry["image"])
            prompt = entry.get("prompt") or (command.positional[1] if len(command.positional) > 1 else None)
            box = resolve_box(entry["box"], image.size) if "box" in entry else None
            if "view" in entry:
                prompt = ObjectRotation(entry["object"], entry["view"]).prompt
            elif "object" in entry:
                prompt = ObjectMove(entry["object"], None).prompt
            elif prompt is None:
                prompt = CameraMove(
                    **{k: v for k, v in entry.items() if k in {"yaw", "pitch", "zoom"}}
                ).prompt
            self.check(image, prompt, _open(Path(line["output"])), box)

    def _scored_method(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(pipe: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_inside:
                return method(pipe, *args, **kwargs)
            self._is_inside = True
            try:
                output = method(pipe, *args, **kwargs)
            finally:
                self._is_inside = False
            self._check_call(name, args, kwargs, output)
            return output

        return call

    _is_inside = False

    def _check_call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        names = {
            "move": ("image", "object", "box"),
            "rotate": ("image", "object", "view"),
            "camera": ("image", "yaw", "pitch", "zoom"),
            "__call__": ("image", "prompt"),
        }[name]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        images = given["image"] if isinstance(given.get("image"), list) else [given.get("image")]
        box = None
        if name == "move":
            image: Any = images[0]
            box = resolve_box(given["box"], image.size, given.get("box_form", "xyxy"))
            prompt = ObjectMove(given["object"], None).prompt
        elif name == "rotate":
            prompt = ObjectRotation(given["object"], given["view"]).prompt
        elif name == "camera":
            prompt = CameraMove(**{k: v for k, v in given.items() if k in {"yaw", "pitch", "zoom"}}).prompt
        else:
            prompt = given["prompt"]
        prompts = prompt if isinstance(prompt, list) else [prompt] * len(images)
        repeats = len(output.images) // len(images)
        for number, result in enumerate(output.images):
            self.check(images[number // repeats], prompts[number // repeats], result, box)

    def _scored_client_edit(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(client: Any, image: Any, prompt: str, **settings: Any) -> list[bytes]:
            files = method(client, image, prompt, **settings)
            source = _open(Path(image)) if isinstance(image, (str, Path)) else image
            for file in files:
                self.check(source, prompt, Image.open(io.BytesIO(file)).convert("RGB"))
            return files

        return call

    def _scored_client_plan(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(client: Any, image: str, steps: list[dict[str, Any]], **settings: Any) -> Any:
            job = method(client, image, steps, **settings)
            source = _open(Path(image))
            for step, file in zip(steps, client.images(job), strict=True):
                result = Image.open(io.BytesIO(file)).convert("RGB")
                box = resolve_box(step["box"], source.size) if "box" in step else None
                edit: Any = from_dict(step)
                self.check(source, edit.prompt, result, box)
                source = result
            return job

        return call

    def _scored_openai_edit(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(images: Any, **settings: Any) -> Any:
            import base64

            answer = method(images, **settings)
            source = _open(Path(settings["image"].name))
            for item in answer.data:
                result = Image.open(io.BytesIO(base64.b64decode(item.b64_json))).convert("RGB")
                self.check(source, settings["prompt"], result)
            return answer

        return call


def split_commands(block: str) -> list[list[str]]:
    """Return the words of every command in a shell block; a comment is dropped.

    A backslash joins lines, and so does a quotation that is still open.

    Raises:
        ValueError: A quotation is never closed.
    """
    commands: list[list[str]] = []
    pending = ""
    for line in block.replace("\\\n", " ").splitlines():
        pending += line + "\n"
        with contextlib.suppress(ValueError):
            commands.append(shlex.split(pending, comments=True))
            pending = ""
    if pending:
        raise ValueError(f"a quotation is not closed: {pending!r}")
    return [words for words in commands if words]


def _in_template(prompt: str) -> str:
    """Return the trained form of a camera move or rotation in free words; any other prompt as it is."""
    found = intent.parse(prompt)
    if isinstance(found, Rotate):
        return ObjectRotation(str(found.object), str(found.view)).prompt
    if isinstance(found, Camera):
        return CameraMove(**{name: value for name, value in found.given().items() if name != "kind"}).prompt
    return prompt


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _scene_after(case: EditCase) -> Scene | None:
    if case.vehicle is not None and case.views is not None:
        return VehicleScene(vehicle=case.vehicle, view=case.views[1], size=case.size)
    if case.turntable is not None and case.poses is not None:
        return TurntableScene(turntable=case.turntable, pose=case.poses[1], size=case.size)
    if case.background is not None:
        background = _BACKGROUND_NAMES[case.background]
        return FlatScene(objects=case.after, background=background, size=case.size)
    return None
