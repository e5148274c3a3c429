"""The errors that joyimage raises on purpose. Anything else that escapes is a bug.

Each message is complete: it names the argument or file, the value, what is accepted, and what to do. The
command line prints it as one line with exit code 2, and the server maps each class to one HTTP status.
"""

from __future__ import annotations


class JoyImageError(Exception):
    """Base class of every error that is meant for the user."""


class InvalidInputError(JoyImageError, ValueError):
    """An argument, option or field has a value that is not accepted."""


class MissingObjectError(InvalidInputError):
    """The model sees no such object in the image as the one to edit.

    The message ends with the way around it, the argument `check_object=False`.
    """

    def for_field(self) -> MissingObjectError:
        """Return the error with the field `force` of an edit in place of the library's argument."""
        return MissingObjectError(str(self).replace("`check_object=False`", "`force`"))


class InvalidTypeError(InvalidInputError, TypeError):
    """An argument has a type that is not accepted."""


class CheckpointError(JoyImageError, ValueError):
    """A checkpoint, weight file or adapter cannot be read; the message names the file and the key."""


class ImageError(JoyImageError, ValueError):
    """An image file cannot be read or written; the message names the file."""


class OutputFullError(ImageError):
    """A file cannot be written because its disk is full, over quota, or fails: the next one cannot either."""


class ImageTooLargeError(ImageError):
    """An image file has more bytes, pixels or scans than are read."""


class UnknownFormatError(ImageError):
    """A file is not an image, or of a format that is not read."""


class DeviceError(JoyImageError, ValueError):
    """The requested device does not exist on this machine, or cannot be used."""


class OutOfMemoryError(JoyImageError, RuntimeError):
    """The device has too little memory for the model or the edit; the message says what to try."""


class InvalidResultError(JoyImageError, RuntimeError):
    """The model produced values that are not finite; there is no image to return."""


class BusyError(JoyImageError, RuntimeError):
    """The pipeline is running in another thread and was told not to wait."""


class InterruptedEditError(JoyImageError, RuntimeError):
    """An edit was stopped before it finished, and there is no result."""


class RewriteError(JoyImageError, ValueError):
    """A prompt could not be rewritten by the model or endpoint that was asked."""


class ServerError(JoyImageError, RuntimeError):
    """A joyimage server rejected a request or could not be reached."""


class QueueFullError(JoyImageError, RuntimeError):
    """A job was not accepted because a queue limit is reached; retry when a job finishes."""


class IdempotencyConflictError(InvalidInputError):
    """An idempotency key was used before with another request."""
