"""Fast paths of an edit: what runs is chosen once, by `accelerate`, and kept as a value.

The network in `joyimage.model` is plain and knows nothing of this package. The names below are loaded on first
use, so that memory plans can be made, and commands started, without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from joyimage.lazy_names import lazy_names

if TYPE_CHECKING:
    from joyimage.acceleration.forward_cache import ForwardCache
    from joyimage.acceleration.reporting import Report, report
    from joyimage.acceleration.settings import Acceleration, accelerate

__all__ = ["Acceleration", "ForwardCache", "Report", "accelerate", "report"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Acceleration": "joyimage.acceleration.settings",
        "ForwardCache": "joyimage.acceleration.forward_cache",
        "Report": "joyimage.acceleration.reporting",
        "accelerate": "joyimage.acceleration.settings",
        "report": "joyimage.acceleration.reporting",
    },
)
