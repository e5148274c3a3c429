"""Defer optional modules that torch, diffusers and transformers import, until something uses them.

`import diffusers` and `import transformers` load parts that an edit does not use: torch's compiler, peft and
three parts of scipy, which take about a second of CPU time. `defer_optional_imports` puts a proxy module
in place of each. The first use of anything behind a proxy imports the real module in the normal way, and
from then on the proxy returns the names of the real module.

Only the `joyimage` command calls it, in its own process, so that a program that imports joyimage as a library
keeps its import system as it is. docs/startup.md lists what is deferred and what that saves.
"""

from __future__ import annotations

import functools
import gc
import importlib
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

from joyimage.compat.scans import READS_MODELS, ReadOnceLoader, look_distributions_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, kw_only=True)
class Deferred:
    """Modules that are imported together on the first use of any of them.

    A library that writes `from module import name` at its top would use the module at once. Each such name
    has a stand-in, which is listed here by how the library uses the name.

    Attributes:
        root: The module whose import brings in the others.
        modules: Further modules below the root that libraries import from.
        functions: Full names of functions and context managers: the stand-in calls the real one.
        classes: Full names of classes: nothing is an instance of the stand-in before the real class exists;
            every other use is one of the real class.
        marks: Full names of decorators that register what they get and return it: the stand-in returns it,
            and registers it once the real decorator exists.
        wrappers: Full names of decorators that wrap a function for the deferred module: the stand-in's
            wrapper calls the plain function until the real decorator exists.
    """

    root: str
    modules: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()


DEFERRED = (
    # torch's compiler: nothing is compiled unless the caller asks for it.
    Deferred(
        root="torch._dynamo",
        modules=("torch._dynamo.eval_frame", "torch._dynamo._trace_wrapped_higher_order_op"),
        classes=(
            "torch._dynamo.eval_frame.OptimizedModule",
            "torch._dynamo._trace_wrapped_higher_order_op.TransformGetItemToIndex",
        ),
        marks=("torch._dynamo.allow_in_graph", "torch._dynamo.assume_constant_result"),
        wrappers=("torch._dynamo.disable",),
    ),
    # Adapters: loading one imports peft.
    Deferred(
        root="peft",
        modules=("peft.helpers", "peft.tuners", "peft.tuners.tuners_utils"),
        functions=("peft.helpers.disable_input_dtype_casting",),
        classes=("peft.PeftModel", "peft.tuners.tuners_utils.BaseTunerLayer"),
    ),
    # Schedules and losses that no JoyImage checkpoint uses.
    Deferred(root="scipy.stats"),
    Deferred(root="scipy.integrate"),
    Deferred(root="scipy.optimize", functions=("scipy.optimize.linear_sum_assignment",)),
)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause Python's garbage collection inside the block, and leave out what lives then from later ones.

    Imports and loading create a million objects that stay. Without this, each full collection in between
    looks at all of them again. It does nothing in a process that has not called `defer_optional_imports`.
    """
    if not _is_deferring():
        yield
        return
    look_distributions_up()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def defer_optional_imports() -> None:
    """Defer the modules of `DEFERRED` that are not imported yet, for the rest of this process."""
    if _is_deferring():
        return
    groups = [_Group(deferred) for deferred in DEFERRED if deferred.root not in sys.modules]
    sys.meta_path.insert(0, _DeferringFinder(groups))


def _is_deferring() -> bool:
    return any(isinstance(finder, _DeferringFinder) for finder in sys.meta_path)


@dataclass
class _Group:
    """The proxies of one `Deferred`, and whether they have been replaced.

    Attributes:
        deferred: What is deferred.
        proxies: The proxy of each module, by its name; empty until the root is first imported.
        marked: Names of marks and what they got, in order.
        is_started: Whether the import of the real modules has begun.
        is_loaded: Whether the real modules are imported.
    """

    deferred: Deferred
    proxies: dict[str, _Proxy] = field(default_factory=dict)
    marked: list[tuple[str, Any]] = field(default_factory=list)
    is_started: bool = False
    is_loaded: bool = False

    def create(self, path: Sequence[str] | None) -> _Proxy | None:
        """Put proxies in `sys.modules` and return that of the root; None if the module is not installed."""
        spec = PathFinder.find_spec(self.deferred.root, path)
        if spec is None:
            return None
        if self.proxies:
            return self.proxies[self.deferred.root]
        for name in (self.deferred.root, *self.deferred.modules):
            proxy = _Proxy(name, self)
            proxy.__path__ = spec.submodule_search_locations or []
            self.proxies[name] = proxy
            parent, _, child = name.rpartition(".")
            if parent in self.proxies:
                # The import system itself enters the root.
                self.proxies[parent].__dict__[child] = proxy
                proxy.__spec__ = ModuleSpec(name, None, is_package=True)
                sys.modules[name] = proxy
        for name, stand_in in self._stand_ins():
            module, _, attribute = name.rpartition(".")
            self.proxies[module].__dict__[attribute] = stand_in
        return self.proxies[self.deferred.root]

    def _stand_ins(self) -> Iterator[tuple[str, Any]]:
        for name in self.deferred.functions:
            yield name, functools.partial(self._call, name)
        for name in self.deferred.classes:
            yield name, _StandIn(name.rpartition(".")[2], (), {"_group": self, "_name": name})
        for name in self.deferred.marks:
            yield name, functools.partial(self._mark, name)
        for name in self.deferred.wrappers:
            yield name, functools.partial(self._wrap, name)

    def _call(self, name: str, /, *arguments: Any, **keywords: Any) -> Any:
        return self.find(name)(*arguments, **keywords)

    def _mark(self, name: str, marked: Any) -> Any:
        self.marked.append((name, marked))
        return marked

    def _wrap(self, name: str, function: Any = None, /, *arguments: Any, **keywords: Any) -> Any:
        if function is None:
            return lambda later: self._wrap(name, later, *arguments, **keywords)
        wrapped: list[Any] = []

        @functools.wraps(function)
        def call(*call_arguments: Any, **call_keywords: Any) -> Any:
            if self.is_loaded and not wrapped:
                wrapped.append(self.find(name)(function, *arguments, **keywords))
            return (wrapped[0] if wrapped else function)(*call_arguments, **call_keywords)

        return call

    def find(self, name: str) -> Any:
        """Return a real object by its full name, importing the real modules first if they are not yet."""
        self.load()
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)

    def load(self) -> None:
        """Import the real modules in the places of the proxies."""
        if self.is_started:
            return
        self.is_started = True
        for name, proxy in self.proxies.items():
            if sys.modules.get(name) is proxy:
                del sys.modules[name]
            for attribute in proxy.__dict__.keys() - {"__name__", "__path__", "__spec__", "_group"}:
                del proxy.__dict__[attribute]
        importlib.import_module(self.deferred.root)
        self.is_loaded = True
        for name, marked in self.marked:
            self.find(name)(marked)


class _Proxy(ModuleType):
    """A module that is not imported yet."""

    def __init__(self, name: str, group: _Group) -> None:
        super().__init__(name)
        self.__dict__["_group"] = group

    def __getattr__(self, name: str) -> Any:
        # Programs that look through sys.modules ask for names such as `__file__`; that is not a use.
        if name.startswith("__") and name not in {"__version__", "__all__"}:
            raise AttributeError(f"module {self.__name__!r} is not imported yet and has no {name!r}")
        return self.__dict__["_group"].find(f"{self.__name__}.{name}")


class _StandIn(type):
    """Metaclass of the stand-ins for classes: whatever is done to one is done to the real class."""

    _group: _Group
    _name: str

    def __instancecheck__(cls, instance: Any) -> bool:
        return cls._group.is_loaded and isinstance(instance, cls._group.find(cls._name))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return cls._group.is_loaded and issubclass(subclass, cls._group.find(cls._name))

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        return cls._group.find(cls._name)(*arguments, **keywords)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(cls._group.find(cls._name), name)


class _DeferringFinder(MetaPathFinder):
    """Entry of `sys.meta_path` that answers for deferred modules."""

    def __init__(self, groups: list[_Group]) -> None:
        self._groups = groups

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a deferred root; see `importlib.abc.MetaPathFinder`."""
        del target
        if fullname == READS_MODELS and (spec := PathFinder.find_spec(fullname, path)) is not None:
            spec.loader = ReadOnceLoader(spec)
            return spec
        for group in self._groups:
            if group.is_started:
                continue
            if fullname == group.deferred.root:
                proxy = group.create(path)
                return None if proxy is None else ModuleSpec(fullname, _Loader(proxy), is_package=True)
            if fullname.startswith(group.deferred.root + "."):
                # A module that has no proxy is behind one that has: import all as usual.
                group.load()
                if fullname in sys.modules:
                    module = sys.modules[fullname]
                    # The import system takes the spec of a module that is there by now, and would run it again.
                    module.__spec__ = ModuleSpec(fullname, _Loader(module))
                    return module.__spec__
        return None


class _Loader(Loader):
    """Loader that returns an existing module unchanged."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002 - the import system passes it
        """Return the module."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Undo what the import system has set on a real module; run nothing."""
        if self._spec is not None:
            module.__spec__ = self._spec
