"""`joyimage quantize`: write a weight file in a quantized format."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def quantize(
    model: Path,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    format: str = "int8_convrot",
    part: str = "transformer",
) -> None:
    """Write the transformer or the text encoder in a quantized format, as one file.

    An interrupted run continues with the same command.

    Args:
        model: Weight file, or checkpoint folder.
        output: File to write: .safetensors, or .gguf for the gguf formats. It appears once it is complete.
        format: "int8_convrot", "int8_blockwise", "fp8", "mxfp8", "nvfp4", "nf4", "gguf-q8_0" or "gguf-q4_0". Formats of
            four bits keep the text encoder's sensitive layers in eight bits.
        part: "transformer" or "text_encoder".
    """
    # Imported here, so that `joyimage --help` needs no torch.
    from rich.progress import Progress

    from joyimage.checkpoints import registered_folder
    from joyimage.pipeline.quantizing import quantize_file

    with Progress(transient=True) as bar:
        task = bar.add_task(f"Quantizing the {part.replace('_', ' ')}")
        written = quantize_file(
            registered_folder(str(model)) or model,
            output,
            format=format,
            part=part,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    sys.stdout.write(f"{written}\n")
