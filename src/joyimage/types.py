"""Sizes as types, so that width and height can never be swapped without a type error.

Pixels are `ImageSize` (width, height, as in Pillow); latents are `LatentSize` (height, width, as in tensors);
token grids are `TokenGrid` (frames, rows, columns). None of the three is a tuple.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, order=True)
class ImageSize:
    """Size of an image.

    Attributes:
        width: Pixels.
        height: Pixels.

    Raises:
        InvalidInputError: A side is less than 1.
    """

    width: int
    height: int

    def __post_init__(self) -> None:
        """Reject empty sizes.

        Raises:
            InvalidInputError: A side is less than 1.
        """
        if self.width < 1 or self.height < 1:
            raise InvalidInputError(f"An image size is {self}; expected sides of 1 pixel or more.")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @classmethod
    def of(cls, image: Any) -> ImageSize:
        """Return the size of a PIL image."""
        return cls(*image.size)

    @classmethod
    def parse(cls, text: str) -> ImageSize:
        """Read "WIDTHxHEIGHT".

        Raises:
            InvalidInputError: The text has another form, or a side is not from 1 to 99,999.
        """
        width, _, height = text.strip().lower().partition("x")
        if not all(
            side.isascii() and side.isdigit() and 1 <= int(side[:6]) <= 99_999 for side in (width, height)
        ):
            raise InvalidInputError(f"`{text}` is not a size; expected WIDTHxHEIGHT, for example 1024x768.")
        return cls(int(width), int(height))

    @property
    def num_pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    @property
    def aspect_ratio(self) -> float:
        """Longer side over shorter side, 1 or more."""
        return max(self.width, self.height) / min(self.width, self.height)

    @property
    def pil(self) -> tuple[int, int]:
        """(width, height), for Pillow."""
        return self.width, self.height

    @property
    def rows_columns(self) -> tuple[int, int]:
        """(height, width), for tensors and for diffusers' arguments."""
        return self.height, self.width


@dataclass(frozen=True)
class LatentSize:
    """Size of an image's latents.

    Attributes:
        height: Latent rows.
        width: Latent columns.
    """

    height: int
    width: int

    @classmethod
    def of(cls, size: ImageSize, scale: int = 8) -> LatentSize:
        """Return the latent size of an image size.

        Args:
            size: In pixels.
            scale: Pixels per latent and side; 8 in the Wan VAE.
        """
        return cls(size.height // scale, size.width // scale)


@dataclass(frozen=True)
class TokenGrid:
    """Token grid of one item (target or reference).

    Attributes:
        frames: Frames; 1 for an image.
        rows: Rows of tokens.
        columns: Columns of tokens.
    """

    frames: int
    rows: int
    columns: int

    def __iter__(self) -> Iterator[int]:
        """Iterate over frames, rows, columns, as tensor code unpacks a grid."""
        return iter((self.frames, self.rows, self.columns))

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return self.frames * self.rows * self.columns
