"""Names inside accelerate that joyimage relies on."""

from __future__ import annotations

from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn

from joyimage.compat.accelerate import offload_hook


def test_offload_hook_when_accelerate_installs_one_then_found_with_its_setting() -> None:
    module, hook = nn.Linear(2, 2), AlignDevicesHook("cpu", offload=False)

    assert offload_hook(module) is None
    add_hook_to_module(module, hook)

    assert offload_hook(module) is hook
    assert offload_hook(module).offload is False
    assert callable(hook.pre_forward)
