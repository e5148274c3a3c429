"""The proof at the published size, run here at tiny shapes, in this process and without a memory limit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from joyimage.model.checkpoint.headers import read_json
from joyimage.pipeline.components import build_empty_part, open_part
from scripts.proof import memory_group, plan
from scripts.proof.checkpoint import Shapes, write_checkpoint
from scripts.proof.edit import main as run_in_process
from scripts.proof.measured import command_line, read_log
from scripts.proof.memory_group import MemoryGroup, NoMemoryGroupError
from scripts.proof.plan import Settings, prove
from scripts.proof.report import render

FIGURES = Path(__file__).parents[2] / "docs/benchmarks/full-size-cpu.json"

TINY = Shapes(
    transformer={
        "hidden_size": 64,
        "num_attention_heads": 2,
        "text_dim": 64,
        "rope_dim_list": [8, 12, 12],
        "num_layers": 2,
    },
    text={
        "num_hidden_layers": 3,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5]},
    },
    vision={
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "deepstack_visual_indexes": [0, 1, 2],
    },
    vae={"base_dim": 8},
)


def edit_in_process(log: Path, options: dict[str, Any], **_: Any) -> dict[str, Any]:
    # A processor without bf16 convolutions takes seconds for a larger image.
    run_in_process(command_line(log, {"base_size": 64, **options}))
    return read_log(log) | {"outcome": "done"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("proof")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "run_edit", edit_in_process)
        found = prove(Settings(folder=folder, shapes=TINY, sizes=((1, 2),)))
        patch.setattr(plan, "run_edit", lambda *_, **__: pytest.fail("run again"))
        assert prove(Settings(folder=folder, shapes=TINY, sizes=((1, 2),)))["edits"] == found["edits"]
    assert not [*folder.glob("**/*.safetensors")]  # each checkpoint is deleted after its edits
    return found


def test_proof_when_run_then_every_edit_has_its_figures(results: dict[str, Any]) -> None:
    edits = results["edits"]

    assert list(edits)[:3] == ["joyimage-bf16-8GB", "diffusers-bf16-8GB", "joyimage-int8_convrot-8GB"]
    for edit in edits.values():
        assert len(edit["steps"]) == 2
        assert set(edit["stages"]) == {"loading", "prompt encoding", "VAE encoding", "decoding"}
        assert edit["rss_peak"] > edit["anonymous_peak"] > 10**8
        assert edit["std"] > 0.01
    assert edits["joyimage-bf16-8GB"]["mean"] == pytest.approx(edits["diffusers-bf16-8GB"]["mean"], abs=0.02)
    assert edits["joyimage-int8_convrot-8GB"]["mean"] == pytest.approx(
        edits["joyimage-bf16-8GB"]["mean"], abs=0.02
    )


def test_proof_when_reported_then_streamed_images_equal_resident_ones(results: dict[str, Any]) -> None:
    page = render(results)

    rows = [line for line in page.splitlines() if line.startswith("| 1 | 2 |")]
    assert [row.split(" | ")[3] for row in rows] == ["none", "disk", "none", "disk"]
    assert all(row.endswith("| equal |") for row in rows)


def test_report_when_a_streamed_image_differs_then_says_so(results: dict[str, Any]) -> None:
    name = "1-blocks-2-layers-float32-disk"
    edits = {**results["edits"], name: {**results["edits"][name], "sha256": "0"}}

    assert render({**results, "edits": edits}).count("| different |") == 1


def test_report_when_the_resident_edit_is_missing_then_nothing_is_claimed(results: dict[str, Any]) -> None:
    edits = {
        name: edit
        for name, edit in results["edits"].items()
        if not name.endswith(("float32-none", "bfloat16-none"))
    }
    page = render({**results, "edits": edits})

    assert page.count("| not compared |") == 2
    assert "| equal |" not in page


def test_checkpoint_when_split_then_holds_the_same_weights(tmp_path: Path) -> None:
    whole, split = tmp_path / "whole", tmp_path / "split"
    write_checkpoint(whole, TINY, parts=("transformer",))
    write_checkpoint(split, TINY, parts=("transformer",), shard_bytes=200_000)

    index = read_json(split / "transformer" / "diffusion_pytorch_model.safetensors.index.json")["weight_map"]

    with safe_open(whole / "transformer" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert set(index) == set(file.keys())
        assert len(set(index.values())) > 1
        for name, shard in index.items():
            with safe_open(split / "transformer" / shard, "pt") as part:
                assert part.get_tensor(name).equal(file.get_tensor(name))


def test_files_when_written_then_one_per_part_with_all_blocks_quantized(tmp_path: Path) -> None:
    files = plan.write_files(tmp_path, TINY)

    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "configs") == [
        "text_encoder.safetensors",
        "transformer.safetensors",
        "vae.safetensors",
    ]
    with safe_open(files["transformer"], "pt") as file:
        first, second = (
            file.get_tensor(f"model.diffusion_model.double_blocks.{number}.attn.img_attn_qkv.weight")
            for number in range(2)
        )
    assert first.dtype == torch.int8
    assert first.equal(second)
    assert set(open_part(files["text_encoder"], "text_encoder").weights) == set(
        build_empty_part(tmp_path / "configs/text_encoder", "text_encoder").state_dict()
    )


def test_log_when_the_process_was_ended_then_its_figures_up_to_then(tmp_path: Path) -> None:
    sizes = {"rss_peak": 5, "anonymous_peak": 4, "read": 3}
    events = [
        {"event": "started", "s": 0.1},
        {"event": "loaded", "s": 2.0},
        {"event": "stage", "name": "prompt encoding", "s": 2.0},
        {"event": "stage", "name": "VAE encoding", "s": 5.0},
        {"event": "stage", "name": "denoising", "s": 6.0},
        {"event": "stage", "name": "step", "s": 10.0},
        {"event": "block", "name": "transformer.double_blocks.3", "s": 12.5},
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f"{json.dumps(event | sizes | {'rss': 7})}\n" for event in events))

    assert read_log(log) == {
        "stages": {"loading": 2.0, "prompt encoding": 3.0, "VAE encoding": 1.0},
        "steps": [4.0],
        "blocks": 1,
        "seconds": 12.5,
        "last": "transformer.double_blocks.3",
        **sizes,
        "code": 3,
    }


def test_group_when_there_is_no_memory_controller_then_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_group, "_ROOT", tmp_path / "missing")

    with pytest.raises(NoMemoryGroupError, match="No memory control group can be made"), MemoryGroup(10**9):
        pass


def test_committed_figures_when_read_then_all_edits_ended_and_peaks_were_predicted() -> None:
    edits = json.loads(FIGURES.read_text("utf-8"))["edits"]
    planned = {name: edit for name, edit in edits.items() if "host_predicted" in edit}

    assert {"joyimage-bf16-8GB", "joyimage-int8_convrot-8GB"} < set(planned)
    assert all(edit["outcome"] == "done" for edit in planned.values())
    page = FIGURES.with_suffix(".md").read_text("utf-8")
    rows = re.findall(r"^\|.* \| ([+-][0-9.]+)% \| (\w+) \|$", page, re.MULTILINE)
    full = [edit["host_predicted"] / edit["rss_peak"] - 1 for name, edit in planned.items() if "-8GB" in name]
    assert len(rows) == 8
    assert max(abs(float(difference)) for difference, _ in rows) <= 10
    assert max(map(abs, full)) <= 0.1
    assert {image for _, image in rows} == {"equal"}
