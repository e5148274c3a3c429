"""Several edits of one image, of which all but the first only pay for denoising."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from joyimage.errors import InvalidInputError
from joyimage.pipeline.calls import lock_of
from joyimage.pipeline.feature_cache import FeatureCache

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from joyimage.pipeline.output import JoyImageEditPipelineOutput
    from joyimage.spatial.rotation import View

DEFAULT_SESSION_BYTES = 2**30
"""Room for about six images of 1024 x 1024: the keys and values of one take 160 MB in bf16."""


class EditSession:
    """Edit one image again and again, or several in turn.

    What text encoder and VAE compute from an image, and the text encoder from a prompt about it, is cached and
    reused, bit for bit. The cache key is the image's pixels at the target size: another image or another size
    is computed anew. In a `with` statement the cache is cleared at the end.

    Args:
        pipe: The pipeline.
        image: The image; set the attribute to continue with another one.
        max_bytes: Maximum size of the cache, on the pipeline's device; the least recently used entries go first.

    Attributes:
        cache: The cache.

    Raises:
        InvalidInputError: `max_bytes` is negative.
    """

    def __init__(self, pipe: Any, image: Any = None, max_bytes: int = DEFAULT_SESSION_BYTES) -> None:
        if max_bytes < 0:
            raise InvalidInputError(f"`max_bytes` is {max_bytes}; expected 0 or more.")
        self.pipe = pipe
        self.image = image
        self.cache = FeatureCache(max_bytes)

    def __repr__(self) -> str:
        image = getattr(self.image, "size", None)
        shown = "no image" if image is None else f"an image of {image[0]}x{image[1]} pixels"
        return (
            f"<EditSession of {type(self.pipe).__name__} with {shown}, {self.cache.num_bytes:,} bytes cached>"
        )

    def __enter__(self) -> EditSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def __call__(self, prompt: Any = None, **call: Any) -> Any:
        """Edit the image.

        Args:
            prompt: What to do.
            **call: Further arguments of the pipeline's call.

        Returns:
            The result of the pipeline's call.
        """
        name = "images" if self.pipe.takes_several_images else "image"
        with self.caching():
            return self.pipe(**{name: self.image, "prompt": prompt, **call})

    def move(self, object: str, box: Sequence[float], **call: Any) -> JoyImageEditPipelineOutput:
        """Move an object; see the pipeline's `move`."""
        with self.caching():
            return self.pipe.move(self.image, object, box, **call)

    def rotate(self, object: str, view: View | str, **call: Any) -> JoyImageEditPipelineOutput:
        """Rotate an object; see the pipeline's `rotate`."""
        with self.caching():
            return self.pipe.rotate(self.image, object, view, **call)

    def camera(self, **call: Any) -> JoyImageEditPipelineOutput:
        """Move the camera; see the pipeline's `camera`."""
        with self.caching():
            return self.pipe.camera(self.image, **call)

    def clear(self) -> None:
        """Clear the cache; needed after weights of text encoder or VAE were changed in place."""
        self.cache.clear()

    @contextmanager
    def caching(self) -> Generator[None]:
        """Make the pipeline's own calls use this session's cache inside the `with`; other threads wait."""
        with lock_of(self.pipe):
            outer = self.pipe._feature_cache
            self.pipe._feature_cache = self.cache
            try:
                yield
            finally:
                self.pipe._feature_cache = outer
