"""`joyimage train`: train the tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

from joyimage.cli.console import say_loading
from joyimage.devices import check_device_name


def tiny(
    run: Path = Path("runs/tiny"),
    *,
    stage: str = "all",
    vae_steps: int = 3000,
    edit_steps: int = 24000,
    pairs: int = 48000,
    read_steps: int = 12000,
    readings: int = 24000,
    seed: int = 0,
    device: str | None = None,
    output: Path | None = None,
    start: str | None = None,
) -> None:
    """Train the tiny checkpoint from random weights, or resume an interrupted run.

    Args:
        run: Folder of the run: checkpoints, rendered scenes, log.jsonl.
        stage: "vae", "edit", "read", "export" or "all".
        vae_steps: Number of optimizer steps of the VAE.
        edit_steps: Number of optimizer steps of text encoder and transformer; a larger number resumes.
        pairs: Number of scenes to render for training.
        read_steps: Optimizer steps of the language half, on questions with exact answers; a larger number resumes.
        readings: Number of scenes to render for training the language half.
        seed: Seed of weights, noise and batches.
        device: Device to train on. Default: a GPU if there is one.
        output: Folder of the checkpoint. Default: RUN/checkpoint.
        start: Checkpoint to continue from, on new scenes and at half the peak learning rates; with `--stage vae`,
            only the decoder of its VAE trains.
    """
    if device is not None:
        check_device_name(device, "--device")
    say_loading(start or "PyTorch")
    from joyimage.cli.runners import hide_loading_bars
    from joyimage.devices import available_devices, choose_device
    from joyimage.tiny.train import train_tiny

    hide_loading_bars()
    path = train_tiny(
        run,
        stage=stage,
        vae_steps=vae_steps,
        edit_steps=edit_steps,
        num_pairs=pairs,
        read_steps=read_steps,
        num_readings=readings,
        seed=seed,
        device=choose_device("cpu" if device is None and "cuda" not in available_devices() else device),
        output_path=output,
        start=start,
    )
    print(path)
