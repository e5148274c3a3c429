"""`joyimage bench` from end to end, at a minute size, and the truth of what it writes."""

from __future__ import annotations

import contextlib
import io
import json
import platform
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from joyimage.benchmark import baseline, models, timing
from joyimage.benchmark.report import device_slug, to_markdown, write_report
from joyimage.benchmark.stages import STAGES
from joyimage.benchmark.timing import WHOLE, Run, measure_agreement, ratios
from joyimage.cli.main import main
from joyimage.pipeline import base as base_module
from tests.optional import present

MINUTE = ("--size", "64", "--layers", "3", "--steps", "1", "--rounds", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one run."""
    folder = tmp_path_factory.mktemp("bench") / "results"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["bench", *MINUTE, "--no-counters", "--json", "--output", str(folder)]) == 0
    assert json.loads(printed.getvalue()) == json.loads(next(folder.glob("*.json")).read_text())
    return folder


@pytest.fixture(scope="module")
def report(written: Path) -> dict[str, Any]:
    """JSON of that run."""
    return json.loads(next(written.glob("*-scaled.json")).read_text())


@pytest.fixture(scope="module")
def minute() -> Any:
    """Our smallest pipeline with drawn weights."""
    smallest = present(models.resolve("scaled", size=64, num_layers=1))
    return models.build(smallest, torch.device("cpu"), torch.float32)


def test_report_when_run_then_stages_add_up_to_the_whole_on_both_sides(report: dict[str, Any]) -> None:
    for side in ("joyimage", "diffusers"):
        seconds = report["seconds"][side]
        for number in range(2 * report["rounds"]):
            parts = [seconds[stage]["samples"][number] for stage in STAGES]
            assert min(parts) > 0
            assert sum(parts) == pytest.approx(seconds[WHOLE]["samples"][number])


def test_report_when_run_then_ratios_are_those_of_the_samples(report: dict[str, Any]) -> None:
    theirs, ours = (report["seconds"][side][WHOLE]["samples"] for side in ("diffusers", "joyimage"))

    assert report["ratios"][WHOLE]["samples"] == [pytest.approx(sum(theirs) / sum(ours))]
    assert report["agreement"]["max"] <= timing.TOLERANCES[torch.float32]
    assert report["agreement"]["image_std"] > 0.05  # two blank images would agree as well
    assert (
        {"loading", "first edit"} == set(report["loading"]["joyimage"]) == set(report["loading"]["diffusers"])
    )


def test_report_when_run_then_seconds_of_the_same_image_again(report: dict[str, Any], written: Path) -> None:
    again = report["again_s"]

    assert len(again[WHOLE]["samples"]) == 2 * report["rounds"]
    assert f"The same image again, in a session and with another prompt: {again[WHOLE]['median']:.3f} s" in (
        next(written.glob("*.md")).read_text()
    )


def test_run_again_when_run_then_the_image_is_read_and_encoded_for_the_first_edit_only(
    minute: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[Any] = []
    encode_frame = base_module.encode_frame
    monkeypatch.setattr(base_module, "encode_frame", lambda *a: (encoded.append(a), encode_frame(*a))[1])
    seen: list[Any] = []
    handle = minute.text_encoder.model.visual.blocks[0].register_forward_hook(lambda *_: seen.append(1))

    try:
        runs = timing.run_again(minute, timing.make_edit(minute, models.make_image(64), 1), 2)
    finally:
        handle.remove()

    assert (len(encoded), len(seen), len(runs)) == (1, 1, 2)
    assert not np.array_equal(runs[0].image, runs[1].image)


def test_report_when_measured_then_says_what_ran_and_what_did_not(
    written: Path, report: dict[str, Any]
) -> None:
    ran = report["acceleration"]

    assert (ran["ops"], ran["attention"], ran["offload"]) == ("torch", "joint_buffer", "none")
    page = next(written.glob("*.md")).read_text()
    assert (
        "joyimage ran: torch operations, joint_buffer attention (native), forward cache; skipped: kernels ("
        in page
    )


def test_page_when_written_then_both_sides_versions_and_the_command(
    written: Path, report: dict[str, Any]
) -> None:
    page = next(written.glob("*.md")).read_text()

    assert f"diffusers {report['versions']['diffusers']}" in page
    assert "joyimage bench --model scaled --device cpu" in page
    for stage in (*STAGES, WHOLE):
        median = report["seconds"]["joyimage"][stage]["median"]
        assert re.search(rf"\| {stage} \| .* \| {median:.3f} ", page)
    assert (written / present(re.search(r"!\[.*\]\((.*)\)", page)).group(1)).is_file()


def test_files_when_written_then_no_host_name_and_no_path(written: Path) -> None:
    paths = list(written.iterdir())
    assert paths
    for path in paths:
        text = path.read_text() + path.name
        assert not re.search(rf"(?<!\w){re.escape(platform.node() or 'no name')}(?!\w)", text)
        assert str(Path.home()) not in text
        assert str(written) not in text


def test_plot_when_drawn_then_widths_are_the_seconds(written: Path, report: dict[str, Any]) -> None:
    tree = ElementTree.parse(next(written.glob("*.svg")))

    widths = {
        present(rect[0].text).rsplit(":", 1)[0]: float(present(rect.get("width")))
        for rect in tree.iter("{http://www.w3.org/2000/svg}rect")
        if len(rect)
    }

    assert len(widths) == 2 * len(STAGES)
    seconds = {
        f"{side}, {stage}": report["seconds"][side][stage]["median"]
        for side in ("diffusers", "joyimage")
        for stage in STAGES
    }
    scale = sum(widths.values()) / sum(seconds.values())
    for name, width in widths.items():
        assert width == pytest.approx(seconds[name] * scale, abs=0.02)


def test_page_when_another_model_was_measured_then_both_are_on_it(
    report: dict[str, Any], tmp_path: Path
) -> None:
    write_report(report, tmp_path)
    page = write_report({**report, "model": "tiny"}, tmp_path)

    assert page.read_text().count("\n## ") == 2
    assert to_markdown([report]).count("\n## ") == 1


def test_page_when_other_baselines_ran_or_failed_then_each_has_a_row(report: dict[str, Any]) -> None:
    ran = {"seconds": report["seconds"]["diffusers"], "ratios": report["ratios"]}
    baselines = {"compiled": ran, "cudnn": {"failed": "RuntimeError: no such kernel"}}

    page = to_markdown([{**report, "baselines": baselines}])

    median = ran["seconds"][WHOLE]["median"]
    assert f"| {baseline.BASELINES['compiled']} | {median:.3f} (" in page
    assert f"| {baseline.BASELINES['cudnn']} | doesn't run here: RuntimeError: no such kernel |" in page


def test_page_when_the_published_size_was_measured_then_beside_anothers_published_seconds(
    report: dict[str, Any],
) -> None:
    page = to_markdown([{**report, "floor_s": 1.0}])

    seconds = report["seconds"]["joyimage"]
    step = seconds["denoising"]["median"] / report["steps"]
    whole = seconds[WHOLE]["median"] + (40 - report["steps"]) * step
    assert f"| one step | 0.673 | {step:.3f} |" in page
    assert f"| whole edit of 40 steps | 27.690 | {whole:.3f} |" in page
    assert "SGLang" not in to_markdown([report])


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H200", "nvidia-h200"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "intel-xeon-platinum-8481c"),
        ("", "cpu"),
    ],
)
def test_slug_when_device_has_a_name_then_plain(name: str, slug: str) -> None:
    assert device_slug(name) == slug


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "huge"], "`--model` is 'huge'"),
        (["--model", "full", "--device", "cpu"], "needs a GPU"),
        (["--model", "tiny", "--size", "64"], "`--size` and `--layers`"),
        (["--size", "100"], "`--size` is 100"),
        (["--steps", "0"], "`--steps 0` is not valid"),
        (["--rounds", "0"], "`--rounds` is 0"),
        (["--layers", "0"], "`--layers` is 0"),
        (["--device", "abacus"], "`--device` is 'abacus'"),
        (["--dtype", "int3"], "`--dtype` is 'int3'"),
    ],
)
def test_bench_when_setting_cannot_be_then_one_sentence_and_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["bench", *arguments, "--output", str(tmp_path / "none")]) == 2

    error = capsys.readouterr().err.strip()
    assert sentence in error
    assert error.count("\n") == 0
    assert not (tmp_path / "none").exists()


def test_baseline_when_built_then_the_very_same_tensors(minute: Any) -> None:
    pipe = baseline.make_baseline(minute)

    ours = dict(minute.transformer.named_parameters())
    theirs = dict(pipe.transformer.named_parameters())
    assert {name: weight.data_ptr() for name, weight in ours.items()} == {
        name: weight.data_ptr() for name, weight in theirs.items()
    }
    assert pipe.vae is minute.vae
    assert pipe.text_encoder is minute.text_encoder
    assert type(pipe).__module__.startswith("diffusers.")


def test_baseline_when_rope_and_patchify_are_fixed_then_same_image(minute: Any) -> None:
    edit = timing.make_edit(minute, models.make_image(64), 1)
    plain, fixed = (timing.run(baseline.make_baseline(minute, kind), edit) for kind in ("eager", "fixed"))

    assert float(measure_agreement(plain, fixed, torch.float32)["max"]) <= 1e-5


def test_baseline_when_cudnn_is_chosen_then_no_other_model_takes_it(minute: Any) -> None:
    edit = timing.make_edit(minute, models.make_image(64), 1)
    plain = baseline.make_baseline(minute)

    chosen = baseline.make_baseline(minute, "cudnn")

    with pytest.raises(RuntimeError):  # a CPU has no cuDNN
        timing.run(chosen, edit)
    assert measure_agreement(timing.run(plain, edit), timing.run(minute, edit), torch.float32)


def test_baseline_when_diffusers_has_none_then_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"has no Nothing in diffusers\.absent to compare with"):
        baseline.find_class("diffusers.absent", "Nothing")


def test_weights_when_drawn_then_never_zero(minute: Any) -> None:
    for part in (minute.transformer, minute.text_encoder, minute.vae):
        assert all(parameter.count_nonzero() for parameter in part.parameters())


def make_run(seconds: float, level: float = 0.5) -> Run:
    stages = {**dict.fromkeys(STAGES, seconds / 4), WHOLE: seconds}
    return Run(seconds=stages, image=np.full((1, 2, 2, 3), level, np.float32), peak_bytes=0)


def test_ratios_when_machine_slows_down_then_each_round_is_its_own() -> None:
    theirs = [make_run(2.0), make_run(2.0), make_run(20.0), make_run(20.0)]
    ours = [make_run(1.0), make_run(1.0), make_run(10.0), make_run(10.0)]

    assert ratios(theirs, ours)[WHOLE]["samples"] == [2.0, 2.0]
    assert ratios(theirs, ours)["VAE"]["median"] == 2.0


@pytest.mark.parametrize("level", [0.6, float("nan")])
def test_agreement_when_images_differ_then_rejected(level: float) -> None:
    with pytest.raises(timing.DisagreementError, match="can't be compared"):
        measure_agreement(make_run(1.0), make_run(1.0, level), torch.float32)
