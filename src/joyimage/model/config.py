"""Settings of the transformer: both published generations of `config.json`, resolved to one dataclass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.model.rope import Grid

_LEGACY_NAMES = {
    "heads_num": "num_attention_heads",
    "mm_double_blocks_depth": "num_layers",
    "text_states_dim": "text_dim",
    "rope_theta": "theta",
}
"""Keys of the older generation and what they are called today."""

_LEGACY_VALUES: dict[str, tuple[Any, ...]] = {"dit_modulation_type": ("wanx",), "unpatchify_new": (True,)}
"""Keys of the older generation that chose an architecture, and the only choice that was ever published."""

_LEGACY_MEANINGLESS = frozenset({"attn_backend", "enable_activation_checkpointing", "is_repa", "repa_layer"})
"""Keys of the older generation that steered its training code and say nothing about the weights."""

_REQUIRED = ("hidden_size", "num_attention_heads", "num_layers", "text_dim", "theta")
"""Keys without which a file would silently fall back on defaults that fit no published weights."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Resolved and checked settings of one transformer.

    Attributes:
        patch_size: Patch (t, h, w) in latent pixels.
        in_channels: Channels of the latents that go in.
        out_channels: Channels of the velocity that comes out.
        hidden_size: Width of both streams.
        num_attention_heads: Heads of the joint attention.
        text_dim: Width of the text encoder's states.
        mlp_width_ratio: Width of the MLPs over `hidden_size`.
        num_layers: Number of double-stream blocks.
        axis_dims: Channels of a head that turn with item, row and column.
        has_text_positions: True for rope_type "mrope": text tokens are rotated too.
        theta: Base of the rotary frequencies.
    """

    patch_size: Grid
    in_channels: int
    out_channels: int
    hidden_size: int
    num_attention_heads: int
    text_dim: int
    mlp_width_ratio: float
    num_layers: int
    axis_dims: tuple[int, int, int]
    has_text_positions: bool
    theta: float

    @classmethod
    def resolve(cls, settings: Mapping[str, Any]) -> "TransformerConfig":
        """Check the model's constructor arguments against each other and resolve what depends on others.

        Args:
            settings: All constructor arguments of `JoyImageEditTransformer3DModel`, by name.

        Returns:
            The resolved settings.

        Raises:
            InvalidInputError: A value that can't be; the sentence names the key and the value.
        """
        for name in ("in_channels", "hidden_size", "num_attention_heads", "text_dim", "num_layers"):
            _require(_is_count(settings[name]), name, settings[name], "a whole number above 0")
        for name in ("mlp_width_ratio", "theta"):
            _require(
                _is_number(settings[name]) and settings[name] > 0, name, settings[name], "a number above 0"
            )
        out_channels = settings["out_channels"] or settings["in_channels"]
        _require(_is_count(out_channels), "out_channels", out_channels, "a whole number above 0, or null")
        patch_size = settings["patch_size"]
        _require(_is_triple(patch_size), "patch_size", patch_size, "three whole numbers above 0 (t, h, w)")

        hidden_size, num_heads = settings["hidden_size"], settings["num_attention_heads"]
        if hidden_size % num_heads:
            raise InvalidInputError(
                f"`hidden_size` {hidden_size} must be divisible by `num_attention_heads` {num_heads}."
            )
        head_dim = hidden_size // num_heads
        axis_dims = settings["rope_dim_list"]
        if axis_dims is None:
            axis_dims = [head_dim // 3] * 3
        _require(_is_triple(axis_dims), "rope_dim_list", axis_dims, "three whole numbers above 0")
        if sum(axis_dims) != head_dim or any(dim % 2 for dim in axis_dims):
            raise InvalidInputError(
                f"`rope_dim_list` {list(axis_dims)} must be three even numbers that sum to the head width"
                f" {head_dim} (`hidden_size` {hidden_size} / `num_attention_heads` {num_heads})."
            )
        rope_type = settings["rope_type"]
        _require(rope_type in {"rope", "mrope"}, "rope_type", rope_type, '"rope" or "mrope"')

        return cls(
            patch_size=tuple(patch_size),
            in_channels=settings["in_channels"],
            out_channels=out_channels,
            hidden_size=hidden_size,
            num_attention_heads=num_heads,
            text_dim=settings["text_dim"],
            mlp_width_ratio=settings["mlp_width_ratio"],
            num_layers=settings["num_layers"],
            axis_dims=tuple(axis_dims),
            has_text_positions=rope_type == "mrope",
            theta=settings["theta"],
        )


def modernize(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `config.json` of either generation in today's keys.

    Args:
        config: What the file holds. With "_class_name" it is taken for a whole file and must be complete.

    Returns:
        A new mapping in today's keys; keys of neither generation are kept.

    Raises:
        CheckpointError: A missing key, two generations that contradict each other, or another architecture.
    """
    modern: dict[str, Any] = {}
    for key, value in config.items():
        if key in _LEGACY_VALUES and value not in _LEGACY_VALUES[key]:
            raise CheckpointError(
                f"The transformer's config has `{key}`={value!r}, another architecture:"
                f" expected {_LEGACY_VALUES[key][0]!r}."
            )
        if key in _LEGACY_VALUES or key in _LEGACY_MEANINGLESS:
            continue
        name = _LEGACY_NAMES.get(key, key)
        if name in modern and modern[name] != value:
            raise CheckpointError(
                f"The transformer's config contradicts itself: `{name}` {modern[name]!r}, `{key}` {value!r}."
            )
        modern[name] = value
    if "_class_name" in config:
        for key in _REQUIRED:
            if key not in modern:
                raise CheckpointError(
                    f"The transformer's config lacks the key `{key}`: add it, or fetch the file again."
                )
    return modern


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise InvalidInputError(f"`{name}` of the transformer must be {expected}: got {value!r}.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_triple(value: object) -> bool:
    parts = cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()
    return len(parts) == 3 and all(_is_count(part) for part in parts)
