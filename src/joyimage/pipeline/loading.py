"""Load and save whole pipelines in the published layout.

A published folder names diffusers' and transformers' classes in `model_index.json`. That file is
read and written as it is published, so that other programs open our folders and we open theirs; while a
folder is loaded, our classes take the places of the published ones.
"""

import importlib
import inspect
import json
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any, Self, cast

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from transformers.processing_utils import ProcessorMixin

from joyimage.acceleration.presets import PRESETS_FILE, read_presets
from joyimage.acceleration.quantization import QUANTIZATIONS, checked_quantization
from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.model.checkpoint.headers import read_json
from joyimage.model.checkpoint.parts import PARTS
from joyimage.model.transformer import JoyImageEditTransformer3DModel
from joyimage.pipeline.components import (
    PUBLISHED_FOLDER,
    build_component,
    open_part,
    published_components,
)
from joyimage.pipeline.folder_checks import PIPELINES, check_folder, read_index
from joyimage.pipeline.hub import download_hint, fetch_index, find_folder, hub_errors
from joyimage.pipeline.processor import JoyImageProcessor

# diffusers looks up a component's class by name in one module, and how to load it by the base classes in the
# same module. For our classes it is this module.
__all__ = [
    "CheckpointLoadingMixin",
    "JoyImageEditTransformer3DModel",
    "JoyImageProcessor",
    "ModelMixin",
    "ProcessorMixin",
]

_OURS = {
    "JoyImageEditTransformer3DModel": "JoyImageEditTransformer3DModel",
    "JoyImageEditPlusTransformer3DModel": "JoyImageEditTransformer3DModel",
    "Qwen3VLProcessor": "JoyImageProcessor",
}
"""Published class name → ours."""

_PUBLISHED = {
    "JoyImageProcessor": ("transformers", "Qwen3VLProcessor"),
    # transformers 5 has one class under both names; older versions have two, and the published name is the
    # fast one's.
    "Qwen2Tokenizer": ("transformers", "Qwen2TokenizerFast"),
}
"""Class name at run time → what `model_index.json` says; the transformer's depends on the pipeline."""


class CheckpointLoadingMixin(DiffusionPipeline):
    """Load and save a pipeline in the published layout, with our classes."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Self:
        """Load a pipeline; see `DiffusionPipeline.from_pretrained`.

        Args:
            pretrained_model_name_or_path: A folder, a hub id, or "tiny" for the checkpoint inside this
                package (a folder of that name is "./tiny").
            **kwargs: As in diffusers: `dtype` or `torch_dtype` (a dtype or its name; fp32 for all parts if
                not given), `device_map`, `variant`, `quantization_config`, single parts such as
                `transformer=`, …. A part may also be the path of a weight file in any supported format. Only
                safetensors are read unless `use_safetensors=False`. `quantization` is joyimage's own: None
                keeps linear layers as the file stores them, "none" decodes all weights, and "int8", "fp8" or
                "nf4" quantizes the blocks of the transformer and the language layers of the text encoder.

        Returns:
            The pipeline.

        Raises:
            CheckpointError: The checkpoint cannot be read; the message names the file and the key.
            InvalidInputError: An argument has a value that is not accepted, or `quantization_config` cannot be
                used on this machine.
        """
        name = str(pretrained_model_name_or_path)
        kwargs["dtype"] = _resolve_dtype(kwargs.pop("dtype", None), kwargs.pop("torch_dtype", None))
        kwargs.setdefault("use_safetensors", True)
        quantization = checked_quantization(kwargs.pop("quantization", None))
        files = {
            part: Path(kwargs.pop(part)) for part in PARTS if isinstance(kwargs.get(part), str | PathLike)
        }
        local = find_folder(name)
        folder = local or cls.download_folder(name, {**kwargs, **files})
        kwargs.update(_build_components(folder, files, kwargs, quantization))
        with nullcontext() if local else download_hint(name):
            check_folder(
                folder,
                without=kwargs,
                variant=kwargs.get("variant"),
                with_weights=kwargs["use_safetensors"],
            )
        with _quantizer_errors() if kwargs.get("quantization_config") is not None else nullcontext():
            pipe: Any = cast("Any", super()).from_pretrained(str(folder), **kwargs)
        pipe.register_to_config(_name_or_path=name)
        written_by = read_json(folder / "model_index.json")["_class_name"]
        if cls.__name__ in PIPELINES and written_by != cls.__name__:
            warnings.warn(
                f"{name} is a checkpoint of {written_by}, and was loaded as {cls.__name__}, which prepares images and"
                " prompts in another way; load it with the former, or with `load_pipeline`, which chooses by itself.",
                stacklevel=2,
            )
        if (folder / PRESETS_FILE).is_file():
            pipe.speed_presets = read_presets(folder / PRESETS_FILE)
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Make a pipeline of this class from the parts of another; see `DiffusionPipeline.from_pipe`.

        The parts are shared. They keep their precision unless one is asked for: diffusers would convert them to
        fp32, in the first pipeline too.

        Args:
            pipeline: Pipeline whose parts and settings are taken.
            **kwargs: Parts and settings that replace those of `pipeline`; `dtype` or `torch_dtype` converts all
                parts, and the other arguments of diffusers work as there.

        Returns:
            The pipeline.

        Raises:
            InvalidInputError: `pipeline` lacks a part that this class needs, or the precision is not a dtype.
        """
        untyped: Any = super()
        if kwargs.keys() & {"dtype", "torch_dtype", "custom_pipeline"}:
            if kwargs.keys() & {"dtype", "torch_dtype"}:
                kwargs["dtype"] = _resolve_dtype(kwargs.pop("dtype", None), kwargs.pop("torch_dtype", None))
            pipe = untyped.from_pipe(pipeline, **kwargs)
        else:
            taken = inspect.signature(cls).parameters
            known: dict[str, Any] = {**pipeline.config, **pipeline.components}
            given = {**{name: value for name, value in known.items() if name in taken}, **kwargs}
            missing = [name for name, one in taken.items() if one.default is one.empty and name not in given]
            if missing:
                raise InvalidInputError(
                    f"`pipeline` is of type {type(pipeline).__name__} and has no {', '.join(missing)}; expected one of "
                    f"{', '.join(PIPELINES)}, or these parts as arguments."
                )
            pipe = cast("Any", cls(**given))
            pipe.register_to_config(_name_or_path=known.get("_name_or_path"))
        if hasattr(pipeline, "speed_presets"):
            pipe.speed_presets = cast("Any", pipeline).speed_presets
        return pipe

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save the pipeline in the published layout; see `DiffusionPipeline.save_pretrained`.

        Args:
            save_directory: Folder to write; created where missing.
            *args: As in diffusers.
            **kwargs: As in diffusers: `safe_serialization`, `variant`, `max_shard_size`, ….

        Raises:
            CheckpointError: The transformer has adapters, which the layout has no place for.
        """
        names = sorted(getattr(self.components.get("transformer"), "peft_config", {}))
        if names:
            raise CheckpointError(
                f"The transformer has LoRA adapters ({', '.join(names)}), which a checkpoint folder cannot"
                " hold. Call `pipe.unload_lora_weights()` to save the base weights, and before it"
                " `pipe.fuse_lora()` to save them with the adapters merged in."
            )
        cast("Any", super()).save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def download_folder(cls, name: str, kwargs: Mapping[str, Any]) -> Path:
        """Return the folder in the hub's cache that holds a checkpoint, downloaded where it is missing.

        Args:
            name: The hub id.
            kwargs: Arguments of `from_pretrained`; those for the hub count.

        Raises:
            CheckpointError: The hub does not have the checkpoint, or cannot be reached.
        """
        fetch_index(name, kwargs)
        with hub_errors(name):
            folder: str = cast("Any", cls).download(name, **kwargs)
            return Path(folder)

    @classmethod
    def load_config(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        return_unused_kwargs: bool = False,
        return_commit_hash: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Read `model_index.json` with our classes in place of the published ones; see `ConfigMixin`."""
        loaded: Any = cast("Any", super()).load_config(
            pretrained_model_name_or_path, return_unused_kwargs, return_commit_hash, **kwargs
        )
        config: dict[str, Any] = cast("tuple[Any, ...]", loaded)[0] if isinstance(loaded, tuple) else loaded
        if config.get("_class_name") in PIPELINES:
            config["_class_name"] = cls.__name__
        for part, value in config.items():
            names = cast("list[str]", value) if isinstance(value, list) else []
            if len(names) == 2 and names[1] in _OURS:
                config[part] = [__name__, _OURS[names[1]]]
        return cast("Any", loaded)

    def to_json_string(self) -> str:
        """Return the text of `model_index.json`, which names the published classes."""
        config: dict[str, Any] = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)  # the path of another machine means nothing
        kind = "JoyImageEditPlus" if config["_class_name"] == "JoyImageEditPlusPipeline" else "JoyImageEdit"
        published = {
            **_PUBLISHED,
            "JoyImageEditTransformer3DModel": ("diffusers", f"{kind}Transformer3DModel"),
        }
        for part, value in config.items():
            names = cast("list[str]", value) if isinstance(value, list) else []
            if len(names) == 2 and names[1] in published:
                config[part] = list(published[names[1]])
        return json.dumps(config, indent=2, sort_keys=True) + "\n"


@contextmanager
def _quantizer_errors() -> Generator[None]:
    """Raise one sentence where one of diffusers' quantizers lacks its library or a GPU.

    Raises:
        InvalidInputError: The quantizer cannot be used on this machine.
    """
    try:
        yield
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(
            f"`quantization_config` cannot be used here: {reason} joyimage's own `quantization` (int8, fp8 or nf4)"
            " needs no library and no GPU."
        ) from error


def _build_components(
    folder: Path, files: Mapping[str, Path], kwargs: Mapping[str, Any], quantization: str | None
) -> dict[str, Any]:
    """Build the parts that diffusers and transformers cannot load: single files, and quantized weights.

    Args:
        folder: Folder of the checkpoint, which has the configs.
        files: Part → weight file.
        kwargs: Arguments of `from_pretrained`.
        quantization: As in `build_component`.

    Raises:
        CheckpointError: A file cannot be read.
    """
    built: dict[str, Any] = {}
    if folder == PUBLISHED_FOLDER:
        built = {part: value for part, value in published_components().items() if part not in kwargs}
    variant = kwargs.get("variant")
    place = kwargs.get("device_map")
    device = torch.device(place) if isinstance(place, str | torch.device) else torch.device("cpu")
    for part in PARTS:
        if part in kwargs or (part not in files and not kwargs["use_safetensors"]):
            continue
        if part in files:
            source = open_part(files[part], part)
        elif _needs_building(folder, part, variant, quantization):
            source = open_part(folder / part, part, variant)
        else:
            continue
        dtype: Any = kwargs["dtype"]
        if isinstance(dtype, Mapping):
            dtypes = cast("Mapping[str, torch.dtype]", dtype)
            dtype = dtypes.get(part, dtypes.get("default", torch.float32))
        built[part] = build_component(
            source, folder / part, dtype=dtype, device=device, quantization=quantization
        )
    return built


def _needs_building(folder: Path, part: str, variant: str | None, quantization: str | None) -> bool:
    """Return whether a part of a folder is quantized, or is to be: joyimage loads it itself then."""
    path = folder / part / "config.json"
    if not path.is_file() or "quantization_config" in read_json(path):
        return False
    try:
        source = open_part(folder / part, part, variant)
    except CheckpointError:
        return False  # the check of the folder says what is wrong
    return source.is_quantized or (quantization in QUANTIZATIONS and part != "vae")


def pipeline_class(model: str) -> type[CheckpointLoadingMixin]:
    """Return the pipeline class that a checkpoint is for.

    Args:
        model: A checkpoint folder, a hub id, or a registered name.

    Raises:
        CheckpointError: There is no such checkpoint, or its `model_index.json` names another class.
    """
    folder = find_folder(model)
    if folder is None:
        folder = fetch_index(model, {}).parent
    name = read_index(folder / "model_index.json")["_class_name"]
    return getattr(importlib.import_module(PIPELINES[name]), name)


def published_class(name: str) -> type[CheckpointLoadingMixin]:
    """Return the pipeline class for weight files of the published model: Edit-Plus where the name says so.

    Args:
        name: Path of the transformer's file.
    """
    kind = "JoyImageEditPlusPipeline" if "plus" in Path(name).name.lower() else "JoyImageEditPipeline"
    return getattr(importlib.import_module(PIPELINES[kind]), kind)


def resolve_folder(
    cls: type[CheckpointLoadingMixin], model: str, files: Mapping[str, Path] | None = None
) -> Path:
    """Return the folder of a checkpoint on this machine, downloaded if `model` is a hub id.

    Args:
        cls: Class of the pipeline, which decides what is downloaded.
        model: A checkpoint folder, a hub id, or a registered name.
        files: Parts that are not needed, as they come from files.

    Raises:
        CheckpointError: There is no such checkpoint, or the hub cannot be reached.
    """
    return find_folder(model) or cls.download_folder(model, {"use_safetensors": True, **(files or {})})


def _resolve_dtype(dtype: Any, torch_dtype: Any) -> Any:
    """Return the dtype that either of two equivalent arguments gives, or a dict of dtypes by part.

    Raises:
        InvalidInputError: The arguments differ, or one is not a floating dtype.
    """
    if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
        raise InvalidInputError(
            f"`dtype` and `torch_dtype` mean the same: got {dtype} and {torch_dtype}. Give one of them."
        )
    dtype = torch_dtype if dtype is None else dtype
    if dtype is None:
        # fp32 for all parts: transformers alone would take the file's dtype, which mixes precisions in one
        # pipeline.
        return torch.float32
    if isinstance(dtype, Mapping):
        dtypes = cast("Mapping[str, Any]", dtype)
        return {part: _resolve_dtype(value, None) for part, value in dtypes.items()}
    resolved = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise InvalidInputError(
            f"`dtype` must be a floating torch.dtype or its name, such as 'bfloat16': got {dtype!r}."
        )
    return resolved
