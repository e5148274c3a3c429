"""Checkpoints of the transformer: published key layouts ↔ ours, checked loading of folders and single files.

Our names are those of the published folders. The original code's checkpoint differs in the attention layers
only, and may be wrapped in a dict or carry the prefixes that training programs put before every name.
"""

import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from diffusers.configuration_utils import ConfigMixin
from diffusers.loaders.single_file_model import FromOriginalModelMixin
from diffusers.loaders.single_file_utils import load_single_file_checkpoint
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from joyimage.compat.diffusers import parallel_shards
from joyimage.errors import CheckpointError
from joyimage.model.weights import (
    Shape,
    StoredTensor,
    check_tensors,
    read_headers,
    read_json,
    read_weights,
    shapes_of,
    tensor_shapes,
)

STEM = "diffusion_pytorch_model"
"""What the names of diffusers' weight files start with."""

ORIGINAL_NAMES: tuple[tuple[str, str], ...] = tuple(
    (f"double_blocks.*.{stream}_attn_{layer}.", f"double_blocks.*.attn.{stream}_attn_{layer}.")
    for stream in ("img", "txt")
    for layer in ("qkv", "q_norm", "k_norm", "proj")
)
"""How keys begin: (in the original code, in published folders and here). The star is a block's number."""

_WRAPPERS = ("model", "state_dict", "module")
_PREFIXES = (
    "module.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "model.diffusion_model.",
    "diffusion_model.",
    "model.",
)

_PUBLISHED_ROPE: dict[str, Any] = {"rope_dim_list": [16, 56, 56], "rope_type": "rope", "theta": 10000}
"""The only settings that weights don't tell. Source: transformer/config.json of JoyAI-Image-Edit."""


Source = str | PathLike[str] | Mapping[str, Any]
"""A path, a link or hub id, or what is there itself."""


def _renamer(names: tuple[tuple[str, str], ...]) -> Callable[[str], str]:
    rules = [
        (re.compile("^" + re.escape(old).replace(r"\*", r"(\d+)")), new.replace("*", r"\g<1>"))
        for old, new in names
    ]

    def rename(key: str) -> str:
        for pattern, replacement in rules:
            renamed, count = pattern.subn(replacement, key)
            if count:
                return renamed
        return key

    return rename


key_from_original = _renamer(ORIGINAL_NAMES)
"""Give the published name of a key of the original code; other keys are returned as they are."""


def from_original(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Name the weights of any known layout as we do.

    Args:
        checkpoint: Weights, or what headers say about them, by name: original or published, with or without a
            wrapper ("model") around them or a prefix ("module.", "model.diffusion_model.") before every name.

    Returns:
        The same values under our names.

    Raises:
        CheckpointError: Two keys of one meaning.
    """
    renamed: dict[str, Any] = {}
    for key, value in unwrap(checkpoint).items():
        name = key_from_original(key)
        if name in renamed:
            raise CheckpointError(
                f"The checkpoint has both `{name}` and `{key}`, which mean the same weight."
            )
        renamed[name] = value
    return renamed


def unwrap(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Take off the dict ("model") around weights and the prefixes that all their names have in common."""
    for wrapper in _WRAPPERS:
        if isinstance(checkpoint.get(wrapper), Mapping):
            checkpoint = checkpoint[wrapper]
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if checkpoint and all(key.startswith(prefix) for key in checkpoint):
                checkpoint = {key.removeprefix(prefix): value for key, value in checkpoint.items()}
                stripped = True
    return checkpoint


def settings_from_shapes(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Find a transformer's settings in the shapes of its weights, and take the published rotary settings.

    Args:
        shapes: Shapes by our names.

    Returns:
        Constructor arguments of the transformer.

    Raises:
        CheckpointError: A key that tells a setting is missing, or the heads aren't those of the published
        model.
    """

    def shape(key: str, num_dims: int) -> Shape:
        if key not in shapes or len(shapes[key]) != num_dims:
            raise CheckpointError(
                f"The weights lack a `{key}` of {num_dims} dimensions: they are no JoyImage transformer."
            )
        return shapes[key]

    hidden_size, in_channels, *patch_size = shape("img_in.weight", 5)
    (head_dim,) = shape("double_blocks.0.attn.img_attn_q_norm.weight", 1)
    (out_width, _) = shape("proj_out.weight", 2)
    if head_dim != sum(_PUBLISHED_ROPE["rope_dim_list"]):
        raise CheckpointError(
            f"The weights have heads of {head_dim} channels, where the published model has"
            f" {sum(_PUBLISHED_ROPE['rope_dim_list'])}, and can't tell their `rope_dim_list`:"
            " give the `config`."
        )
    blocks = {int(key.split(".")[1]) for key in shapes if re.match(r"double_blocks\.\d+\.", key)}
    patch_t, patch_h, patch_w = patch_size
    return {
        "patch_size": list(patch_size),
        "in_channels": in_channels,
        "out_channels": out_width // (patch_t * patch_h * patch_w),
        "hidden_size": hidden_size,
        "num_attention_heads": hidden_size // head_dim,
        "text_dim": shape("condition_embedder.text_embedder.linear_1.weight", 2)[1],
        "mlp_width_ratio": shape("double_blocks.0.img_mlp.net.2.weight", 2)[1] / hidden_size,
        "num_layers": len(blocks),
        **_PUBLISHED_ROPE,
    }


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
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, output_loading_info=True, **kwargs
            )
        model, info = loaded
        if info["missing_keys"]:  # not seen by the check above where the files came from the hub
            raise CheckpointError(
                f"{pretrained_model_name_or_path} lacks `{sorted(info['missing_keys'])[0]}`."
            )
        return (model, info) if with_info else model

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
                model: Any = cls.from_config(dict(config))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{config_name}: {error}") from error
        known = cls._get_init_keys(cls)
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
                read_json(path) if path.exists() else cls.load_config(config, subfolder=subfolder, **hub)
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
    """Read the weights that `from_single_file` was given, and say what errors shall call their place."""
    if isinstance(source, Mapping):
        return source, Path("the given weights")
    if str(source).startswith(("http://", "https://")):
        return cast("Mapping[str, Any]", load_single_file_checkpoint(str(source), **hub)), Path(source)
    return read_weights([Path(source)], allow_pickle=allow_pickle), Path(source)
