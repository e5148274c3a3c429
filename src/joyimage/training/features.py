"""What the text encoder and the VAE make of each pair: computed once, kept on disk by content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from joyimage.imaging import write_whole
from joyimage.model.checkpoint.headers import read_json
from joyimage.pipeline.images import to_pixels
from joyimage.pipeline.vae import encode_frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from PIL.Image import Image

_FORMAT = 2
_SAMPLED_BYTES = 1 << 20
_EMPTY_PROMPTS = {True: " ", False: ""}  # As trained: Edit-Plus has one blank, where Edit has nothing.


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the transformer sees of a pair.

    Attributes:
        target: Standardized latents, `[C, 1, H, W]`, fp32.
        references: Standardized latents of each reference, `[C, 1, H, W]`, fp32.
        prompt: States of the caption, `[L, D]`.
        empty: States of the empty prompt with the same images, `[L, D]`.
    """

    target: Tensor
    references: tuple[Tensor, ...]
    prompt: Tensor
    empty: Tensor


class FeatureCache:
    """Features on disk, under the hash of everything that they depend on.

    Args:
        folder: Where they are kept.
        encoders: What tells the checkpoint's text encoder and VAE from others; see `identify_encoders`.
        dtype: Precision of the encoders, such as "bfloat16".
    """

    def __init__(self, folder: Path, encoders: str, dtype: str) -> None:
        self._folder = folder
        self._encoders = encoders
        self._dtype = dtype

    def key(self, references: Sequence[Image], target: Image, caption: str) -> str:
        """Return the hash of what a pair's features depend on.

        Args:
            references: Images before the edit, as the network sees them.
            target: Image after the edit.
            caption: Prompt.
        """
        digest = hashlib.sha256(
            json.dumps([_FORMAT, self._encoders, self._dtype, caption, len(references)]).encode()
        )
        for image in (*references, target):
            digest.update(repr(image.size).encode() + image.tobytes())
        return digest.hexdigest()

    def has(self, key: str) -> bool:
        """Tell whether features are there."""
        return self._path(key).is_file()

    def read(self, key: str) -> Features:
        """Return features that are there."""
        with safe_open(self._path(key), framework="pt") as file:
            names = sorted(name for name in file.keys() if name.startswith("reference."))  # noqa: SIM118
            return Features(
                target=file.get_tensor("target"),
                references=tuple(file.get_tensor(name) for name in names),
                prompt=file.get_tensor("prompt"),
                empty=file.get_tensor("empty"),
            )

    def write(self, key: str, features: Features) -> None:
        """Keep features; a file appears whole or not at all.

        Raises:
            ImageError: The file cannot be written.
        """
        tensors = {"target": features.target, "prompt": features.prompt, "empty": features.empty}
        tensors |= {f"reference.{number:03}": one for number, one in enumerate(features.references)}
        content = serialize({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(content))

    def size_bytes(self, keys: Sequence[str]) -> int:
        """Return how many bytes the features of these keys take."""
        return sum(self._path(key).stat().st_size for key in set(keys))

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"


@torch.no_grad()
def encode_features(
    pipe: Any,
    references: Sequence[Image],
    target: Image,
    caption: str,
    device: torch.device,
    *,
    takes_several: bool,
) -> Features:
    """Encode a pair with the pipeline's own parts.

    Args:
        pipe: Pipeline with text encoder and VAE on the device.
        references: Images before the edit, as the network sees them.
        target: Image after the edit, as the network sees it.
        caption: Prompt.
        device: Where to run.
        takes_several: Whether the checkpoint is an Edit-Plus.
    """
    states: list[Tensor] = []
    for prompt in (caption, _EMPTY_PROMPTS[takes_several]):
        if references:
            embeds, mask = pipe.encode_prompt_multiple_images(
                [prompt], device=device, images=[list(references)] if takes_several else list(references)
            )
        else:
            embeds, mask = pipe.encode_prompt([prompt], device=device)
        states.append(embeds[0][mask[0].bool()].cpu())
    latents: list[Tensor] = []
    dtype = next(pipe.vae.parameters()).dtype
    for image in (*references, target):
        # The posterior's mode: draws would be noise in what training copies from.
        raw = encode_frame(pipe.vae, to_pixels([image], device, dtype)).mode()
        latents.append(pipe.normalize_latents(raw.float())[0].cpu())
    return Features(target=latents[-1], references=tuple(latents[:-1]), prompt=states[0], empty=states[1])


def identify_encoders(folder: Path, files: Mapping[str, Path] | None = None) -> str:
    """Return what tells a checkpoint's text encoder, VAE and processor from others, without reading all of them.

    Args:
        folder: Folder of the checkpoint.
        files: Weight files in place of those of the folder, by part.
    """
    digest = hashlib.sha256()
    given = files or {}
    for part in ("text_encoder", "vae", "tokenizer", "processor"):
        paths = [given[part]] if part in given else sorted((folder / part).glob("*"))
        for path in paths:
            if path.is_file():
                digest.update(f"{part}/{path.name} ".encode())
                digest.update(sample_file(path))
    digest.update(json.dumps(read_json(folder / "model_index.json"), sort_keys=True).encode())
    return digest.hexdigest()


def sample_file(path: Path) -> bytes:
    """Return a hash of a file's size and of both of its ends; a retrained or truncated weight file differs there.

    Args:
        path: The file.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_SAMPLED_BYTES))
        if size > _SAMPLED_BYTES:
            file.seek(max(_SAMPLED_BYTES, size - _SAMPLED_BYTES))
            digest.update(file.read())
    return digest.digest()
