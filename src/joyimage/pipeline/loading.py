"""Load and save whole pipelines in the published layout.

A published folder names diffusers' and transformers' classes in `model_index.json`. We read and write that
file as it is published, so that folders go both ways, and put our own classes in the places of theirs while
loading.
"""

import json
import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub.errors import StrictDataclassError
from transformers.initialization import no_init_weights
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration
from transformers.processing_utils import ProcessorMixin

from joyimage.errors import CheckpointError
from joyimage.model.checkpoint import STEM
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from joyimage.model.weights import check_tensors, read_headers, read_json, shapes_of
from joyimage.pipeline.processor import JoyImageProcessor

# diffusers looks a component's class up by name in one module, and finds out how to load it from the base
# classes that stand there beside it. For our classes this is that module.
__all__ = [
    "CheckpointLoadingMixin",
    "JoyImageEditTransformer3DModel",
    "JoyImageProcessor",
    "ModelMixin",
    "ProcessorMixin",
]

TINY = "tiny"
"""The name under which the checkpoint inside the package is loaded."""

TINY_FOLDER = Path(__file__).parents[1] / "tiny" / "weights"

PIPELINES = ("JoyImageEditPipeline", "JoyImageEditPlusPipeline")

_OURS = {
    "JoyImageEditTransformer3DModel": "JoyImageEditTransformer3DModel",
    "JoyImageEditPlusTransformer3DModel": "JoyImageEditTransformer3DModel",
    "Qwen3VLProcessor": "JoyImageProcessor",
}
"""Published class name → ours."""

_PUBLISHED = {
    "JoyImageProcessor": ("transformers", "Qwen3VLProcessor"),
    # transformers 5 knows one class by both names, older ones two; the published name is that of the fast
    # one.
    "Qwen2Tokenizer": ("transformers", "Qwen2TokenizerFast"),
}
"""Class name at run time → what `model_index.json` says; the transformer's depends on the pipeline."""

_SMALL_FILES = {
    "scheduler": (("scheduler_config.json",),),
    "tokenizer": (("tokenizer_config.json",), ("tokenizer.json", "vocab.json")),
    "processor": (("processor_config.json", "preprocessor_config.json"),),
}
"""Files of the parts without weights: of each group one must be there."""

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


class CheckpointLoadingMixin(DiffusionPipeline):
    """Give a pipeline `from_pretrained` and `save_pretrained` for the published layout, with our classes."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Any:
        """Load a pipeline; see `DiffusionPipeline.from_pretrained`.

        Args:
            pretrained_model_name_or_path: A folder, a hub id, or "tiny" for the checkpoint inside this
                package (a folder of that name is "./tiny").
            **kwargs: As in diffusers: `dtype` or `torch_dtype` (a dtype or its name; fp32 for all parts if
                not given), `device_map`, `variant`, single parts such as `transformer=`, …. Only
                safetensors are read unless `use_safetensors=False`.

        Returns:
            The pipeline.

        Raises:
            CheckpointError: The checkpoint can't be read; the sentence names the file and the key.
            ValueError: An argument that can't be.
        """
        name = str(pretrained_model_name_or_path)
        kwargs["dtype"] = _resolve_dtype(kwargs.pop("dtype", None), kwargs.pop("torch_dtype", None))
        kwargs.setdefault("use_safetensors", True)
        folder = TINY_FOLDER if name == TINY else Path(name)
        if name == TINY and not folder.is_dir():
            raise CheckpointError(
                f"This installation has no tiny checkpoint: {folder} is missing. Install the package again."
            )
        if not folder.is_dir():
            folder = cls._download(name, kwargs)

        _check_index(folder / "model_index.json")
        for part in (*CHECKS, *_SMALL_FILES):
            if part in kwargs:
                continue
            if not (folder / part).is_dir():
                raise CheckpointError(f"{folder / part} is missing: fetch the folder again.")
            if part in CHECKS and kwargs["use_safetensors"]:
                CHECKS[part](folder / part, kwargs.get("variant"))
            elif part in _SMALL_FILES:
                _check_small_files(folder / part, _SMALL_FILES[part])
        pipe = super().from_pretrained(str(folder), **kwargs)
        pipe.register_to_config(_name_or_path=name)
        return pipe

    @classmethod
    def _download(cls, name: str, kwargs: Mapping[str, Any]) -> Path:
        if not _HUB_ID.match(name):
            raise CheckpointError(
                f"There is no folder {name}: give a checkpoint's folder, a hub id such as"
                f' "jdopensource/JoyAI-Image-Edit-Diffusers", or "{TINY}".'
            )
        try:
            return Path(cls.download(name, **kwargs))
        except OSError as error:  # also huggingface_hub's own errors
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(
                f"{name} is no folder here and can't be fetched from the hub: {reason}"
            ) from error

    @classmethod
    def load_config(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        return_unused_kwargs: bool = False,
        return_commit_hash: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Read `model_index.json`, our classes in the places of the published ones; see `ConfigMixin`."""
        loaded: Any = super().load_config(
            pretrained_model_name_or_path, return_unused_kwargs, return_commit_hash, **kwargs
        )
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        if config.get("_class_name") in PIPELINES:
            config["_class_name"] = cls.__name__
        for part, value in config.items():
            if isinstance(value, list) and len(value) == 2 and value[1] in _OURS:
                config[part] = [__name__, _OURS[value[1]]]
        return loaded

    def to_json_string(self) -> str:
        """Return the text of `model_index.json`, which names the published classes."""
        config = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)  # where this one came from is nobody's business
        kind = "JoyImageEditPlus" if config["_class_name"] == "JoyImageEditPlusPipeline" else "JoyImageEdit"
        published = {
            **_PUBLISHED,
            "JoyImageEditTransformer3DModel": ("diffusers", f"{kind}Transformer3DModel"),
        }
        for part, value in config.items():
            if isinstance(value, list) and len(value) == 2 and value[1] in published:
                config[part] = list(published[value[1]])
        return json.dumps(config, indent=2, sort_keys=True) + "\n"


def check_text_encoder(folder: Path, variant: str | None = None) -> None:
    """Check a Qwen3-VL's config, files, keys and shapes without reading the weights.

    Args:
        folder: The text encoder's own folder.
        variant: Such as "fp16".

    Raises:
        CheckpointError: What is wrong, with file and key.
    """
    path = folder / "config.json"
    config = read_json(path)
    if config.get("model_type") != "qwen3_vl":
        raise CheckpointError(f"{path} must have `model_type` 'qwen3_vl': got {config.get('model_type')!r}.")

    def build() -> torch.nn.Module:
        with no_init_weights():  # drawing weights takes a while even where there are none
            return Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(config))

    # The head that makes words is never used here, so a checkpoint may leave it out.
    _check_part(folder, "model", variant, build, optional=("lm_head.weight",))


def check_vae(folder: Path, variant: str | None = None) -> None:
    """Check a Wan VAE's config, files, keys and shapes without reading the weights.

    Args:
        folder: The VAE's own folder.
        variant: Such as "fp16".

    Raises:
        CheckpointError: What is wrong, with file and key.
    """
    config = read_json(folder / "config.json")
    _check_part(folder, STEM, variant, lambda: AutoencoderKLWan.from_config(config))


def _check_part(
    folder: Path, stem: str, variant: str | None, build: Callable[[], Any], optional: tuple[str, ...] = ()
) -> None:
    path = folder / "config.json"
    found = read_headers(folder, stem, variant)
    if "quantization_config" in read_json(path):  # other shapes and keys, known to the quantiser only
        return
    try:
        with init_empty_weights():
            model = build()
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} describes no model that can be built: {reason}") from error
    check_tensors(found, shapes_of(model), folder, optional)


CHECKS: dict[str, Callable[[Path, str | None], None]] = {
    "transformer": JoyImageEditTransformer3DModel.check_folder,
    "vae": check_vae,
    "text_encoder": check_text_encoder,
}
"""What is checked before loading, by the part's name and folder."""


def _check_index(path: Path) -> None:
    """Check that `model_index.json` is of our pipelines and names all their parts.

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
            raise CheckpointError(f"{path} lacks the key `{part}`: fetch the file again.")
        value = index[part]
        if not isinstance(value, list) or [type(name) for name in value] != [str, str]:
            raise CheckpointError(f"{path} must name library and class of `{part}`: got {value!r}.")


def _check_small_files(folder: Path, groups: tuple[tuple[str, ...], ...]) -> None:
    """Check that of each group of files one is there and is valid JSON.

    Raises:
        CheckpointError: What is missing or wrong.
    """
    for names in groups:
        files = [folder / name for name in names if (folder / name).is_file()]
        if not files:
            raise CheckpointError(f"{folder / names[0]} is missing: fetch the file again.")
        for file in files:
            read_json(file)


def _resolve_dtype(dtype: Any, torch_dtype: Any) -> Any:
    """Return the dtype that two arguments of one meaning give, or a dict of them by part.

    Raises:
        ValueError: They contradict each other, or it is no floating dtype.
    """
    if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
        raise ValueError(
            f"`dtype` and `torch_dtype` mean the same: got {dtype} and {torch_dtype}. Give one of them."
        )
    dtype = torch_dtype if dtype is None else dtype
    if dtype is None:
        # fp32 for all parts: transformers alone would take the file's dtype, which mixes precisions in one
        # pipeline.
        return torch.float32
    if isinstance(dtype, Mapping):
        return {part: _resolve_dtype(value, None) for part, value in dtype.items()}
    resolved = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise ValueError(
            f"`dtype` must be a floating torch.dtype or its name, such as 'bfloat16': got {dtype!r}."
        )
    return resolved
