"""Load a pipeline by a memory plan, and change to the next plan where memory runs out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from joyimage.acceleration.plans import Machine, MemoryPlan, candidates, choose_plan, next_plan, predict
from joyimage.acceleration.quantization import choose_matmuls
from joyimage.acceleration.tensor_parallel import divide_layers
from joyimage.devices import free_cached_memory, free_memory, typed_device_errors
from joyimage.pipeline import components
from joyimage.pipeline.folder_checks import check_folder
from joyimage.pipeline.streamed import load_from_disk, measure, stream_from_disk, stream_from_host

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from pathlib import Path

    import torch

    from joyimage.acceleration.plans import PipelineSize

_SMALL_BYTES = 2 * 10**9
"""Size of the weight files up to which a model is loaded without a memory plan."""


@dataclass(frozen=True, kw_only=True)
class PlannedLoad:
    """What is loaded, and where its weights go: by the requested memory plan, or by the one that fits.

    Attributes:
        cls: Class of the pipeline.
        model: What `from_pretrained` is given.
        folder: The checkpoint's folder on this machine, or that of the published configs.
        files: Part → weight file, for the parts that do not come from the folder.
        device: Where the pipeline runs.
        dtype: Precision of the weights.
        base_size: Side in pixels of the square bucket, or None for the checkpoint's own.
        quantization: "int8", "fp8", "nf4" or "none", or None for the format of the files.
        requested: Requested memory plan, one of `OFFLOADS`; None for the fastest that fits.
        part: Number of the slice of the transformer's layers to keep.
        num_parts: Number of slices; 1 keeps the layers whole.
    """

    cls: Any
    model: str | PathLike[str]
    folder: Path
    files: dict[str, Path]
    device: torch.device
    dtype: torch.dtype
    base_size: int | None
    quantization: str | None
    requested: str | None = None
    part: int = 0
    num_parts: int = 1

    def plan(self) -> MemoryPlan | None:
        """Return the memory plan, or None for a small model, for which planning takes longer than it saves.

        Raises:
            OutOfMemoryError: No plan fits.
        """
        paths = [*self.folder.glob("*/*.safetensors"), *self.files.values()]
        if self.requested in {None, "none"} and sum(path.stat().st_size for path in paths) < _SMALL_BYTES:
            return None
        if self.requested is not None:
            return predict(self.requested, self._size(), self.device.type)
        free = free_memory(self.device)
        machine = Machine(device=self.device.type, device_bytes=free.device, host_bytes=free.host)
        return choose_plan(self._size(), machine, self._plans())

    def smaller_plan(self, plan: MemoryPlan | None) -> MemoryPlan | None:
        """Return the plan to try when one has run out of memory; None after the last, and if one was requested."""
        offload = next_plan("none" if plan is None else plan.offload, self._plans())
        if offload is None or self.requested is not None:
            return None
        free_cached_memory(self.device)
        return replace(
            predict(offload, self._size(), self.device.type),
            reason="Memory ran out with the plan before it.",
        )

    def load(self, plan: MemoryPlan | None) -> Any:
        """Load the pipeline with its parts where the plan wants them.

        Raises:
            OutOfMemoryError: Memory ran out.
        """
        with typed_device_errors():
            return self._load("none" if plan is None else plan.offload)

    def change(self, pipe: Any, plan: MemoryPlan) -> None:
        """Change a loaded pipeline to another memory plan, in place; adapters stay as they are.

        Args:
            pipe: The pipeline.
            plan: A slower plan than the present one.
        """
        if plan.offload == "disk":
            stream_from_disk(pipe, self.folder, self.files, self.device)
        elif plan.offload == "block":
            pipe.remove_all_hooks()
            pipe.to("cpu")
            stream_from_host(pipe, self.device)
        else:
            pipe.enable_model_cpu_offload(device=self.device)
        free_cached_memory(self.device)

    def _plans(self) -> tuple[str, ...]:
        """Return the plans that can run, the fastest first."""
        plans = candidates(self.device.type)
        is_from_files = self.quantization in {None, "none"} and self.num_parts == 1
        return plans if is_from_files else tuple(plan for plan in plans if plan != "disk")

    def _size(self) -> PipelineSize:
        size = measure(
            self.folder,
            self.dtype,
            files=self.files,
            quantization=self.quantization,
            base_size=self.base_size,
        )
        return size.sliced("transformer", self.num_parts)

    def _load(self, offload: str) -> Any:
        load: Any = partial(
            self.cls.from_pretrained,
            self.model,
            **{"dtype": self.dtype, "quantization": self.quantization, **self.files},
        )
        if self.num_parts > 1:
            load = partial(self._load_part, load)
        if offload == "none":
            # diffusers' device map puts the weights straight onto the device, without a second copy; it knows
            # these two names only.
            if str(self.device) in {"cpu", "cuda"} and self.num_parts == 1:
                return load(device_map=str(self.device))
            return self._with_fast_matmuls(load().to(self.device))
        if offload == "model":
            pipe = load()
            pipe.enable_model_cpu_offload(device=self.device)
            return self._with_fast_matmuls(pipe)

        if offload == "block":
            pipe = load()
            stream_from_host(pipe, self.device)
            return pipe
        if self.folder != components.PUBLISHED_FOLDER:
            check_folder(self.folder, without=self.files, with_weights=False)
        parts = load_from_disk(
            self.folder, self.files, dtype=self.dtype, device=self.device, quantization=self.quantization
        )
        pipe = load(**parts)
        pipe.vae.to(self.device)
        return pipe

    def _load_part(self, load: Callable[..., Any]) -> Any:
        """Load the pipeline in host memory, and keep the slice of the layers that the device has room for."""
        pipe = load()
        divide_layers(pipe.transformer, self.part, self.num_parts)
        return pipe

    def _with_fast_matmuls(self, pipe: Any) -> Any:
        """Have quantized layers, which were loaded on the CPU, multiply as is fastest on the device."""
        for part in (pipe.transformer, pipe.text_encoder):
            choose_matmuls(part, self.device)
        return pipe
