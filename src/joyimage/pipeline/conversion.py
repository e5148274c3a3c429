"""Convert a checkpoint of the original code to a folder in the published layout.

The original checkpoint has the transformer's weights (`transformer/`), the Wan VAE's (`vae/`) under the names
of the original Wan code, and a whole Qwen3-VL with tokenizer and processor (`JoyAI-Image-Und/`). The
transformer has no config; its settings follow from the shapes of its weights.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from accelerate import init_empty_weights  # pyright: ignore[reportMissingTypeStubs]
from diffusers.loaders import single_file_utils
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.model.checkpoint.headers import (
    StoredTensor,
    check_tensors,
    read_json,
    shapes_of,
    tensor_shapes,
)
from joyimage.model.checkpoint.layouts import from_original, settings_from_shapes, unwrap
from joyimage.model.checkpoint.shards import (
    PICKLE_SUFFIXES,
    STEM,
    find_weight_files,
    parse_size,
    pickle_message,
    read_weights,
    write_weights,
)
from joyimage.model.file_kind import describe_file
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from joyimage.pipeline.folder_checks import check_text_encoder

_WEIGHT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
_TEXT_ENCODER_FOLDERS = ("JoyAI-Image-Und", "text_encoder")

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
_PROCESSOR_FILES = (
    *TOKENIZER_FILES,
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)

_SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.5}
"""Source: scheduler/scheduler_config.json of JoyAI-Image-Edit-Diffusers."""


@dataclass(frozen=True, kw_only=True)
class OriginalParts:
    """Files of an original checkpoint, by part.

    Attributes:
        transformer: Files of the transformer's weights.
        vae: File of the VAE's weights.
        text_encoder: Folder of the Qwen3-VL, with its tokenizer and processor.
    """

    transformer: list[Path]
    vae: Path
    text_encoder: Path


def find_parts(
    source: Path,
    *,
    transformer: Path | None = None,
    vae: Path | None = None,
    text_encoder: Path | None = None,
) -> OriginalParts:
    """Find the parts of an original checkpoint.

    Args:
        source: Folder of the checkpoint.
        transformer: Weights of the transformer: a file or a folder; `source / "transformer"` if None.
        vae: Weights of the VAE: a file, or a folder with one; `source / "vae"` if None.
        text_encoder: Folder of the Qwen3-VL; searched in `source` if None.

    Returns:
        The parts.

    Raises:
        CheckpointError: A part is missing, or there are several; the message names the option that chooses.
    """
    if source.is_file():
        raise CheckpointError(
            f"{source} is {describe_file(source)}; expected the folder of the original checkpoint. Give that"
            f" folder, and --transformer {source} if the file holds the transformer."
        )
    if not source.is_dir():
        raise CheckpointError(f"There is no folder {source}: give the folder of the original checkpoint.")
    transformer_files = _weight_files(transformer or source / "transformer", "transformer")
    vae_files = _weight_files(vae or source / "vae", "vae")
    if len(vae_files) > 1:
        raise CheckpointError(
            f"{vae or source / 'vae'} holds {len(vae_files)} files of weights: choose one with --vae."
        )
    if text_encoder is None:
        named = [source / name for name in _TEXT_ENCODER_FOLDERS]
        others = sorted(path.parent for path in source.glob("*/config.json"))
        found = [folder for folder in (*named, *others) if _is_text_encoder(folder)]
        if not found:
            raise CheckpointError(
                f"{source} has no Qwen3-VL folder, such as {named[0].name}: give it with --text-encoder."
            )
        text_encoder = found[0]
    return OriginalParts(transformer=transformer_files, vae=vae_files[0], text_encoder=text_encoder)


def _weight_files(path: Path, part: str) -> list[Path]:
    """Return the weight files of one part; only the safetensors if the folder has pickles too.

    Raises:
        CheckpointError: There are none.
    """
    if path.is_file():
        return [path]
    files = sorted(entry for entry in path.glob("*") if entry.suffix in _WEIGHT_SUFFIXES)
    files = [entry for entry in files if entry.suffix == ".safetensors"] or files
    if not files:
        raise CheckpointError(f"{path} holds no weights: give those of the {part} with --{part}.")
    return files


def _is_text_encoder(folder: Path) -> bool:
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("model_type") == "qwen3_vl"


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
) -> Path:
    """Write an original checkpoint in the published layout, completely or not at all.

    Args:
        source: Folder of the original checkpoint.
        output: Folder to write; it must not exist. It appears when all of it is written.
        transformer: Weights of the transformer: a file or a folder; `source / "transformer"` if None.
        vae: Weights of the VAE: a file, or a folder with one; `source / "vae"` if None.
        text_encoder: Folder of the Qwen3-VL with tokenizer and processor; searched in `source` if None.
        transformer_config: A config.json for the transformer; derived from the weights' shapes if None.
        plus: The checkpoint takes several references: name JoyImageEditPlusPipeline as its class.
        allow_pickle: Read pickled weights too, as tensors only.
        max_shard_size: Largest weight file, such as "5GB" or "500MB".

    Returns:
        `output`.

    Raises:
        CheckpointError: A part is missing or cannot be read; the message names the file and the key.
        InvalidInputError: `output` exists, or `max_shard_size` cannot be read.
        OSError: A file cannot be written.
    """
    if output.exists():
        raise InvalidInputError(
            f"`output` must be a new folder: {output} exists already. Remove it or give another."
        )
    parse_size(max_shard_size)
    parts = find_parts(source, transformer=transformer, vae=vae, text_encoder=text_encoder)
    if not allow_pickle:
        for path in (parts.vae, *parts.transformer, *_pickles(parts.text_encoder)):
            if path.suffix in PICKLE_SUFFIXES:
                raise CheckpointError(pickle_message(path))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        # A folder inside the temporary one, whose own permissions would exclude other users.
        folder = Path(scratch) / output.name
        _write_text_encoder(parts.text_encoder, folder, max_shard_size, allow_pickle=allow_pickle)
        _write_vae(parts.vae, folder / "vae", max_shard_size, allow_pickle=allow_pickle)
        _write_transformer(
            parts.transformer,
            folder / "transformer",
            max_shard_size,
            transformer_config,
            allow_pickle=allow_pickle,
        )
        write_json(folder / "scheduler" / "scheduler_config.json", _SCHEDULER)
        kind = "JoyImageEditPlus" if plus else "JoyImageEdit"
        write_json(
            folder / "model_index.json",
            {
                "_class_name": f"{kind}Pipeline",
                "processor": ["transformers", "Qwen3VLProcessor"],
                "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
                "text_encoder": ["transformers", "Qwen3VLForConditionalGeneration"],
                "tokenizer": ["transformers", "Qwen2TokenizerFast"],
                "transformer": ["diffusers", f"{kind}Transformer3DModel"],
                "vae": ["diffusers", "AutoencoderKLWan"],
            },
        )
        folder.rename(output)
    return output


def _write_transformer(
    files: list[Path], folder: Path, max_shard_size: str, config_path: Path | None, *, allow_pickle: bool
) -> None:
    where = files[0] if len(files) == 1 else files[0].parent
    weights = from_original(read_weights(files, allow_pickle=allow_pickle))
    shapes = tensor_shapes(weights, where)
    if config_path is None:
        settings, config_name = settings_from_shapes(shapes), f"the settings found in {where}"
    else:
        settings, config_name = read_json(config_path), str(config_path)
    model = JoyImageEditTransformer3DModel.build_empty(settings, config_name)
    check_tensors({key: StoredTensor(shape, where) for key, shape in shapes.items()}, shapes_of(model), where)
    model.save_config(folder)
    write_weights(weights, folder, STEM, max_shard_size)


def _write_vae(file: Path, folder: Path, max_shard_size: str, *, allow_pickle: bool) -> None:
    """Write the VAE; a folder that has it in the published layout already may have its config too.

    Raises:
        CheckpointError: The file holds no Wan VAE, or one that does not fit the config beside it.
    """
    weights = unwrap(read_weights([file], allow_pickle=allow_pickle))
    if "encoder.conv_in.weight" not in tensor_shapes(weights, file):
        weights = cast("Any", single_file_utils).convert_wan_vae_to_diffusers(weights)
    shapes = tensor_shapes(weights, file)
    if "encoder.conv_in.weight" not in shapes:
        raise CheckpointError(f"{file} lacks `encoder.conv1.weight`: it holds no Wan VAE.")
    config_path = file.parent / "config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    with init_empty_weights():
        if config.get("_class_name") == "AutoencoderKLWan":
            vae: Any = cast("Any", AutoencoderKLWan).from_config(config)
        else:
            vae = AutoencoderKLWan(base_dim=shapes["encoder.conv_in.weight"][0])
    check_tensors({key: StoredTensor(shape, file) for key, shape in shapes.items()}, shapes_of(vae), file)
    vae.save_config(folder)
    write_weights(weights, folder, STEM, max_shard_size)


def _write_text_encoder(source: Path, folder: Path, max_shard_size: str, *, allow_pickle: bool) -> None:
    """Write text encoder, tokenizer and processor; weights in safetensors are copied as they are.

    Raises:
        CheckpointError: A file is missing or wrong.
    """
    pickles = _pickles(source)
    text_encoder = folder / "text_encoder"
    if pickles:
        weights = read_weights(pickles, allow_pickle=allow_pickle)
        tensor_shapes(weights, source)
        write_weights(weights, text_encoder, "model", max_shard_size)
        copy_files(source, text_encoder, ("config.json", "generation_config.json"))
        check_text_encoder(text_encoder)
    else:
        check_text_encoder(source)
        files = [path.name for path in find_weight_files(source, "model")]
        index = "model.safetensors.index.json"
        copy_files(source, text_encoder, ("config.json", "generation_config.json", index, *files))

    for part, names, needed in (
        ("tokenizer", TOKENIZER_FILES, "tokenizer_config.json"),
        ("processor", _PROCESSOR_FILES, "preprocessor_config.json"),
    ):
        copy_files(source, folder / part, names)
        if not any((folder / part / name).is_file() for name in (needed, "processor_config.json")):
            raise CheckpointError(
                f"{source / needed} is missing: the text encoder's folder must hold its {part} too."
            )


def _pickles(folder: Path) -> list[Path]:
    """Return the pickled weights of a folder that has no others."""
    if any(folder.glob("*.safetensors")):
        return []
    return sorted(path for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)


def copy_files(source: Path, folder: Path, names: Iterable[str]) -> None:
    """Copy the files that exist."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as indented JSON; the file's folder is created where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
