"""`--lora` on the command line, adapters in batches and records, and `joyimage convert lora`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from joyimage.imaging import read_record
from joyimage.model.adapters.layouts import save_adapter
from joyimage.model.adapters.updates import LayerUpdate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUICK = ("--model", "tiny", "--device", "cpu", "--steps", 1, "--guidance", 1, "--seed", 0)


def write_adapter(path: Path, seed: int = 0, layout: str = "comfyui") -> Path:
    """Write an adapter for the tiny checkpoint that changes an image visibly."""
    generator = torch.Generator().manual_seed(seed)
    width = 192
    update = LayerUpdate(
        down=torch.randn(2, width, generator=generator) * 0.3,
        up=torch.randn(width, 2, generator=generator) * 0.3,
        alpha=4.0,
    )
    save_adapter({f"double_blocks.{number}.attn.img_attn_proj": update for number in range(4)}, path, layout)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=float)


def test_edit_when_adapters_have_scales_then_each_acts_and_the_record_names_them(
    joyimage: Callable[..., Any], image_path: Path, tmp_path: Path
) -> None:
    one, two = write_adapter(tmp_path / "one.safetensors"), write_adapter(tmp_path / "two.safetensors", 1)

    for name, loras in (
        ("plain", []),
        ("off", ["--lora", f"{one}:0"]),
        ("one", ["--lora", one]),
        ("both", ["--lora", one, "--lora", f"{two}:0.5"]),
    ):
        made = joyimage("edit", image_path, "x", "-o", tmp_path / f"{name}.png", *loras, *QUICK)
        assert made.code == 0
        assert "Warning" not in made.err
        assert "peft_config" not in made.err

    plain, off, first, both = (pixels(tmp_path / f"{name}.png") for name in ("plain", "off", "one", "both"))
    assert np.abs(plain - off).max() <= 1
    assert np.abs(plain - first).mean() > 1
    assert np.abs(first - both).mean() > 0.5
    record = read_record(tmp_path / "both.png")
    assert record is not None
    assert [(entry["name"], entry["scale"]) for entry in record["adapters"]] == [
        ("one.safetensors", 1.0),
        ("two.safetensors", 0.5),
    ]
    assert len({entry["sha256"] for entry in record["adapters"]}) == 2
    assert "adapters" not in (read_record(tmp_path / "plain.png") or {})


def test_batch_when_an_adapters_content_changes_then_its_rows_run_again_and_others_do_not(
    joyimage: Callable[..., Any], image_path: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "style.safetensors")
    rows = [
        {"image": image_path.name, "prompt": "x", "output": "plain.png"},
        {"image": image_path.name, "prompt": "x", "output": "styled.png", "lora": str(adapter)},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = ("batch", tmp_path / "rows.jsonl", "-o", tmp_path / "out", *QUICK)
    assert joyimage(*run).code == 0
    before = {name: (tmp_path / "out" / name).read_bytes() for name in ("plain.png", "styled.png")}
    assert before["plain.png"] != before["styled.png"]

    write_adapter(adapter, seed=7)
    assert joyimage(*run).code == 0

    after = {name: (tmp_path / "out" / name).read_bytes() for name in before}
    assert after["plain.png"] == before["plain.png"]
    assert after["styled.png"] != before["styled.png"]
    assert np.abs(pixels(tmp_path / "out/styled.png") - pixels(tmp_path / "out/plain.png")).mean() > 1


@pytest.mark.parametrize("layout", ["comfyui", "diffusers", "peft", "kohya"])
def test_convert_lora_when_called_then_the_file_has_the_layouts_keys(
    joyimage: Callable[..., Any], tmp_path: Path, layout: str
) -> None:
    source = write_adapter(tmp_path / "in.safetensors")

    done = joyimage("convert", "lora", source, tmp_path / "out", "--format", layout)

    assert done.code == 0
    prefix = {
        "comfyui": "diffusion_model.",
        "diffusers": "transformer.",
        "peft": "base_model.model.",
        "kohya": "lora_unet_",
    }
    assert all(key.startswith(prefix[layout]) for key in load_file(done.out.strip()))
    assert done.out.strip().startswith(str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "words"), [("gone.safetensors", "no adapter"), ("flux.safetensors", "another model")]
)
def test_convert_lora_when_the_source_is_no_adapter_of_this_model_then_one_line(
    joyimage: Callable[..., Any], tmp_path: Path, name: str, words: str
) -> None:
    save_file({"single_blocks.0.linear1.lora_A.weight": torch.ones(2, 2)}, tmp_path / "flux.safetensors")

    done = joyimage("convert", "lora", tmp_path / name, tmp_path / "out.safetensors")

    assert done.code == 2
    assert words in done.err
    assert name in done.err
    assert not (tmp_path / "out.safetensors").exists()


def test_eval_when_an_adapter_ruins_every_edit_then_the_numbers_show_it(
    joyimage: Callable[..., Any], tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "bad.safetensors")

    plain, spoiled = (
        json.loads(joyimage("eval", "tiny", "--device", "cpu", "--num", 1, "--steps", 1, "--json", *more).out)
        for more in ([], ["--lora", f"{adapter}:3"])
    )

    assert json.dumps(spoiled) != json.dumps(plain)
    assert joyimage("eval", "tiny", "--lora", tmp_path / "gone.safetensors").code == 2
