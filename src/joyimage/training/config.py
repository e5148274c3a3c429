"""The settings of a LoRA training, and the TOML file that holds them."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from joyimage.devices import choose_dtype
from joyimage.errors import InvalidInputError

OPTIMIZERS = ("adamw", "adamw8bit", "prodigy", "muon")
TIMESTEPS = ("shift", "uniform", "logit_normal")
LOSS_WEIGHTS = ("none", "bell")
TARGETS = ("blocks", "attention")
PRESETS = ("auto", "80", "48", "24", "16", "12")
QUANTIZATIONS = ("none", "int8", "fp8", "nf4")
OFFLOADS = ("none", "block", "disk")

Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """One source of training pairs: two folders, or a file or shards that list the pairs.

    Attributes:
        target: Folder of images after the edit.
        control: Folders of images before the edit, with the same file names; several for several references.
        pairs: A .jsonl, .json or .csv file, or a pattern of .tar shards, instead of folders.
        caption: Prompt for all pairs; a text file NAME.txt beside a target goes before it.
        caption_dropout: Share of the steps that see an empty prompt, so that guidance works after training.
        weight: How often this source is drawn, relative to its number of pairs.
        held_out: Share of the pairs that are kept for validation.
    """

    target: Path | None = None
    control: tuple[Path, ...] = ()
    pairs: str | None = None
    caption: str | None = None
    caption_dropout: float = 0.1
    weight: float = 1.0
    held_out: float = 0.05


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The adapter.

    Attributes:
        rank: Rank of its matrices.
        alpha: The update counts alpha / rank times; the rank if None.
        targets: "blocks", "attention", or names of layers such as ["img_attn_qkv"].
    """

    rank: int = 16
    alpha: float | None = None
    targets: str | tuple[str, ...] = "blocks"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The optimization.

    Attributes:
        steps: Optimizer steps.
        batch_size: Pairs per forward.
        gradient_accumulation: Forwards per optimizer step, over all processes.
        learning_rate: Peak rate.
        warmup_steps: Steps over which the rate rises.
        decay_steps: Last steps, over which the rate falls to 0; with 0 it stays constant. A run with such steps can be
            resumed, but not extended.
        optimizer: One of `OPTIMIZERS`.
        timesteps: How noise levels are drawn: "shift" by the checkpoint's own schedule, "uniform", "logit_normal".
        loss_weight: "none", or "bell" for more weight on middle noise levels.
        changed_region_weight: Extra weight of the region that differs from the reference.
        ema: Decay of the average of the weights that is exported; 0 exports the last weights.
        max_grad_norm: Longest gradient.
        seed: Seeds the adapter and, with a step's number, all draws of that step.
        save_every: Steps between saved states; an interrupted run resumes from the last one.
        dtype: "bfloat16" computes in bf16 with fp32 adapters, "float32" in fp32; float32 on a CPU and bfloat16
            elsewhere if None.
    """

    steps: int = 2000
    batch_size: int = 1
    gradient_accumulation: int = 1
    learning_rate: float = 1e-4
    warmup_steps: int = 50
    decay_steps: int = 0
    optimizer: str = "adamw"
    timesteps: str = "shift"
    loss_weight: str = "none"
    changed_region_weight: float = 0.0
    ema: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    save_every: int = 100
    dtype: str | None = None

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step.

        Args:
            step: Number of the step, from 0.
        """
        rise = (step + 1) / (self.warmup_steps + 1)
        fall = (self.steps - step) / (self.decay_steps + 1)
        return self.learning_rate * min(1.0, rise, fall)

    def precision_on(self, device: str) -> str:
        """Return what is computed in on a device: "bfloat16" or "float32".

        A CPU computes in fp32 unless asked otherwise: without instructions for bf16 it takes ten times as long in it.

        Args:
            device: The device's name, such as "cuda:1".
        """
        return choose_dtype(self.dtype, device)


@dataclass(frozen=True, kw_only=True)
class TurboConfig:
    """What a turbo adapter learns: few steps without guidance that lead where many steps with guidance do.

    Attributes:
        num_inference_steps: Steps that the adapter is for.
        teacher_steps: Steps of the model without the adapter that it replaces, a multiple of its own.
        teacher_guidance: Guidance scale of those steps; the checkpoint's own if None.
        shift: Shift of the noise levels; the checkpoint's own if None.
        own_share: Share of the batches in which the adapter goes through all of its steps from pure noise and learns
            each; in the others it learns one step, which starts between noise and an image of the pairs.
    """

    num_inference_steps: int = 4
    teacher_steps: int = 16
    teacher_guidance: float | None = None
    shift: float | None = None
    own_share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """How memory is saved.

    Attributes:
        preset: Memory of the device in GB that the run has to fit in, one of `PRESETS`. What is not given below is
            chosen so that the run fits.
        gradient_checkpointing: Recompute each block in the backward pass.
        quantization: Format into which the frozen weights are quantized while loading, one of `QUANTIZATIONS`; "none"
            decodes quantized files.
        offload: Where the frozen blocks are kept, one of `OFFLOADS`: on the device, in host memory, or on disk.
    """

    preset: str = "auto"
    gradient_checkpointing: bool | None = None
    quantization: str | None = None
    offload: str | None = None


@dataclass(frozen=True, kw_only=True)
class ValidationEdit:
    """An edit that is made at every validation.

    Attributes:
        image: Image to edit.
        prompt: What to do.
        seed: Random seed.
    """

    image: Path
    prompt: str
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """What is measured during training.

    Attributes:
        every: Steps between validations; 0 for none.
        edits: Edits for the sheet, besides some of the held-out pairs.
        num_pairs: Most held-out pairs that the losses are measured on.
        num_samples: Held-out pairs that are edited for the sheet.
    """

    every: int = 250
    edits: tuple[ValidationEdit, ...] = ()
    num_pairs: int = 32
    num_samples: int = 4


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A LoRA training.

    Attributes:
        model: Checkpoint: a folder, a hub id, a registered name such as "tiny", or a weight file with the
            transformer, in any format that `load_pipeline` reads.
        transformer: Weight file of the transformer, in place of that of `model`.
        text_encoder: Weight file of the text encoder, in place of that of `model`.
        vae: Weight file of the VAE, in place of that of `model`.
        output: Folder of the run, which gets the adapter under the folder's name; or the adapter's file
            NAME.safetensors, whose run is in the folder NAME-run beside it.
        device: Such as "cuda" or "cpu"; the best one of this machine if None.
        trigger: Words that the captions share, for the file's header.
        align: Whether shifted pairs are corrected; otherwise there is a warning.
        tensorboard: Whether to write TensorBoard events.
        data: Sources of pairs.
        lora: The adapter.
        train: The optimization.
        turbo: What a turbo adapter learns; None trains an adapter on what the pairs show.
        memory: How memory is saved.
        validate: What is measured.
    """

    output: Path
    data: tuple[DataConfig, ...]
    model: str = "jdopensource/JoyAI-Image-Edit-Diffusers"
    transformer: Path | None = None
    text_encoder: Path | None = None
    vae: Path | None = None
    device: str | None = None
    trigger: str | None = None
    align: bool = False
    tensorboard: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    turbo: TurboConfig | None = None
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    validate: ValidateConfig = field(default_factory=ValidateConfig)

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            InvalidInputError: A value is out of range; the message names it.
        """
        _check(self)

    @property
    def adapter_path(self) -> Path:
        """The file that training writes."""
        if self.output.suffix == ".safetensors":
            return self.output
        return self.output / f"{self.output.name}.safetensors"

    @property
    def run_path(self) -> Path:
        """The folder of the cache, the state, the log and the sheets."""
        if self.output.suffix == ".safetensors":
            return self.output.with_name(f"{self.output.stem}-run")
        return self.output


def read_config(path: Path) -> TrainingConfig:
    """Read a TOML file; paths in it are relative to the file's folder.

    Args:
        path: The file.

    Raises:
        InvalidInputError: The file is no TOML, a key is unknown, or a value is not accepted.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} is no TOML file: {error}.") from None
    return config_from_dict(content, path.parent)


def config_from_dict(content: dict[str, Any], folder: Path | None = None) -> TrainingConfig:
    """Read a config from a dict with the keys of the TOML file.

    Args:
        content: The dict.
        folder: What relative paths are relative to; the current folder if None.

    Raises:
        InvalidInputError: A key is unknown, or a value is not accepted.
    """
    return _read(TrainingConfig, content, "", folder or Path())


def _read(cls: type[Section], content: Any, place: str, folder: Path) -> Section:
    if not isinstance(content, dict):
        raise InvalidInputError(f"`{place.rstrip('.')}` is {content!r}; expected a table.")
    content = _with_other_names(cls, content)
    hints = typing.get_type_hints(cls)
    known = [one.name for one in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.5)
            hint = f" Did you mean `{place}{near[0]}`?" if near else f" Known: {', '.join(known)}."
            raise InvalidInputError(f"The config has the unknown key `{place}{key}`.{hint}")
    values = {key: _value(hints[key], value, f"{place}{key}", folder) for key, value in content.items()}
    for one in dataclasses.fields(cls):  # type: ignore[arg-type]
        is_required = one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        if is_required and one.name not in values:
            raise InvalidInputError(f"The config lacks the key `{place}{one.name}`.")
    return cls(**values)


def _with_other_names(cls: type[Any], content: dict[str, Any]) -> dict[str, Any]:
    """Return a data section with the names that ai-toolkit's and SimpleTuner's configs have replaced by ours.

    Raises:
        InvalidInputError: A setting is there under two names.
    """
    if cls is not DataConfig:
        return content
    names = {
        "folder_path": "target",
        "control_path": "control",
        "instance_data_dir": "target",
        "conditioning_data_dir": "control",
        "caption_dropout_rate": "caption_dropout",
        "num_repeats": "weight",
    }
    renamed: dict[str, Any] = {}
    for key, value in content.items():
        name = names.get(key, key)
        if name in renamed:
            raise InvalidInputError(f"`data` has both `{key}` and `{name}`, which mean the same.")
        renamed[name] = [value] if name == "control" and isinstance(value, str) else value
    return renamed


def _value(hint: Any, value: Any, place: str, folder: Path) -> Any:
    """Return a value as its type, or reject it.

    Raises:
        InvalidInputError: It is of another type.
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in {typing.Union, types.UnionType} else (hint,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            return _read(typing.cast("type[Any]", option), value, f"{place}.", folder)
        if typing.get_origin(option) is tuple and isinstance(value, list):
            inner = typing.get_args(option)[0]
            return tuple(_value(inner, one, f"{place}[{number}]", folder) for number, one in enumerate(value))
        if option is Path and isinstance(value, (str, Path)):
            return folder / Path(value).expanduser()
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if option in {int, bool, str} and type(value) is option:
            return value
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # `preset = 24`
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    expected = " or ".join(
        names.get(option, "a list or table") for option in options if option is not type(None)
    )
    raise InvalidInputError(f"`{place}` is {value!r}; expected {expected}.")


def _check(config: TrainingConfig) -> None:
    train, lora, validate = config.train, config.lora, config.validate
    if not config.data:
        raise InvalidInputError("The config lacks a section [[data]]: where are the pairs?")
    for name, value, low, high in (
        ("lora.rank", lora.rank, 1, 4096),
        ("lora.alpha", lora.rank if lora.alpha is None else lora.alpha, 1e-6, 1e6),
        ("train.steps", train.steps, 1, 10**8),
        ("train.batch_size", train.batch_size, 1, 4096),
        ("train.gradient_accumulation", train.gradient_accumulation, 1, 4096),
        ("train.warmup_steps", train.warmup_steps, 0, 10**8),
        ("train.decay_steps", train.decay_steps, 0, train.steps),
        ("train.save_every", train.save_every, 1, 10**8),
        ("train.learning_rate", train.learning_rate, 1e-9, 10.0),
        ("train.changed_region_weight", train.changed_region_weight, 0, 1000),
        ("train.ema", train.ema, 0, 0.99999),
        ("train.max_grad_norm", train.max_grad_norm, 1e-6, 1e6),
        ("train.seed", train.seed, 0, 2**53 - 1),
        ("validate.every", validate.every, 0, 10**8),
        ("validate.num_pairs", validate.num_pairs, 1, 10**6),
        ("validate.num_samples", validate.num_samples, 0, 64),
        *(
            (f"data[{number}].{name}", getattr(one, name), low, high)
            for number, one in enumerate(config.data)
            for name, low, high in (("caption_dropout", 0, 1), ("held_out", 0, 0.9), ("weight", 1e-6, 1e6))
        ),
    ):
        if not low <= value <= high:  # NaN as well
            raise InvalidInputError(f"`{name}` is {value:g}; expected {low:g} to {high:g}.")
    _check_choices(config)
    if not config.output.name:
        raise InvalidInputError("`output` is empty; expected a folder, or a file NAME.safetensors.")
    if not lora.targets or (isinstance(lora.targets, str) and lora.targets not in TARGETS):
        raise InvalidInputError(
            f"`lora.targets` is {lora.targets!r}; expected {', '.join(TARGETS)}, or a list of layers."
        )
    _check_memory(config)
    if config.turbo is not None:
        _check_turbo(config, config.turbo)
    for number, one in enumerate(config.data):
        if (one.pairs is None) == (one.target is None):
            raise InvalidInputError(f"`data[{number}]` needs either `target` (a folder) or `pairs` (a file).")


def _check_choices(config: TrainingConfig) -> None:
    """Reject values that are not among those that a setting takes.

    Raises:
        InvalidInputError: The message names the setting and what it takes.
    """
    train = config.train
    for name, value, choices in (
        ("train.optimizer", train.optimizer, OPTIMIZERS),
        ("train.timesteps", train.timesteps, TIMESTEPS),
        ("train.loss_weight", train.loss_weight, LOSS_WEIGHTS),
        ("train.dtype", train.dtype, ("bfloat16", "float32")),
        ("memory.preset", config.memory.preset, PRESETS),
        ("memory.quantization", config.memory.quantization, QUANTIZATIONS),
        ("memory.offload", config.memory.offload, OFFLOADS),
    ):
        if value is not None and value not in choices:
            raise InvalidInputError(f"`{name}` is {value!r}; expected {', '.join(choices)}.")


def _check_turbo(config: TrainingConfig, turbo: TurboConfig) -> None:
    """Reject numbers out of range, and settings that have no effect on a turbo adapter.

    Raises:
        InvalidInputError: One of them.
    """
    for name, value, low, high in (
        ("num_inference_steps", turbo.num_inference_steps, 1, 100),
        ("teacher_steps", turbo.teacher_steps, 1, 1000),
        ("teacher_guidance", 1 if turbo.teacher_guidance is None else turbo.teacher_guidance, 1, 100),
        ("shift", 1 if turbo.shift is None else turbo.shift, 0.01, 100),
        ("own_share", turbo.own_share, 0, 1),
    ):
        if not low <= value <= high:
            raise InvalidInputError(f"`turbo.{name}` is {value:g}; expected {low:g} to {high:g}.")
    if turbo.teacher_steps % turbo.num_inference_steps:
        raise InvalidInputError(
            f"`turbo.teacher_steps` is {turbo.teacher_steps}; expected a multiple of `turbo.num_inference_steps`, "
            f"{turbo.num_inference_steps}."
        )
    without_effect = {
        "train.timesteps": config.train.timesteps != TrainConfig.timesteps,
        "train.loss_weight": config.train.loss_weight != TrainConfig.loss_weight,
        "train.changed_region_weight": config.train.changed_region_weight != 0,
        "data.caption_dropout": any(
            one.caption_dropout not in {0, DataConfig.caption_dropout} for one in config.data
        ),
    }
    for name, is_given in without_effect.items():
        if is_given:
            raise InvalidInputError(
                f"`{name}` has no effect on a turbo adapter, which learns its own steps; leave it out."
            )


def _check_memory(config: TrainingConfig) -> None:
    """Reject ways to save memory that do not go together.

    Raises:
        InvalidInputError: `memory.offload` is set with something that it excludes.
    """
    memory = config.memory
    if memory.offload == "disk" and memory.quantization not in {None, "none"}:
        raise InvalidInputError(
            f"`memory.offload` is 'disk' and `memory.quantization` is {memory.quantization!r}, which quantizes while"
            " loading; to stream quantized blocks, write a file with `joyimage quantize` and give it as `transformer`."
        )
    if memory.offload not in {None, "none"} and memory.gradient_checkpointing is False:
        raise InvalidInputError(
            f"`memory.offload` is {memory.offload!r} and `memory.gradient_checkpointing` is false; streamed blocks are"
            " recomputed in the backward pass. Leave it out."
        )
