"""LoRA adapters: which layers take one, and how foreign files name them.

A table of aliases is made from the model's own layers, so every spelling resolves to a layer that exists,
or to an error that names the key.
"""

import itertools
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from diffusers.loaders.peft import PeftAdapterMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.model.file_kind import describe_file
from joyimage.model.lora_strength import Statement, check_config, find_alphas, read_statement, strip_prefix

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

_PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "pipe.",
    "dit.",
    "unet.",
    "transformer.",
    "module.",
    "_orig_mod.",
    "net.",
    "model.",
)
_KOHYA_PREFIXES = (
    "lycoris_",
    "lora_unet_",
    "lora_transformer_",
    "lora_dit_",
    "diffusion_model_",
)
_OTHER_PARTS = ("text_encoder.", "text_encoder_2.", "lora_te", "vae.")
_MATRICES = re.compile(
    r"^(?P<layer>.+?)\.(?:(?P<down>lora_A|lora_down|lora\.down)|lora_B|lora_up|lora\.up)(?:\.[^.]+)?\.weight$"
)


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
            pretrained_model_name_or_path_or_dict: A file, a folder with one, a state dict, or a hub id. All but the
                last may name the layers in any of the known ways.
            prefix: What the names of a hub id's file start with; elsewhere it is found out.
            hotswap: Put the new weights in the place of the adapter called `adapter_name`.
            **kwargs: As in diffusers: `adapter_name`, `weight_name`, `metadata` (the LoRA config of a state dict).
                Without a name an adapter is called "default", "default_1" and so on.

        Raises:
            CheckpointError: The file can't be read, a key names no layer of this model, a matrix does not fit, or the
                strength is stated in two ways.
            InvalidInputError: `adapter_name` holds a dot.
        """
        source = pretrained_model_name_or_path_or_dict
        if not hotswap:
            kwargs["adapter_name"] = self._adapter_name(kwargs.get("adapter_name"))
        if isinstance(source, Mapping):
            tensors, label = dict(source), "The adapter"
            config = kwargs.pop("metadata", None)
            config = None if config is None else strip_prefix(config)
            if config is not None:
                check_config(config, "`metadata`")
            statement = Statement(config=config, source="`metadata`")
        elif Path(source).exists():
            path = find_adapter_file(Path(source), kwargs.pop("weight_name", None))
            label = f"The adapter {path}"
            tensors, header = read_adapter(path)
            statement = read_statement(path, header)
        else:
            super().load_lora_adapter(source, prefix=cast("Any", prefix), hotswap=hotswap, **kwargs)
            return
        _check_values(tensors, label)
        model = cast("nn.Module", self)
        layers = adaptable_layers(model)
        if any(".lokr_" in key for key in tensors):
            tensors, prefix, metadata = _rename_lokr(tensors, layers), "transformer", None
        else:
            tensors, metadata = prepare_adapter(tensors, layers, statement)
            _check_shapes(model, tensors, label)
            prefix = None
        super().load_lora_adapter(
            tensors, prefix=cast("Any", prefix), hotswap=hotswap, metadata=metadata, **kwargs
        )

    def _adapter_name(self, given: str | None) -> str:
        """Return the name of a new adapter.

        Raises:
            InvalidInputError: The name holds a dot, which torch does not accept in names of modules.
        """
        if given is not None:
            if "." in given or not given:
                raise InvalidInputError(
                    f"`adapter_name` is {given!r}; expected a name without dots, such as 'style'."
                )
            return given
        taken = set(getattr(self, "peft_config", {}))
        names = itertools.chain(["default"], (f"default_{number}" for number in itertools.count(1)))
        return next(name for name in names if name not in taken)


def adaptable_layers(model: Any) -> list[str]:
    """Return the names of the layers that can take an adapter, also of those that carry one already."""
    return [
        name.removesuffix(".base_layer")
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv3d) and ".lora_" not in name
    ]


def prepare_adapter(
    adapter: Mapping[str, Tensor], layers: Iterable[str], statement: Statement | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Name an adapter's matrices as peft does, and state its strength once, layer by layer.

    Args:
        adapter: Matrices and `.alpha` scalars under the names of any known program.
        layers: Names of the model's layers.
        statement: What else the adapter's files say about its strength.

    Returns:
        Matrices `<layer>.lora_A.weight` and `<layer>.lora_B.weight`, unchanged, without those of other parts than the
        transformer; and the LoRA config that gives each layer its rank and alpha.

    Raises:
        CheckpointError: A key names no layer, a matrix lacks its partner, nothing is left, or the strength is stated in
            two ways.
    """
    layers = list(layers)
    aliases = _aliases(layers)
    renamed: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    left_out = 0
    for key, value in adapter.items():
        if key.startswith(_OTHER_PARTS):
            left_out += 1
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
    for key in renamed:
        layer, matrix, _ = key.rsplit(".", 2)
        partner = f"{layer}.lora_{'B' if matrix == 'lora_A' else 'A'}.weight"
        if partner not in renamed:
            raise CheckpointError(f"The adapter has `{key}` but lacks `{partner}`: the file is incomplete.")
    if not renamed:
        raise CheckpointError("The adapter holds no matrices for the transformer.")
    if left_out:
        warnings.warn(
            f"The adapter holds {left_out} tensors for the text encoder or VAE, which are left out: only the "
            "transformer takes adapters.",
            stacklevel=3,
        )
    ranks = {
        key.removesuffix(".lora_A.weight"): len(value) for key, value in renamed.items() if ".lora_A." in key
    }
    other_names = {layer: (layer.replace(".attn.", "."),) for layer in ranks}
    found = find_alphas(ranks, alphas, statement or Statement(), other_names)
    config = {
        "r": next(iter(ranks.values())),
        "lora_alpha": next(iter(found.values())),
        "target_modules": sorted(ranks),
        "rank_pattern": {re.escape(layer): rank for layer, rank in ranks.items()},
        "alpha_pattern": {re.escape(layer): alpha for layer, alpha in found.items()},
    }
    return renamed, config


def _rename_lokr(adapter: Mapping[str, Tensor], layers: Iterable[str]) -> dict[str, Tensor]:
    """Name a LoKr adapter's tensors as diffusers reads them.

    Raises:
        CheckpointError: A key names no layer, or is of another kind.
    """
    aliases = _aliases(layers)
    renamed: dict[str, Tensor] = {}
    for key, value in adapter.items():
        if key.startswith(_OTHER_PARTS):
            continue
        layer, _, matrix = key.rpartition(".")
        if matrix != "alpha" and not matrix.startswith("lokr_"):
            raise CheckpointError(
                f"The adapter's key `{key}` is no LoKr tensor: expected `….lokr_w1` or the like."
            )
        renamed[f"transformer.{_find_layer(layer, key, aliases)}.{matrix}"] = value
    return renamed


def _check_values(tensors: Mapping[str, Tensor], label: str) -> None:
    """Reject numbers that would make every image black.

    Raises:
        CheckpointError: A value is not finite.
    """
    for key, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{label} has values in `{key}` that are not finite: the file is damaged.")


def _check_shapes(model: nn.Module, tensors: Mapping[str, Tensor], label: str) -> None:
    """Reject matrices that do not fit on their layers, before the model is touched.

    Raises:
        CheckpointError: One does not fit.
    """
    modules = dict(model.named_modules())
    for key, tensor in tensors.items():
        layer, matrix, _ = key.rsplit(".", 2)
        module: Any = modules.get(f"{layer}.base_layer", modules[layer])
        axis = 1 if matrix == "lora_A" else 0
        if tensor.ndim < 2 or tensor.shape[axis] != module.weight.shape[axis]:
            raise CheckpointError(
                f"{label} has `{key}` of shape {list(tensor.shape)}, which does not fit on a layer of "
                f"{list(module.weight.shape)}: it was made for another model."
            )


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


def read_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return an adapter's tensors and the metadata of the file's header.

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
    return adapter, dict(header)


def _aliases(layers: Iterable[str]) -> dict[str, str]:
    """Return every spelling of the layers' names: the original code has no `.attn.`, kohya-ss no dots."""
    aliases: dict[str, str] = {}
    for layer in layers:
        for spelling in (layer, layer.replace(".attn.", ".")):
            aliases[spelling] = layer
            aliases[spelling.replace(".", "_")] = layer
    return aliases


def _find_layer(name: str, key: str, aliases: Mapping[str, str]) -> str:
    while name not in aliases:
        prefix = next((one for one in (*_PREFIXES, *_KOHYA_PREFIXES) if name.startswith(one)), None)
        if prefix is None:
            break
        name = name.removeprefix(prefix)
    if name not in aliases:
        raise CheckpointError(f"The adapter's key `{key}` names no layer of this transformer.")
    return aliases[name]
