"""A checkpoint for which few steps lose much, to show what a turbo adapter gains there.

`python -m scripts.undertrained FOLDER` resets the last block of the embedded checkpoint's transformer to random weights
and trains all of it, briefly, on images from text, of which a share has the prompt of another image. Such a model is
sure of its prompt only with guidance, as large models are that learned from the captions of the web. It makes images
from text only, and is for measuring only.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from joyimage.pipeline.edit import JoyImageEditPipeline
from joyimage.tiny.checkpoint import build_transformer, export
from joyimage.tiny.objective import encode_pairs, loss, prepare, use_explicit_attention
from joyimage.tiny.pairs import Pairs
from joyimage.tiny.worlds.scenes import TASKS, generate
from joyimage.training.trainer import StageSettings, run_stage

TASK = "text-to-image"
_FIRST_SEED = 300_000


def undertrain(
    folder: Path,
    *,
    steps: int = 300,
    num_scenes: int = 3000,
    wrong_share: float = 0.4,
    reset_blocks: int = 1,
    batch_size: int = 16,
) -> Path:
    """Write the checkpoint, resuming if `folder` has a part of its training.

    Args:
        folder: Folder of the run; the checkpoint is in `checkpoint` inside it.
        steps: Optimizer steps.
        num_scenes: Scenes to train on.
        wrong_share: Share of the scenes that have the prompt of another one.
        reset_blocks: How many of the transformer's blocks begin from random weights, the last ones.
        batch_size: Scenes per step.

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
    use_explicit_attention(transformer)
    pairs = draw_scenes(num_scenes, wrong_share)
    weights = {task: float(task == TASK) for task in TASKS}
    data = prepare(encode_pairs(pipe.vae, pairs, "cpu"), pipe.tokenizer, pairs, "cpu", weights)
    settings = StageSettings(
        name="undertrained", steps=steps, muon_lr=0.006, adam_lr=1e-3, seed=1, save_every=50
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


def draw_scenes(num: int, wrong_share: float) -> Pairs:
    """Draw images from text, some with the prompt of another one.

    Args:
        num: Scenes.
        wrong_share: Share of them whose prompts are passed on among them.
    """
    cases = [generate(TASK, _FIRST_SEED + number) for number in range(num)]
    targets = np.stack([case.target for case in cases])
    wrong = np.random.default_rng(0).permutation(num)[: round(wrong_share * num)]
    prompts = np.array([case.prompt for case in cases])
    prompts[wrong] = prompts[np.roll(wrong, 1)]
    return Pairs(
        tasks=np.full(num, TASKS.index(TASK)),
        prompts=prompts.tolist(),
        sources=np.zeros_like(targets),
        targets=targets,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps")
    parser.add_argument(
        "--wrong-share", type=float, default=0.4, help="share of scenes with another's prompt"
    )
    options = parser.parse_args()
    print(undertrain(options.folder, steps=options.steps, wrong_share=options.wrong_share))
