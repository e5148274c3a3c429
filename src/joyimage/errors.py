"""The few exceptions that are more than a ValueError."""


class CheckpointError(ValueError):
    """A checkpoint that can't be read; the sentence names the file and the key."""


class PictureError(ValueError):
    """A picture that can't be read or written."""


class RewriteError(ValueError):
    """A prompt that couldn't be rewritten by the server that was asked."""
