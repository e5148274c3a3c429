"""`joyimage examples`: write example images to try the commands on."""

from __future__ import annotations

from pathlib import Path


def examples(folder: Path = Path("joyimage-examples")) -> None:
    """Write example images, descriptions of what they show, a batch, and commands to try on them.

    Files in the folder are never overwritten.

    Args:
        folder: Where the files go; created if missing.
    """
    from joyimage.tiny.examples import NAMES, load_example, write_examples

    for path in write_examples(folder):
        print(path)
    print(f"\nTry, in {folder}:")
    for name in NAMES:
        print(f"  {load_example(name).commands[0]}")
