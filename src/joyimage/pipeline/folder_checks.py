"""Check a checkpoint folder's configs, files, keys and shapes before any weight is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from accelerate import init_empty_weights  # pyright: ignore[reportMissingTypeStubs]
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from huggingface_hub.errors import StrictDataclassError
from transformers.initialization import no_init_weights
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from joyimage.errors import CheckpointError
from joyimage.model.checkpoint.headers import check_tensors, read_json, shapes_of
from joyimage.model.checkpoint.shards import STEM, read_headers
from joyimage.model.transformer import JoyImageEditTransformer3DModel

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from pathlib import Path

    import torch

PIPELINES = {
    "JoyImageEditPipeline": "joyimage.pipeline.edit",
    "JoyImageEditPlusPipeline": "joyimage.pipeline.edit_plus",
}
"""Pipeline class that a checkpoint may name → the module that defines it here."""

_SMALL_FILES = {
    "scheduler": (("scheduler_config.json",),),
    "tokenizer": (("tokenizer_config.json",), ("tokenizer.json", "vocab.json")),
    "processor": (("processor_config.json", "preprocessor_config.json"),),
}
"""Files of the parts without weights: of each group one must exist."""


def check_folder(
    folder: Path, *, without: Container[str] = (), variant: str | None = None, with_weights: bool = True
) -> None:
    """Check a whole checkpoint.

    Args:
        folder: Folder of the checkpoint.
        without: Names of parts that are not loaded from the folder.
        variant: Variant of the weight files, such as "fp16".
        with_weights: Check the weight files too; without it only that their folders exist.

    Raises:
        CheckpointError: What is wrong, with file and key.
    """
    read_index(folder / "model_index.json")
    for part in (*CHECKS, *_SMALL_FILES):
        if part in without:
            continue
        if not (folder / part).is_dir():
            raise CheckpointError(f"{folder / part} is missing: download the folder again.")
        if part in _SMALL_FILES:
            _check_small_files(folder / part, _SMALL_FILES[part])
        elif with_weights:
            CHECKS[part](folder / part, variant)


def read_index(path: Path) -> dict[str, Any]:
    """Read `model_index.json`, and check that it is of our pipelines and names all their parts.

    Raises:
        CheckpointError: What is wrong, with file and key.
    """
    index = read_json(path)
    if index.get("_class_name") not in PIPELINES:
        raise CheckpointError(
            f"{path} must have `_class_name` {' or '.join(PIPELINES)}: got {index.get('_class_name')!r}."
        )
    for part in (*CHECKS, *_SMALL_FILES):
        if part not in index:
            raise CheckpointError(f"{path} lacks the key `{part}`: download the file again.")
        value: object = index[part]
        names = cast("list[object]", value) if isinstance(value, list) else []
        if [type(name) for name in names] != [str, str]:
            raise CheckpointError(f"{path} must name library and class of `{part}`: got {value!r}.")
    return index


def check_text_encoder(folder: Path, variant: str | None = None) -> None:
    """Check a Qwen3-VL's config, files, keys and shapes without reading the weights.

    Args:
        folder: Folder of the text encoder.
        variant: Variant of the weight files, such as "fp16".

    Raises:
        CheckpointError: What is wrong, with file and key.
    """
    path = folder / "config.json"
    config = read_json(path)
    if config.get("model_type") != "qwen3_vl":
        raise CheckpointError(f"{path} must have `model_type` 'qwen3_vl': got {config.get('model_type')!r}.")

    def build() -> torch.nn.Module:
        with no_init_weights():  # drawing random weights takes time even on the meta device
            return Qwen3VLForConditionalGeneration(cast("Any", Qwen3VLConfig).from_dict(config))

    # The language head is needed for `describe` only, so a checkpoint may leave it out.
    _check_weights(folder, "model", variant, build, optional=("lm_head.weight",))


def check_vae(folder: Path, variant: str | None = None) -> None:
    """Check a Wan VAE's config, files, keys and shapes without reading the weights.

    Args:
        folder: Folder of the VAE.
        variant: Variant of the weight files, such as "fp16".

    Raises:
        CheckpointError: What is wrong, with file and key.
    """
    config = read_json(folder / "config.json")
    _check_weights(folder, STEM, variant, lambda: cast("Any", AutoencoderKLWan).from_config(config))


def _check_weights(
    folder: Path, stem: str, variant: str | None, build: Callable[[], Any], optional: tuple[str, ...] = ()
) -> None:
    path = folder / "config.json"
    found = read_headers(folder, stem, variant)
    if "quantization_config" in read_json(path):  # other shapes and keys, which only the quantizer knows
        return
    try:
        with init_empty_weights():
            model = build()
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not describe a model that can be built: {reason}") from error
    check_tensors(found, shapes_of(model), folder, optional)


CHECKS: dict[str, Callable[[Path, str | None], None]] = {
    "transformer": JoyImageEditTransformer3DModel.check_folder,
    "vae": check_vae,
    "text_encoder": check_text_encoder,
}
"""What is checked before loading, by the part's name and folder."""


def _check_small_files(folder: Path, groups: tuple[tuple[str, ...], ...]) -> None:
    """Check that of each group of files one is there and is valid JSON.

    Raises:
        CheckpointError: What is missing or wrong.
    """
    for names in groups:
        files = [folder / name for name in names if (folder / name).is_file()]
        if not files:
            raise CheckpointError(f"{folder / names[0]} is missing: download the file again.")
        for file in files:
            read_json(file)
