"""The parts of the model that weight files hold: how to tell them apart, and their key names.

Our names are those of the published folders, for all parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from diffusers.loaders import single_file_utils

from joyimage.errors import CheckpointError
from joyimage.model.checkpoint.layouts import from_original, unwrap
from joyimage.model.file_kind import TEXT_ENCODER_KEY, part_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PARTS = ("transformer", "text_encoder", "vae")
"""Parts with weights."""

_BUNDLE_PREFIXES = {
    "transformer": ("model.diffusion_model.", "diffusion_model."),
    "text_encoder": ("text_encoders.", "cond_stage_model.", "conditioner."),
    "vae": ("first_stage_model.", "vae."),
}
"""Part → prefixes of its names in files that hold several parts."""


def our_names(names: Iterable[str], part: str, where: object) -> dict[str, str]:
    """Map the names of one part in a file to ours.

    Args:
        names: All names of the file's weights.
        part: One of `PARTS`.
        where: What messages call the file.

    Returns:
        Our name of each weight of the part → name in the file.

    Raises:
        CheckpointError: The file holds another part, another model, or two names of one weight.
    """
    names = list(names)
    chosen = _from_bundle(names, part)
    found = part_of(chosen)
    if found != part:
        raise CheckpointError(
            f"{where} holds {found or 'weights of another model'}; expected the {_SPOKEN[part]}."
            if found not in PARTS
            else f"{where} holds the {_SPOKEN[found]}; expected the {_SPOKEN[part]}. Give it with"
            f" --{found.replace('_', '-')}."
        )
    plain = unwrap({name: name for name in chosen}) if part != "text_encoder" else {n: n for n in chosen}
    if part == "transformer":
        return from_original(plain)
    if part == "text_encoder":
        return _renamed(plain, where)
    for prefix in _BUNDLE_PREFIXES["vae"]:
        if all(name.startswith(prefix) for name in plain):
            plain = {name.removeprefix(prefix): value for name, value in plain.items()}
    if "encoder.conv_in.weight" in plain:
        return dict(plain)
    return cast("Any", single_file_utils).convert_wan_vae_to_diffusers(dict(plain))


_SPOKEN = {"transformer": "transformer", "text_encoder": "text encoder", "vae": "VAE"}


def is_quantizable(part: str, name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a weight is one that quantized files quantize: a matrix of a block or of a language layer.

    All else (embeddings, norms, the time signal, the output, the vision tower, the VAE) is small or sensitive.

    Args:
        part: One of `PARTS`.
        name: Our name of the weight.
        shape: Shape of the values.
    """
    layers = {"transformer": "double_blocks.", "text_encoder": "model.language_model.layers."}
    return part in layers and name.startswith(layers[part]) and len(shape) == 2 and name.endswith(".weight")


def is_sensitive(part: str, name: str) -> bool:
    """Return whether four bits are too few for a weight that is quantizable: eight-bit formats take it.

    In the language layers the errors of values and of the MLP's output go straight into the stream that the next
    layer reads. The other matrices, and the transformer's, bear four bits: see docs/how-to/published-model.md.

    Args:
        part: One of `PARTS`.
        name: Our name of the weight.
    """
    return part == "text_encoder" and name.endswith((".v_proj.weight", ".down_proj.weight"))


def _from_bundle(names: list[str], part: str) -> list[str]:
    """Return the names of one part of a file with several parts, or all names of a file with one."""
    bundled = [prefix for prefixes in _BUNDLE_PREFIXES.values() for prefix in prefixes]
    if not any(name.startswith(prefix) for name in names for prefix in bundled):
        return names
    own = [name for name in names if name.startswith(_BUNDLE_PREFIXES[part])]
    return own or names


def _renamed(plain: Mapping[str, str], where: object) -> dict[str, str]:
    renamed: dict[str, str] = {}
    for name, value in plain.items():
        ours = text_encoder_name(name)
        if ours in renamed:
            raise CheckpointError(
                f"{where} has both `{renamed[ours]}` and `{name}`, which mean the same weight."
            )
        renamed[ours] = value
    return renamed


def text_encoder_name(name: str) -> str:
    """Return our name of a weight of the text encoder: transformers 5's, whatever program wrote the file.

    Args:
        name: Name in the file: of transformers 4 or 5, or of ComfyUI (`model.layers.N`), with any prefix.
    """
    match = TEXT_ENCODER_KEY.match(name)
    if match is None:
        return name
    head, rest = match["head"], match["rest"]
    if head == "language_model":
        rest = rest.removeprefix("model.")
        return rest if rest.startswith("lm_head.") else f"model.language_model.{rest}"
    if head == "lm_head":
        return f"lm_head.{rest}"
    return f"model.visual.{rest}" if head == "visual" else f"model.language_model.{head}.{rest}"
