"""The names that `joyimage.compat.pillow` uses exist, and large images leave nothing behind."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import io, sys, threading
from pathlib import Path
from PIL import Image
from joyimage.compat.pillow import return_pixels_at_once

def resident():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024

if sys.argv[1] == "at once":
    return_pixels_at_once()
    assert Image.core.get_block_size() == 64 * 2**20
file = io.BytesIO()
Image.new("RGB", (6000, 6000), "teal").save(file, "JPEG")

def read():
    with Image.open(io.BytesIO(file.getvalue())) as image:
        image.convert("RGB").transpose(Image.Transpose.ROTATE_90).resize((96, 96))

read()
before = resident()
threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads:
    thread.start()
    thread.join()
print(resident() - before)
"""


def test_large_images_when_freed_then_their_memory_is_given_back() -> None:
    kept = int(subprocess.check_output([sys.executable, "-c", _PROGRAM, "at once"], text=True))

    assert kept < 60  # one such image takes 144 MB
