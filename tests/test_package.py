"""The package as a whole: light to import, few public names, no forbidden imports."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import joyimage
from joyimage.tiny.examples import NAMES
from joyimage.web import page_folder

SOURCE_PATH = Path(joyimage.__file__).parent


def test_import_when_measured_then_no_torch_and_nothing_slow() -> None:
    code = (
        "import sys, joyimage, joyimage.spatial, joyimage.loading, joyimage.edits, joyimage.cli.main\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy.testing'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or None)"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr


def test_public_names_when_listed_then_as_promised() -> None:
    assert sorted(joyimage.__all__) == [
        "JoyImageEditPipeline",
        "JoyImageEditPipelineOutput",
        "JoyImageEditPlusPipeline",
        "JoyImageEditTransformer3DModel",
        "__version__",
    ]
    for name in joyimage.__all__:
        assert getattr(joyimage, name)


def test_call_signature_when_compared_then_as_published() -> None:
    published = {
        "image": None,
        "prompt": None,
        "height": None,
        "width": None,
        "num_inference_steps": 40,
        "timesteps": None,
        "sigmas": None,
        "guidance_scale": 4.0,
        "negative_prompt": None,
        "num_images_per_prompt": 1,
        "generator": None,
        "latents": None,
        "prompt_embeds": None,
        "prompt_embeds_mask": None,
        "negative_prompt_embeds": None,
        "negative_prompt_embeds_mask": None,
        "output_type": "pil",
        "return_dict": True,
        "callback_on_step_end": None,
        "callback_on_step_end_tensor_inputs": None,
        "max_sequence_length": 4096,
        "enable_denormalization": True,
    }

    parameters = list(inspect.signature(joyimage.JoyImageEditPipeline.__call__).parameters.values())[1:]

    assert {p.name: p.default for p in parameters[: len(published)]} == published


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_source_when_searched_then_never_imports_diffusers_own_joyimage_or_torchvision() -> None:
    for path in SOURCE_PATH.rglob("*.py"):
        for name in imported_modules(path):
            assert not (name.startswith("diffusers") and "joyimage" in name), path
            assert not name.startswith("torchvision"), path


def test_images_when_listed_then_only_our_own_are_shipped() -> None:
    images = {
        str(path.relative_to(SOURCE_PATH))
        for path in SOURCE_PATH.rglob("*")
        if path.suffix in {".png", ".jpg", ".webp"}
    }

    page = {f"web/static/examples/{name}.png" for name in ("car", "shapes", "turntable")}
    assert images == page | {f"tiny/examples/{name}.png" for name in NAMES}


def test_source_when_searched_then_no_package_reaches_into_another_by_path() -> None:
    by_path = {
        path.relative_to(SOURCE_PATH).as_posix()
        for path in SOURCE_PATH.rglob("*.py")
        if any(
            isinstance(node, ast.Name) and node.id == "__file__"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    }

    assert by_path == set(), "Give the other package a function that returns its folder."


def test_page_folder_when_asked_then_has_the_page() -> None:
    assert (page_folder() / "index.html").is_file()


def raised_names(path: Path) -> set[str]:
    raised = (
        node.exc
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise)
    )
    return {one.func.id for one in raised if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)}


def test_source_when_searched_then_rejected_input_raises_typed_errors() -> None:
    # Inside of a server these become HTTP answers or pydantic's errors before anyone sees them.
    untyped = {
        path.relative_to(SOURCE_PATH).as_posix()
        for path in SOURCE_PATH.rglob("*.py")
        if raised_names(path) & {"ValueError", "TypeError", "Exception"}
    }

    assert {name for name in untyped if not name.startswith("serving/")} == set()


def test_python_when_the_oldest_is_asked_for_then_the_oldest_that_diffusers_runs_on() -> None:
    """0.42.1, the version that the pipelines agree with, does not install on Python 3.10."""
    ours, theirs = (metadata(name)["Requires-Python"] for name in ("joyimage", "diffusers"))

    assert [part.removesuffix(".0") for part in (ours, theirs)] == [">=3.11", ">=3.11"]
