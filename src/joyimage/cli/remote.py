"""`--server`: what the commands call is a server instead of a pipeline."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageChops

if TYPE_CHECKING:
    from joyimage.cli.options import EditOptions
    from joyimage.client import Client, Progress

ELSEWHERE = ("device", "dtype", "base_size")
"""Options that belong to the server."""


def check_for_server(options: EditOptions) -> None:
    """Refuse what only the server itself can be told.

    Raises:
        ValueError: Such an option is given.
    """
    for name in ELSEWHERE:
        if getattr(options, name) is not None:
            raise ValueError(
                f"`--{name.replace('_', '-')}` has no meaning with `--server`; give it to `joyimage serve`."
            )
    if options.rewrite == "local":
        raise ValueError("`--rewrite local` needs a model here; leave out `--server`, or name an endpoint.")


def connect(url: str, model: str | None, lora: str | None = None) -> RemotePipeline:
    """Connect to a server.

    Args:
        url: Of the server.
        model: Its model's name; the first it has if None.
        lora: Name of one of its adapters.

    Returns:
        What stands in for the pipeline.

    Raises:
        ValueError: There is no such server, model or adapter.
    """
    from joyimage.client import Client

    client = Client(url)
    models = {entry["id"]: entry for entry in client.models()}
    name = model or next(iter(models))
    if name not in models:
        raise ValueError(f"`--model` is {name!r}; {url} has {', '.join(models)}.")
    if "default_steps" not in models[name]:
        raise ValueError(f"{url} is still loading its model; try again in a moment.")
    offered = models[name]["loras"]
    if lora is not None and lora not in offered:
        raise ValueError(f"`--lora` is {lora!r}; {url} has {', '.join(offered) or 'none'}.")
    return RemotePipeline(client, models[name], lora)


class RemotePipeline:
    """Takes a pipeline's calls and has a server do the work.

    Args:
        client: Connected.
        model: The server's description of its model.
        lora: Name of the adapter that all edits take.
    """

    def __init__(self, client: Client, model: dict[str, Any], lora: str | None = None) -> None:
        self._client = client
        self._lora = lora
        self._is_quiet = False
        self.model: str = model["id"]
        self.where: str = model["device"]
        self.dtype: str = model["dtype"]
        self.config = SimpleNamespace(
            base_size=model["base_size"],
            default_num_inference_steps=model["default_steps"],
            default_guidance_scale=model["default_guidance"],
        )

    def set_progress_bar_config(self, *, disable: bool = False) -> None:
        """Show the steps of an edit, or don't."""
        self._is_quiet = disable

    def __call__(self, *, image: Any = None, **call: Any) -> Any:
        """Edit a picture, or make one."""
        return self._run("generate" if image is None else "edit", image, call)

    def move(self, image: Any, object: str, box: Any, **call: Any) -> Any:
        """Move an object."""
        return self._run("move", image, {**call, "object": object, "box": tuple(box)})

    def rotate(self, image: Any, object: str, view: Any, **call: Any) -> Any:
        """Turn an object."""
        return self._run(
            "rotate", image, {**call, "object": object, "view": str(getattr(view, "value", view))}
        )

    def camera(
        self, image: Any, yaw: float = 0, pitch: float = 0, zoom: str = "unchanged", **call: Any
    ) -> Any:
        """Move the camera."""
        return self._run("camera", image, {**call, "yaw": yaw, "pitch": pitch, "zoom": zoom})

    def describe(self, image: Any, question: str, *, max_new_tokens: int = 256) -> str:
        """Answer a question about a picture."""
        return self._client.describe(image, question, max_new_tokens=max_new_tokens)

    def _run(self, kind: str, image: Any, call: dict[str, Any]) -> Any:
        from tqdm import tqdm

        from joyimage.pipeline.output import JoyImageEditPipelineOutput
        from joyimage.spatial.checks import SpatialChecks

        width, height = call.pop("width", None), call.pop("height", None)
        region = call.pop("region", None)
        generators = call.pop("generator")
        fields = {
            "steps": call.pop("num_inference_steps"),
            "guidance": call.pop("guidance_scale"),
            "n": call.pop("num_images_per_prompt"),
            "seed": generators[0].initial_seed(),
            "size": None if width is None else f"{width}x{height}",
            "wording": call.pop("style", None),
            "lora": self._lora,
            "mask": None if region is None else _to_mask(region, image.size),
            **call,
        }
        with tqdm(total=fields["steps"], leave=False, disable=self._is_quiet or None) as bar:

            def show(progress: Progress) -> None:
                bar.update(progress.step - bar.n)

            job = self._client.run(kind, [] if image is None else [image], progress=show, **fields)
        images: list[Image.Image] = [Image.open(io.BytesIO(file)) for file in self._client.images(job)]
        masks: list[Image.Image] = [Image.open(io.BytesIO(file)) for file in self._client.masks(job)]
        checks = [
            SpatialChecks(**{name: value for name, value in one.items() if name != "summary"})
            for one in job.checks or []
        ]
        prompt = job.prompt if kind in {"move", "rotate", "camera"} else None
        return JoyImageEditPipelineOutput(
            images=images,
            width=job.width,
            height=job.height,
            checks=checks or None,
            masks=masks or None,
            prompt=prompt,
        )


def _to_mask(region: Any, size: tuple[int, int]) -> Image.Image:
    """Turn a region into the server's mask: transparent where the picture may change."""
    from joyimage.pipeline.framing import region_mask

    mask = Image.new("RGBA", size)
    mask.putalpha(ImageChops.invert(region_mask(region, size)))
    return mask
