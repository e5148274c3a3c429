"""Load a model, edit an image once, and write what that took: the process that is measured.

Each line of the log is a JSON object with an event, the seconds since the start and the memory of the process,
so that a process that is ended from outside leaves its figures too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from joyimage.acceleration.plans import MemoryPlan
from joyimage.acceleration.streaming import find_blocks
from joyimage.benchmark import stages
from joyimage.benchmark.baseline import allow_base_size, load_published
from joyimage.benchmark.models import PROMPT, make_image
from joyimage.compat.torch import has_fast_bf16
from joyimage.loading import load_pipeline

GUIDANCE_SCALE = 4.0
_SAMPLE_S = 0.05


def main(words: Sequence[str] | None = None) -> None:
    """Run one edit.

    Args:
        words: Words of the command line; those of this process if None.
    """
    arguments = _parse(words)
    with EventLog(arguments.log) as log:
        _edit(arguments, log)


def _edit(arguments: argparse.Namespace, log: EventLog) -> None:
    device = torch.device(arguments.device)
    if device.type == "cuda" and arguments.limit_bytes:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, arguments.limit_bytes / total), device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    log.write("started", threads=torch.get_num_threads(), dtype=arguments.dtype)
    pipe = _load(arguments, log)
    log.write("loaded")
    for name in ("transformer", "text_encoder"):
        for path, block in find_blocks(getattr(pipe, name)):
            block.register_forward_pre_hook(
                lambda _module, _inputs, path=f"{name}.{path}": log.write("block", name=path)
            )
    with stages.watch(pipe, lambda stage: log.write("stage", name=stage)):
        image = pipe(
            image=make_image(arguments.base_size),
            prompt=PROMPT,
            num_inference_steps=arguments.steps,
            guidance_scale=GUIDANCE_SCALE,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images[0]
    log.write(
        "finished",
        sha256=hashlib.sha256(image.float().cpu().contiguous().numpy().tobytes()).hexdigest(),
        mean=float(image.mean()),
        std=float(image.std()),
        device_peak=torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0,
    )


class EventLog:
    """Write events to a file, each with the memory of the process.

    Args:
        path: File to write.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._start = time.perf_counter()
        self._anonymous_peak = 0
        self._is_closed = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def __enter__(self) -> Self:
        """Return the log."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file and end the sampling."""
        self._is_closed.set()
        self._file.close()

    def write(self, event: str, **values: Any) -> None:
        """Write one event.

        Args:
            event: What happened.
            **values: What belongs to it.
        """
        self._anonymous_peak = max(self._anonymous_peak, _status("RssAnon"))
        entry = {
            "event": event,
            "s": round(time.perf_counter() - self._start, 3),
            "rss": _status("VmRSS"),
            "rss_peak": _status("VmHWM"),
            "anonymous_peak": self._anonymous_peak,
            "read": _bytes_read(),
            **values,
        }
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def _sample(self) -> None:
        # Linux keeps the peak of all memory of a process, but not that of its anonymous memory.
        while not self._is_closed.wait(_SAMPLE_S):
            self._anonymous_peak = max(self._anonymous_peak, _status("RssAnon"))


def _load(arguments: argparse.Namespace, log: EventLog) -> Any:
    if arguments.engine == "diffusers":
        pipe = load_published(arguments.model, getattr(torch, arguments.dtype))
        allow_base_size(pipe, arguments.base_size)
        return pipe.to(arguments.device)

    def announce(plan: MemoryPlan) -> None:
        log.write(
            "plan",
            offload=plan.offload,
            text=str(plan),
            host_predicted=plan.host_bytes,
            device_predicted=plan.device_bytes,
        )

    return load_pipeline(
        arguments.model,
        transformer=arguments.transformer,
        text_encoder=arguments.text_encoder,
        vae=arguments.vae,
        device=arguments.device,
        dtype=arguments.dtype,
        base_size=arguments.base_size,
        offload=arguments.offload,
        announce=announce,
    ).pipe


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--engine", choices=["joyimage", "diffusers"], default="joyimage")
    for name in ("model", "transformer", "text_encoder", "vae", "offload"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", help="default: bfloat16, or float32 where the CPU computes in it far faster"
    )
    parser.add_argument("--base_size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--limit_bytes", type=int, default=0)
    arguments = parser.parse_args(words)
    if arguments.dtype is None:
        arguments.dtype = "bfloat16" if has_fast_bf16(torch.device(arguments.device)) else "float32"
    return arguments


def _status(key: str) -> int:
    """Return a size in bytes that the kernel keeps about this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(dict(line.split(":", 1) for line in lines)[key].split()[0]) * 1024


def _bytes_read() -> int:
    """Return what this process has had the disk read; page cache is not counted."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


if __name__ == "__main__":
    main()
