"""Load the transformer from a folder or from one file, checked before any weight is read."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights  # pyright: ignore[reportMissingTypeStubs]
from diffusers.configuration_utils import ConfigMixin
from diffusers.loaders import single_file_utils
from diffusers.loaders.single_file_model import FromOriginalModelMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from joyimage.compat.diffusers import parallel_shards
from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.model.checkpoint.headers import StoredTensor, check_tensors, read_json, shapes_of, tensor_shapes
from joyimage.model.checkpoint.layouts import from_original, key_from_original, settings_from_shapes
from joyimage.model.checkpoint.shards import STEM, read_headers, read_weights

Source = str | PathLike[str] | Mapping[str, Any]
"""A path, a link or hub id, or what is there itself."""


class CheckpointMixin(ModelMixin, ConfigMixin, FromOriginalModelMixin):
    """Load the transformer from a folder or from one file, and say in one sentence what is wrong with it."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str] | None,
        **kwargs: Any,
    ) -> Any:
        """Load a model; see `ModelMixin.from_pretrained`.

        Args:
            pretrained_model_name_or_path: Folder or hub id in the published layout, either generation of
                config.
            **kwargs: As in diffusers: `dtype` or `torch_dtype`, `subfolder`, `variant`, `device_map`, …. Only
                safetensors are read unless `use_safetensors=False`.

        Returns:
            The model, in evaluation mode.

        Raises:
            CheckpointError: A file or a key that is missing, wrong or too many.
        """
        kwargs.setdefault("use_safetensors", True)
        folder = Path(pretrained_model_name_or_path or "", kwargs.get("subfolder") or "")
        if folder.is_dir() and kwargs["use_safetensors"] and not kwargs.get("ignore_mismatched_sizes"):
            cls.check_folder(folder, kwargs.get("variant"))
        with_info = kwargs.pop("output_loading_info", False)
        with parallel_shards():
            loaded: Any = cast("Any", super()).from_pretrained(
                pretrained_model_name_or_path, output_loading_info=True, **kwargs
            )
        model, info = loaded
        if info["missing_keys"]:  # not seen by the check above where the files came from the hub
            raise CheckpointError(
                f"{pretrained_model_name_or_path} lacks `{sorted(info['missing_keys'])[0]}`."
            )
        return (model, info) if with_info else model

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write the model to a folder; see `ModelMixin.save_pretrained`.

        Args:
            save_directory: Folder to write; created where missing.
            *args: As in diffusers.
            **kwargs: As in diffusers: `variant`, `max_shard_size`, ….

        Raises:
            InvalidInputError: Its layers are divided between processes.
        """
        if cast("Any", self).layer_slice.num_parts > 1:
            raise InvalidInputError(
                "This process has a slice of the transformer's layers, which is no model; save the pipeline before"
                " they are divided."
            )
        cast("Any", super()).save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def check_folder(cls, folder: Path, variant: str | None = None) -> None:
        """Check a folder's config, files, keys and shapes without reading the weights.

        Args:
            folder: The transformer's own folder.
            variant: Such as "fp16".

        Raises:
            CheckpointError: What is wrong, with file and key.
        """
        config_path = folder / "config.json"
        config = read_json(config_path)
        model = cls.build_empty(config, str(config_path))
        found = read_headers(folder, STEM, variant)
        if "quantization_config" in config:  # other shapes and keys, known to the quantizer only
            return
        if any(key_from_original(key) != key for key in found):
            key = next(key for key in found if key_from_original(key) != key)
            raise CheckpointError(
                f"{found[key].path} has the original code's `{key}`: `joyimage convert` makes the published"
                " layout of it."
            )
        check_tensors(found, shapes_of(model), folder)

    @classmethod
    def build_empty(cls, config: Mapping[str, Any], config_name: str) -> Any:
        """Build a model whose weights take no memory.

        Args:
            config: Settings of either generation.
            config_name: What the sentence calls them, such as the file's name.

        Returns:
            The model, its weights on the meta device.

        Raises:
            CheckpointError: A key that is missing, unknown or wrong.
        """
        try:
            with init_empty_weights():
                model: Any = cast("Any", cls).from_config(dict(config))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{config_name}: {error}") from error
        known = cls._get_init_keys(cls)  # pyright: ignore[reportUnknownMemberType] - its argument has no type
        unknown = sorted(
            key
            for key in model.config
            if key not in known and not key.startswith("_") and key != "quantization_config"
        )
        if unknown:
            raise CheckpointError(
                f"{config_name}: no transformer has the key `{unknown[0]}`; is it misspelt?"
            )
        return model

    @classmethod
    def from_single_file(  # pyright: ignore[reportIncompatibleMethodOverride] - there it takes any keyword
        cls,
        pretrained_model_link_or_path_or_dict: Source,
        *,
        config: Source | None = None,
        subfolder: str | None = None,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        allow_pickle: bool = False,
        **hub: Any,
    ) -> Any:
        """Load a model from one file of weights, in the original or the published layout.

        Args:
            pretrained_model_link_or_path_or_dict: A safetensors file, a link to one on the hub, or the
                weights by name.
            config: Folder, file or hub id with the config, or the settings themselves. None takes them from
                the weights' shapes, with the published rotary settings; no network is needed.
            subfolder: Where in `config` its config.json is.
            dtype: Precision of the weights; None means fp32.
            torch_dtype: Another name of `dtype`.
            device: Where the weights go; None means the CPU.
            allow_pickle: Read a .pt or .pth file too, as tensors only.
            **hub: For links and hub ids, as in diffusers: `token`, `cache_dir`, `revision`,
                `local_files_only`, ….

        Returns:
            The model, in evaluation mode.

        Raises:
            CheckpointError: A file or a key that is missing, wrong or too many.
        """
        checkpoint, where = _read_source(
            pretrained_model_link_or_path_or_dict, hub, allow_pickle=allow_pickle
        )
        weights: dict[str, Tensor] = from_original(checkpoint)
        shapes = tensor_shapes(weights, where)
        if config is None:
            settings, config_name = settings_from_shapes(shapes), f"the settings found in {where}"
        elif isinstance(config, Mapping):
            settings, config_name = config, "`config`"
        else:
            path = Path(config, subfolder or "")
            path = path / "config.json" if path.is_dir() else path
            config_name = str(path)
            # The last is a hub id.
            settings = (
                read_json(path)
                if path.exists()
                else cast("Any", cls).load_config(config, subfolder=subfolder, **hub)
            )
        model = cls.build_empty(cast("Mapping[str, Any]", settings), config_name)
        found = {key: StoredTensor(shape, where) for key, shape in shapes.items()}
        check_tensors(found, shapes_of(model), where)

        dtype = dtype or torch_dtype or torch.float32
        fp32_parts = set(cls._keep_in_fp32_modules or ())
        for key, value in weights.items():
            keep = not fp32_parts.isdisjoint(key.split("."))
            weights[key] = value.to(device or "cpu", torch.float32 if keep else dtype)
        model.load_state_dict(weights, assign=True)
        return model.eval()


def _read_source(
    source: Source, hub: dict[str, Any], *, allow_pickle: bool
) -> tuple[Mapping[str, Any], Path]:
    """Read the weights that `from_single_file` was given, and return them with a name for error messages."""
    if isinstance(source, Mapping):
        return source, Path("the given weights")
    if str(source).startswith(("http://", "https://")):
        load: Any = cast("Any", single_file_utils).load_single_file_checkpoint
        return cast("Mapping[str, Any]", load(str(source), **hub)), Path(source)
    return read_weights([Path(source)], allow_pickle=allow_pickle), Path(source)
