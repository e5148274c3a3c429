"""The edits of the proof, one checkpoint on the disk at a time."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from joyimage.benchmark.measure import describe_device
from joyimage.imaging.atomic import write_text
from joyimage.model.checkpoint.headers import read_json
from joyimage.model.checkpoint.parts import PARTS
from joyimage.pipeline.quantizing import quantize_file
from scripts.proof.checkpoint import Shapes, repeat_block, write_checkpoint
from scripts.proof.measured import drop_cache, run_edit
from scripts.proof.memory_group import NoMemoryGroupError

CHECKPOINTS = ("folder", "files", "smaller")
ENGINES = ("joyimage", "diffusers")
PACKAGES = ("joyimage", "torch", "diffusers", "transformers")
_DISK_TEST_BYTES = 4 * 10**9


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is run.

    Attributes:
        folder: Where checkpoints, logs and results are written.
        device: Device of the edits.
        limits_bytes: Memory of each full-size edit: of the process on the CPU, of the device on a GPU.
        threads: Threads of torch; 0 for its default.
        timeout_s: Seconds after which an edit is ended.
        shapes: Shapes of the model.
        sizes: Blocks and text layers of the smaller models, by which prediction and equality are checked.
        checkpoints: What is edited from, one after the other: "folder" (bf16), "files" (int8_convrot), and
            "smaller" models.
        engines: Programs that edit from the folder.
    """

    folder: Path
    device: str = "cpu"
    limits_bytes: tuple[int, ...] = (8 * 10**9,)
    threads: int = 0
    timeout_s: float = 3600
    shapes: Shapes = field(default_factory=Shapes)
    sizes: tuple[tuple[int, int], ...] = ((2, 2), (4, 4), (8, 4))
    checkpoints: tuple[str, ...] = CHECKPOINTS
    engines: tuple[str, ...] = ENGINES


def prove(settings: Settings) -> dict[str, Any]:
    """Run all edits that an earlier run has not finished.

    Args:
        settings: What is run.

    Returns:
        The machine, and the figures of each edit by its name.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    record = _Record(settings)
    run = {"folder": _prove_folder, "files": _prove_files, "smaller": _prove_smaller_models}
    for checkpoint in settings.checkpoints:
        run[checkpoint](record)
    return record.results


class _Record:
    """Run edits and keep their figures in a file.

    Args:
        settings: What is run.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._path = settings.folder / f"results-{settings.device.partition(':')[0]}.json"
        self.results: dict[str, Any] = {"machine": describe_machine(settings), "edits": {}}
        if self._path.is_file():
            self.results["edits"] = json.loads(self._path.read_text(encoding="utf-8"))["edits"]

    def lacks(self, *names: str) -> bool:
        """Return whether one of these edits has not been run."""
        return any(name not in self.results["edits"] for name in names)

    def run(self, name: str, limit_bytes: int | None = None, **options: Any) -> None:
        """Run an edit, unless its figures are there.

        Args:
            name: Name of the edit in the results.
            limit_bytes: Memory that it may take; None without a limit.
            **options: Options of `scripts.proof.edit`.
        """
        if not self.lacks(name):
            return
        settings = self.settings
        print(f"{name} ...", flush=True)
        options = {"device": settings.device, "threads": settings.threads, **options}
        # The mean number of processes that ran in the minute before: what else the machine does.
        load = round(os.getloadavg()[0], 1)
        run = {"log": settings.folder / f"{name}.jsonl", "options": options, "timeout_s": settings.timeout_s}
        try:
            figures = run_edit(**run, limit_bytes=limit_bytes)
        except NoMemoryGroupError as error:
            print(f"{error} The edit runs without a limit.", flush=True)
            figures = run_edit(**run)
        figures |= {"load_before": load, "load_after": round(os.getloadavg()[0], 1)}
        self.results["edits"][name] = figures
        self.save()
        print(f"{name}: {figures['outcome']}, {figures.get('seconds')} s", flush=True)

    def save(self) -> None:
        """Write all figures."""
        write_text(self._path, json.dumps(self.results, indent=2) + "\n")


def _prove_smaller_models(record: _Record) -> None:
    """Compare streamed with resident, and predicted with measured, at the published width with fewer layers."""
    for num_blocks, num_text_layers in record.settings.sizes:
        dtypes = (
            ("bfloat16", "float32")
            if (num_blocks, num_text_layers) == record.settings.sizes[0]
            else ("bfloat16",)
        )
        names: dict[str, dict[str, Any]] = {
            f"{num_blocks}-blocks-{num_text_layers}-layers-{dtype}-{offload}": {
                "dtype": dtype,
                "offload": offload,
            }
            for dtype in dtypes
            for offload in ("none", "disk")
        }
        if record.lacks(*names):
            folder = record.settings.folder / "smaller"
            shutil.rmtree(folder, ignore_errors=True)
            write_checkpoint(folder, record.settings.shapes.with_layers(num_blocks, num_text_layers))
            for name, options in names.items():
                record.run(name, model=folder, **options)
            shutil.rmtree(folder)


def _prove_folder(record: _Record) -> None:
    """Edit from a folder in the published layout, with joyimage and with diffusers."""
    folder = record.settings.folder / "bf16"
    runs = [
        (f"{engine}-bf16-{_gb(limit)}", engine, limit)
        for limit in record.settings.limits_bytes
        for engine in record.settings.engines
    ]
    if record.lacks(*(name for name, _, _ in runs)):
        write_checkpoint(folder, record.settings.shapes)
        record.results["machine"]["disk_mb_per_s"] = _measure_disk(folder)
        for name, engine, limit in runs:
            record.run(name, limit, model=folder, engine=engine)
    shutil.rmtree(folder, ignore_errors=True)


def _prove_files(record: _Record) -> None:
    """Edit from single files in int8_convrot."""
    names = {f"joyimage-int8_convrot-{_gb(limit)}": limit for limit in record.settings.limits_bytes}
    folder = record.settings.folder / "int8_convrot"
    if record.lacks(*names):
        files = write_files(folder, record.settings.shapes)
        if record.settings.shapes != Shapes():  # the published configs ship with joyimage
            files["model"] = folder / "configs"
        for name, limit in names.items():
            record.run(name, limit, **files)
    shutil.rmtree(folder, ignore_errors=True)


def write_files(folder: Path, shapes: Shapes) -> dict[str, Path]:
    """Write one file per part, transformer and text encoder in int8_convrot.

    Args:
        folder: Folder to write.
        shapes: Shapes of the model.

    Returns:
        Part → file.
    """
    files = {part: folder / f"{part}.safetensors" for part in PARTS}
    write_checkpoint(folder / "configs", shapes, parts=())
    counts = {
        "transformer": read_json(folder / "configs/transformer/config.json")["num_layers"],
        "text_encoder": read_json(folder / "configs/text_encoder/config.json")["text_config"][
            "num_hidden_layers"
        ],
    }
    for part, file in files.items():
        if file.exists():
            continue
        source, quantized = folder / "one-block", folder / f"one-block-{part}.safetensors"
        write_checkpoint(source, shapes.with_layers(1, 1), parts=(part,))
        if part == "vae":
            (source / part / "diffusion_pytorch_model.safetensors").rename(file)
        else:
            if not quantized.exists():
                quantize_file(source, quantized, format="int8_convrot", part=part)
            repeat_block(quantized, file, counts[part])
            quantized.unlink()
        shutil.rmtree(source)
    return files


def describe_machine(settings: Settings) -> dict[str, Any]:
    """Name what the figures belong to, never where it stands."""
    cpu = describe_device(torch.device("cpu"))
    machine = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "cpu": cpu["name"],
        "cores": cpu["cores"],
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "threads": settings.threads or cpu["threads"],
        "versions": {package: version(package) for package in PACKAGES},
    }
    if settings.device.startswith("cuda"):
        machine["gpu"] = describe_device(torch.device(settings.device))
    return machine


def _measure_disk(folder: Path) -> int:
    """Return how many MB per second the weight files are read with, one after the other and not from the cache."""
    drop_cache({"model": folder})
    done, started = 0, time.perf_counter()
    for path in sorted(folder.glob("*/*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while done < _DISK_TEST_BYTES and (data := file.read(1 << 24)):
                done += len(data)
    return round(done / 1e6 / (time.perf_counter() - started))


def _gb(limit_bytes: int) -> str:
    return f"{limit_bytes / 1e9:g}GB"
