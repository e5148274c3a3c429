"""Several edits of one picture, the later of which pay for denoising only."""

# Annotations are real types here, as in `edit.py`.

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from joyimage.errors import InvalidInputError
from joyimage.pipeline.feature_cache import EditMemory
from joyimage.pipeline.output import JoyImageEditPipelineOutput
from joyimage.spatial.rotation import View

DEFAULT_SESSION_BYTES = 2**30
"""Room for about six pictures of 1024 x 1024: the keys and values that belong to one take 160 MB in bf16."""


class EditSession:
    """Edit one picture again and again, or several in turn.

    What text encoder and VAE make of a picture, and the text encoder of a prompt about it, is kept and taken
    up again, bit for bit. It belongs to the picture's pixels at the size that the model sees: another picture
    or another size starts afresh. In a `with` statement everything is forgotten at the end.

    Args:
        pipe: What edits.
        image: The picture; set the attribute to go on with another.
        max_bytes: Most bytes kept, on the pipeline's device; the least recently used go first.

    Raises:
        InvalidInputError: `max_bytes` is negative.
    """

    def __init__(self, pipe: Any, image: Any = None, max_bytes: int = DEFAULT_SESSION_BYTES) -> None:
        if max_bytes < 0:
            raise InvalidInputError(f"`max_bytes` is {max_bytes}; expected 0 or more.")
        self.pipe = pipe
        self.image = image
        self.memory = EditMemory(max_bytes)

    def __enter__(self) -> "EditSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def __call__(self, prompt: Any = None, **call: Any) -> Any:
        """Edit the picture; arguments as in the pipeline's call."""
        with self.remembering():
            return self.pipe(**{self.pipe._picture_argument: self.image, "prompt": prompt, **call})

    def move(self, object: str, box: Sequence[float], **call: Any) -> JoyImageEditPipelineOutput:
        """Move an object; see the pipeline's `move`."""
        with self.remembering():
            return self.pipe.move(self.image, object, box, **call)

    def rotate(self, object: str, view: View | str, **call: Any) -> JoyImageEditPipelineOutput:
        """Turn an object; see the pipeline's `rotate`."""
        with self.remembering():
            return self.pipe.rotate(self.image, object, view, **call)

    def camera(self, **call: Any) -> JoyImageEditPipelineOutput:
        """Move the camera; see the pipeline's `camera`."""
        with self.remembering():
            return self.pipe.camera(self.image, **call)

    def clear(self) -> None:
        """Forget everything; needed after weights of text encoder or VAE were changed in place."""
        self.memory.clear()

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Have the pipeline's own calls keep and take up again, inside the `with`, as the session's do."""
        outer = self.pipe._memory
        self.pipe._memory = self.memory
        try:
            yield
        finally:
            self.pipe._memory = outer


class SessionMixin(DiffusionPipeline):
    """Give a pipeline `session`."""

    _memory: EditMemory | None = None
    _picture_argument = "image"

    def session(self, image: Any = None, *, max_bytes: int = DEFAULT_SESSION_BYTES) -> EditSession:
        """Return a session in which the second edit of a picture pays for denoising only.

        Args:
            image: The picture, of any kind that the pipeline takes.
            max_bytes: Most bytes kept between edits.

        Returns:
            What edits, by a call or by `move`, `rotate` and `camera`.

        Raises:
            InvalidInputError: `max_bytes` is negative.
        """
        return EditSession(self, image, max_bytes)

    def _once(self, key: tuple[Any, ...], make: Any) -> Any:
        return make() if self._memory is None else self._memory.once(key, make)
