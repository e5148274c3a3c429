"""What runs an edit: a pipeline on this machine, or a server. Commands know only `Runner`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from joyimage.cli.console import notify, say_loading, warn
from joyimage.edits import Defaults, Describe, Edit, Generate, Move, Rotate
from joyimage.errors import InvalidInputError, MissingObjectError
from joyimage.imaging import read_mask
from joyimage.types import ImageSize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from joyimage.cli.options import RunOptions
    from joyimage.companions import Companions
    from joyimage.edits import AnyEdit
    from joyimage.loading import LoadedPipeline
    from joyimage.understanding.intent import Intent

_LEAST_SHARE = 0.75
"""Photographs lose at most 7% to the nearest of the trained sizes."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What an edit made.

    Attributes:
        images: One image per requested image.
        width: Width in pixels at which the model worked.
        height: Height in pixels at which the model worked.
        prompt: Prompt that a spatial edit sent; None for other edits.
        checks: One entry per image of a spatial edit: what was measured, with its `summary`.
        verdicts: One entry per image where it was judged.
        candidates: All candidates with seed and verdict, the chosen one first; None where there was no choice.
        adapters: Each adapter that acted: `name`, `scale`, and `sha256` of its content where it is known.
    """

    images: list[Image]
    width: int
    height: int
    prompt: str | None = None
    checks: list[dict[str, Any]] | None = None
    verdicts: list[dict[str, Any]] | None = None
    candidates: list[dict[str, Any]] | None = None
    adapters: list[dict[str, Any]] = field(default_factory=list)


class Runner(Protocol):
    """Runs edits.

    Attributes:
        model: Name of the checkpoint.
        device: Where it runs.
        dtype: Precision of the model.
        base_size: Side of its square size in pixels.
        load_seconds: Time that loading took.
    """

    model: str
    device: str
    dtype: str
    base_size: int
    load_seconds: float

    def defaults(self, edit: AnyEdit) -> Defaults:
        """Return what an edit with its adapters uses where nothing is given."""
        ...

    def run(self, edit: AnyEdit, images: Sequence[Image], *, quiet: bool = False) -> RunResult:
        """Run a resolved edit on images; `quiet` shows no progress bar."""
        ...

    def identify_adapter(self, text: str) -> list[Any]:
        """Return what tells an adapter from others: its content and its scale."""
        ...

    def describe(self, edit: Describe, images: Sequence[Image]) -> str:
        """Answer a question about an image, or about one before and one after an edit."""
        ...

    def rewrite(self, prompt: str, image: Image | None, how: str) -> str:
        """Rewrite a prompt in more detail."""
        ...

    def understand(self, prompt: str, image: Image) -> Intent | None:
        """Return the spatial edit that the model reads from a prompt, if it does."""
        ...


def load_runner(options: RunOptions) -> Runner:
    """Return what runs edits with these options, and print which one on stderr.

    Args:
        options: Options of the command, checked.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        InvalidInputError: An option has a value that is not accepted.
        ServerError: The server cannot be reached.
    """
    if options.server is not None:
        from joyimage.cli.remote import RemoteRunner

        return RemoteRunner.connect(options.server, options.model)
    say_loading(options.model)
    from joyimage.compat.deferred_imports import collection_paused
    from joyimage.devices import check_gpus, choose_device, choose_dtype, choose_gpu_layout
    from joyimage.loading import default_model, load_pipeline

    with collection_paused():
        hide_loading_bars()
        device = choose_device(options.device)
        # With a transformer's file alone, the published model's configs in this package are the base.
        model = options.model or (None if options.transformer else default_model(device))
        dtype = choose_dtype(options.dtype, device)
        gpus, layout = options.gpus or 1, choose_gpu_layout(options.gpu_layout)
        notify(f"Model {model or options.transformer} on {device} in {dtype}.")
        load = {**options.to_load(), "model": model, "device": device, "dtype": dtype}
        load["base_size"] = options.base_size
        if gpus == 1:
            check_gpus(gpus, options.device, layout)
            return LocalRunner(load_pipeline(**load))
    from joyimage.companions import Companions

    load["device"] = options.device  # as given: each process chooses its own, and `start` checks them
    # Outside: with the collection paused, what connecting imports would be reported as leaked in the end.
    announce = load.pop("announce")
    companions, loaded = Companions.start(gpus, load, _follow, layout=layout, announce=announce)
    return LocalRunner(loaded, companions)


def _follow(loaded: LoadedPipeline) -> Callable[[AnyEdit, Sequence[Image]], object]:
    """Return what another process does with each edit that this one shares."""
    runner = LocalRunner(loaded)
    return lambda edit, images: runner.run(edit, images, quiet=True)


@dataclass
class LocalRunner:
    """Runs edits with a pipeline on this machine.

    Args:
        loaded: The pipeline.
        companions: Processes that share its edits; None: there are none.
    """

    loaded: LoadedPipeline
    companions: Companions | None = None
    _adapters: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take over what the pipeline knows of itself."""
        config: Any = self.loaded.pipe.config
        self.model = self.loaded.model
        self.device = self.loaded.device
        self.dtype = self.loaded.dtype
        self.base_size: int = config["base_size"]
        self.load_seconds = self.loaded.seconds

    def defaults(self, edit: AnyEdit) -> Defaults:
        """Return what an edit with its adapters uses where nothing is given.

        Raises:
            InvalidInputError: Two turbo adapters want to be sampled in different ways.
        """
        from joyimage.loading import Adapter, adapter_defaults

        config: Any = self.loaded.pipe.config
        own = Defaults(
            num_inference_steps=config["default_num_inference_steps"],
            guidance_scale=config["default_guidance_scale"],
        )
        return adapter_defaults([Adapter.parse(text) for text in edit.given().get("loras", ())], own)

    def run(self, edit: AnyEdit, images: Sequence[Image], *, quiet: bool = False) -> RunResult:
        """Run a resolved edit on images.

        Raises:
            ImageError: The mask cannot be read.
            InvalidInputError: The model does not take these images or this framing.
        """
        if self.companions is not None:
            self.companions.tell(edit, images)
        pipe: Any = self.loaded.pipe
        given = edit.given()
        adapters = self._use_adapters(given.pop("loras", ()))
        num_images, seed = given.pop("num_images"), given.pop("seed")
        size = given.pop("size", None)
        if isinstance(given.get("region"), str):
            given["region"] = read_mask(Path(given["region"]), images[0].size)
        takes_several: bool = pipe.takes_several_images
        is_judged = given.pop("judge", False)
        given.pop("intent", None)  # it has become another kind of edit, or none
        is_forced = given.pop("force", False)
        if isinstance(edit, (Move, Rotate)) or (isinstance(edit, Edit) and not takes_several):
            given["check_object"] = not is_forced
        inputs = self._inputs(edit, images, given, takes_several=takes_several)
        if images and given.get("fit") == "crop" and not takes_several:
            self._warn_of_crop(ImageSize.of(images[0]), size)
        pipe.set_progress_bar_config(disable=quiet or not sys.stderr.isatty())
        call = pipe if isinstance(edit, (Edit, Generate)) else getattr(pipe, edit.kind)
        result = self._call(
            call,
            range(seed, seed + num_images),
            **inputs,
            **{name: value for name, value in given.items() if value is not None},
            **({} if size is None else {"width": size.width, "height": size.height}),
        )
        checks = result.checks and [one.to_dict() for one in result.checks]
        verdicts = result.verdicts
        if is_judged and verdicts is None:
            prompt = result.prompt or given["prompt"]
            before = images[0] if images else None
            verdicts = [pipe.judge(before, one, prompt, box=given.get("box")) for one in result.images]
        if result.candidates is not None:  # the best comes first
            result.images, verdicts, checks = result.images[:1], verdicts[:1], checks and checks[:1]
        return RunResult(
            images=result.images,
            verdicts=verdicts and [one.to_dict() for one in verdicts],
            candidates=result.candidates and [one.to_dict() for one in result.candidates],
            width=result.width,
            height=result.height,
            prompt=result.prompt,
            checks=checks,
            adapters=adapters,
        )

    def _call(self, call: Callable[..., Any], seeds: Sequence[int], **arguments: Any) -> Any:
        """Run a call of the pipeline, with an output for each seed.

        Raises:
            MissingObjectError: The model sees no such object in the image.
        """
        import torch

        def run() -> Any:
            # New generators each time: where memory runs out, the call is made again.
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            return call(**arguments, num_images_per_prompt=len(seeds), generator=generators)

        try:
            return self.loaded.run(run)
        except MissingObjectError as error:
            raise error.for_field() from None

    def identify_adapter(self, text: str) -> list[Any]:
        """Return what tells an adapter from others: the content of its files, and its scale."""
        return identify_adapter(text)

    def describe(self, edit: Describe, images: Sequence[Image]) -> str:
        """Answer a question about an image, or about one before and one after an edit."""
        max_new_tokens = edit.max_new_tokens or 256
        return self.loaded.run(
            lambda: self.loaded.pipe.describe(list(images), edit.question, max_new_tokens=max_new_tokens)
        )

    def rewrite(self, prompt: str, image: Image | None, how: str) -> str:
        """Rewrite a prompt in more detail."""
        from joyimage.understanding.rewrite import rewrite

        return self.loaded.run(lambda: rewrite(prompt, image, how, pipe=self.loaded.pipe))

    def understand(self, prompt: str, image: Image) -> Intent | None:
        """Return the spatial edit that the model reads from a prompt, if it does."""
        from joyimage.pipeline.answers import ImageReader
        from joyimage.understanding.intent import parse

        return parse(prompt, ImageReader(self.loaded.pipe), image)

    def _inputs(
        self, edit: AnyEdit, images: Sequence[Image], given: dict[str, Any], *, takes_several: bool
    ) -> dict[str, Any]:
        """Return the arguments that hold the images.

        Raises:
            InvalidInputError: The model does not take these images or this framing.
        """
        if not isinstance(edit, Edit):
            if len(images) > 1:
                raise InvalidInputError(f"`joyimage {edit.kind}` takes one image; leave out `--ref`.")
            return {"image": images[0]} if images else {}
        if not takes_several:
            if len(images) > 1:
                raise InvalidInputError(
                    f"{self.model} takes one image; leave out `--ref`, or give an Edit-Plus checkpoint."
                )
            return {"image": images[0]}
        framing = {
            name: given.pop(name)
            for name in ("fit", "restore", "preserve", "region", "feather", "close_up")
            if name in given
        }
        if framing != {"fit": "crop", "restore": False, "preserve": False, "close_up": False}:
            raise InvalidInputError(
                f"{self.model} takes several images, each at its own size; leave out `--fit`, `--restore`, "
                "`--preserve`, `--region`, `--feather` and `--close-up`."
            )
        return {"images": list(images)}

    def _warn_of_crop(self, image_size: ImageSize, requested: ImageSize | None) -> None:
        """Print a warning where much of an image lies outside of the trained size nearest to it."""
        from joyimage.pipeline.buckets import nearest_bucket

        target = nearest_bucket(requested or image_size, self.base_size)
        ratio = (target.width / target.height) / (image_size.width / image_size.height)
        share = min(ratio, 1 / ratio)
        if share < _LEAST_SHARE:
            warn(
                f"only {share:.0%} of the image of {image_size} pixels is edited, as it is cropped to the shape of "
                f"{target}; `--fit pad` or `--fit exact` keeps all of it."
            )

    def _use_adapters(self, loras: Sequence[str]) -> list[dict[str, Any]]:
        """Activate these adapters and no others, loading those that are new or whose content has changed.

        Returns:
            What a record says about each of them.
        """
        from joyimage.loading import Adapter

        pipe: Any = self.loaded.pipe
        adapters = [Adapter.parse(text) for text in loras]
        names: list[str] = []
        entries: list[dict[str, Any]] = []
        for adapter in adapters:
            digest = adapter.sha256()
            if digest not in self._adapters:
                name = f"adapter_{len(self._adapters)}"
                pipe.load_lora_weights(adapter.path, adapter_name=name)
                self._adapters[digest] = name
            names.append(self._adapters[digest])
            entries.append({"name": adapter.path.name, "scale": adapter.scale, "sha256": digest})
        if adapters:
            pipe.enable_lora()
            pipe.set_adapters(names, [adapter.scale for adapter in adapters])
        elif self._adapters:
            pipe.disable_lora()
        return entries


def identify_adapter(text: str) -> list[Any]:
    """Return what tells an adapter on this machine from others: the content of its files, and its scale.

    Args:
        text: "PATH" or "PATH:SCALE".
    """
    from joyimage.loading import Adapter

    adapter = Adapter.parse(text)
    return [adapter.sha256(), adapter.scale]


def hide_loading_bars() -> None:
    """Hide the libraries' bars: what takes time is the loop, which has its own."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def timed(runner: Runner, edit: AnyEdit, images: Sequence[Image], *, quiet: bool) -> tuple[RunResult, float]:
    """Run an edit and return its result with the seconds it took."""
    started = time.perf_counter()
    result = runner.run(edit, images, quiet=quiet)
    return result, time.perf_counter() - started
