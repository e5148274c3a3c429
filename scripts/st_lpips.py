"""ST-LPIPS, a perceptual distance that hardly sees a shift by a pixel (Ghildyal and Liu, arXiv 2207.13686).

The network and its weights are those of the package stlpips-pytorch, which is not a dependency: it asks for
torchvision, IPython and torchsummary, and uses none of them for this network. Parts of its code are licensed for
noncommercial use only (CC BY-NC-SA 4.0); none of it is in joyimage.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from joyimage.evaluation.metrics import Pixels

PACKAGE = "stlpips_pytorch"
WEIGHTS = "weights/vST0.0/alex_shift_tolerant.pth"
INSTALL = "pip install --no-deps stlpips-pytorch==0.0.2"

_UNUSED = {"torchvision": ("models",), "IPython": ("embed",), "torchsummary": ("summary",)}
"""What the package imports at its top without need: modules, and what it takes from each."""


class MissingMetricError(RuntimeError):
    """The package of the metric is not installed."""


def load_st_lpips() -> Callable[[Pixels, Pixels], float]:
    """Return the distance of two images `[H, W, 3]` uint8: 0 for equal ones, about 1 for unrelated ones.

    Raises:
        MissingMetricError: The package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingMetricError(f"ST-LPIPS needs a package that is not installed: {INSTALL}")
    with _stand_ins():
        module: Any = importlib.import_module(f"{PACKAGE}.stlpips")
    network: Any = module.LPIPS(net="alex", variant="shift_tolerant", pretrained=False, verbose=False)
    # The package itself would accept a file that lacks weights, and leaves it to torch's default and an environment
    # variable whether more than tensors is unpickled.
    weights = torch.load(Path(spec.origin).parent / WEIGHTS, map_location="cpu", weights_only=True)
    # The network holds these layers under two names, the file under one.
    layers = {f"{name[:3]}s.{name[3:]}": value for name, value in weights.items() if name[:3] == "lin"}
    network.load_state_dict(weights | layers)

    def distance(a: Pixels, b: Pixels) -> float:
        with torch.no_grad():
            return float(network(_to_tensor(a), _to_tensor(b)))

    return distance


def _to_tensor(pixels: Pixels) -> torch.Tensor:
    """Return an image as `[1, 3, H, W]` in [-1, 1]."""
    return torch.tensor(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Let what the package imports without need be found, where it is not installed, inside the `with`."""
    added: list[str] = []
    for name, attributes in _UNUSED.items():
        if name not in sys.modules:
            module = ModuleType(name)
            for attribute in attributes:
                setattr(module, attribute, None)
            sys.modules[name] = module
            added.append(name)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
