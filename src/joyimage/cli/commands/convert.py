"""`joyimage convert`: write an original checkpoint in the published layout."""

import sys
from pathlib import Path

from cyclopts import App

from joyimage.cli.catalog import find_entry

_ENTRY, _LORA = find_entry("convert"), find_entry("convert lora")
app = App(name="convert", help=_ENTRY.help, help_epilogue=_ENTRY.epilogue)
app.command(
    "joyimage.cli.commands.convert_lora:convert_lora",
    name="lora",
    help=_LORA.help,
    help_epilogue=_LORA.epilogue,
)


@app.default
def convert(
    source: Path,
    output: Path,
    *,
    transformer: Path | None = None,
    vae: Path | None = None,
    text_encoder: Path | None = None,
    transformer_config: Path | None = None,
    plus: bool = False,
    allow_pickle: bool = False,
    max_shard_size: str = "5GB",
) -> None:
    """Convert a checkpoint of the original code to a folder for --model.

    Args:
        source: Folder of the original checkpoint.
        output: Folder to write; it must not exist. It appears when all of it is written.
        transformer: Weights of the transformer: a file or a folder; SOURCE/transformer if not given.
        vae: Weights of the Wan VAE: a file or a folder with one; SOURCE/vae if not given.
        text_encoder: Folder of the Qwen3-VL with tokenizer and processor; searched in SOURCE if not given.
        transformer_config: A config.json for the transformer; derived from the weights' shapes if not given.
        plus: The checkpoint takes several references (Edit-Plus).
        allow_pickle: Read .pt and .pth files too, as tensors only.
        max_shard_size: Largest weight file, such as 5GB or 500MB.
    """
    # Imported here, so that `joyimage --help` needs no torch.
    from joyimage.pipeline import conversion

    written = conversion.convert(
        source,
        output,
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
        transformer_config=transformer_config,
        plus=plus,
        allow_pickle=allow_pickle,
        max_shard_size=max_shard_size,
    )
    sys.stdout.write(f"{written}\n")
