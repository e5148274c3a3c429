"""Load a pipeline: the class that the checkpoint is for, on a device, in a precision, with adapters.

The library, the command line, the server, the evaluation and the benchmark all load through `load_pipeline`.
`from_pretrained` is what diffusers' users expect, and what `load_pipeline` calls.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from joyimage.acceleration.plans import OFFLOADS, MemoryPlan
from joyimage.devices import choose_device, choose_dtype, typed_device_errors, warn_if_slow
from joyimage.errors import CheckpointError, DeviceError, InvalidInputError, OutOfMemoryError
from joyimage.model.file_kind import describe_file
from joyimage.model_source import ModelSource, find_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from os import PathLike

    from joyimage.edits import Defaults
    from joyimage.pipeline.edit import JoyImageEditPipeline
    from joyimage.pipeline.edit_plus import JoyImageEditPlusPipeline
    from joyimage.pipeline.planned import PlannedLoad

T = TypeVar("T")

OFFLOAD_CHOICES = ("auto", *OFFLOADS, "group")
"""What `offload` accepts; "group" is the former name of "block"."""

QUANTIZATIONS = ("none", "int8", "fp8", "nf4")
"""What `quantization` accepts: decode quantized files, or quantize while loading."""

_LARGEST_SCALE = 100.0


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter to load.

    Attributes:
        path: A file, or a folder with one.
        scale: Factor on what the adapter adds; 1 is as trained.
        name: Name of the adapter in the pipeline; made from the file's name if None.
    """

    path: Path
    scale: float = 1.0
    name: str | None = None

    @classmethod
    def parse(cls, text: str) -> Adapter:
        """Read "PATH" or "PATH:SCALE".

        Args:
            text: Such as "style.safetensors" or "style.safetensors:0.8". A path that ends with a colon and a
                number is read as a path if such a file exists.

        Raises:
            InvalidInputError: The scale is not a finite number from -100 to 100.
        """
        path, separator, scale = text.rpartition(":")
        is_number = re.match(r"[\d.+-]", scale) is not None
        # A drive letter ("C:/style") or a name with a colon is not a scale; what follows an existing file is one.
        is_scale = is_number or scale == "" or Path(path).exists()
        if not separator or not path or Path(text).exists() or not is_scale:
            return cls(path=Path(text))
        try:
            factor = float(scale)
        except ValueError:
            factor = float("nan")
        if not -_LARGEST_SCALE <= factor <= _LARGEST_SCALE:
            raise InvalidInputError(
                f"The scale of the adapter {text!r} is {scale!r}; expected a number, for example {path}:0.8."
            )
        return cls(path=Path(path), scale=factor)

    def check(self) -> None:
        """Reject what is no adapter for this architecture, from its files alone and before a model is loaded.

        Raises:
            CheckpointError: There is no such file or folder, or it holds no LoRA adapter that can be used.
        """
        if not self.path.exists():
            raise CheckpointError(f"The adapter {self.path} does not exist: expected a file or folder.")
        if self.path.is_dir() and not any(self.path.glob("*.safetensors")):
            raise CheckpointError(f"The adapter folder {self.path} holds no safetensors file.")
        if self.path.is_file() and "safetensors" not in (kind := describe_file(self.path)):
            raise CheckpointError(f"The adapter {self.path} is {kind}; expected a safetensors file.")
        from joyimage.model.adapters.conversion import check_adapter

        check_adapter(self.path)

    def sha256(self) -> str:
        """Return the hash of the adapter's content: its file, and the config beside it that states its strength."""
        folder = self.path if self.path.is_dir() else self.path.parent
        files = sorted(folder.glob("*.safetensors")) if self.path.is_dir() else [self.path]
        digest = hashlib.sha256()
        for file in [*files, *folder.glob("adapter_config.json")]:
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


def adapter_defaults(adapters: Iterable[Adapter], own: Defaults) -> Defaults:
    """Return what an edit uses where nothing is given: what a turbo adapter sets, or the checkpoint's own.

    Args:
        adapters: Adapters of the edit, on this machine.
        own: The checkpoint's own.

    Raises:
        CheckpointError: An adapter cannot be read.
        InvalidInputError: Two turbo adapters want to be sampled in different ways.
    """
    from joyimage.model.adapters.recipe import only_recipe, read_recipe
    from joyimage.pipeline.adapters import defaults_of

    recipe = only_recipe(read_recipe(one.path) for one in adapters)
    return own if recipe is None else defaults_of(recipe)


@dataclass(kw_only=True)
class LoadedPipeline:
    """A pipeline that is ready, and what was chosen for it.

    Attributes:
        pipe: The pipeline.
        model: The checkpoint as it was given.
        device: Device that the parts run on, such as "cuda:0".
        dtype: Precision of the weights, such as "bfloat16".
        plan: Memory plan with its predicted peaks; None for a model so small that none was made.
        adapters: Adapters in the order in which they were loaded, each with the name it got.
        seconds: Duration of loading.
        announce: Called with each memory plan before it is used; None: plans are not announced.
    """

    pipe: JoyImageEditPipeline | JoyImageEditPlusPipeline
    model: str
    device: str
    dtype: str
    plan: MemoryPlan | None
    adapters: tuple[Adapter, ...]
    seconds: float
    announce: Callable[[MemoryPlan], None] | None = None
    _load: PlannedLoad = field(repr=False)

    @property
    def offload(self) -> str:
        """Name of the memory plan, one of `OFFLOADS`."""
        return "none" if self.plan is None else self.plan.offload

    def run(self, call: Callable[[], T]) -> T:
        """Run a call of the pipeline; where memory runs out, change to the next memory plan and call again.

        A plan that was requested stays.

        Args:
            call: Calls the pipeline. It may be called several times: it makes its own random generators.

        Returns:
            What the call returned.

        Raises:
            OutOfMemoryError: Memory ran out with the last plan, or with the requested one.
        """
        while True:
            try:
                with typed_device_errors():
                    return call()
            except OutOfMemoryError:
                plan = self._load.smaller_plan(self.plan)
                if plan is None:
                    raise
            # Outside of the except clause: the exception holds the tensors that have to go.
            if self.announce is not None:
                self.announce(plan)
            with typed_device_errors():
                self._load.change(self.pipe, plan)
            self.plan = plan


def load_pipeline(
    model: str | PathLike[str] | None = None,
    *,
    transformer: str | PathLike[str] | None = None,
    text_encoder: str | PathLike[str] | None = None,
    vae: str | PathLike[str] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    base_size: int | None = None,
    loras: Iterable[str | PathLike[str] | Adapter] = (),
    offload: str | None = None,
    quantization: str | None = None,
    replica: int = 0,
    num_parts: int = 1,
    announce: Callable[[MemoryPlan], None] | None = None,
) -> LoadedPipeline:
    """Load the pipeline that a checkpoint is for.

    Everything that can be rejected is rejected before weights are read.

    Args:
        model: A checkpoint folder, a hub id, a registered name such as "tiny", or a weight file with the
            transformer. None or a file takes configs and tokenizer of the published model from this package;
            then all other weights are given as files. A file whose name has "plus" makes an Edit-Plus pipeline.
        transformer: Weight file of the transformer, in place of that of `model`. Formats: safetensors in
            bf16, fp16, fp32, int8, fp8, mxfp8, nvfp4 or nf4, and GGUF.
        text_encoder: Weight file of the text encoder, in place of that of `model`.
        vae: Weight file of the VAE, in place of that of `model`.
        device: Such as "cuda", "cuda:1", "xpu", "mps" or "cpu"; the best one of this machine if None.
        dtype: "float32", "float16", "bfloat16" or "auto", which measures what a CPU computes faster; float32 on the CPU
            and bfloat16 elsewhere if None.
        base_size: Side in pixels of the square bucket that all buckets derive from; the checkpoint's own if
            None.
        loras: Adapters, as paths, "PATH:SCALE" or `Adapter`. All are active after loading.
        offload: Memory plan. "none" keeps all parts on the device, "model" moves one part at a time to it,
            "block" streams blocks from host memory, "disk" from the weight files. None or "auto" chooses the
            fastest plan that fits the free memory, and tries the next one if memory runs out while loading.
        quantization: "int8", "fp8" or "nf4" quantizes the transformer's blocks and the text encoder's
            language layers where the files hold them in full precision ("nf4" keeps the sensitive ones of the
            text encoder in int8); "none" decodes quantized files; None keeps the format of the files.
        replica: Number of the replica that the pipeline is for; see `choose_device`.
        num_parts: Number of processes that have a slice of the transformer's layers each, for
            `pipe.parallel(num_parts, layout="tensor")`; this one keeps the slice whose number is `replica`.
        announce: Called with the memory plan before weights are read, and with each later one; a small model has
            none unless memory runs out.

    Returns:
        The pipeline, and what was chosen.

    Raises:
        CheckpointError: The checkpoint or an adapter cannot be read.
        DeviceError: The device does not exist, or cannot do what `offload` asks for.
        InvalidInputError: Another argument has a value that is not accepted.
        OutOfMemoryError: The device has too little memory.
    """
    checked = checked_load(
        model,
        transformer=transformer,
        text_encoder=text_encoder,
        vae=vae,
        device=device,
        dtype=dtype,
        base_size=base_size,
        loras=loras,
        offload=offload,
        quantization=quantization,
        replica=replica,
        num_parts=num_parts,
    )
    started = time.perf_counter()
    warn_if_slow(checked.dtype, checked.device)
    with typed_device_errors():
        load = replace(_plan_load(checked), part=replica, num_parts=num_parts)
        pipe, plan = _load_first_that_fits(load, announce)
        if base_size is not None:
            pipe.register_to_config(base_size=base_size)
        _activate(pipe, checked.adapters)
    return LoadedPipeline(
        pipe=pipe,
        model=checked.source.name,
        device=checked.device,
        dtype=checked.dtype,
        plan=plan,
        adapters=checked.adapters,
        seconds=time.perf_counter() - started,
        announce=announce,
        _load=load,
    )


@dataclass(frozen=True, kw_only=True)
class CheckedLoad:
    """What a pipeline is loaded from and how, after all checks that need no weights.

    Attributes:
        source: Where the parts come from.
        adapters: Adapters with distinct names.
        device: Name of the device, such as "cuda:0".
        dtype: Precision of the weights, such as "bfloat16".
        base_size: Side in pixels of the square bucket; None for the checkpoint's own.
        offload: Requested memory plan; None for the fastest that fits.
        quantization: Requested quantization; None keeps the format of the files.
    """

    source: ModelSource
    adapters: tuple[Adapter, ...]
    device: str
    dtype: str
    base_size: int | None
    offload: str | None
    quantization: str | None


def checked_load(
    model: str | PathLike[str] | None = None,
    *,
    transformer: str | PathLike[str] | None = None,
    text_encoder: str | PathLike[str] | None = None,
    vae: str | PathLike[str] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    base_size: int | None = None,
    loras: Iterable[str | PathLike[str] | Adapter] = (),
    offload: str | None = None,
    quantization: str | None = None,
    replica: int = 0,
    num_parts: int = 1,
) -> CheckedLoad:
    """Check the arguments of `load_pipeline`, which have the same names here, without loading anything.

    A checkpoint folder or hub id is not looked up.

    Raises:
        CheckpointError: A weight file or an adapter is missing, or holds something else.
        DeviceError: The device does not exist, or cannot do what `offload` asks for.
        InvalidInputError: Another argument has a value that is not accepted.
    """
    from joyimage.pipeline.buckets import bucket_sizes

    source = find_source(model, transformer=transformer, text_encoder=text_encoder, vae=vae)
    adapters = _named(loras)
    requested = _checked_offload(offload)
    _check_quantization(quantization)
    place = choose_device(device, replica=replica)
    precision = choose_dtype(dtype, place)
    _check_plan(requested, quantization, place, offload=offload)
    if num_parts > 1:
        from joyimage.acceleration.tensor_parallel import check_whole

        check_whole(offload=requested, quantization=quantization)
    if base_size is not None:
        bucket_sizes(base_size)
    return CheckedLoad(
        source=source,
        adapters=adapters,
        device=place,
        dtype=precision,
        base_size=base_size,
        offload=requested,
        quantization=quantization,
    )


def default_model(device: str | None = None) -> str:
    """Return the checkpoint to use when none is given: the published one on an accelerator, else tiny.

    Args:
        device: The requested device; the best one of this machine if None.

    Raises:
        DeviceError: There is no such device.
    """
    from joyimage.pipeline.hub import PUBLISHED_MODEL

    return "tiny" if choose_device(device) == "cpu" else PUBLISHED_MODEL


def _named(loras: Iterable[str | PathLike[str] | Adapter]) -> tuple[Adapter, ...]:
    """Return the adapters with distinct names that torch accepts for a module.

    Raises:
        CheckpointError: A path holds no adapter.
        InvalidInputError: A scale is not accepted.
    """
    adapters: list[Adapter] = []
    for lora in loras:
        adapter = lora if isinstance(lora, Adapter) else Adapter.parse(str(lora))
        adapter.check()
        # peft keeps adapters in a module dict, whose keys cannot hold a dot.
        stem = adapter.name or re.sub(r"\W", "_", adapter.path.stem) or "adapter"
        taken = {other.name for other in adapters}
        names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        adapters.append(replace(adapter, name=next(name for name in names if name not in taken)))
    return tuple(adapters)


def _plan_load(checked: CheckedLoad) -> PlannedLoad:
    """Find the class and the folder of a checkpoint, and return how its parts are loaded.

    Raises:
        CheckpointError: The checkpoint is not on this machine and cannot be downloaded, or is incomplete.
    """
    import torch

    from joyimage.pipeline.components import PUBLISHED_FOLDER
    from joyimage.pipeline.loading import pipeline_class, published_class, resolve_folder
    from joyimage.pipeline.planned import PlannedLoad

    source = checked.source
    cls = pipeline_class(source.name) if source.base is not None else published_class(source.name)
    folder = PUBLISHED_FOLDER if source.base is None else resolve_folder(cls, str(source.base), source.files)
    return PlannedLoad(
        cls=cls,
        model=source.base or PUBLISHED_FOLDER,
        folder=folder,
        files=source.files,
        device=torch.device(checked.device),
        dtype=getattr(torch, checked.dtype),
        base_size=checked.base_size,
        quantization=checked.quantization,
        requested=checked.offload,
    )


def _load_first_that_fits(
    load: PlannedLoad, announce: Callable[[MemoryPlan], None] | None
) -> tuple[JoyImageEditPipeline | JoyImageEditPlusPipeline, MemoryPlan | None]:
    """Load with the first memory plan, and with the next one each time that memory runs out.

    Returns:
        The pipeline, and the plan that it was loaded with.

    Raises:
        OutOfMemoryError: Memory ran out with the last plan.
    """
    plan = load.plan()
    while True:
        if plan is not None and announce is not None:
            announce(plan)
        try:
            return load.load(plan), plan
        except OutOfMemoryError:
            plan = load.smaller_plan(plan)
            if plan is None:
                raise


def _activate(pipe: JoyImageEditPipeline | JoyImageEditPlusPipeline, adapters: tuple[Adapter, ...]) -> None:
    """Load adapters and switch all of them on, each with its scale.

    Raises:
        CheckpointError: An adapter does not fit the transformer.
    """
    for adapter in adapters:
        pipe.load_lora_weights(adapter.path, adapter_name=adapter.name)
    if adapters:
        names = [str(adapter.name) for adapter in adapters]  # `_named` has given every adapter one
        pipe.transformer.set_adapters(names, [adapter.scale for adapter in adapters])


def _checked_offload(offload: str | None) -> str | None:
    """Return the requested plan, or None for the fastest that fits.

    Raises:
        InvalidInputError: There is no such plan.
    """
    if offload in {None, "auto"}:
        return None
    if offload not in OFFLOAD_CHOICES:
        raise InvalidInputError(f"`offload` is {offload!r}; expected {', '.join(('auto', *OFFLOADS))}.")
    return "block" if offload == "group" else offload


def _check_plan(requested: str | None, quantization: str | None, place: str, *, offload: str | None) -> None:
    """Reject a memory plan that the device or the quantization rules out.

    Args:
        requested: Name of the plan; None for the fastest that fits.
        quantization: Requested quantization.
        place: Device, such as "cpu".
        offload: The plan as the caller wrote it, for the message.

    Raises:
        DeviceError: The device cannot run the plan.
        InvalidInputError: The plan reads weights as they are, and they are to be quantized.
    """
    if requested == "disk" and quantization not in {None, "none"}:
        raise InvalidInputError(
            f"`offload` is 'disk', which reads the weights in the format of their files, and `quantization` is"
            f" {quantization!r}; leave out one of them, or write a quantized file with `joyimage quantize` first."
        )
    if requested in {"model", "block"} and place == "cpu":
        raise DeviceError(
            f"`offload` is {offload!r}, but it moves weights between the CPU and an accelerator, and the device"
            " is the CPU. Leave it out, or use disk to read blocks from the weight files as they are needed."
        )


def _check_quantization(quantization: str | None) -> None:
    if quantization not in {None, *QUANTIZATIONS}:
        raise InvalidInputError(f"`quantization` is {quantization!r}; expected {', '.join(QUANTIZATIONS)}.")
