"""LoRA adapters on a pipeline, under the names that diffusers' pipelines give to these methods."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from diffusers.loaders.lora_base import LoraBaseMixin

from joyimage.acceleration.presets import TURBO
from joyimage.acceleration.quantization import formats_of
from joyimage.acceleration.streaming import stream_of
from joyimage.edits import Defaults
from joyimage.errors import InvalidInputError, InvalidTypeError
from joyimage.model.adapters.conversion import layers_in
from joyimage.model.adapters.layouts import save_adapter
from joyimage.model.adapters.mixin import check_values
from joyimage.model.adapters.strength import Statement, strip_prefix
from joyimage.model.adapters.updates import read_updates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from joyimage.model.adapters.recipe import SamplingRecipe

_PART = "transformer"


def defaults_of(recipe: SamplingRecipe) -> Defaults:
    """Return what an edit with a turbo adapter uses where nothing is given."""
    return Defaults(
        num_inference_steps=recipe.num_inference_steps, guidance_scale=recipe.guidance_scale, speed=TURBO
    )


class AdapterLoadingMixin(LoraBaseMixin):
    """Load, blend, fuse and save LoRA adapters of a pipeline's transformer.

    `set_adapters`, `get_active_adapters`, `get_list_adapters`, `delete_adapters`, `enable_lora`, `disable_lora`,
    `set_lora_device` and `enable_lora_hotswap` come from diffusers.
    """

    _lora_loadable_modules = [_PART]  # noqa: RUF012 - diffusers' attribute
    transformer: Any

    def load_lora_weights(  # type: ignore[override]
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Add a LoRA adapter to the transformer and make it the active one; `set_adapters` activates several.

        Args:
            pretrained_model_name_or_path_or_dict: A file, a folder with one, a dict of tensors, or a hub id, in the
                layout of any known program.
            adapter_name: Name without dots, such as "sketch"; "default", "default_1" and so on if None.
            hotswap: Put the new weights in place of the adapter of that name.
            **kwargs: As in diffusers: `weight_name`, `subfolder`, `revision`, `token`, `metadata`, ….

        Raises:
            CheckpointError: The adapter cannot be read, or is for another model; the message names the file and the
                key. The pipeline is unchanged.
            InvalidInputError: The name holds a dot or is taken.
        """
        self.transformer.load_lora_adapter(
            pretrained_model_name_or_path_or_dict,
            adapter_name=adapter_name,
            hotswap=hotswap,
            _pipeline=self,
            **kwargs,
        )

    def set_adapters(
        self,
        adapter_names: list[str] | str,
        adapter_weights: float | dict[str, Any] | list[float] | list[dict[str, Any]] | None = None,
    ) -> None:
        """Make these adapters active, and no others.

        Args:
            adapter_names: One name or several.
            adapter_weights: Factor on each adapter's update, one for all or one each, or diffusers' dict of factors
                per block; 1 if None.

        Raises:
            InvalidInputError: There is no adapter of that name, or names and weights differ in number.
        """
        names = self._checked_names(adapter_names)
        weights: list[Any] = (
            list(adapter_weights) if isinstance(adapter_weights, list) else [adapter_weights] * len(names)
        )
        for weight in weights:
            _check_weight("adapter_weights", weight)
        if len(weights) != len(names):
            raise InvalidInputError(
                f"`adapter_weights` holds {len(weights)} numbers for {len(names)} adapters; expected one each."
            )
        self.transformer.set_adapters(names, [1.0 if weight is None else weight for weight in weights])

    def delete_adapters(self, adapter_names: Sequence[str] | str) -> None:
        """Remove adapters; others stay as they are.

        Args:
            adapter_names: One name or several.

        Raises:
            InvalidInputError: There is no adapter of that name.
        """
        names = self._checked_names(adapter_names)
        if set(names) == set(self.get_list_adapters().get(_PART, ())):
            self.unload_lora_weights()
            return
        self.transformer.delete_adapters(names)

    def fuse_lora(
        self,
        components: list[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the adapters to the base weights, which makes them cost nothing; `unfuse_lora` takes them out.

        Args:
            components: Parts whose adapters are meant; only the transformer has any, and it is meant if None.
            lora_scale: Factor on the updates.
            safe_fusing: Whether to check the fused weights for NaN.
            adapter_names: Adapters to fuse; all active ones if None.
            **kwargs: As in diffusers.

        Raises:
            InvalidInputError: The weights are quantized or streamed, so there is nothing to add to; they are slices
                whose processes are not connected; or an argument is not accepted. The weights are unchanged.
        """
        _check_can_fuse(self.transformer)
        _check_weight("lora_scale", lora_scale)
        if components is not None and list(components) != [_PART]:
            raise InvalidInputError(f"`components` is {components!r}; expected ['{_PART}'], or None.")
        if adapter_names is not None:
            adapter_names = self._checked_names(adapter_names)
        if self.transformer.layer_slice.num_parts > 1:
            self._meet()
        cast("Any", super()).fuse_lora(
            components or [_PART], lora_scale, safe_fusing, adapter_names, **kwargs
        )

    def unfuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Take fused adapters out of the base weights.

        Args:
            components: Parts whose adapters are meant; only the transformer has any, and it is meant if None.
            **kwargs: As in diffusers.
        """
        cast("Any", super()).unfuse_lora(components or [_PART], **kwargs)

    @classmethod
    def save_lora_weights(  # type: ignore[override]
        cls,
        save_directory: str | Path,
        transformer_lora_layers: Mapping[str, Tensor],
        weight_name: str = "pytorch_lora_weights.safetensors",
        transformer_lora_adapter_metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save an adapter in diffusers' layout; `joyimage convert lora` writes others.

        Args:
            save_directory: Folder to write to; created if missing.
            transformer_lora_layers: The adapter's tensors, such as peft's `get_peft_model_state_dict(transformer)`.
            weight_name: Name of the file.
            transformer_lora_adapter_metadata: LoraConfig of the adapter, which states its strength; rank counts as
                alpha if None.
            **kwargs: Accepted as in diffusers, and only for safetensors: `is_main_process`, `safe_serialization`.

        Raises:
            CheckpointError: A tensor is not part of an adapter.
            InvalidInputError: `safe_serialization` is False.
        """
        if not kwargs.get("safe_serialization", True):
            raise InvalidInputError("`safe_serialization` is False; adapters are saved as safetensors only.")
        if not kwargs.get("is_main_process", True):
            return
        check_values(transformer_lora_layers, "The adapter")
        config = transformer_lora_adapter_metadata
        statement = Statement(config=None if config is None else strip_prefix(config), source="the metadata")
        updates = read_updates(transformer_lora_layers, layers_in(transformer_lora_layers), statement)
        save_adapter(updates, Path(save_directory) / weight_name, "diffusers")

    def _meet(self) -> None:
        """Wait for the processes that have the other slices of the layers: they measure DoRA's rows together.

        Raises:
            InvalidInputError: They are not connected.
            ParallelError: One of them has ended.
        """
        processes = cast("Any", self).processes
        if processes is None:
            raise InvalidInputError(
                "`fuse_lora` adds adapters to slices of the transformer's layers, whose processes are not connected;"
                ' call `pipe.parallel(N, layout="tensor")` first.'
            )
        processes.meet()

    def _checked_names(self, given: Sequence[str] | str) -> list[str]:
        """Return the names of adapters that exist.

        Raises:
            InvalidTypeError: They are not names.
            InvalidInputError: One does not exist.
        """
        if not isinstance(given, (str, list, tuple, set)):
            raise InvalidTypeError(f"`adapter_names` is {given!r}; expected a name or a list of names.")
        names = [given] if isinstance(given, str) else list(given)
        loaded = self.get_list_adapters().get(_PART, [])
        for name in names:
            if name not in loaded:
                raise InvalidInputError(
                    f"There is no adapter {name!r}; loaded: {', '.join(loaded) or 'none'}."
                )
        return names


def _check_weight(argument: str, weight: object) -> None:
    """Check a factor on an update: one that is not finite would stay in the weights once it is fused.

    Raises:
        InvalidInputError: It is not a finite number, nor a dict of these per block.
    """
    values = list(cast("Mapping[str, object]", weight).values()) if isinstance(weight, dict) else None
    if values is not None:
        for value in values:
            for one in cast("list[object]", value) if isinstance(value, list) else [value]:
                _check_weight(argument, one)
        return
    try:
        is_number = weight is None or (not isinstance(weight, str) and math.isfinite(cast("float", weight)))
    except (TypeError, ValueError, OverflowError):
        is_number = False
    if not is_number:
        raise InvalidInputError(f"`{argument}` is {weight!r}; expected a finite number.")


def _check_can_fuse(transformer: Any) -> None:
    """Check that the weights are there to be changed.

    Raises:
        InvalidInputError: They are quantized or streamed.
    """
    state = None
    if formats := formats_of(transformer):
        state = f"stored as {', '.join(sorted(formats))}"
    elif stream := stream_of(transformer):
        state = f"streamed (`offload` {stream.source.plan!r})"
    if state is not None:
        raise InvalidInputError(
            f"`fuse_lora` adds adapters to the transformer's weights, which are {state}. Use the adapters without"
            " fusing them, or load the pipeline with `quantization` 'none' and `offload` 'none' or 'model'."
        )
