"""The caller's function that runs after each step, and the names under which it sees the loop's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from joyimage.errors import InvalidInputError, InvalidTypeError
from joyimage.pipeline.conditioning import Conditioning, TextStates

StepFunction: TypeAlias = Callable[..., dict[str, Any]]

TENSOR_NAMES = ("latents", "prompt_embeds", "negative_prompt_embeds")


def _unchanged(latents: Tensor) -> Tensor:
    return latents


@dataclass(frozen=True, kw_only=True)
class StepCallback:
    """A function that runs after each step, and what it sees.

    Attributes:
        function: `f(pipe, step, timestep, tensors) -> changed tensors`; None where there is none.
        tensor_names: Names of the tensors that it gets, of `TENSOR_NAMES`.
        show: Turns the target's latents `[B, 1, C, 1, H, W]` into what the function knows as "latents".
        restore: Takes the target's latents out of what the function returns as "latents".
    """

    function: StepFunction | None = None
    tensor_names: tuple[str, ...] = ("latents",)
    show: Callable[[Tensor], Tensor] = _unchanged
    restore: Callable[[Tensor], Tensor] = _unchanged

    @classmethod
    def of(cls, function: StepFunction | PipelineCallback | None, tensor_names: Any) -> StepCallback:
        """Return the callback of a call.

        Args:
            function: The call's `callback_on_step_end`; diffusers' callback objects name their tensors themselves.
            tensor_names: The call's `callback_on_step_end_tensor_inputs`; None or empty: the latents.

        Raises:
            InvalidTypeError: The names are not a list.
        """
        if isinstance(function, (PipelineCallback, MultiPipelineCallbacks)):
            tensor_names = function.tensor_inputs
        if not isinstance(tensor_names, (list, tuple, set, type(None))):
            raise InvalidTypeError(
                f"`callback_on_step_end_tensor_inputs` is {tensor_names!r}; expected a list of names, such as "
                "['latents']."
            )
        return cls(
            function=function, tensor_names=tuple(cast("list[str] | None", tensor_names) or ("latents",))
        )

    def run(
        self, pipe: Any, step: int, timestep: Tensor, latents: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Conditioning]:
        """Call the function, and take over the tensors that it changed.

        Args:
            pipe: The pipeline.
            step: Number of the step, from 0.
            timestep: Timestep of the step.
            latents: Latents of the target after the step, `[B, 1, C, 1, H, W]`.
            conditioning: States of both guidance branches.

        Returns:
            The latents and the conditioning of the next step.

        Raises:
            InvalidTypeError: The function returned something else than a dict of tensors.
            InvalidInputError: The function returned embeddings for another number of outputs, or latents of another
                shape.
        """
        if self.function is None:
            return latents, conditioning
        uncond = conditioning.uncond
        tensors = {
            "latents": self.show(latents),
            "prompt_embeds": conditioning.cond.states,
            "negative_prompt_embeds": None if uncond is None else uncond.states,
        }
        changed: Any = self.function(
            pipe, step, timestep, {name: tensors[name] for name in self.tensor_names}
        )
        if not isinstance(changed, (Mapping, type(None))):
            raise InvalidTypeError(
                f"`callback_on_step_end` returned {changed!r}; expected a dict of tensors, or None."
            )
        changed = cast("Mapping[str, Any]", changed or {})
        if "latents" in changed:
            _check_latents(changed["latents"], self.show(latents))
            latents = self.restore(changed["latents"])
        if "prompt_embeds" in changed:
            cond = _replace("prompt_embeds", conditioning.cond, changed["prompt_embeds"])
            conditioning = replace(conditioning, cond=cond)
        if "negative_prompt_embeds" in changed:
            states = changed["negative_prompt_embeds"]
            uncond = None if states is None else _replace("negative_prompt_embeds", uncond, states)
            conditioning = replace(conditioning, uncond=uncond)
        return latents, conditioning


def _check_latents(changed: object, shown: Tensor) -> None:
    """Check latents that a function returned against those that it was shown.

    Raises:
        InvalidTypeError: They are not a tensor.
        InvalidInputError: They have another shape.
    """
    message = "`callback_on_step_end` returned `latents` "
    if not isinstance(changed, Tensor):
        raise InvalidTypeError(f"{message}of type {type(changed).__name__}; expected a torch tensor.")
    if changed.shape != shown.shape:
        raise InvalidInputError(f"{message}of shape {list(changed.shape)}; expected {list(shown.shape)}.")


def _replace(name: str, text: TextStates | None, states: Tensor) -> TextStates:
    """Return a branch with other states.

    diffusers' `SDCFGCutoffCallback` keeps the last row only, as pipelines with one prompt put both branches into
    one tensor. Where all outputs have the same prompt, that row is repeated.

    Raises:
        InvalidInputError: There are states for another number of outputs.
    """
    if text is None or len(states) == len(text.states):
        return TextStates(states, None if text is None else text.mask)
    old = text.states
    if len(states) == 1 and bool((old == old[:1]).all()):
        return TextStates(states.expand(len(old), -1, -1), text.mask)
    raise InvalidInputError(
        f"`callback_on_step_end` returned `{name}` with {len(states)} rows for {len(old)} outputs; expected one "
        "row for each. Callbacks that keep one row, such as SDCFGCutoffCallback, work with one prompt per call."
    )
