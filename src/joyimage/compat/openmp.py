"""How the threads of torch's CPU operators wait for each other (GNU OpenMP)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

# Fewer slow small models down on an idle machine, more of them on a busy one; docs/speed.md has the seconds.
_SPINS = "3000"
# Any of these is a user's own choice.
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def let_waiting_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Have threads sleep soon while they wait for others, unless the environment says how they wait.

    By default they spin for milliseconds at the end of every operator. Where another program keeps a core busy, they
    spin until the scheduler interrupts them: an edit of the embedded model then takes 5 s instead of 0.1 s.

    Args:
        environment: The process's environment. It is read once, when torch is imported.
    """
    if not any(setting in environment for setting in _SETTINGS):
        environment["GOMP_SPINCOUNT"] = _SPINS
