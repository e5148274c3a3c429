"""`--server URL`: the commands, with the work done elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from joyimage.cli.commands.batch import checked_rows
from joyimage.cli.main import main
from joyimage.cli.manifests import read_manifest
from joyimage.cli.options import RunOptions
from joyimage.cli.remote import RemoteRunner
from joyimage.client import Client
from joyimage.edits import Edit, Sampling
from joyimage.imaging import read_record
from joyimage.serving.workers.local import LocalRunner
from tests import random_models
from tests.serving.parts import SIDE, LiveServer, make_runner, make_settings, png

if TYPE_CHECKING:
    from pathlib import Path


def test_commands_when_a_server_is_named_then_as_if_the_model_were_here(
    server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(png(1))
    there = ["--server", server.url, "--seed", "3", "--steps", "2"]

    assert main(["edit", str(image), "red", "-o", str(tmp_path / "b.png"), "--json", *there]) == 0
    report = json.loads(capsys.readouterr().out)
    moved = ["move", str(image), "car", "10,10,40,50", "-o", str(tmp_path / "c.png"), "--restore", *there]
    assert main(moved) == 0
    assert main(["generate", "a tree", "-o", str(tmp_path / "d.png"), "--num", "2", *there]) == 0

    like = ["edit", str(image), "--like", str(tmp_path / "b.png"), "-o", str(tmp_path / "e.png")]
    assert main([*like, "--server", server.url]) == 0

    direct = (
        server.service.dispatcher._runners[0]
        .pipe(
            image=random_models.make_image(1, SIDE, SIDE),
            prompt="red",
            num_inference_steps=2,
            guidance_scale=1,
            generator=random_models.torch.Generator().manual_seed(3),
        )
        .images[0]
    )
    made = np.asarray(Image.open(tmp_path / "b.png"), dtype=int)
    assert np.abs(made - np.asarray(direct, dtype=int)).max() <= 1
    assert (report["seed"], report["num_inference_steps"], report["model"], report["base_size"]) == (
        3,
        2,
        "tiny",
        SIDE,
    )
    again = np.asarray(Image.open(tmp_path / "e.png"), dtype=int)
    assert np.abs(made - again).max() <= 1
    assert "Check:" in capsys.readouterr().err
    assert {path.name for path in tmp_path.glob("d*.png")} == {"d-1.png", "d-2.png"}


def test_region_when_the_server_does_the_work_then_nothing_changes_outside(
    server: LiveServer, tmp_path: Path
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(png(1))

    call = ["edit", str(image), "red", "-o", str(tmp_path / "b.png"), "--region", "0.5,0,1,1"]
    assert main([*call, "--server", server.url, "--steps", "1"]) == 0

    before, after = (np.asarray(Image.open(path).convert("RGB")) for path in (image, tmp_path / "b.png"))
    assert (before[:, : SIDE // 2] == after[:, : SIDE // 2]).all()
    assert (before[:, -8:] != after[:, -8:]).any()


def test_adapter_when_the_server_offers_it_then_taken_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import LoraConfig

    runner = make_runner()
    adapter = LoraConfig(r=2, target_modules=["img_attn_qkv"], init_lora_weights=False)
    runner.pipe.transformer.add_adapter(adapter, adapter_name="style")
    runner.pipe.transformer.disable_adapters()
    runner = LocalRunner(runner.pipe, loras=("style",), lora_sha256={"style": "5" * 64}, preview_px=32)
    settings = make_settings(tmp_path / "data", loras={"style": tmp_path / "style"})
    server = LiveServer(settings, runner)
    image = tmp_path / "a.png"
    image.write_bytes(png(1))
    there = ["--server", server.url, "--seed", "3", "--steps", "2"]
    try:

        def edit(name: str, *arguments: str) -> np.ndarray:
            path = tmp_path / name
            assert main(["edit", str(image), "red", "-o", str(path), *arguments]) == 0
            return np.asarray(Image.open(path), dtype=int)

        plain, styled = edit("plain.png", *there), edit("styled.png", *there, "--lora", "style")
        again = edit("again.png", "--like", str(tmp_path / "styled.png"), "--server", server.url)
        capsys.readouterr()
        rejected = main(["edit", str(image), "red", "-o", "x.png", *there, "--lora", "other"])
    finally:
        server.close()

    record = read_record(tmp_path / "styled.png")
    assert record is not None
    assert record["adapters"] == [{"name": "style", "scale": 1.0, "sha256": "5" * 64}]
    assert np.abs(styled - plain).max() > 5
    assert np.array_equal(again, styled)
    assert rejected == 2
    assert "`--lora` is 'other'; the server offers style." in capsys.readouterr().err


def test_turbo_adapter_when_the_server_offers_it_then_its_settings_are_the_defaults(tmp_path: Path) -> None:
    from peft import LoraConfig

    from joyimage.model.adapters.recipe import SamplingRecipe

    pipe = make_runner().pipe
    adapter = LoraConfig(r=2, target_modules=["img_attn_qkv"], init_lora_weights=False)
    pipe.transformer.add_adapter(adapter, adapter_name="quick")
    pipe.transformer.keep_recipe(
        "quick", SamplingRecipe(num_inference_steps=2, guidance_scale=1.0, shift=2.0)
    )
    pipe.transformer.disable_adapters()
    runner = LocalRunner(pipe, loras=("quick",), preview_px=32)
    server = LiveServer(make_settings(tmp_path / "data", loras={"quick": tmp_path / "quick"}), runner)
    image = tmp_path / "a.png"
    image.write_bytes(png(1))
    there = ["--server", server.url, "--seed", "3"]
    try:
        entry = Client(server.url).models()[0]
        for name, arguments in (("plain", []), ("quick", ["--lora", "quick:0.5"])):
            path = tmp_path / f"{name}.png"
            assert main(["edit", str(image), "red", "-o", str(path), *there, *arguments]) == 0
        job = Client(server.url).run(
            Edit(prompt="red", sampling=Sampling(loras=("quick",))), [Image.open(image)]
        )
        rejected = main(["edit", str(image), "red", "-o", "x.png", *there, "--speed", "turbo"])
    finally:
        server.close()

    plain, quick = read_record(tmp_path / "plain.png"), read_record(tmp_path / "quick.png")
    assert plain is not None
    assert quick is not None
    assert entry["lora_defaults"] == {
        "quick": {"num_inference_steps": 2, "guidance_scale": 1.0, "speed": "turbo"}
    }
    assert (plain["num_inference_steps"], plain["speed"]) == (entry["default_steps"], "exact")
    assert (quick["num_inference_steps"], quick["guidance_scale"], quick["speed"]) == (2, 1.0, "turbo")
    assert (job.steps, job.guidance) == (2, 1.0)
    assert rejected == 2


def test_batch_when_a_server_has_another_file_for_an_adapter_then_its_rows_have_another_key(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "rows.jsonl").write_text(
        '{"image": "a.png", "prompt": "x", "lora": "style:0.5"}\n{"image": "a.png", "prompt": "x"}'
    )
    edit, options, problems = Edit(), RunOptions(server="http://127.0.0.1:1"), {}
    manifest = read_manifest(tmp_path / "rows.jsonl")
    rows = checked_rows(manifest, tmp_path / "rows.jsonl", tmp_path / "out", edit, options, problems)

    def keys(digest: str) -> list[str]:
        entry = {
            "id": "tiny",
            "device": "cpu",
            "dtype": "float32",
            "base_size": SIDE,
            "default_steps": 1,
            "default_guidance": 1.0,
            "loras": ["style"],
            "lora_sha256": {"style": digest},
        }
        runner = RemoteRunner(Client("http://127.0.0.1:1"), entry, 0.0)
        return [row.key(row.read(), runner.identify_adapter) for row in rows]

    (styled, plain), (changed, as_plain) = keys("5" * 64), keys("6" * 64)
    assert not problems
    assert styled != changed
    assert plain == as_plain


def test_commands_when_the_server_can_not_help_then_one_sentence(
    server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        (["--server", server.url, "--device", "cpu"], "give it to `joyimage serve`"),
        (["--server", server.url, "--model", "other"], "has tiny"),
        (["--server", server.url, "--lora", "other"], "offers none"),
        (["--server", server.url, "--steps", "101"], "expected at most 100"),
        (["--server", "127.0.0.1"], "expected an address"),
    ):
        assert main(["generate", "x", "-o", str(tmp_path / "x.png"), *arguments]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["edit", "IMAGE", "red"], ["move", "IMAGE", "heart", "0,0,0.5,0.5"], ["generate", "red"]]
)
def test_commands_when_a_server_edits_then_neither_torch_nor_diffusers_is_imported(
    server: LiveServer, tmp_path: Path, command: list[str]
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(png(1))
    program = (
        "import sys; from joyimage.cli.main import main; code = main();"
        " heavy = {'torch', 'diffusers', 'transformers', 'accelerate', 'peft', 'scipy'} & set(sys.modules);"
        " sys.exit(code or ', '.join(sorted(heavy)) or 0)"
    )
    arguments = [str(image) if word == "IMAGE" else word for word in command]

    run = subprocess.run(
        [sys.executable, "-c", program, *arguments, "-o", str(tmp_path / "out.png"), "--server", server.url],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out.png").is_file()


def test_edit_when_the_server_has_something_to_say_then_one_line_once(
    server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(png(1))
    command = [
        "edit",
        str(image),
        "red",
        "--negative-prompt",
        "blue",
        "--guidance",
        "1",
        "--server",
        server.url,
    ]

    assert main([*command, "-o", str(tmp_path / "b.png")]) == 0

    said = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert len(said) == 1
    assert said[0].startswith("Warning: ")
