"""Run the command in this process and see what it prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from joyimage.cli.main import main
from tests import random_models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def joyimage(capsys: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """Call `joyimage ARGUMENTS`."""

    def call(*arguments: object) -> CommandResult:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return CommandResult(code, printed.out, printed.err)

    return call


@pytest.fixture
def image_path(tmp_path: Path) -> Path:
    """A image file."""
    path = tmp_path / "image.png"
    random_models.make_image(0, 96, 96).save(path)
    return path
