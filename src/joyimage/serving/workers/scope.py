"""What the embedded model is not asked, as its answer would be made up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image


def check_readable(pipe: Any, images: Sequence[Image], question: str | None) -> None:
    """Reject what the served model cannot read, where it reads drawn scenes alone, before it runs.

    Args:
        pipe: The served pipeline.
        images: What is asked about.
        question: What is asked; None for a description.

    Raises:
        InvalidInputError: An image is not a drawn scene, or the question is not in English.
    """
    if getattr(pipe.text_encoder.config, "language_scope", None) != "drawn scenes":
        return
    from joyimage.tiny.scope import unreadable

    for image in images:
        if (problem := unreadable(image, question)) is not None:
            raise InvalidInputError(
                f"`image` can't be described: {problem}. The embedded tiny model, which this server runs, reads drawn "
                "scenes only, and answers in English; start the server with `--model` and a published checkpoint "
                "(docs/tiny.md)."
            )
