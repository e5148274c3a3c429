"""Spare a process the scans of installed files that diffusers and transformers repeat while they are imported.

Each asks `importlib.metadata.packages_distributions` for the names of all that is installed, which it makes of the
names of all installed files, and then looks up a few packages. And transformers reads the files of all its models,
twice, for the names in them. Together that is a second of CPU time at each start.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.abc import Loader
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

READS_MODELS = "transformers.utils.import_utils"
"""The module whose function reads the files of a folder of models."""


class Distributions(Mapping[str, "list[str]"]):
    """The distributions of each package, as `packages_distributions` returns them.

    A package is looked up as the distribution of its name; the whole list is built only for one that is distributed
    under another name.

    Args:
        build: Returns the whole list.
    """

    def __init__(self, build: Callable[[], Mapping[str, list[str]]]) -> None:
        self._build = build

    @functools.cached_property
    def _whole(self) -> Mapping[str, list[str]]:
        return self._build()

    def __getitem__(self, name: str) -> list[str]:
        from importlib.metadata import PackageNotFoundError, distribution

        if "_whole" not in vars(self):
            with suppress(PackageNotFoundError, ValueError):  # the latter for an empty name
                return [distribution(name).metadata["Name"]]
        return self._whole[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)

    def __bool__(self) -> bool:
        """Return True without building the list: something is installed."""
        return True


def look_distributions_up() -> None:
    """Have `packages_distributions` return a `Distributions`, for the rest of this process."""
    import importlib.metadata as metadata  # with what it imports, a tenth of the time until the first message

    if not isinstance(metadata.packages_distributions, _Constant):
        metadata.packages_distributions = _Constant(Distributions(metadata.packages_distributions))


class _Constant:
    """A function that returns one value."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __call__(self) -> Any:
        return self._value


class ReadOnceLoader(Loader):
    """Loader of `READS_MODELS` that has each folder read once.

    Args:
        spec: How Python would load the module.
    """

    def __init__(self, spec: ModuleSpec) -> None:
        assert spec.loader is not None
        self._loader = spec.loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as usual."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Import the module as usual, and keep what its function returns."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        read = getattr(module, "create_import_structure_from_path", None)
        if read is not None:
            vars(module)["create_import_structure_from_path"] = _read_once(read)


def _read_once(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that calls `read` once for each folder; a file stands for its folder, as there.

    All callers get the same object, as they do from `read`, which keeps what it returned by the given path.
    """
    known: dict[Path, Any] = {}

    @functools.wraps(read)
    def call(module_path: Any) -> Any:
        path = Path(module_path)
        folder = path if path.is_dir() else path.parent
        if folder not in known:
            known[folder] = read(module_path)
        return known[folder]

    return call
