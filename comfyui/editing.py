"""Run an edit: with a pipeline in this process, or on a `joyimage serve`."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from joyimage.client import Client
from joyimage.errors import MissingObjectError
from joyimage.loading import load_pipeline

if TYPE_CHECKING:
    from joyimage.edits import Edit


def run_edit(
    edit: Edit, image: Image.Image, region: Image.Image | None, *, model: str, server: str
) -> Image.Image:
    """Run an edit of one image.

    Args:
        edit: The edit; its seed is given.
        image: RGB image.
        region: 255 where the image may change; None where all may.
        model: Checkpoint for a pipeline in this process.
        server: Address of a server; empty for a pipeline in this process.

    Raises:
        InvalidInputError: The edit or the checkpoint is not accepted.
        ServerError: The server rejected the edit, failed or is gone.
    """
    if server.strip():
        return _run_on_server(edit, image, region, server.strip())
    given: dict[str, Any] = {name: value for name, value in edit.given().items() if value is not None}
    generator = torch.Generator().manual_seed(given.pop("seed"))
    given["check_object"] = not given.pop("force", False)
    try:
        return _pipeline(model)(image=image, region=region, generator=generator, **given).images[0]
    except MissingObjectError as error:
        raise error.for_field() from None


def _run_on_server(edit: Edit, image: Image.Image, region: Image.Image | None, server: str) -> Image.Image:
    client = Client(server)
    mask = None
    if region is not None:
        mask = Image.new("RGBA", region.size)
        mask.putalpha(region.point([255] + [0] * 255))  # transparent where it may change
    job = client.run(edit, [image], mask=mask)
    return Image.open(io.BytesIO(client.images(job)[0])).convert("RGB")


@lru_cache(maxsize=1)  # a second model would take the memory of the first
def _pipeline(model: str) -> Any:
    pipe = load_pipeline(model).pipe
    pipe.set_progress_bar_config(disable=True)
    return pipe
