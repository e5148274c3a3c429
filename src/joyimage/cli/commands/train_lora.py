"""`joyimage train lora` and `joyimage train turbo`: train an adapter on pairs of images."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from joyimage.cli.console import notify, warn
from joyimage.cli.surface import GROUPS
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from joyimage.training.config import TrainingConfig, TurboConfig

_MOST_NOTES = 10
_INPUT = Parameter(group=GROUPS["Input"])
_MODEL = Parameter(group=GROUPS["Model"])
_OUTPUT = Parameter(group=GROUPS["Output"])
_TRAINING = Parameter(group=Group("Training", sort_key=10))
_TRAIN_OPTIONS = ("steps", "batch_size", "gradient_accumulation", "learning_rate", "seed")
_RUN_OPTIONS = ("model", "transformer", "text_encoder", "vae", "device", "output")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of every training of an adapter; each one that is given replaces the config's value.

    Attributes:
        output: File NAME.safetensors to write, whose run is kept in NAME-run beside it; or the folder of the run.
        model: Checkpoint to train. Default: the config's, else the published one on a GPU and tiny on a CPU.
        transformer: Weight file of the transformer, in any supported format, instead of the model's own.
        text_encoder: Weight file of the text encoder, instead of the model's own.
        vae: Weight file of the VAE, instead of the model's own.
        quantize: Format of the frozen weights: "int8", "fp8" or "nf4"; "none" decodes quantized files. Default: what
            fits in memory.
        caption: Prompt for pairs of a folder that have none of their own.
        steps: Number of optimizer steps.
        batch_size: Number of pairs per forward.
        gradient_accumulation: Number of forwards per optimizer step, over all processes.
        learning_rate: Peak learning rate.
        rank: Rank of the adapter.
        seed: Seed of the adapter and of all draws.
        device: Device, such as "cuda" or "cpu". Default: a GPU if there is one.
        gpus: Number of processes, one per GPU, that divide the batches of a step.
        dry_run: Check all pairs, write an image of what the network would see, and stop.
        plan: Check all pairs, print the predicted peak memory, and stop.
        align: Shift targets that are displaced against their references back into place.
        tensorboard: Also write TensorBoard events.
    """

    output: Annotated[Path | None, _OUTPUT, Parameter(name=["--output", "-o"])] = None
    model: Annotated[str | None, _MODEL] = None
    transformer: Annotated[Path | None, _MODEL] = None
    text_encoder: Annotated[Path | None, _MODEL] = None
    vae: Annotated[Path | None, _MODEL] = None
    quantize: Annotated[str | None, _MODEL] = None
    caption: Annotated[str | None, _INPUT] = None
    steps: Annotated[int | None, _TRAINING] = None
    batch_size: Annotated[int | None, _TRAINING] = None
    gradient_accumulation: Annotated[int | None, _TRAINING] = None
    learning_rate: Annotated[float | None, _TRAINING] = None
    rank: Annotated[int | None, _TRAINING] = None
    seed: Annotated[int | None, _TRAINING] = None
    device: Annotated[str | None, _MODEL] = None
    gpus: Annotated[int, _TRAINING] = 1
    dry_run: Annotated[bool, _OUTPUT] = False
    plan: Annotated[bool, _OUTPUT] = False
    align: Annotated[bool, _INPUT] = False
    tensorboard: Annotated[bool, _OUTPUT] = False

    def given(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return those of some options that are given."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def train_lora(source: Annotated[Path, _INPUT], *, options: TrainingOptions | None = None) -> None:
    """Train a LoRA adapter on pairs of images, or resume an interrupted run.

    Args:
        source: A .toml config; or a folder of pairs: the folders target and control, pairs.jsonl, metadata.csv, or .tar
            shards.
        options: Everything else.

    Raises:
        InvalidInputError: A value is not accepted, or the config is one of a turbo adapter.
    """
    options = options or TrainingOptions()
    config = _read(source, options)
    if config.turbo is not None:
        raise InvalidInputError(f"{source} has a section [turbo]; run `joyimage train turbo {source}`.")
    _run(config, options)


def train_turbo(
    source: Annotated[Path, _INPUT],
    *,
    num_inference_steps: Annotated[int | None, _TRAINING] = None,
    teacher_steps: Annotated[int | None, _TRAINING] = None,
    teacher_guidance: Annotated[float | None, _TRAINING] = None,
    shift: Annotated[float | None, _TRAINING] = None,
    options: TrainingOptions | None = None,
) -> None:
    """Train a LoRA adapter that makes an edit in few steps without guidance, or resume an interrupted run.

    Args:
        source: A .toml config; or a folder of pairs, as in `train lora`. The adapter learns the model's own edits of
            them.
        num_inference_steps: Number of steps that the adapter is for. Default: the config's, else 4.
        teacher_steps: Number of steps of the model that they replace, a multiple. Default: the config's, else 16.
        teacher_guidance: Guidance scale of those steps. Default: the config's, else the checkpoint's own.
        shift: Shift of the noise levels. Default: the config's, else the checkpoint's own.
        options: Everything else.
    """
    options = options or TrainingOptions()
    given: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "teacher_steps": teacher_steps,
        "teacher_guidance": teacher_guidance,
        "shift": shift,
    }
    given = {name: value for name, value in given.items() if value is not None}
    config = _read(source, options)
    from joyimage.training.config import TurboConfig

    turbo: TurboConfig = config.turbo or TurboConfig()
    _run(dataclasses.replace(config, turbo=dataclasses.replace(turbo, **given)), options)


def _run(config: TrainingConfig, options: TrainingOptions) -> None:
    """Plan or train as the options say, and print the file that was written."""
    from joyimage.cli.runners import hide_loading_bars
    from joyimage.training import lora

    if options.dry_run or options.plan:
        planned = lora.plan(config, num_processes=options.gpus)
        for one in planned.survey.notes[:_MOST_NOTES]:
            warn(one)
        if len(planned.survey.notes) > _MOST_NOTES:
            warn(f"{len(planned.survey.notes) - _MOST_NOTES} more pairs like these.")
        notify(
            f"{len(planned.survey.training)} pairs to train on, {len(planned.survey.held_out)} held out."
            f" {planned.memory}"
        )
        if options.dry_run:
            sys.stdout.write(f"{lora.write_dry_run(config, planned)}\n")
        planned.memory.check()
        return
    if options.gpus > 1:
        _launch(options.gpus)
        return
    hide_loading_bars()
    result = lora.train(config)
    if os.environ.get("RANK", "0") != "0":  # of several processes one reports
        return
    notify(
        f"{result.steps} steps in {result.seconds:.0f} s; encoded pairs {result.cache_bytes / 1e6:.1f} MB."
    )
    sys.stdout.write(f"{result.adapter}\n")


def _read(source: Path, options: TrainingOptions) -> TrainingConfig:
    """Return the config that a command line means: the file's, with options in the places of its values.

    Raises:
        InvalidInputError: A value is not accepted, or the output is missing.
    """
    if "RANK" not in os.environ:  # of several processes the one that starts them has said so
        notify(f"Reading {source} ...")  # before torch is imported, which takes seconds
    from joyimage.loading import default_model
    from joyimage.training.config import (
        LoraConfig,
        MemoryConfig,
        TrainConfig,
        TrainingConfig,
        read_config,
    )
    from joyimage.training.data.sources import section_of_folder

    run = options.given(_RUN_OPTIONS)
    run |= {name: True for name in ("align", "tensorboard") if getattr(options, name)}
    train, lora = options.given(_TRAIN_OPTIONS), options.given(("rank",))
    memory: dict[str, Any] = {} if options.quantize is None else {"quantization": options.quantize}
    if source.is_file():
        if options.caption is not None:
            raise InvalidInputError(
                "`--caption` is for a folder of pairs; a config has `caption` in its [[data]]."
            )
        config = read_config(source)
        return dataclasses.replace(
            config,
            **run,
            train=dataclasses.replace(config.train, **train),
            lora=dataclasses.replace(config.lora, **lora),
            memory=dataclasses.replace(config.memory, **memory),
        )
    if "output" not in run:
        raise InvalidInputError(
            "`--output` is missing; expected the adapter to write, such as sketch.safetensors."
        )
    run.setdefault("model", default_model(options.device))
    return TrainingConfig(
        **run,
        data=(section_of_folder(source, options.caption),),
        train=TrainConfig(**train),
        lora=LoraConfig(**lora),
        memory=MemoryConfig(**memory),
    )


def _launch(num: int) -> None:
    """Run this command again in several processes that know of each other.

    Raises:
        InvalidInputError: One of them failed; it has said why.
    """
    arguments = sys.argv[1:]
    place = arguments.index("--gpus") if "--gpus" in arguments else -1
    arguments = (
        arguments[:place] + arguments[place + 2 :]
        if place >= 0
        else [one for one in arguments if not one.startswith("--gpus=")]
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num}"]
    # Unless it is set, the launcher sets it to 1 too, and warns in three lines.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    done = subprocess.run([*command, "-m", "joyimage", *arguments], env=environment, check=False)
    if done.returncode:
        raise InvalidInputError(
            f"A training process ended with exit code {done.returncode}; its message is above."
        )
