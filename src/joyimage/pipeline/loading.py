"""Load and save whole pipelines in the published layout.

A published folder names diffusers' and transformers' classes in `model_index.json`. We read and write that
file as it is published, so that folders go both ways, and put our own classes in the places of theirs while
loading.
"""

import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from httpx2 import HTTPError
from huggingface_hub import hf_hub_download
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from transformers.initialization import no_init_weights
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration
from transformers.processing_utils import ProcessorMixin
from typing_extensions import Self

from joyimage.checkpoints import registered_folder, registered_names
from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.model.checkpoint import STEM
from joyimage.model.file_kind import describe_as_model
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

PUBLISHED_MODEL = "jdopensource/JoyAI-Image-Edit-Diffusers"
"""Hub id of the published checkpoint in the layout that is read here."""

PIPELINES = {
    "JoyImageEditPipeline": "joyimage.pipeline.edit",
    "JoyImageEditPlusPipeline": "joyimage.pipeline.edit_plus",
}
"""Pipeline class that a checkpoint may name → the module that defines it here."""

_ORIGINAL_IDS = {"jdopensource/JoyAI-Image-Edit": PUBLISHED_MODEL}
"""Hub id of a checkpoint in the original code's layout → hub id of its weights in the published layout."""

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
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Self:
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
            CheckpointError: The checkpoint cannot be read; the message names the file and the key.
            InvalidInputError: An argument has a value that is not accepted.
        """
        name = str(pretrained_model_name_or_path)
        kwargs["dtype"] = _resolve_dtype(kwargs.pop("dtype", None), kwargs.pop("torch_dtype", None))
        kwargs.setdefault("use_safetensors", True)
        folder = find_folder(name)
        if folder is None:
            folder = cls._download(name, kwargs)
            with _download_hint(name):
                cls._check(folder, kwargs)
        else:
            cls._check(folder, kwargs)
        pipe = super().from_pretrained(str(folder), **kwargs)
        pipe.register_to_config(_name_or_path=name)
        return pipe

    @classmethod
    def _check(cls, folder: Path, kwargs: Mapping[str, Any]) -> None:
        """Check a checkpoint folder's files, keys and shapes without reading the weights.

        Raises:
            CheckpointError: What is wrong, with file and key.
        """
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
                " hold. Call `pipe.transformer.unload_lora()` to save the base weights, and before it"
                " `pipe.transformer.fuse_lora()` to save them with the adapters merged in."
            )
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def _download(cls, name: str, kwargs: Mapping[str, Any]) -> Path:
        _fetch_index(name, kwargs)
        with _hub_errors(name):
            return Path(cls.download(name, **kwargs))

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


def pipeline_class(model: str) -> type[CheckpointLoadingMixin]:
    """Return the pipeline class that a checkpoint is for.

    Args:
        model: A checkpoint folder, a hub id, or a registered name.

    Raises:
        CheckpointError: There is no such checkpoint, or its `model_index.json` names another class.
    """
    folder = find_folder(model)
    if folder is None:
        folder = _fetch_index(model, {}).parent
    name = _check_index(folder / "model_index.json")["_class_name"]
    return getattr(importlib.import_module(PIPELINES[name]), name)


def find_folder(model: str) -> Path | None:
    """Return the folder of a checkpoint on this machine, or None if `model` is a hub id.

    Args:
        model: A checkpoint folder, a hub id, or a registered name.

    Raises:
        CheckpointError: It is none of the three.
    """
    folder = registered_folder(model)
    if folder is not None:
        return folder
    path = Path(model)
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(describe_as_model(path))
    if model in _ORIGINAL_IDS:
        raise CheckpointError(
            f"{model} has the layout of the original code: use {_ORIGINAL_IDS[model]}, or download it and run"
            " `joyimage convert FOLDER OUTPUT`."
        )
    if not _HUB_ID.match(model):
        raise CheckpointError(
            f"There is no folder {model}: expected a checkpoint folder, a hub id such as {PUBLISHED_MODEL},"
            f" or {' or '.join(map(repr, registered_names()))}."
        )
    return None


def _fetch_index(model: str, kwargs: Mapping[str, Any]) -> Path:
    """Return the `model_index.json` of a hub id, downloaded where the cache lacks it.

    It comes before the weights: it tells in one small request whether the hub has the checkpoint.

    Args:
        model: The hub id.
        kwargs: Arguments of `from_pretrained`; those for the hub are passed on.

    Raises:
        CheckpointError: The file is neither in the cache nor on the hub, or the hub cannot be reached.
    """
    names = ("cache_dir", "revision", "token", "force_download", "local_files_only")
    hub = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
    with _hub_errors(model):
        return Path(hf_hub_download(model, "model_index.json", **hub))


@contextmanager
def _download_hint(model: str) -> Iterator[None]:
    """Add to a message about a downloaded checkpoint how to download it again.

    Raises:
        CheckpointError: That of the block, with the hint.
    """
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{error} Run `hf download {model} --force-download`.") from error


@contextmanager
def _hub_errors(model: str) -> Iterator[None]:
    """Raise one sentence for what huggingface_hub, its HTTP library and diffusers say about a model.

    Raises:
        CheckpointError: The model cannot be downloaded.
    """
    try:
        yield
    except (OSError, HTTPError, HFValidationError) as error:
        size = "about 50 GB, " if model == PUBLISHED_MODEL else ""
        raise CheckpointError(
            f"{model} is not a folder on this machine, and {_hub_reason(error)}. Download it with"
            f" `hf download {model}` ({size}into the local cache), or give the folder that has it."
        ) from error


def _hub_reason(error: BaseException) -> str:
    """Return what went wrong with the hub, from the first error of a chain that says so."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for kinds, reason in (
        ((GatedRepoError,), "the hub wants you to accept its terms and log in (`hf auth login`)"),
        ((RepositoryNotFoundError,), "the hub has no such public model"),
        ((RevisionNotFoundError,), "the hub has no such revision of it"),
        ((EntryNotFoundError,), "it has no model_index.json on the hub"),
    ):
        if any(isinstance(one, kinds) and not isinstance(one, LocalEntryNotFoundError) for one in chain):
            return reason
    if HF_HUB_OFFLINE:
        return "the hub is switched off (HF_HUB_OFFLINE=1)"
    return "the hub cannot be reached"


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


def _check_index(path: Path) -> dict[str, Any]:
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
            raise CheckpointError(f"{path} lacks the key `{part}`: fetch the file again.")
        value = index[part]
        if not isinstance(value, list) or [type(name) for name in value] != [str, str]:
            raise CheckpointError(f"{path} must name library and class of `{part}`: got {value!r}.")
    return index


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
        InvalidInputError: They contradict each other, or it is no floating dtype.
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
        return {part: _resolve_dtype(value, None) for part, value in dtype.items()}
    resolved = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise InvalidInputError(
            f"`dtype` must be a floating torch.dtype or its name, such as 'bfloat16': got {dtype!r}."
        )
    return resolved
