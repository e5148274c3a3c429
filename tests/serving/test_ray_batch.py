"""`joyimage batch --ray`: the same pictures as without, and nothing is made twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from joyimage.cli.main import main
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("ray")
FAST = ("--model", "tiny", "--steps", "1", "--base-size", "64", "--device", "cpu")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_batch_when_on_ray_then_as_here_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        tiny.make_picture(number, 64, 64).save(folder / f"{number}.png")
    (folder / "broken.png").write_text("no picture")
    here, there = tmp_path / "here", tmp_path / "there"
    main(["batch", str(folder), "red", "-o", str(here), *FAST])
    capsys.readouterr()
    on_ray = ["batch", str(folder), "red", "-o", str(there), "--ray", "--workers", "2", *FAST]

    assert main(on_ray) == 1
    assert "6 made, 0 there already, 1 skipped" in capsys.readouterr().err
    first = {path.name: path.read_bytes() for path in there.glob("0*.png")}
    (there / sorted(first)[0]).unlink()
    assert main(on_ray) == 1
    assert "1 made, 5 there already, 1 skipped" in capsys.readouterr().err

    assert first == {path.name: path.read_bytes() for path in here.glob("0*.png")}
    assert first == {path.name: path.read_bytes() for path in there.glob("0*.png")}


def test_batch_when_workers_without_ray_then_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", str(tmp_path), "red", "-o", str(tmp_path / "out"), "--workers", "2", *FAST]) == 2
    assert "go with `--ray`" in capsys.readouterr().err
