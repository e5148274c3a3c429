"""Private names of diffusers that joyimage uses, because diffusers has no public way to them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from diffusers.hooks import sea_cache
from diffusers.hooks._helpers import (
    AttentionProcessorMetadata,
    AttentionProcessorRegistry,
    TransformerBlockMetadata,
    TransformerBlockRegistry,
)
from diffusers.models import modeling_utils
from diffusers.models._modeling_parallel import (
    ContextParallelConfig,
    ContextParallelInput,
    ContextParallelOutput,
)
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffusers.hooks.hooks import HookRegistry
    from torch import Tensor

__all__ = [
    "AttentionProcessorMetadata",
    "AttentionProcessorRegistry",
    "ContextParallelInput",
    "ContextParallelOutput",
    "TransformerBlockMetadata",
    "TransformerBlockRegistry",
    "attention_backend",
    "causal_padding",
    "divide_tokens",
    "follow_decision",
    "hook_registry",
    "is_hooked",
    "is_parallel",
    "keep_attention_settings",
    "parallel_shards",
    "parallelism_of",
    "reset_step_caches",
    "set_attention_backend",
    "share_decision",
    "step_cache_of",
]

_SWITCH = "HF_ENABLE_PARALLEL_LOADING"

_lock = threading.Lock()
_open_contexts: list[bool] = []  # for each, what the switch was before the first of them


@contextmanager
def parallel_shards() -> Iterator[None]:
    """Have diffusers read the shards of a checkpoint in parallel while the context is open.

    diffusers reads one switch for the whole process. Contexts of several threads may overlap: the first to open
    turns the switch on, and the last to close restores what it was before.
    """
    module: Any = modeling_utils
    with _lock:
        _open_contexts.append(_open_contexts[0] if _open_contexts else getattr(module, _SWITCH))
        setattr(module, _SWITCH, True)
    try:
        yield
    finally:
        with _lock:
            setting_before = _open_contexts.pop()
            if not _open_contexts:
                setattr(module, _SWITCH, setting_before)


def attention_backend(processor: Any) -> AttentionBackendName | str:
    """Return the backend that an attention processor runs on: its own, or the one that diffusers has active."""
    return processor._attention_backend or _AttentionBackendRegistry.get_active_backend()[0]


def set_attention_backend(processor: Any, name: str) -> None:
    """Choose the backend of one attention processor by its name in `AttentionBackendName`."""
    processor._attention_backend = AttentionBackendName(name)


def keep_attention_settings(before: Any, after: Any) -> None:
    """Give an attention processor the backend and the parallelism of the one that it replaces."""
    for name in ("_attention_backend", "_parallel_config"):
        setattr(after, name, getattr(before, name, None))


def hook_registry(module: Any) -> HookRegistry | None:
    """Return the hooks that diffusers has installed on a module, or None if there are none."""
    registry = getattr(module, "_diffusers_hook", None)
    return registry if registry is not None and registry.hooks else None  # removed hooks leave an empty one


def is_hooked(module: Any) -> bool:
    """Tell whether hooks of diffusers or accelerate are on a module itself, as offloading installs them."""
    own = vars(module)
    registry: HookRegistry | None = own.get("_diffusers_hook")
    return "_hf_hook" in own or (registry is not None and bool(registry.hooks))


def is_parallel(model: Any) -> bool:
    """Tell whether `enable_parallelism` is active on a model."""
    return model._parallel_config is not None


def divide_tokens(model: Any, *, num_branches: int, num_parts: int) -> None:
    """Let processes divide the tokens of a model's forwards, those of each guidance branch among themselves.

    Args:
        model: The transformer.
        num_branches: Groups of processes, which follow each other in rank; they share nothing here.
        num_parts: Processes of a group.
    """
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(
        model.device.type, (num_branches, 1, num_parts), mesh_dim_names=("guidance", "ring", "ulysses")
    )
    # Texts and images of any length: parts may differ by a token.
    model.enable_parallelism(
        config=ContextParallelConfig(ulysses_degree=num_parts, ulysses_anything=True, mesh=mesh)
    )


def parallelism_of(model: Any) -> str | None:
    """Return how many devices share a forward and how, such as "ulysses 2"; None without parallelism."""
    config = model._parallel_config
    if config is None:
        return None
    context = getattr(config, "context_parallel_config", None)
    degrees = {"ulysses": getattr(context, "ulysses_degree", 1), "ring": getattr(context, "ring_degree", 1)}
    shown = [f"{name} {degree}" for name, degree in degrees.items() if (degree or 1) > 1]
    return ", ".join(shown) or "tensor parallelism"


def step_cache_of(model: Any) -> str | None:
    """Return the class of the step cache that is enabled, such as "FirstBlockCacheConfig"; None without one."""
    return type(model._cache_config).__name__ if model.is_cache_enabled else None


def reset_step_caches(model: Any) -> None:
    """Empty the step caches of a model that has any, so that a new edit starts without results of the last one."""
    if hasattr(model, "_reset_stateful_cache"):
        model._reset_stateful_cache()


def share_decision(model: Any, leader: str, follower: str, step: int) -> None:
    """Have a branch reuse or compute its blocks as another branch has decided in the same step.

    A branch that did not run in the step before computes its blocks: what it holds is too old to continue. Without
    SeaCache nothing happens.

    Args:
        model: The transformer.
        leader: Cache context of the branch that has decided.
        follower: Cache context of the branch that runs next.
        step: Index of the step.
    """
    hooks = hook_registry(model)
    hook: Any = None if hooks is None else hooks.get_hook(sea_cache._SEA_CACHE_ROOT_HOOK)
    if hook is None:
        return
    states = hook.state_manager._state_cache
    if follower not in states or leader not in states:
        return
    ran_before = states[follower].gate_key is not None and states[follower].gate_key[0] == step - 1
    states[follower].gate_key = states[leader].gate_key
    states[follower].gate_should_compute = states[leader].gate_should_compute or not ran_before


def follow_decision(
    model: Any, branch: str, target: Tensor, *, step: int, sigma: float, num_inference_steps: int
) -> None:
    """Decide for a branch that another process runs whether this step reuses its blocks, as that process does.

    The decision follows from the target, which all processes have. Without SeaCache nothing happens.

    Args:
        model: The transformer.
        branch: Cache context of the branch.
        target: Latents of the target, `[B, C, 1, H, W]`.
        step: Index of the step.
        sigma: Noise level of the step.
        num_inference_steps: Number of steps.
    """
    hooks = hook_registry(model)
    hook: Any = None if hooks is None else hooks.get_hook(sea_cache._SEA_CACHE_ROOT_HOOK)
    if hook is None:
        return
    facts = sea_cache._SeaCacheForwardMetadata(
        step_index=step,
        sigma=sigma,
        num_inference_steps=num_inference_steps,
        raw_vision=list(target.unbind(0)),
    )
    with model.cache_context(branch):
        state = hook.state_manager.get_state()
        indicator = sea_cache._build_indicator(hook.config, facts)
        computes = hook.shared_state.resolve_gate(state, facts, indicator, hook.config)
        state.consecutive_cached = 0 if computes else state.consecutive_cached + 1


def causal_padding(convolution: Any) -> tuple[int, int]:
    """Return the padding in rows and in columns of one of the Wan VAE's causal convolutions."""
    return convolution._padding[2], convolution._padding[0]


def is_padded_before(convolution: Any) -> bool:
    """Tell whether one of the Wan VAE's causal convolutions pads enough zeros for all frames before the first."""
    return convolution._padding[4] == convolution.kernel_size[0] - 1
