"""Options of the editing commands that are not fields of an edit: where it runs, and what is written."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from joyimage.cli.console import notify
from joyimage.cli.surface import GROUPS
from joyimage.devices import DTYPE_CHOICES, GPU_LAYOUTS, GPUS_CHOICES, check_device_name
from joyimage.errors import InvalidInputError
from joyimage.loading import OFFLOAD_CHOICES, QUANTIZATIONS

_Image = Parameter(help="Image file; - reads from standard input.", group=GROUPS["Input"])
ImagePath = Annotated[Path, _Image]
Output = Annotated[
    Path,
    Parameter(
        name=["--output", "-o"],
        help="File to write; the suffix sets the format (.png, .jpg, .webp, .avif, .tiff, .bmp). - writes PNG to "
        "standard output.",
        group=GROUPS["Output"],
        metavar="FILE",
    ),
]
Like = Annotated[
    Path | None,
    Parameter(
        help="Repeat the edit that is recorded in this image. Options that are given replace the recorded ones.",
        group=GROUPS["Output"],
        metavar="FILE",
    ),
]


_Rewrite = Annotated[
    str,
    Parameter(
        help='Rewrite the prompt in more detail first: "local" with the checkpoint, or the URL of an '
        'OpenAI-compatible endpoint. Default: "none".',
        group=GROUPS["Advanced"],
        show_default=False,
        metavar="local|URL",
    ),
]
_Metadata = Annotated[
    bool,
    Parameter(
        help="Record the edit in the image file, so that `joyimage info` and `--like` can read it. Default: yes.",
        group=GROUPS["Output"],
        show_default=False,
    ),
]
_Overwrite = Annotated[
    bool,
    Parameter(
        help="Allow the output to replace the input file. Default: no.",
        group=GROUPS["Output"],
        negative=[],
    ),
]
_NOT_OFFERED = Parameter(parse=False)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model is loaded, where it runs, and how it is held in memory.

    Attributes:
        model: Checkpoint folder, hub id, or "tiny".
        device: Device of the model.
        dtype: Precision of the model.
        offload: Memory plan.
        transformer: Weight file of the transformer.
        text_encoder: Weight file of the text encoder.
        vae: Weight file of the VAE.
        quantize: Format that large layers are quantized to while loading.
    """

    model: Annotated[
        str | None,
        Parameter(
            help='Checkpoint folder, hub id, or "tiny". Default: the published checkpoint on a GPU, else tiny.',
            group=GROUPS["Model"],
            metavar="MODEL",
        ),
    ] = None
    device: Annotated[
        str | None,
        Parameter(
            help='Device, such as "cuda", "cuda:1", "mps" or "cpu". Default: the fastest one available.',
            group=GROUPS["Model"],
            metavar="DEVICE",
        ),
    ] = None
    dtype: Annotated[
        str | None,
        Parameter(
            help="Precision; auto measures which is faster on this CPU. Default: float32 on a CPU, else bfloat16.",
            group=GROUPS["Model"],
            metavar="|".join(DTYPE_CHOICES),
        ),
    ] = None
    offload: Annotated[
        str | None,
        Parameter(
            help="Memory plan: none (all of the model on the device), model (one part at a time), block (blocks "
            "streamed from host memory), disk (blocks streamed from the weight files) or auto. Default: auto, "
            "the fastest plan that fits the free memory.",
            group=GROUPS["Model"],
            metavar="|".join(OFFLOAD_CHOICES[:-1]),
        ),
    ] = None
    transformer: Annotated[
        Path | None,
        Parameter(
            help="Weight file of the transformer, instead of the model's own: safetensors (also int8, fp8, "
            "nvfp4, nf4) or GGUF. Default: that of `--model`.",
            group=GROUPS["Model"],
            metavar="FILE",
        ),
    ] = None
    text_encoder: Annotated[
        Path | None,
        Parameter(
            help="Weight file of the text encoder, instead of the model's own: safetensors (also int8, fp8, "
            "nvfp4, nf4) or GGUF. Default: that of `--model`.",
            group=GROUPS["Model"],
            metavar="FILE",
        ),
    ] = None
    vae: Annotated[
        Path | None,
        Parameter(
            help="Weight file of the VAE, instead of the model's own: safetensors (also int8, fp8, "
            "nvfp4, nf4) or GGUF. Default: that of `--model`.",
            group=GROUPS["Model"],
            metavar="FILE",
        ),
    ] = None
    quantize: Annotated[
        str | None,
        Parameter(
            help='Quantize the large layers while loading ("int8", "fp8" or "nf4"), or decode quantized files '
            '("none"). Default: keep the format of the files.',
            group=GROUPS["Model"],
            metavar="|".join(QUANTIZATIONS),
        ),
    ] = None

    def check(self) -> None:
        """Reject what can be rejected before a checkpoint is loaded.

        Raises:
            InvalidInputError: An option has a value that is not accepted.
        """
        if self.model is not None and not self.model.strip():
            raise InvalidInputError("`--model` is empty; expected a checkpoint folder, a hub id, or tiny.")
        for name, accepted, shown in (
            ("dtype", DTYPE_CHOICES, DTYPE_CHOICES),
            ("offload", OFFLOAD_CHOICES, OFFLOAD_CHOICES[:-1]),  # the last one is a former name
            ("quantize", QUANTIZATIONS, QUANTIZATIONS),
        ):
            value = getattr(self, name)
            if value is not None and value not in accepted:
                raise InvalidInputError(f"`--{name}` is {value!r}; expected {', '.join(shown)}.")
        if self.device is not None:
            check_device_name(self.device, "--device")

    def to_load(self) -> dict[str, Any]:
        """Return the arguments of `load_pipeline`; the memory plan is announced on the command line."""
        options = {field.name: getattr(self, field.name) for field in fields(ModelOptions)}
        options["quantization"] = options.pop("quantize")
        return {**options, "announce": lambda plan: notify(str(plan))}

    def given(self) -> dict[str, Any]:
        """Return the options that were given, by name."""
        return {
            field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None
        }


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class MeasuredOptions(ModelOptions):
    """The model that is measured: the embedded one, without rounding, if nothing is given."""

    model: Annotated[
        str,
        Parameter(
            help='Checkpoint folder or hub id; "tiny" is part of the package. Default: tiny.',
            group=GROUPS["Model"],
            show_default=False,
            metavar="MODEL",
        ),
    ] = "tiny"
    dtype: Annotated[
        str,
        Parameter(
            help="Precision; auto measures which is faster on this CPU. Default: float32.",
            group=GROUPS["Model"],
            show_default=False,
            metavar="|".join(DTYPE_CHOICES),
        ),
    ] = "float32"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RewriteOptions(ModelOptions):
    """The model that rewrites prompts: a checkpoint, or that of an endpoint."""

    model: Annotated[
        str | None,
        Parameter(
            help='Checkpoint for "local", as in `joyimage edit`; the name of the model for an endpoint.',
            group=GROUPS["Model"],
            metavar="MODEL",
        ),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SizedModelOptions(ModelOptions):
    """The model, and the sizes of its images.

    Attributes:
        base_size: Side of the square bucket that all buckets derive from.
        gpus: Number of devices that share each edit.
        gpu_layout: How they share it.
    """

    base_size: Annotated[
        int | None,
        Parameter(
            help="Side in pixels of the square size that the other trained sizes derive from. Default: the "
            "checkpoint's own (published: 1024, tiny: 96).",
            group=GROUPS["Model"],
            metavar="PIXELS",
        ),
    ] = None
    gpus: Annotated[
        int | None,
        Parameter(
            help="Number of GPUs that share each edit: 2 (one for each guidance branch), 4 or 8. Default: 1.",
            group=GROUPS["Advanced"],
            metavar="1|2|4|8",
        ),
    ] = None
    gpu_layout: Annotated[
        str | None,
        Parameter(
            help="How GPUs share an edit: guidance (a guidance branch on each, the fastest) or tensor (a slice of the "
            "transformer's layers on each, for GPUs that cannot hold it whole). Default: guidance.",
            group=GROUPS["Advanced"],
            metavar="|".join(GPU_LAYOUTS),
        ),
    ] = None

    def check(self) -> None:
        """Reject what can be rejected before a checkpoint is loaded.

        Raises:
            InvalidInputError: An option has a value that is not accepted.
        """
        super().check()
        if self.base_size is not None:
            from joyimage.pipeline.buckets import bucket_sizes

            bucket_sizes(self.base_size)
        if self.gpus is not None and self.gpus not in GPUS_CHOICES:
            expected = ", ".join(map(str, GPUS_CHOICES))
            raise InvalidInputError(f"`--gpus` is {self.gpus}; expected {expected}.")
        if self.gpu_layout is not None and self.gpu_layout not in GPU_LAYOUTS:
            raise InvalidInputError(
                f"`--gpu-layout` is {self.gpu_layout!r}; expected {', '.join(GPU_LAYOUTS)}."
            )


LOADING = tuple(field.name for field in fields(SizedModelOptions) if field.name != "model")
"""Options of how a model is loaded: no row of a batch has a column for them, and a server has its own."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions(SizedModelOptions):
    """Where an edit runs, and what is written beside the image.

    A command offers the last four by taking one of the subclasses below.

    Attributes:
        server: Address of a server that does the work.
        json: Whether the report is printed as JSON.
        rewrite: Who rewrites the prompt first.
        literal: Whether the prompt is taken as it is, also where it asks for a spatial edit in free words.
        metadata: Whether the record of the edit is written into the image file.
        overwrite: Whether the output may be the input file.
    """

    server: Annotated[
        str | None,
        Parameter(
            help="URL of a `joyimage serve` that runs the edit, for example http://127.0.0.1:8600.",
            group=GROUPS["Model"],
            metavar="URL",
        ),
    ] = None
    json: Annotated[
        bool, Parameter(help="Print the report as JSON.", group=GROUPS["Output"], negative=[])
    ] = False
    rewrite: Annotated[str, _NOT_OFFERED] = "none"
    literal: Annotated[bool, _NOT_OFFERED] = False
    metadata: Annotated[bool, _NOT_OFFERED] = True
    overwrite: Annotated[bool, _NOT_OFFERED] = False

    def check(self) -> None:
        """Reject what can be rejected before a checkpoint is loaded.

        Raises:
            InvalidInputError: An option has a value that is not accepted.
        """
        super().check()
        if self.rewrite not in {"none", "local"} and not is_address(self.rewrite):
            raise InvalidInputError(
                f"`--rewrite` is {self.rewrite!r}; expected none, local, or an address such as "
                "http://localhost:8000/v1."
            )
        if self.server is None:
            return
        if not is_address(self.server):
            raise InvalidInputError(
                f"`--server` is {self.server!r}; expected an address such as http://127.0.0.1:8600."
            )
        for name in LOADING:
            if getattr(self, name) is not None:
                raise InvalidInputError(
                    f"`--{name.replace('_', '-')}` has no effect with `--server`; give it to `joyimage serve`."
                )
        if self.rewrite == "local":
            raise InvalidInputError(
                "`--rewrite local` needs a model on this machine; leave out `--server`, or name an endpoint."
            )


def is_address(text: str) -> bool:
    """Tell whether an option's value is the address of a server, not a word such as "local"."""
    return text.startswith(("http://", "https://"))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SpatialOptions(RunOptions):
    """Options of commands that edit one image with a prompt of their own."""

    metadata: _Metadata = True
    overwrite: _Overwrite = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EditOptions(SpatialOptions):
    """Options of commands that edit one image with the user's prompt."""

    rewrite: _Rewrite = "none"
    literal: Annotated[
        bool,
        Parameter(
            help="Use the prompt as it is, even if it asks for a spatial edit in free words.",
            group=GROUPS["Advanced"],
            negative=[],
        ),
    ] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class GenerateOptions(RunOptions):
    """Options of commands that make an image from text alone."""

    metadata: _Metadata = True
    rewrite: _Rewrite = "none"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BatchOptions(RunOptions):
    """Options of commands that run many edits; the record in each image says which rows are done."""

    rewrite: _Rewrite = "none"
