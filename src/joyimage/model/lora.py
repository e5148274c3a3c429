"""LoRA adapters: which layers take one, and how foreign files name them.

A table of aliases is made from the model's own layers, so every spelling resolves to a layer that exists,
or to an error that names the key.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from diffusers.loaders.peft import PeftAdapterMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from joyimage.errors import CheckpointError
from joyimage.model.file_kind import describe_file

TARGET_MODULES = (
    "img_attn_qkv",
    "img_attn_proj",
    "txt_attn_qkv",
    "txt_attn_proj",
    "img_mlp.net.0.proj",
    "img_mlp.net.2",
    "txt_mlp.net.0.proj",
    "txt_mlp.net.2",
)
"""Layers of every block that an adapter is usually trained on: LoraConfig's `target_modules`."""

_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "model.")
_KOHYA_PREFIXES = ("lora_unet_", "lora_transformer_")
_OTHER_PARTS = ("text_encoder.", "lora_te", "vae.")
_MATRICES = re.compile(
    r"^(?P<layer>.+?)\.(?:(?P<down>lora_A|lora_down|lora\.down)|lora_B|lora_up|lora\.up)(?:\.[^.]+)?\.weight$"
)
_METADATA_KEY = "lora_adapter_metadata"  # diffusers writes the LoraConfig under this key of a file's header


class AdapterMixin(PeftAdapterMixin):
    """Let `load_lora_adapter` read the files of diffusers, peft, ComfyUI and kohya-ss."""

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        prefix: str | None = "transformer",
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load an adapter; see `PeftAdapterMixin.load_lora_adapter`.

        Args:
            pretrained_model_name_or_path_or_dict: A file, a folder with one, a state dict, or a hub id. All
                but the last may name the layers in any of the known ways.
            prefix: What the names of a hub id's file start with; elsewhere it is found out.
            hotswap: Put the new weights in the place of the adapter called `adapter_name`.
            **kwargs: As in diffusers: `adapter_name`, `weight_name`, ….

        Raises:
            CheckpointError: The file can't be read, or a key names no layer of this model.
        """
        source = pretrained_model_name_or_path_or_dict
        if isinstance(source, Mapping):
            adapter, metadata = dict(source), kwargs.pop("metadata", None)
        elif Path(source).exists():
            adapter, metadata = read_adapter(find_adapter_file(Path(source), kwargs.pop("weight_name", None)))
        else:
            super().load_lora_adapter(source, prefix=cast("Any", prefix), hotswap=hotswap, **kwargs)
            return
        if not any(".lokr_" in key for key in adapter):
            adapter = rename_adapter(adapter, adaptable_layers(self))
            prefix = None
        super().load_lora_adapter(
            adapter, prefix=cast("Any", prefix), hotswap=hotswap, metadata=metadata, **kwargs
        )


def adaptable_layers(model: Any) -> list[str]:
    """Return the names of the layers that can take an adapter, also of those that carry one already."""
    return [
        name.removesuffix(".base_layer")
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv3d) and ".lora_" not in name
    ]


def rename_adapter(adapter: Mapping[str, Tensor], layers: Iterable[str]) -> dict[str, Tensor]:
    """Name an adapter's matrices `<layer>.lora_A.weight` and `<layer>.lora_B.weight`.

    Args:
        adapter: Matrices under the names of diffusers, peft, ComfyUI or kohya-ss. `alpha` scalars go into the
            second matrix.
        layers: Names of the model's layers.

    Returns:
        The renamed matrices, those of other parts than the transformer left out.

    Raises:
        CheckpointError: A key names no layer, a matrix lacks its partner, or nothing is left.
    """
    aliases = _aliases(layers)
    renamed: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for key, value in adapter.items():
        if key.startswith(_OTHER_PARTS):
            continue
        if key.endswith(".alpha"):
            alphas[_find_layer(key.removesuffix(".alpha"), key, aliases)] = float(value)
            continue
        match = _MATRICES.match(key)
        if match is None:
            raise CheckpointError(
                f"The adapter's key `{key}` is no LoRA matrix: expected `….lora_A.weight` or the like."
            )
        layer = _find_layer(match["layer"], key, aliases)
        renamed[f"{layer}.lora_{'A' if match['down'] else 'B'}.weight"] = value

    for key in list(renamed):
        layer, matrix, _ = key.rsplit(".", 2)
        partner = f"{layer}.lora_{'B' if matrix == 'lora_A' else 'A'}.weight"
        if partner not in renamed:
            raise CheckpointError(f"The adapter has `{key}` but lacks `{partner}`: the file is incomplete.")
        if matrix == "lora_B" and layer in alphas:
            # peft scales by alpha / rank and, told nothing, takes alpha = rank.
            rank = renamed[key].shape[1]
            renamed[key] = renamed[key] * (alphas[layer] / rank)
    if not renamed:
        raise CheckpointError("The adapter holds no matrices for the transformer.")
    return renamed


def find_adapter_file(path: Path, weight_name: str | None = None) -> Path:
    """Return the adapter file that a path means: itself, or the one in the folder.

    Raises:
        CheckpointError: A folder without exactly one safetensors file, and no `weight_name` that says which.
    """
    if path.is_file():
        return path
    if weight_name is not None:
        return path / weight_name
    candidates = sorted(path.glob("*.safetensors"))
    if len(candidates) != 1:
        raise CheckpointError(
            f"{path} holds {len(candidates)} safetensors files: give `weight_name`, the one to take."
        )
    return candidates[0]


def read_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return an adapter's matrices and the LoraConfig that diffusers may have put into the file's header.

    Raises:
        CheckpointError: Not a readable safetensors file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            adapter: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        kind = describe_file(path) if path.is_file() else "missing"
        raise CheckpointError(
            f"The adapter {path} is {kind}; expected a safetensors file: {error}."
        ) from error
    if _METADATA_KEY not in header:
        return adapter, None
    try:
        settings: Any = json.loads(header[_METADATA_KEY])
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise CheckpointError(
            f"The adapter {path} has a LoRA config in its header that is not a JSON object."
        )
    ours = {key: value for key, value in settings.items() if key.startswith("transformer.")}
    return adapter, {key.removeprefix("transformer."): value for key, value in (ours or settings).items()}


def _aliases(layers: Iterable[str]) -> dict[str, str]:
    """Return every spelling of the layers' names: the original code has no `.attn.`, kohya-ss no dots."""
    aliases: dict[str, str] = {}
    for layer in layers:
        for spelling in (layer, layer.replace(".attn.", ".")):
            aliases[spelling] = layer
            aliases[spelling.replace(".", "_")] = layer
    return aliases


def _find_layer(name: str, key: str, aliases: Mapping[str, str]) -> str:
    for prefix in (*_PREFIXES, *_KOHYA_PREFIXES):
        name = name.removeprefix(prefix)
    if name not in aliases:
        raise CheckpointError(f"The adapter's key `{key}` names no layer of this transformer.")
    return aliases[name]
