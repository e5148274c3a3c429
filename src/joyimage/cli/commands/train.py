"""`joyimage train`: train the tiny checkpoint again."""

from __future__ import annotations

from pathlib import Path


def tiny(
    run: Path = Path("runs/tiny"),
    *,
    stage: str = "all",
    vae_steps: int = 3000,
    edit_steps: int = 24000,
    pairs: int = 48000,
    seed: int = 0,
    device: str | None = None,
    output: Path | None = None,
) -> None:
    """Train the tiny checkpoint from nothing, or go on from where the run stopped.

    Args:
        run: Folder of the run: checkpoints, rendered scenes, log.jsonl.
        stage: "vae", "edit", "export" or "all".
        vae_steps: Optimiser steps of the VAE.
        edit_steps: Optimiser steps of text encoder and transformer; more than before goes on training.
        pairs: Scenes to render for training.
        seed: Of everything that is drawn.
        device: Where to train; an accelerator where there is one if not given.
        output: Where the checkpoint goes; RUN/checkpoint if not given.
    """
    import torch

    from joyimage.tiny.train import train_tiny

    path = train_tiny(
        run,
        stage=stage,
        vae_steps=vae_steps,
        edit_steps=edit_steps,
        num_pairs=pairs,
        seed=seed,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        output_path=output,
    )
    print(path)
