"""`joyimage convert lora`: write an adapter in the layout that another program reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def convert_lora(
    source: Path,
    output: Path,
    *,
    layout: Annotated[
        Literal["comfyui", "diffusers", "peft", "kohya"], Parameter(name=["--format", "--layout"])
    ] = "comfyui",
    weight_name: str | None = None,
) -> None:
    """Write a LoRA adapter in the layout that another program reads, at the same strength.

    Args:
        source: Adapter: a safetensors file, or a folder with one, in the layout of any known program.
        output: File to write; with `--format peft`, a folder.
        layout: Program that will read the adapter.
        weight_name: Name of the file in SOURCE, if SOURCE is a folder with several.
    """
    # Imported here, so that `joyimage --help` needs no torch.
    from joyimage.model.adapters.conversion import convert_adapter

    written = convert_adapter(source, output, layout, weight_name=weight_name)
    sys.stdout.write(f"{written}\n")
