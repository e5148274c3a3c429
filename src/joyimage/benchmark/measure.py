"""Run one benchmark: what `joyimage bench` does."""

from __future__ import annotations

import datetime
import gc
import os
import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from joyimage import acceleration
from joyimage.benchmark import timing
from joyimage.benchmark.baseline import BASELINES, EAGER, make_baseline
from joyimage.benchmark.counters import STEPS, budgets, count
from joyimage.benchmark.loading import measure_loading
from joyimage.benchmark.models import FULL, make_image, resolve
from joyimage.benchmark.peaks import measure_kernels, measure_peaks
from joyimage.benchmark.sharing import load_measured, opened
from joyimage.devices import DTYPES, GUIDANCE, check_gpus
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

_PACKAGES = ("joyimage", "torch", "diffusers", "transformers", "triton")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure; None takes what suits the device.

    Attributes:
        model: "scaled", "tiny" or "full"; None: full on a GPU, scaled elsewhere.
        device: Such as "cuda" or "cpu"; None uses a GPU if there is one.
        dtype: One of `DTYPES`; None: bfloat16 on a GPU, float32 elsewhere.
        steps: Denoising steps of the timed edit.
        rounds: Times that both are run twice, in the order A B B A.
        size: Side of the image; None: the model's own.
        layers: Blocks of the transformer; None: the model's own.
        counters: Whether to count what an edit costs.
        gpus: Number of devices that share each of joyimage's edits; diffusers' run on one.
        gpu_layout: How they share it, one of `GPU_LAYOUTS`; with "tensor" the first one holds the whole model too, for
            diffusers.
    """

    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    steps: int = 10
    rounds: int = 3
    size: int | None = None
    layers: int | None = None
    counters: bool = True
    gpus: int = 1
    gpu_layout: str = GUIDANCE

    def resolved(self) -> Settings:
        """Return the settings with device, model and dtype filled in.

        Raises:
            DeviceError: There are fewer devices than `gpus`.
            InvalidInputError: A setting is not valid.
        """
        check_gpus(self.gpus, self.device, self.gpu_layout)
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            kind = torch.device(device).type
        except RuntimeError:
            raise InvalidInputError(f"`device` is {device!r}; expected cpu or cuda.") from None
        if kind not in {"cpu", "cuda"} or (kind == "cuda" and not torch.cuda.is_available()):
            raise InvalidInputError(f"`device` is {device!r}; this machine has {_devices()}.")
        is_cuda = kind == "cuda"
        model = self.model or ("full" if is_cuda else "scaled")
        dtype = self.dtype or ("bfloat16" if is_cuda else "float32")
        if dtype not in DTYPES:
            raise InvalidInputError(f"`dtype` is {dtype!r}; expected one of {', '.join(DTYPES)}.")
        for name in ("steps", "rounds"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"`{name}` is {getattr(self, name)}; expected 1 or more.")
        resolve(model, size=self.size, num_layers=self.layers)
        if model == "full" and not is_cuda:
            raise InvalidInputError("`model` is 'full', which needs a GPU; on a CPU take scaled or tiny.")
        return replace(self, device=device, model=model, dtype=dtype)

    def command(self) -> str:
        """Return the command line that measures the same again."""
        words = ["joyimage bench"]
        for name in ("model", "device", "dtype", "steps", "rounds", "size", "layers"):
            value = getattr(self, name)
            words += [] if value is None else [f"--{name} {value}"]
        words += [] if self.gpus == 1 else [f"--gpus {self.gpus}"]
        words += [] if self.gpu_layout == GUIDANCE else [f"--gpu-layout {self.gpu_layout}"]
        return " ".join([*words, *([] if self.counters else ["--no-counters"])])


def measure(settings: Settings, announce: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Build, check, count and time.

    Args:
        settings: What to measure.
        announce: Told in a sentence what comes next.

    Returns:
        The report as JSON would hold it.

    Raises:
        InvalidInputError: A setting that can't be, or no diffusers to compare with.
        DisagreementError: The two implementations gave different images.
    """
    settings = settings.resolved()
    device, dtype = torch.device(str(settings.device)), getattr(torch, str(settings.dtype))
    model = resolve(str(settings.model), size=settings.size, num_layers=settings.layers)
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": settings.command(),
        "device": describe_device(device),
        "versions": {package: _version(package) for package in _PACKAGES},
        "model": settings.model,
        "dtype": settings.dtype,
        "steps": settings.steps,
        "rounds": settings.rounds,
        "gpus": settings.gpus,
    }
    if settings.counters:
        announce("Counting operations at the published sizes.")
        report["counters"] = _count()

    announce("Building both implementations on the same weights.")
    load = {"model": model or "tiny", "device": settings.device, "dtype": settings.dtype}
    with opened(settings.gpus, load, settings.gpu_layout) as ours:
        is_whole = settings.gpu_layout == GUIDANCE
        whole = ours if is_whole else load_measured(**load).pipe
        report |= _measure_edits(ours, whole, settings, dtype, announce)
    del ours, whole
    gc.collect()
    announce("Measuring what the device can do.")
    report["peaks"] = measure_peaks(device, dtype, 30 if device.type == "cuda" else 1)
    if device.type == "cuda":
        report["kernels_gbs"] = measure_kernels(device, dtype)
    # Both compare with what one device can do.
    is_published = settings.model == "full" and (settings.size, settings.layers) == (None, None)
    if settings.counters and is_published and settings.gpus == 1:
        report["achieved_tflops"] = _achieved(report)
        report["floor_s"] = _floor(report)
    return report


def _measure_edits(
    ours: Any, whole: Any, settings: Settings, dtype: torch.dtype, announce: Callable[[str], None]
) -> dict[str, Any]:
    """Compare edits and loading with diffusers, and say what ran.

    Args:
        ours: The pipeline that is measured.
        whole: The pipeline whose weights diffusers takes: the same one, unless it has slices of them.
        settings: What is measured.
        dtype: Precision of the weights.
        announce: Told in a sentence what comes next.
    """
    size = ours.config["base_size"]
    report: dict[str, Any] = {"size": size, "layers": ours.transformer.config["num_layers"]}
    report["acceleration"] = acceleration.report(ours).to_dict()
    edit = timing.make_edit(ours, make_image(size), settings.steps)
    report |= _time(ours, whole, edit, dtype, settings, announce)
    if settings.model == "full" or settings.gpus > 1:
        # 50 GB of files for weights that mean nothing; and several processes load at the same time.
        report["loading"] = None
    else:
        announce("Loading a saved checkpoint with both.")
        report["loading"] = measure_loading(ours, edit, dtype)
    return report


def describe_device(device: torch.device) -> dict[str, Any]:
    """Name a device by what was bought, never by where it stands."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {"name": properties.name, "memory_gb": round(properties.total_memory / 1e9)}
    name = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    return {"name": name, "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def _count() -> dict[str, Any]:
    """Count the published model, whatever model is timed: that is whose costs matter."""
    ours, reference = count(FULL)
    return {
        "steps": STEPS,
        "joyimage": asdict(ours) | {"vae_tflop": ours.vae_tflop},
        "diffusers": asdict(reference) | {"vae_tflop": reference.vae_tflop},
        "budgets": [budget.to_json() for budget in budgets(ours, reference)],
    }


def _time(
    ours: Any,
    whole: Any,
    edit: timing.Edit,
    dtype: torch.dtype,
    settings: Settings,
    announce: Callable[[str], None],
) -> dict[str, Any]:
    reference = make_baseline(whole)
    announce("Warming up, and comparing the two images.")
    theirs, own = timing.run(reference, edit), timing.run(ours, edit)
    agreement = timing.measure_agreement(theirs, own, dtype)
    announce(f"Timing {4 * settings.rounds} edits, A B B A.")
    their_runs, our_runs = timing.compare(reference, ours, edit, settings.rounds)
    announce("Editing the same image again.")
    again = timing.run_again(ours, edit, 2 * settings.rounds)
    result: dict[str, Any] = {
        "agreement": agreement,
        "first_run_s": {"joyimage": own.seconds, "diffusers": theirs.seconds},
        "seconds": {
            "joyimage": timing.seconds_by_stage(our_runs),
            "diffusers": timing.seconds_by_stage(their_runs),
        },
        "ratios": timing.ratios(their_runs, our_runs),
        "again_s": timing.seconds_by_stage(again),
        "peak_gb": {
            "joyimage": max(one.peak_bytes for one in our_runs) / 1e9,
            "diffusers": max(one.peak_bytes for one in their_runs) / 1e9,
        },
        "baselines": {},
    }
    del reference
    if edit.latents.device.type == "cuda":
        for kind in BASELINES:
            if kind != EAGER:
                announce(f"Timing {BASELINES[kind]}.")
                # One round each: the whole benchmark must end within ten minutes on one H200.
                result["baselines"][kind] = _time_baseline(ours, whole, edit, kind, rounds=1)
    return result


def _time_baseline(ours: Any, whole: Any, edit: timing.Edit, kind: str, rounds: int) -> dict[str, Any]:
    """Time another baseline against ours, or say why it doesn't run here."""
    try:
        pipe = make_baseline(whole, kind)
        timing.run(pipe, edit)
    except (RuntimeError, ValueError, ImportError) as error:
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    runs, our_runs = timing.compare(pipe, ours, edit, rounds)
    return {"seconds": timing.seconds_by_stage(runs), "ratios": timing.ratios(runs, our_runs)}


def _achieved(report: dict[str, Any]) -> dict[str, Any]:
    """Return TFLOP/s of the loop: what was counted over what was timed."""
    return {
        side: report["counters"][side]["forward_tflop"]
        * 2
        * report["steps"]
        / report["seconds"][side]["denoising"]["median"]
        for side in ("joyimage", "diffusers")
    }


def _floor(report: dict[str, Any]) -> float:
    """Return the seconds of the counted work alone, at the measured matmul rate."""
    counts = report["counters"]["joyimage"]
    work = counts["encoder_tflop"] + counts["vae_tflop"] + counts["forward_tflop"] * 2 * report["steps"]
    return work / report["peaks"]["matmul_tflops"]


def _devices() -> str:
    return "cpu and cuda" if torch.cuda.is_available() else "cpu only"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ImportError:  # PackageNotFoundError is one
        return None
