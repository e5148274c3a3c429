"""`joyimage download`: fetch the published model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from joyimage.cli.console import notify


def download(
    what: str = "bf16",
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    file: Annotated[list[str] | None, Parameter(negative=[])] = None,
    revision: str | None = None,
) -> None:
    """Download the published model; resumable, and checked against the hub's checksums.

    An interrupted download continues with the same command.

    Args:
        what: "bf16" (a folder, 50.3 GB), "int8" (three files, 26.7 GB), "bf16-files" (three files, 49.8 GB), "plus"
            (the folder of the model for several images), or the id of a repository on the hub.
        output: Folder to write to. Default: the repository's name in the working folder.
        file: Name of a file to download instead of all; may be given several times.
        revision: Branch, tag or commit. Default: the main branch.
    """
    from joyimage.pipeline import download as downloading

    paths = downloading.download(what, output, files=file or (), revision=revision, announce=notify)
    variant = downloading.VARIANTS.get(what)
    if variant is not None and not file:
        options = {path.name: path for path in paths}
        if variant.parts:
            given = " ".join(
                f"--{part.replace('_', '-')} {options[name]}" for part, name in variant.parts.items()
            )
        else:
            given = f"--model {next(path for path in paths if path.name == 'model_index.json').parent}"
        notify(f"Use it with: joyimage edit IMAGE PROMPT -o OUTPUT {given}")
    for path in paths:
        print(path)
