"""`joyimage convert`: write a model in another layout or format."""

import sys
from pathlib import Path

from cyclopts import App

from joyimage.cli.catalog import find_entry
from joyimage.cli.help_pages import SUBCOMMANDS

_ENTRY, _LORA = find_entry("convert"), find_entry("convert lora")
app = App(name="convert", help=_ENTRY.help, help_epilogue=_ENTRY.epilogue, group_commands=SUBCOMMANDS)
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
    format: str = "bf16",
    part: str | None = None,
) -> None:
    """Convert a checkpoint of the original code, or weights in any format, to a folder for --model or to one file.

    Args:
        source: Folder of the original checkpoint; a folder for --model; or a weight file, quantized or not.
        output: Folder to write, or file to write with one part: .safetensors or .gguf. It must not exist yet, and
            appears once it is complete.
        transformer: Weights of the transformer, a file or a folder. Default: those of SOURCE.
        vae: Weights of the Wan VAE, a file or a folder with one. Default: those of SOURCE.
        text_encoder: Weight file of the text encoder; for an original checkpoint, the folder of the Qwen3-VL with
            tokenizer and processor. Default: the one in SOURCE.
        transformer_config: A config.json for the transformer. Default: derived from the shapes of the weights.
        plus: The checkpoint takes several references (Edit-Plus).
        allow_pickle: Read .pt and .pth files too, as tensors only.
        max_shard_size: Largest weight file of a folder, such as 5GB or 500MB.
        format: "bf16", "fp16" or "fp32"; for a file, also any format of `joyimage quantize`. An original checkpoint
            keeps its precision.
        part: Part of a folder to write as a file: "transformer", "text_encoder" or "vae". Default: transformer.
    """
    # Imported here, so that `joyimage --help` needs no torch.
    from joyimage.checkpoints import registered_folder
    from joyimage.model.file_kind import describe_file
    from joyimage.model_source import find_source
    from joyimage.pipeline import conversion, quantizing, repacking

    source = registered_folder(str(source)) or source
    if output.suffix in {".safetensors", ".gguf"}:
        written = quantizing.convert_file(source, output, format=format, part=part)
        sys.stdout.write(f"{written}\n")
        return
    is_file = source.is_file() and "pickle" not in describe_file(source)
    if is_file or (source / "model_index.json").is_file():
        found = find_source(source, transformer=transformer, text_encoder=text_encoder, vae=vae)
        written = repacking.write_folder(
            None if found.base is None else Path(found.base),
            found.files,
            output,
            precision=format,
            plus=plus or "plus" in source.name.lower(),
            max_shard_size=max_shard_size,
        )
        sys.stdout.write(f"{written}\n")
        return
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
