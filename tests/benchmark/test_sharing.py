"""`joyimage bench --gpus`: edits that several processes share are measured beside edits of one."""

from __future__ import annotations

import contextlib
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from joyimage.benchmark import timing
from joyimage.benchmark.comparing import to_comparison
from joyimage.benchmark.report import to_markdown
from joyimage.cli.main import main
from joyimage.errors import JoyImageError
from tests.forked import forked_companions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = ("--size", "64", "--layers", "2", "--steps", "1", "--rounds", "1", "--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def forked() -> Iterator[None]:
    with forked_companions():
        yield


@pytest.mark.parametrize(("layout", "parallelism"), [("guidance", "guidance 2"), ("tensor", "tensor 2")])
def test_bench_when_two_processes_share_the_edits_then_as_diffusers_on_one(
    tmp_path: Path, layout: str, parallelism: str
) -> None:
    options = ["--no-counters", "--gpus", "2", "--gpu-layout", layout, "--output", str(tmp_path)]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["bench", *SMALL, *options]) == 0

    (path,) = tmp_path.glob("*-scaled-2-gpus.json")
    report: dict[str, Any] = json.loads(path.read_text())
    assert (report["gpus"], report["loading"]) == (2, None)
    assert report["acceleration"]["parallelism"] == parallelism
    assert report["agreement"]["max"] <= timing.TOLERANCES[torch.float32]
    assert len(report["again_s"]["denoising"]["samples"]) == 2
    shown = "" if layout == "guidance" else f" --gpu-layout {layout}"
    assert report["command"].endswith(f"--gpus 2{shown} --no-counters")
    page = next(tmp_path.glob("*.md")).read_text()
    assert "joyimage's edits shared by 2 devices" in page
    assert path.with_suffix(".svg").name in page
    alone = {name: value for name, value in report.items() if name != "gpus"}
    assert "shared by" not in to_markdown([alone])


def test_compare_when_one_side_has_two_processes_then_the_same_image_from_half_of_the_forwards(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["bench", "--model", "tiny", "--device", "cpu", "--rounds", "1", "--json"]

    code = main([*command, "--a", "steps=2 guidance=3", "--b", "steps=2 guidance=3 gpus=2"])

    printed = capsys.readouterr()
    assert code == 0, printed.err
    report: dict[str, Any] = json.loads(printed.out)
    sides = report["sides"]
    assert [(side["gpus"], side["forwards"]) for side in sides.values()] == [(1, 4), (2, 2)]
    assert report["psnr_db"] is None or report["psnr_db"] > 90
    assert printed.err.count("Loading tiny") == 1
    text = to_comparison(report)
    assert "speed exact, float32, 2 forwards on the first of 2 GPUs)" in text
    assert text.count("GPUs") == 1


def test_compare_when_one_side_has_slices_of_the_layers_and_of_an_adapter_then_the_same_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer, adapter = "double_blocks.0.attn.img_attn_proj", tmp_path / "style.safetensors"
    shapes = {"lora_A": (2, 192), "lora_B": (192, 2)}
    matrices = {f"{layer}.{name}.weight": 0.1 * torch.ones(shape) for name, shape in shapes.items()}
    save_file(matrices, adapter)
    call = f"steps=2 guidance=3 lora={adapter}"
    command = [
        "bench",
        "--model",
        "tiny",
        "--device",
        "cpu",
        "--rounds",
        "1",
        "--json",
        "--gpu-layout",
        "tensor",
    ]

    code = main([*command, "--a", call, "--b", f"{call} gpus=2"])

    printed = capsys.readouterr()
    assert code == 0, printed.err
    report: dict[str, Any] = json.loads(printed.out)
    sides = report["sides"]
    assert [(side["gpus"], side["gpu_layout"]) for side in sides.values()] == [(1, "guidance"), (2, "tensor")]
    assert report["psnr_db"] is None or report["psnr_db"] > 90
    assert "2 GPUs, tensor)" in to_comparison(report)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gpus", "3", "--device", "cpu"], "`--gpus` is 3; expected 1, 2, 4, 8."),
        (["--gpus", "4", "--device", "cpu"], "`--gpus` is 4 and `--device` is 'cpu', where at most 2"),
        (["--gpus", "2", "--page"], "`--gpus` is 2, but `--page` measures no edits"),
        (["--gpu-layout", "tensor", "--page"], "`--gpu-layout` is 'tensor', but `--page` measures no edits"),
        (["--gpu-layout", "rows", "--gpus", "2"], "`--gpu-layout` is 'rows'; expected guidance, tensor."),
        (["--gpu-layout", "tensor", "--b", "steps=1"], "`--gpu-layout` is 'tensor', which several devices"),
        (["--b", "gpus=2 gpu_layout=rows"], "`--gpu-layout` is 'rows'; expected guidance, tensor."),
        (["--gpus", "2", "--startup"], "`--gpus` is 2, but `--startup` measures no edits"),
        (["--b", "gpus=3"], "`--b`: `gpus` is '3'; expected 1, 2, 4, 8."),
        (
            ["--device", "cpu", "--a", "gpus=2", "--b", "gpus=2 dtype=bfloat16"],
            "`--a` has 2 GPUs and `--b` has 2, with different settings of the model",
        ),
        (
            ["--device", "cpu", "--gpus", "2", "--b", "dtype=bfloat16"],
            "`--a` has 2 GPUs and `--b` has 2, with different settings of the model",
        ),
    ],
)
def test_bench_when_edits_cannot_be_shared_then_one_sentence_before_any_work(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object, **__: object) -> None:
        raise JoyImageError("work began")

    monkeypatch.setattr("joyimage.benchmark.sharing.Companions.start", start)
    monkeypatch.setattr("joyimage.benchmark.sharing.load_measured", start)

    assert main(["bench", *arguments]) == 2

    error = capsys.readouterr().err.strip()
    assert sentence in error
    assert error.count("\n") == 0


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
@pytest.mark.parametrize("arguments", [["--gpus", "2"], ["--a", "", "--b", "gpus=2"]])
def test_bench_when_there_are_too_few_devices_then_one_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2

    error = capsys.readouterr().err.strip()
    assert error.startswith("`--gpus` is 2, but torch sees no accelerator.")
    assert error.count("\n") == 0
