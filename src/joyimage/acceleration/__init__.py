"""Fast paths of an edit: what runs is chosen once, by `accelerate`, and kept as a value.

The network in `joyimage.model` is plain and knows nothing of this package.
"""

from joyimage.acceleration.forward_cache import ForwardCache
from joyimage.acceleration.report import Report, report
from joyimage.acceleration.settings import Acceleration, accelerate

__all__ = ["Acceleration", "ForwardCache", "Report", "accelerate", "report"]
