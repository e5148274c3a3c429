"""Key layouts of transformer checkpoints: published, original, and with the prefixes of other programs.

Our names are those of the published folders. The original code's checkpoint differs in the attention layers
only, and may be wrapped in a dict or carry the prefixes that training programs put before every name.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from joyimage.errors import CheckpointError
from joyimage.model.checkpoint.headers import Shape

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
    "transformer.",
    "model.",
)

_PUBLISHED_ROPE: dict[str, Any] = {"rope_dim_list": [16, 56, 56], "rope_type": "rope", "theta": 10000}
"""The only settings that weights don't tell. Source: transformer/config.json of JoyAI-Image-Edit."""


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
                f"The weights lack a `{key}` of {num_dims} dimensions: they are not those of a JoyImage transformer."
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
