"""Which layer a key of an adapter file means.

A table of aliases is made from the model's own layers, so every spelling resolves to a layer that exists, or to an
error that names the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from joyimage.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

ATTENTION_MODULES = ("img_attn_qkv", "img_attn_proj", "txt_attn_qkv", "txt_attn_proj")
"""Attention layers of every block."""

TARGET_MODULES = (
    *ATTENTION_MODULES,
    "img_mlp.net.0.proj",
    "img_mlp.net.2",
    "txt_mlp.net.0.proj",
    "txt_mlp.net.2",
)
"""Layers of every block that an adapter is usually trained on: LoraConfig's `target_modules`."""

OTHER_PARTS = (
    "text_encoder",
    "text_model.",
    "lora_te",
    "vae.",
    "lora_vae",
    "conditioner.",
    "cond_stage_model.",
)
"""How keys of other parts than the transformer start."""

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
    "lycoris_",
    "lora_unet_",
    "lora_transformer_",
    "lora_dit_",
    "diffusion_model_",
)
# Names of a fused layer's three parts, in the programs that split it: ours with a letter, and diffusers' usual ones.
_SPLIT = {
    "img_attn_qkv": (
        ("img_attn_q", "img_attn_k", "img_attn_v"),
        ("img_attn_q_proj", "img_attn_k_proj", "img_attn_v_proj"),
        ("to_q", "to_k", "to_v"),
    ),
    "txt_attn_qkv": (
        ("txt_attn_q", "txt_attn_k", "txt_attn_v"),
        ("txt_attn_q_proj", "txt_attn_k_proj", "txt_attn_v_proj"),
        ("add_q_proj", "add_k_proj", "add_v_proj"),
    ),
    "img_attn_proj": (("to_out.0",), ("to_out",)),
    "txt_attn_proj": (("to_add_out",),),
}


class LayerNames:
    """Finds the layer that a name means.

    Args:
        layers: Names of the model's layers.
    """

    def __init__(self, layers: Iterable[str]) -> None:
        self._whole: dict[str, str] = {}
        self._parts: dict[str, tuple[str, int]] = {}
        for layer in layers:
            self._add(self._whole, layer, layer)
            parent, _, last = layer.rpartition(".")
            for names in _SPLIT.get(last, ()):
                for number, name in enumerate(names):
                    spelled = f"{parent}.{name}" if parent else name
                    if len(names) == 1:
                        self._add(self._whole, spelled, layer)
                    else:
                        self._add(self._parts, spelled, (layer, number))

    def find(self, name: str, key: str, label: str) -> tuple[str, int | None]:
        """Return the layer that a name means, and the part of it: 0 to 2 for q, k, v, None for all of it.

        Args:
            name: Name without the matrix, with the prefixes that a program puts before it.
            key: The whole key, for the message.
            label: What the adapter is called in messages.

        Raises:
            CheckpointError: The model has no such layer.
        """
        while name not in self._whole and name not in self._parts:
            prefix = next((one for one in _PREFIXES if name.startswith(one)), None)
            if prefix is None:
                raise CheckpointError(
                    f"{label} is for another model: its key `{key}` names no layer of this transformer."
                )
            name = name.removeprefix(prefix)
        return self._parts[name] if name in self._parts else (self._whole[name], None)

    @staticmethod
    def _add(table: dict[str, Any], name: str, value: Any) -> None:
        # The original code has no `.attn.`, kohya-ss no dots.
        for spelling in (name, name.replace(".attn.", ".")):
            table[spelling] = value
            table[spelling.replace(".", "_")] = value


def adaptable_layers(model: Any) -> list[str]:
    """Return the names of the layers that can take an adapter, also of those that carry one already."""
    return [
        name.replace(".base_layer", "")  # one per kind of adapter on it: LoRA around LoKr is two
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv3d) and ".lora_" not in name
    ]
