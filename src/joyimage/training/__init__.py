"""Train networks: LoRA adapters for edits, and the loop that joyimage-tiny is trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joyimage.training.config import TrainingConfig as TrainingConfig
    from joyimage.training.config import read_config as read_config
    from joyimage.training.lora import train as train

__all__ = ["TrainingConfig", "read_config", "train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from joyimage.training.lora import train

        return train
    if name in {"TrainingConfig", "read_config"}:
        from joyimage.training import config

        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
