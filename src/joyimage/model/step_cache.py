"""diffusers' step caches on this model: they find the blocks, and each guidance branch has its own cache.

A denoising loop runs the model inside `with transformer.cache_context("cond")` or `cache_context("uncond")`.
Two of diffusers' caches, PyramidAttentionBroadcast and FasterCache, ignore that context and hand the second
branch the first one's attention; here their state is kept per branch like that of the others.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, cast

from diffusers.hooks.faster_cache import FasterCacheBlockState, FasterCacheConfig
from diffusers.hooks.hooks import CacheContext, StateManager
from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastState
from diffusers.hooks.sea_cache import SeaCacheConfig
from diffusers.hooks.text_kv_cache import TextKVCacheConfig
from diffusers.models.cache_utils import CacheMixin
from diffusers.utils import logging
from torch import Tensor, nn

from joyimage.compat.diffusers import hook_registry
from joyimage.errors import InvalidInputError

_OUR_NAME = "double_blocks"
_THEIR_NAME = "transformer_blocks"
_SHARED_STATES = (PyramidAttentionBroadcastState, FasterCacheBlockState)

logger = logging.get_logger(__name__)


class StepCacheMixin(CacheMixin):
    """Let `enable_cache` work on blocks that the published weights call `double_blocks`.

    diffusers looks for a fixed list of names ("blocks", "transformer_blocks", …), so the blocks go by one of
    these names while the hooks are being attached.
    """

    _is_naming_blocks_for_caches = False

    def enable_cache(self, config: Any) -> None:
        """Attach one of diffusers' step caches; see `CacheMixin.enable_cache`.

        Args:
            config: FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig, SeaCacheConfig,
                PyramidAttentionBroadcastConfig or FasterCacheConfig. Its patterns may say "double_blocks".

        Raises:
            InvalidInputError: A cache that has nothing to hold on this model, or another one is on already.
        """
        if isinstance(config, TextKVCacheConfig):
            raise InvalidInputError(
                "TextKVCacheConfig can't be used with this model: its text tokens change with the image in"
                " every block: take another cache, such as FirstBlockCacheConfig."
            )
        if isinstance(config, FasterCacheConfig) and not config.is_guidance_distilled:
            logger.warning(
                "`unconditional_batch_skip_range` has no effect: the guidance branches run one by one here,"
                " so attention is reused within each branch (is_guidance_distilled=True)."
            )
            config = dataclasses.replace(config, is_guidance_distilled=True)
        if isinstance(config, SeaCacheConfig) and config.raw_vision_callback is None:
            config = dataclasses.replace(config, raw_vision_callback=target_latents)
        self._is_naming_blocks_for_caches = True
        try:
            cast("Any", super()).enable_cache(_with_their_names(config))
        finally:
            self._is_naming_blocks_for_caches = False
        for hook in _hooks(self):
            state: object = cast("dict[str, object]", vars(hook)).get("state")
            if isinstance(state, _SHARED_STATES):
                hook.state = BranchStates(cast("Any", type(state)))

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Name the direct submodules; see the class about the blocks."""
        for name, child in cast("nn.Module", super()).named_children():
            yield self._cache_name(name), child

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Name all submodules; see the class about the blocks."""
        modules: Iterator[tuple[str, nn.Module]] = cast("Any", super()).named_modules(*args, **kwargs)
        for name, module in modules:
            yield self._cache_name(name), module

    def _cache_name(self, name: str) -> str:
        if self._is_naming_blocks_for_caches and name.split(".")[0] == _OUR_NAME:
            return _THEIR_NAME + name.removeprefix(_OUR_NAME)
        return name


class BranchStates(StateManager):
    """Stand in for a hook's single state: attributes are those of the branch that runs.

    diffusers tells every `StateManager` that is an attribute of a stateful hook which context runs.
    """

    @property
    def context(self) -> CacheContext:
        """The branch that runs; calls outside of `cache_context` share one."""
        return self._context or CacheContext(name="inference")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(cast("Any", self).get_state(), name)

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            setattr(cast("Any", self).get_state(), name, value)


def target_latents(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
    """Return each sample's target latents `[C, T, H, W]`, by which SeaCache tells how much has changed."""
    hidden_states = kwargs.get("hidden_states", args[0] if args else None)
    if hidden_states is None:
        return None
    if isinstance(hidden_states, Tensor):
        target = hidden_states[:, -1] if hidden_states.ndim == 6 else hidden_states
    else:
        target = hidden_states[-1]
    return list(target.unbind(0))


def _with_their_names(config: Any) -> Any:
    """Return the configuration with `transformer_blocks` in its patterns for `double_blocks`."""
    renamed = {
        field.name: type(patterns)(pattern.replace(_OUR_NAME, _THEIR_NAME) for pattern in patterns)
        for field in dataclasses.fields(config)
        if field.name.endswith("identifiers") and (patterns := getattr(config, field.name)) is not None
    }
    return dataclasses.replace(config, **renamed) if renamed else config


def _hooks(model: Any) -> Iterator[Any]:
    for module in model.modules():
        registry = hook_registry(module)
        if registry is not None:
            yield from registry.hooks.values()
