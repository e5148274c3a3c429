"""Load LoRA adapters into the transformer."""

import itertools
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from diffusers.loaders.peft import PeftAdapterMixin
from torch import Tensor, nn

from joyimage.advice import advise
from joyimage.errors import CheckpointError, InvalidInputError, InvalidTypeError
from joyimage.model.adapters.files import download_adapter, find_adapter_file, read_adapter
from joyimage.model.adapters.names import adaptable_layers
from joyimage.model.adapters.recipe import SamplingRecipe, only_recipe, recipe_of
from joyimage.model.adapters.strength import Statement, check_config, read_statement, strip_prefix
from joyimage.model.adapters.updates import LayerUpdate, peft_form, read_updates, rename_lokr


class AdapterMixin(PeftAdapterMixin):
    """Let `load_lora_adapter` read the files of diffusers, peft, ComfyUI, kohya-ss and others."""

    def load_lora_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        prefix: str | None = "transformer",
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load an adapter; see `PeftAdapterMixin.load_lora_adapter`.

        Args:
            pretrained_model_name_or_path_or_dict: A file, a folder with one, a state dict, or a hub id. The layers may
                have the names of any known program.
            prefix: Not needed: what the names start with is found out. Accepted because diffusers has it.
            hotswap: Put the new weights in place of the adapter called `adapter_name`.
            **kwargs: As in diffusers: `adapter_name`, `weight_name`, `metadata` (the LoRA config of a state dict), and
                `revision`, `token`, `subfolder` and so on for a hub id. Without a name an adapter is called
                "default", "default_1" and so on.

        Raises:
            CheckpointError: The file cannot be read, a key names no layer of this model, a matrix does not fit, or the
                strength is stated in two ways.
            InvalidInputError: `adapter_name` holds a dot, or is not there to be replaced or cannot be.
            InvalidTypeError: The adapter, or the name of its file, is of a type that is not accepted.
        """
        del prefix
        source = pretrained_model_name_or_path_or_dict
        recipe: SamplingRecipe | None = None
        kwargs["adapter_name"] = self._adapter_name(kwargs.get("adapter_name"), is_replaced=hotswap)
        _check_source(source, kwargs)
        if isinstance(source, Mapping):
            tensors, label = dict(source), "The adapter"
            config = kwargs.pop("metadata", None)
            config = None if config is None else strip_prefix(config)
            if config is not None:
                check_config(config, "`metadata`")
            statement = Statement(config=config, source="`metadata`")
        else:
            path = Path(source)
            if path.is_dir() and kwargs.get("subfolder"):
                path /= kwargs["subfolder"]
            path = path if path.exists() else download_adapter(str(source), kwargs)
            path = find_adapter_file(path, kwargs.pop("weight_name", None))
            label = f"The adapter {path}"
            tensors, header = read_adapter(path)
            statement = read_statement(path, header)
            recipe = recipe_of(header, label)
        check_values(tensors, label)
        model = cast("nn.Module", self)
        layers, own = adaptable_layers(model), cast("Any", self).layer_slice
        is_lokr = any(".lokr_" in key for key in tensors)
        if hotswap:
            _check_swappable(model, kwargs["adapter_name"], is_lokr=is_lokr)
        if is_lokr:
            named = rename_lokr(tensors, layers, label)
            tensors = {f"transformer.{key}": value for key, value in named.items()}  # as diffusers reads LoKr
            self._inject(tensors, is_lokr=True, hotswap=hotswap, **kwargs)
        else:
            updates = read_updates(tensors, layers, statement, label)
            _check_shapes(model, updates, label)
            if own.num_parts > 1:
                from joyimage.model.adapters.slicing import slice_updates

                updates = slice_updates(updates, own)
            tensors, metadata = peft_form(updates)
            self._inject(tensors, is_lokr=False, hotswap=hotswap, metadata=metadata, **kwargs)
        self.keep_recipe(kwargs["adapter_name"], recipe)

    def _inject(self, tensors: dict[str, Tensor], *, is_lokr: bool, **kwargs: Any) -> None:
        """Put an adapter on the layers.

        Args:
            tensors: The adapter's tensors by the names that diffusers reads. Where layers are sliced, LoRA matrices
                are slices too, and LoKr factors are whole.
            is_lokr: Whether they are LoKr factors.
            **kwargs: As in diffusers.
        """
        is_sliced = cast("Any", self).layer_slice.num_parts > 1
        with warnings.catch_warnings(), ExitStack() as stack:
            # Several adapters are what users ask for here.
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
            if is_sliced and is_lokr:
                from joyimage.model.adapters.slicing import whole_sizes

                stack.enter_context(whole_sizes(self))
            prefix = "transformer" if is_lokr else None
            cast("Any", super()).load_lora_adapter(tensors, prefix=prefix, **kwargs)
        if is_sliced:
            from joyimage.model.adapters.slicing import sum_adapters

            sum_adapters(self)
        if not kwargs["hotswap"]:
            self._activate(kwargs["adapter_name"])

    def _activate(self, adapter_name: str) -> None:
        """Make a new adapter the only active one: peft leaves those of another kind on."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for layer in cast("nn.Module", self).modules():
            if isinstance(layer, BaseTunerLayer) and layer.active_adapters != [adapter_name]:
                layer.set_adapter([adapter_name])

    def add_adapter(self, adapter_config: Any, adapter_name: str = "default") -> None:
        """Add a new adapter, to be trained; see `PeftAdapterMixin.add_adapter`.

        Args:
            adapter_config: Config of the adapter, as peft has it.
            adapter_name: Name of the adapter.

        Raises:
            InvalidInputError: The layers are divided between processes.
        """
        self._check_not_sliced("`add_adapter` makes an adapter to train")
        cast("Any", super()).add_adapter(adapter_config, adapter_name)

    def save_lora_adapter(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write an adapter to a folder; see `PeftAdapterMixin.save_lora_adapter`.

        Args:
            save_directory: Folder to write; created where missing.
            *args: As in diffusers.
            **kwargs: As in diffusers: `adapter_name`, `weight_name`, ….

        Raises:
            InvalidInputError: The layers are divided between processes.
        """
        self._check_not_sliced("`save_lora_adapter` writes whole adapters")
        cast("Any", super()).save_lora_adapter(save_directory, *args, **kwargs)

    def _check_not_sliced(self, what: str) -> None:
        """Reject what needs whole layers.

        Raises:
            InvalidInputError: The layers are divided between processes.
        """
        if cast("Any", self).layer_slice.num_parts > 1:
            raise InvalidInputError(
                f"{what}, and this process has a slice of the transformer's layers. Do it before they are divided."
            )

    def keep_recipe(self, adapter_name: str, recipe: SamplingRecipe | None) -> None:
        """Remember how an adapter is sampled.

        Args:
            adapter_name: Name of a loaded adapter.
            recipe: What it was trained for; None for one that is no turbo adapter.
        """
        known: dict[str, SamplingRecipe | None] = getattr(self, "_recipes", {})
        self._recipes = {**known, adapter_name: recipe}

    def turbo_recipes(self) -> dict[str, SamplingRecipe]:
        """Return what each loaded turbo adapter was trained for, by its name."""
        known: dict[str, SamplingRecipe | None] = getattr(self, "_recipes", {})
        loaded = getattr(self, "peft_config", {})
        return {name: one for name, one in known.items() if one is not None and name in loaded}

    def active_recipe(self) -> SamplingRecipe | None:
        """Return what the turbo adapter that acts now was trained for; None without one.

        Raises:
            InvalidInputError: Two turbo adapters act that want to be sampled in different ways.
        """
        known = self.turbo_recipes()
        if not known:
            return None
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = (one for one in cast("nn.Module", self).modules() if isinstance(one, BaseTunerLayer))
        layer = next(layers, None)  # all layers have the same adapters switched on
        if layer is None or layer.disable_adapters:
            return None
        return only_recipe(known.get(name) for name in layer.active_adapters)

    @contextmanager
    def scaled_adapters(self, scale: float) -> Generator[None]:
        """Multiply the strength of the active adapters, and give them back their own at the end.

        Args:
            scale: Factor on each adapter's update.
        """
        if scale == 1:
            yield
            return
        from peft.tuners.tuners_utils import BaseTunerLayer

        modules = cast("nn.Module", self).modules()
        layers: list[Any] = [
            one
            for one in modules
            if isinstance(one, BaseTunerLayer) and not one.disable_adapters and not one.merged
        ]
        if not layers:
            advise(f"A scale of {scale:g} for adapters has no effect: none is active, or they are fused.")
        # Dividing by the factor again would not give back the same numbers, and nothing after 0.
        strengths = [dict(layer.scaling) for layer in layers]
        try:
            for layer in layers:
                layer.scale_layer(scale)
            yield
        finally:
            for layer, strength in zip(layers, strengths, strict=True):
                layer.scaling.update(strength)

    def _adapter_name(self, given: Any, *, is_replaced: bool) -> str:
        """Return the name of a new adapter, or of the one whose weights are replaced.

        Raises:
            InvalidInputError: The name holds a dot, which torch does not accept in names of modules, or is taken; or
                there is no adapter to replace.
        """
        taken = set(getattr(self, "peft_config", {}))
        if is_replaced:
            if given not in taken:
                raise InvalidInputError(
                    f"`adapter_name` is {given!r}; expected the adapter to replace, of those that are loaded: "
                    f"{', '.join(sorted(taken)) or 'none'}."
                )
            return given
        if given is not None:
            if not isinstance(given, str) or "." in given or not given:
                raise InvalidInputError(
                    f"`adapter_name` is {given!r}; expected a name without dots, such as 'style'."
                )
            if given in taken:
                raise InvalidInputError(
                    f"`adapter_name` is {given!r}, which is loaded already; choose another name, or remove that adapter"
                    f" with `delete_adapters({given!r})`."
                )
            return given
        names = itertools.chain(["default"], (f"default_{number}" for number in itertools.count(1)))
        return next(name for name in names if name not in taken)


def _check_source(source: object, options: Mapping[str, Any]) -> None:
    """Reject an adapter, or the name of its file, that is of another type than is read.

    Raises:
        InvalidTypeError: One of them.
    """
    if isinstance(source, Mapping):
        for key, value in cast("Mapping[object, object]", source).items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise InvalidTypeError(
                    f"The adapter has {type(value).__name__} under the key {key!r}; expected tensors by name."
                )
        metadata = options.get("metadata")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidTypeError(f"`metadata` is {metadata!r}; expected the adapter's LoRA config, a dict.")
    elif not isinstance(source, (str, Path)) or not str(source).strip():
        raise InvalidTypeError(
            f"The adapter is {source!r}; expected a file, a folder with one, a dict of tensors, or a hub id."
        )
    elif options.get("metadata") is not None:
        raise InvalidTypeError(
            "`metadata` goes with an adapter that is a dict of tensors; a file states its own strength. Leave it out."
        )
    weight_name = options.get("weight_name")
    if weight_name is not None and not isinstance(weight_name, str):
        raise InvalidTypeError(f"`weight_name` is {weight_name!r}; expected the name of a file.")


def _check_swappable(model: nn.Module, adapter_name: str, *, is_lokr: bool) -> None:
    """Reject weights that cannot be put in place of an adapter's, before the model is touched.

    Raises:
        InvalidInputError: One of both is LoKr, or a LoKr adapter was loaded after the LoRA on the same layers.
    """
    from peft.tuners.lora import LoraLayer

    reason = None
    if is_lokr or cast("Any", model).peft_config[adapter_name].peft_type != "LORA":
        reason = "LoKr weights cannot be replaced, nor replace others"
    for name, layer in cast("Iterator[tuple[str, Any]]", model.named_modules()):
        if isinstance(layer, LoraLayer) and adapter_name in layer.lora_A and name.endswith(".base_layer"):
            reason = f"an adapter of another kind was loaded after {adapter_name!r} on the same layers"
    if reason is not None:
        raise InvalidInputError(
            f"`hotswap` is True, but {reason}. Call `delete_adapters({adapter_name!r})` and load the new one without"
            " `hotswap`."
        )


def check_values(tensors: Mapping[str, Tensor], label: str) -> None:
    """Reject numbers that would make every image black.

    Args:
        tensors: The adapter's tensors.
        label: What the adapter is called in messages.

    Raises:
        CheckpointError: A value is not finite, or a matrix holds integers.
    """
    for key, tensor in tensors.items():
        if tensor.ndim > 1 and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{label} has `{key}` in {kind}; expected floating-point matrices. Save the adapter in bf16 or fp32."
            )
        if not bool(tensor.float().isfinite().all()):  # torch has no isfinite for fp8
            raise CheckpointError(f"{label} has values in `{key}` that are not finite: the file is damaged.")


def _check_shapes(model: nn.Module, updates: Mapping[str, LayerUpdate], label: str) -> None:
    """Reject matrices that do not fit on their layers, which may be slices, before the model is touched.

    Raises:
        CheckpointError: One does not fit.
    """
    modules = dict(cast("Iterator[tuple[str, nn.Module]]", model.named_modules()))
    for layer, update in updates.items():
        module: Any = modules[layer]
        while hasattr(module, "base_layer"):
            module = module.base_layer
        is_linear = isinstance(module, nn.Linear)  # a quantized weight is stored in another shape
        shape = [module.out_features, module.in_features] if is_linear else list(module.weight.shape)
        outputs, *inputs = shape = cast("Any", model).layer_slice.whole_shape(shape, layer)
        fits = {
            "lora_A.weight": list(update.down.shape[1:]) == inputs,
            "lora_B.weight": update.up.ndim >= 2 and list(update.up.shape[:2]) == [outputs, update.rank],
            "lora_magnitude_vector": update.magnitude is None or list(update.magnitude.shape) == [outputs],
            "lora_B.bias": update.bias is None or list(update.bias.shape) == [outputs],
        }
        tensors = (update.down, update.up, update.magnitude, update.bias)
        for (name, is_fitting), tensor in zip(fits.items(), tensors, strict=True):
            if not is_fitting and tensor is not None:
                raise CheckpointError(
                    f"{label} has `{layer}.{name}` of shape {list(tensor.shape)}, which does not fit on a layer of "
                    f"{shape}: it was made for another model."
                )
