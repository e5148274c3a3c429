"""A checkpoint that was trained too briefly, to show what a turbo adapter gains where few steps lose much.

`python -m scripts.undertrained FOLDER` resets the last block of the embedded checkpoint's transformer to random weights
and trains all of it for some steps on drawn scenes. It is for measuring only.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from joyimage.pipeline.edit import JoyImageEditPipeline
from joyimage.tiny.checkpoint import build_transformer, export
from joyimage.tiny.objective import encode_pairs, loss, prepare
from joyimage.tiny.pairs import render_pairs
from joyimage.training.trainer import StageSettings, run_stage


def undertrain(folder: Path, *, steps: int = 60, reset_blocks: int = 1, batch_size: int = 8) -> Path:
    """Write the checkpoint.

    Args:
        folder: Folder of the run; the checkpoint is in `checkpoint` inside it.
        steps: Optimizer steps.
        reset_blocks: How many of the transformer's blocks begin from random weights, the last ones.
        batch_size: Pairs per step.

    Returns:
        Folder of the checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pipe: Any = JoyImageEditPipeline.from_pretrained("tiny")
    pipe.text_encoder.eval().requires_grad_(False)
    transformer = pipe.transformer.train().requires_grad_(True)
    torch.manual_seed(0)
    fresh = build_transformer()
    for number in range(len(transformer.double_blocks) - reset_blocks, len(transformer.double_blocks)):
        transformer.double_blocks[number].load_state_dict(fresh.double_blocks[number].state_dict())
    pairs = render_pairs(folder, 600, first_seed=300_000)
    data = prepare(encode_pairs(pipe.vae, pairs, "cpu"), pipe.tokenizer, pairs, "cpu")
    settings = StageSettings(
        name="undertrained", steps=steps, muon_lr=0.006, adam_lr=1e-3, seed=1, save_every=20
    )
    run_stage(
        folder,
        settings,
        {"transformer": transformer},
        lambda _step: loss(transformer, pipe.text_encoder, data, batch_size),
    )
    return export(
        folder / "checkpoint",
        vae=pipe.vae,
        text_encoder=pipe.text_encoder,
        transformer=transformer.eval(),
        tokenizer=pipe.tokenizer,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    print(undertrain(options.folder, steps=options.steps))
