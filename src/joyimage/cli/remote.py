"""`--server`: a server runs the edits. Nothing here needs torch or diffusers."""

from __future__ import annotations

import io
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageChops, ImageDraw

from joyimage.cli.console import notify
from joyimage.cli.runners import RunResult
from joyimage.client import Client
from joyimage.edits import SPATIAL_KINDS, Defaults, Describe
from joyimage.errors import InvalidInputError
from joyimage.imaging import read_mask
from joyimage.loading import Adapter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joyimage.client import Progress
    from joyimage.edits import AnyEdit
    from joyimage.understanding.intent import Intent

_FIRST_RETRIES = 1


class RemoteRunner:
    """Has a server run edits.

    Args:
        client: Connected to the server.
        entry: The server's description of its model.
        load_seconds: Time that connecting took.
    """

    def __init__(self, client: Client, entry: dict[str, Any], load_seconds: float) -> None:
        self._client = client
        self._loras: list[str] = entry["loras"]
        self._lora_sha256: dict[str, str] = entry.get("lora_sha256", {})  # older servers do not tell
        self.model: str = entry["id"]
        self.device: str = entry["device"]
        self.dtype: str = entry["dtype"]
        self.base_size: int = entry["base_size"]
        self._defaults = Defaults(
            num_inference_steps=entry["default_steps"], guidance_scale=entry["default_guidance"]
        )
        self._lora_defaults: dict[str, dict[str, Any]] = entry.get("lora_defaults", {})
        self.load_seconds = load_seconds

    @classmethod
    def connect(cls, url: str, model: str | None) -> RemoteRunner:
        """Connect to a server, and print its model on stderr.

        Args:
            url: Address of the server.
            model: Name of one of its models; the first one if None.

        Raises:
            InvalidInputError: The server has no such model, or is still loading it.
            ServerError: The server cannot be reached.
        """
        started = time.perf_counter()
        # A server that restarts is waited for during a job; one that is not there is reported in seconds.
        models = {entry["id"]: entry for entry in Client(url, retries=_FIRST_RETRIES).models()}
        client = Client(url)
        name = model or next(iter(models))
        if name not in models:
            raise InvalidInputError(f"`--model` is {name!r}; {url} has {', '.join(models)}.")
        if "default_steps" not in models[name]:
            raise InvalidInputError(f"{url} is still loading its model; try again in a moment.")
        notify(f"Model {name} on {url}.")
        return cls(client, models[name], time.perf_counter() - started)

    def run(self, edit: AnyEdit, images: Sequence[Image.Image], *, quiet: bool = False) -> RunResult:
        """Send a resolved edit with its images and wait for the result.

        Raises:
            InvalidInputError: The server does not offer an adapter of the edit.
            ServerError: The job was rejected or failed, or the server is gone.
        """
        from tqdm import tqdm

        given = edit.given()
        adapters = [self._find_adapter(text) for text in given.get("loras", ())]
        region, mask = given.get("region"), None
        if region is not None:
            mask, edit = to_mask(region, images[0].size), edit.replace(region=None)
        is_hidden = quiet or not sys.stderr.isatty()
        with tqdm(total=given["num_inference_steps"], leave=False, disable=is_hidden) as bar:

            def show(progress: Progress) -> None:
                bar.update(progress.step - bar.n)

            job = self._client.run(edit, list(images), mask=mask, progress=show)
        for sentence in job.warnings:
            warnings.warn(sentence, stacklevel=2)
        return RunResult(
            images=[Image.open(io.BytesIO(file)) for file in self._client.images(job)],
            width=job.width or 0,
            height=job.height or 0,
            prompt=job.prompt if edit.kind in SPATIAL_KINDS else None,
            checks=job.checks,
            verdicts=job.verdicts,
            candidates=job.candidates,
            adapters=adapters,
        )

    def defaults(self, edit: AnyEdit) -> Defaults:
        """Return what an edit with its adapters uses where nothing is given.

        Raises:
            InvalidInputError: The server does not offer one of them.
        """
        names = [self._find_adapter(text)["name"] for text in edit.given().get("loras", ())]
        turbo = [self._lora_defaults[name] for name in names if name in self._lora_defaults]
        return Defaults(**turbo[0]) if turbo else self._defaults

    def identify_adapter(self, text: str) -> list[Any]:
        """Return what tells an adapter from others: the content that the server has, and its scale.

        Raises:
            InvalidInputError: The server does not offer it.
        """
        found = self._find_adapter(text)
        return [found["sha256"], found["scale"]] if "sha256" in found else [text]

    def _find_adapter(self, text: str) -> dict[str, Any]:
        """Return what a record says about an adapter of the server.

        Raises:
            InvalidInputError: The server does not offer it.
        """
        adapter = Adapter(path=Path(text)) if text in self._loras else Adapter.parse(text)
        name = str(adapter.path)
        if name not in self._loras:
            offered = ", ".join(self._loras) or "none"
            raise InvalidInputError(f"`--lora` is {text!r}; the server offers {offered}.")
        digest = self._lora_sha256.get(name)
        return {"name": name, "scale": adapter.scale, **({} if digest is None else {"sha256": digest})}

    def describe(self, edit: Describe, images: Sequence[Image.Image]) -> str:
        """Answer a question about an image, or about one before and one after an edit."""
        return self._client.run(edit, list(images)).text or ""

    def understand(self, prompt: str, image: Image.Image) -> Intent | None:
        """Return None: a server understands prompts itself."""
        del prompt, image
        return None

    def rewrite(self, prompt: str, image: Image.Image | None, how: str) -> str:
        """Rewrite a prompt with the endpoint at the address `how`."""
        from joyimage.understanding.rewrite import rewrite

        return rewrite(prompt, image, how)


def to_mask(region: Sequence[float] | str, size: tuple[int, int]) -> Image.Image:
    """Turn a region into the server's mask: transparent where the image may change.

    Args:
        region: A box in pixels of the image, or the file of a mask whose white may change.
        size: Width and height of the image in pixels.

    Raises:
        ImageError: The mask's file cannot be read.
        InvalidInputError: The mask's file has another size than the image.
    """
    if isinstance(region, str):
        allowed = read_mask(Path(region), size)
    else:
        left, top, right, bottom = (round(number) for number in region)
        allowed = Image.new("L", size)
        ImageDraw.Draw(allowed).rectangle((left, top, right - 1, bottom - 1), fill=255)
    mask = Image.new("RGBA", size)
    mask.putalpha(ImageChops.invert(allowed))
    return mask
