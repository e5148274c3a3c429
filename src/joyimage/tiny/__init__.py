"""The embedded checkpoint `joyimage-tiny`: the scenes it edits, its training, its scores and its weights."""

from importlib.resources import files
from pathlib import Path

from joyimage.checkpoints import register_checkpoint


def weights_folder() -> Path:
    """Return the folder of the weights that are installed with this package."""
    return Path(str(files(__name__) / "weights"))


register_checkpoint("tiny", weights_folder)
