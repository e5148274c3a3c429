"""What the embedded model is not asked, as its answer would be made up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image


def check_readable(pipe: Any, images: Sequence[Image]) -> None:
    """Reject photographs where the served model reads drawn scenes alone, before it runs.

    Raises:
        InvalidInputError: An image is one.
    """
    if getattr(pipe.text_encoder.config, "language_scope", None) != "drawn scenes":
        return
    from joyimage.tiny.scope import is_drawn

    for image in images:
        if not is_drawn(image):
            raise InvalidInputError(
                "`image` has the colors of a photograph, and the embedded tiny model, which this server runs, reads "
                "drawn scenes only; start the server with `--model` and a published checkpoint (docs/tiny.md)."
            )
