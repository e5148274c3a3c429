"""`joyimage batch --ray`: the same images as without, and nothing is made twice."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest

from joyimage.cli.main import main
from tests import random_models
from tests.serving.parts import find_descendants, wait_for

pytest.importorskip("ray")
FAST = ("--model", "tiny", "--steps", "1", "--base-size", "64", "--device", "cpu")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_batch_when_on_ray_then_as_here_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        random_models.make_image(number, 64, 64).save(folder / f"{number}.png")
    (folder / "broken.png").write_text("no image")
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


def find_workers() -> list[int]:
    """Return the processes of Ray's, descended from this one, that run rows."""
    found = []
    for number in find_descendants():
        with contextlib.suppress(OSError):  # it has just ended
            if b"RowWorker" in Path(f"/proc/{number}/cmdline").read_bytes():
                found.append(number)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_batch_when_a_worker_is_killed_then_every_row_is_there_and_none_is_made_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(8):
        random_models.make_image(number, 64, 64).save(folder / f"{number:02}.png")
    there = tmp_path / "there"
    slowly = (*FAST[:2], "--steps", "40", *FAST[4:])
    before: dict[Path, int] = {}
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: list(there.glob("0*.png")), 200)
        before.update({path: path.stat().st_mtime_ns for path in there.glob("0*.png")})
        killed.append(find_workers()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    batch = ["batch", str(folder), "red", "-o", str(there), *slowly]
    code = main([*batch, "--ray", "--workers", "2"])
    killer.join()
    summary = capsys.readouterr().err

    assert killed
    assert code == 0, summary
    assert "0 skipped" in summary
    assert 0 < len(before) < 8
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    # Each is whole and has its row's key in it, or it would be made now.
    assert main(batch) == 0
    assert "0 made, 8 there already" in capsys.readouterr().err


def test_batch_when_workers_without_ray_then_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", str(tmp_path), "red", "-o", str(tmp_path / "out"), "--workers", "2", *FAST]) == 2
    assert "need `--ray`" in capsys.readouterr().err
