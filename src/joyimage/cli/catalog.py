"""What `joyimage --help` lists: every command with its group, its first line of help and examples.

The functions are named as text, so that help and completion import none of them.
"""

from __future__ import annotations

from dataclasses import dataclass

GROUPS = ("Edit images", "Image files", "Page and server", "Checkpoints and machine")
"""Groups of commands, in the order in which the help lists them."""


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One command.

    Attributes:
        name: What is typed behind `joyimage`.
        function: Module in `joyimage.cli.commands` and function, such as "edit:edit".
        help: First line of the function's docstring.
        group: One of `GROUPS`.
        examples: Command lines; those of editing commands work in the folder that `joyimage examples` writes.
    """

    name: str
    function: str
    help: str
    group: str
    examples: tuple[str, ...]

    @property
    def epilogue(self) -> str:
        """What stands below the options in the command's help, as Markdown."""
        examples = "\n".join(self.examples)
        return f"Examples:\n\n```\n{examples}\n```\n\nAdd `--debug` to see the traceback of an error."


_EDITS, _FILES, _SERVERS, _CHECKPOINTS = GROUPS

COMMANDS = (
    CatalogEntry(
        name="edit",
        function="edit:edit",
        help="Edit an image as the prompt says.",
        group=_EDITS,
        examples=(
            'joyimage edit shapes.png "Recolor the heart orange." -o orange.png',
            "joyimage edit more_shapes.png --like orange.png -o more-orange.png",
        ),
    ),
    CatalogEntry(
        name="move",
        function="spatial:move",
        help="Move an object into a box; the box also sets its size.",
        group=_EDITS,
        examples=(
            'joyimage move shapes.png "black heart" 4,67,30,92 -o moved.png',
            'joyimage move more_shapes.png "green heart" 8,58,34,84 --preserve -o moved.png',
        ),
    ),
    CatalogEntry(
        name="rotate",
        function="spatial:rotate",
        help="Rotate an object to one of eight views; camera and background stay.",
        group=_EDITS,
        examples=(
            "joyimage rotate car.png car front-right -o rotated.png",
            "joyimage rotate car.png car left --seed 3 -o left.png",
        ),
    ),
    CatalogEntry(
        name="camera",
        function="spatial:camera",
        help="Move the camera on its orbit around the object in focus, or toward and away from it.",
        group=_EDITS,
        examples=(
            "joyimage camera turntable.png --yaw 90 -o other-side.png",
            "joyimage camera turntable.png --zoom in -o closer.png",
        ),
    ),
    CatalogEntry(
        name="generate",
        function="edit:generate",
        help="Make an image from text alone.",
        group=_EDITS,
        examples=(
            'joyimage generate "Draw a blue heart in the center on a white background." --seed 1 -o heart.png',
            'joyimage generate "Draw a green star on the left on a white background." --num 2 -o star.png',
        ),
    ),
    CatalogEntry(
        name="batch",
        function="batch:batch",
        help="Run many edits; resumable: interrupt it at any point and rerun the same command.",
        group=_EDITS,
        examples=(
            "joyimage batch edits.jsonl -o results",
            'joyimage batch images "Recolor the heart orange." -o results --seed 1',
        ),
    ),
    CatalogEntry(
        name="describe",
        function="describe:describe",
        help="Answer a question about an image, or about two, with the checkpoint's Qwen3-VL.",
        group=_EDITS,
        examples=(
            'joyimage describe photo.jpg "How many cups are on the table?" --model FOLDER',
            "joyimage describe before.jpg after.jpg --model FOLDER",
        ),
    ),
    CatalogEntry(
        name="rewrite",
        function="rewrite:rewrite",
        help="Rewrite a prompt in more detail; spatial prompts are left unchanged.",
        group=_EDITS,
        examples=(
            'joyimage rewrite "make it night" photo.jpg --how http://localhost:8000/v1',
            'joyimage rewrite "make it night" photo.jpg --model FOLDER',
        ),
    ),
    CatalogEntry(
        name="info",
        function="info:info",
        help="Show the edit that is recorded in an image.",
        group=_FILES,
        examples=("joyimage info orange.png", "joyimage info orange.png --json"),
    ),
    CatalogEntry(
        name="examples",
        function="examples:examples",
        help="Write example images, descriptions of what they show, a batch, and commands to try on them.",
        group=_FILES,
        examples=("joyimage examples", "joyimage examples images"),
    ),
    CatalogEntry(
        name="ui",
        function="ui:ui",
        help="Start a server on this machine and open its page in the browser.",
        group=_SERVERS,
        examples=("joyimage ui", "joyimage ui --model FOLDER --port 0"),
    ),
    CatalogEntry(
        name="serve",
        function="serve:serve",
        help="Serve a checkpoint to OpenAI's clients and to other commands' --server.",
        group=_SERVERS,
        examples=(
            "joyimage serve --model tiny",
            "joyimage serve --model FOLDER --host 0.0.0.0 --api-keys-file keys.json",
        ),
    ),
    CatalogEntry(
        name="doctor",
        function="doctor:doctor",
        help="Show device, memory and versions, what fits, and which settings to use.",
        group=_CHECKPOINTS,
        examples=("joyimage doctor", "joyimage doctor --json"),
    ),
    CatalogEntry(
        name="download",
        function="download:download",
        help="Download the published model; resumable, and checked against the hub's checksums.",
        group=_CHECKPOINTS,
        examples=("joyimage download int8 -o weights", "joyimage download bf16"),
    ),
    CatalogEntry(
        name="convert",
        function="convert:app",
        help="Convert a checkpoint of the original code, or weights in any format, to a folder or to one file.",
        group=_CHECKPOINTS,
        examples=(
            "joyimage convert JoyAI-Image-Edit converted --transformer model.pth --allow-pickle",
            "joyimage convert transformer.gguf transformer.safetensors --format bf16",
        ),
    ),
    CatalogEntry(
        name="convert lora",
        function="convert_lora:convert_lora",
        help="Write a LoRA adapter in the layout that another program reads, at the same strength.",
        group=_CHECKPOINTS,
        examples=(
            "joyimage convert lora adapter.safetensors comfy.safetensors --format comfyui",
            "joyimage convert lora peft-folder adapter.safetensors --format diffusers",
        ),
    ),
    CatalogEntry(
        name="quantize",
        function="quantize:quantize",
        help="Write the transformer or the text encoder in a quantized format, as one file.",
        group=_CHECKPOINTS,
        examples=(
            "joyimage quantize tiny --format int8_convrot -o tiny_int8.safetensors",
            "joyimage quantize tiny --format gguf-q8_0 -o tiny.gguf",
        ),
    ),
    CatalogEntry(
        name="bench",
        function="bench:bench",
        help="Compare joyimage with diffusers on the same weights: counts and seconds of one edit.",
        group=_CHECKPOINTS,
        examples=("joyimage bench --model tiny", "joyimage bench --startup"),
    ),
    CatalogEntry(
        name="train tiny",
        function="train:tiny",
        help="Train the tiny checkpoint from random weights, or resume an interrupted run.",
        group=_CHECKPOINTS,
        examples=("joyimage train tiny runs/tiny", "joyimage train tiny runs/tiny --stage edit"),
    ),
    CatalogEntry(
        name="train lora",
        function="train_lora:train_lora",
        help="Train a LoRA adapter on pairs of images, or resume an interrupted run.",
        group=_CHECKPOINTS,
        examples=(
            'joyimage train lora pairs -o sketch.safetensors --caption "Turn it into a pencil sketch."',
            "joyimage train lora sketch.toml --dry-run",
        ),
    ),
    CatalogEntry(
        name="train turbo",
        function="train_lora:train_turbo",
        help="Train a LoRA adapter that makes an edit in few steps without guidance, or resume an interrupted run.",
        group=_CHECKPOINTS,
        examples=(
            "joyimage train turbo pairs -o turbo.safetensors --num-inference-steps 4 --teacher-guidance 4",
            "joyimage train turbo turbo.toml --dry-run",
        ),
    ),
    CatalogEntry(
        name="eval tiny",
        function="evaluate:tiny",
        help="Measure how well a checkpoint edits and reads drawn scenes that it was not trained on.",
        group=_CHECKPOINTS,
        examples=("joyimage eval tiny", "joyimage eval tiny --num 50 --json"),
    ),
    CatalogEntry(
        name="eval speed",
        function="evaluate:speed",
        help="Measure what each speed preset skips in edits of drawn scenes, and what that costs.",
        group=_CHECKPOINTS,
        examples=("joyimage eval speed", "joyimage eval speed --num 20 --steps 8 --json"),
    ),
    CatalogEntry(
        name="calibrate",
        function="calibrate:calibrate",
        help="Measure the thresholds of the speed presets on your own images, and store them beside the checkpoint.",
        group=_CHECKPOINTS,
        examples=(
            'joyimage calibrate shapes.png more_shapes.png --prompt "Remove the heart." --model tiny -o speed.json',
            'joyimage calibrate photo.jpg --prompt "Make it snow." --model JoyAI-Image-Edit --balanced 48',
        ),
    ),
)
"""Every command; a name of two words is a subcommand."""


def find_entry(name: str) -> CatalogEntry:
    """Return the entry of a command by its name."""
    return next(entry for entry in COMMANDS if entry.name == name)
