"""Look at all pairs before anything is loaded: partners, sizes, captions, shifts, room on the disk."""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from joyimage.errors import ImageError, InvalidInputError
from joyimage.progress import progress_bar
from joyimage.training.data.sources import read_examples
from joyimage.training.framing import FramedExample, frame_example

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from joyimage.training.config import TrainingConfig
    from joyimage.training.data.examples import Example
    from joyimage.training.features import FeatureCache
    from joyimage.training.framing import Checkpoint

_MOST_MESSAGES = 10
_LATENT_BYTES_PER_PIXEL = 16 * 4 / 64  # 16 channels in fp32 for each 8x8 pixels
_TEXT_BYTES_PER_PIXEL = 2 * 4096 * 2 / 1024  # two prompts of 4,096 values in bf16 for each 32x32 pixels
_TEXT_BYTES = 2 * 64 * 4096 * 2


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A pair that was looked at.

    Attributes:
        example: The pair as it was found.
        key: Hash of what its features depend on.
        sizes: Width and height of each reference and of the target, which comes last, as the network sees them.
    """

    example: Example
    key: str
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """All pairs of a run.

    Attributes:
        training: Pairs to train on.
        held_out: Pairs to validate on.
        notes: What a user should know about single pairs.
    """

    training: list[Pair]
    held_out: list[Pair]
    notes: list[str]

    @property
    def largest(self) -> tuple[tuple[int, int], ...]:
        """Sizes of the pair with the most pixels."""
        return max((one.sizes for one in (*self.training, *self.held_out)), key=_pixels)

    @property
    def data_sha256(self) -> str:
        """Hash of the content of all pairs, in order."""
        keys = [one.key for one in (*self.training, *self.held_out)]
        return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def survey_pairs(
    config: TrainingConfig, checkpoint: Checkpoint, cache: FeatureCache, *, progress: bool = True
) -> Survey:
    """Open and check every pair.

    Args:
        config: The run.
        checkpoint: The checkpoint that is trained.
        cache: Gives each pair its key.
        progress: Whether to show a progress bar.

    Raises:
        ImageError: Images cannot be read; the message lists them.
        InvalidInputError: Pairs are incomplete; the message lists them.
    """
    training, held_out = read_examples(config.data)
    examples = [*training, *held_out]
    look = partial(_look, checkpoint=checkpoint, cache=cache, align=config.align)
    pairs: list[Pair] = []
    notes: list[str] = []
    problems: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        looks = pool.map(look, examples)
        found = progress_bar(looks, label="check pairs", unit="pair", total=len(examples), is_shown=progress)
        for outcome in found:
            if isinstance(outcome, Exception):
                problems.append(str(outcome))
                continue
            pair, pair_notes = outcome
            pairs.append(pair)
            notes += [f"{pair.example.name}: {note}" for note in pair_notes]
    if problems:
        more = f" ({len(problems) - _MOST_MESSAGES} more)" if len(problems) > _MOST_MESSAGES else ""
        raise InvalidInputError(" ".join(problems[:_MOST_MESSAGES]) + more)
    return Survey(training=pairs[: len(training)], held_out=pairs[len(training) :], notes=notes)


def check_disk(folder: Path, pairs: Sequence[Pair], cache: FeatureCache) -> None:
    """Reject a run whose features do not fit on the disk.

    Args:
        folder: An existing folder on the disk.
        pairs: All pairs.
        cache: Knows which features are there already.

    Raises:
        ImageError: They do not fit.
    """
    needed = sum(
        _pixels(one.sizes) * (_LATENT_BYTES_PER_PIXEL + _TEXT_BYTES_PER_PIXEL) + _TEXT_BYTES
        for one in pairs
        if not cache.has(one.key)
    )
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ImageError(
            f"The encoded pairs need about {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free; choose an"
            " output on another disk."
        )


def _look(
    example: Example, *, checkpoint: Checkpoint, cache: FeatureCache, align: bool
) -> tuple[Pair, tuple[str, ...]] | Exception:
    try:
        framed = frame_example(example, checkpoint, align=align)
    except (ImageError, InvalidInputError) as error:
        return error
    return _pair(framed, cache), framed.notes


def _pair(framed: FramedExample, cache: FeatureCache) -> Pair:
    example = framed.example
    key = cache.key(framed.references, framed.target, example.caption)
    return Pair(example=example, key=key, sizes=framed.sizes)


def _pixels(sizes: tuple[tuple[int, int], ...]) -> int:
    return sum(width * height for width, height in sizes)
