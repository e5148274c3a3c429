"""Run tasks on one pipeline: the part of a server that knows torch. It knows neither HTTP nor the queue."""

from __future__ import annotations

import gc
import io
import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from joyimage.serving.errors import OutOfMemoryError
from joyimage.serving.uploads import mask_to_region

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from joyimage.serving.preview import PassPreviews, Preview
    from joyimage.serving.schemas import Task
    from joyimage.serving.settings import ServerSettings

    Report = Callable[[int, int, Sequence[Preview | None]], None]

logger = logging.getLogger(__name__)

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a server has to know of its model before a job runs.

    Attributes:
        base_size: Side of the square size.
        steps: Default number of steps.
        guidance: Default guidance scale.
        takes_several: Whether one edit takes several pictures.
        device: Where it is.
        dtype: Its precision.
        loras: Names of the adapters it has.
    """

    base_size: int
    steps: int
    guidance: float
    takes_several: bool
    device: str
    dtype: str
    loras: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Work:
    """A task with its pictures.

    Attributes:
        task: What to do.
        pictures: Files that can be decoded.
        mask: File of OpenAI's mask.
    """

    task: Task
    pictures: tuple[bytes, ...] = ()
    mask: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out of a task.

    Attributes:
        images: Files.
        facts: What the record shall say: sizes, words, checks, the answer.
    """

    images: tuple[bytes, ...] = ()
    facts: dict[str, Any]


class Runner(Protocol):
    """Whatever can run tasks: a pipeline here, or a replica elsewhere."""

    info: ModelInfo

    def run(
        self,
        works: Sequence[Work],
        report: Report,
        is_stopped: Callable[[], bool],
    ) -> list[Outcome] | None:
        """Run tasks that can share a pass.

        Args:
            works: One, or several of equal settings.
            report: Called after each step, in any thread, with its number from 1, the number of steps, and a
                preview of each task's first output.
            is_stopped: Asked after each step; True ends the run.

        Returns:
            One outcome each; None where the run was stopped.

        Raises:
            OutOfMemoryError: It doesn't fit.
            ValueError: A task can't be done.
        """
        ...


class LocalRunner:
    """A pipeline in this process.

    Args:
        pipe: The pipeline, on its device.
        loras: Names of the adapters that it was given.
        preview_px: Longest side of previews from latents.
        preview: When they are decoded; see `Previewer`.
        session_bytes: Most bytes kept of what was read of pictures, for the next edit of the same.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        loras: Sequence[str] = (),
        preview_px: int = 256,
        preview: str = "auto",
        session_bytes: int = 2**30,
    ) -> None:
        from joyimage.serving.preview import Previewer

        self.pipe = pipe
        self.session = pipe.session(max_bytes=session_bytes)
        self._device = pipe.device
        self._previewer = Previewer(pipe, preview_px, preview)
        # Previews are drawn and told beside the device's work, one after the other.
        self._teller = ThreadPoolExecutor(1, "joyimage-previews")
        pipe.set_progress_bar_config(disable=True)
        self.info = ModelInfo(
            base_size=pipe.config["base_size"],
            steps=pipe.config["default_num_inference_steps"],
            guidance=pipe.config["default_guidance_scale"],
            takes_several=pipe._picture_argument == "images",
            device=str(pipe.device),
            dtype=str(pipe.dtype).removeprefix("torch."),
            loras=tuple(loras),
        )

    def run(
        self,
        works: Sequence[Work],
        report: Report,
        is_stopped: Callable[[], bool],
    ) -> list[Outcome] | None:
        """Run tasks, and where memory runs out again with less of it; see `Runner`.

        Raises:
            OutOfMemoryError: It fits with no setting.
        """
        levels = self._memory_levels()
        try:
            for level, (name, lower, split) in enumerate(levels):
                if level:
                    logger.warning("Out of memory; trying again with %s.", name)
                lower()
                try:
                    outcomes = self._run(works, report, is_stopped, split=split)
                except Exception as error:
                    if not _is_out_of_memory(error):
                        raise
                else:
                    if outcomes is not None and level:
                        for outcome in outcomes:
                            outcome.facts["memory"] = name
                    return outcomes
                # Outside of the except clause: the exception holds the tensors that have to go.
                self._free()
        finally:
            if level:
                self._restore()
        raise OutOfMemoryError(
            f"The edit doesn't fit into the memory of {self._device}, not even with {levels[-1][0]}; "
            "ask for a smaller size."
        )

    def _memory_levels(self) -> list[tuple[str, Callable[[], Any], bool]]:
        """List settings that need less and less memory, and whether outputs run one by one."""
        levels: list[tuple[str, Callable[[], Any], bool]] = [("all of it", lambda: None, False)]
        if len(self.session.memory):
            levels.append(("nothing kept of earlier pictures", self.session.clear, False))
        levels.append(("one output at a time and a tiled VAE", self.pipe.vae.enable_tiling, True))
        if self._device.type != "cpu":
            levels += [
                (
                    "parts kept in main memory",
                    lambda: self.pipe.enable_model_cpu_offload(device=self._device),
                    True,
                ),
                ("layers kept in main memory", self._offload_layers, True),
            ]
        return levels

    def _offload_layers(self) -> None:
        self.pipe.remove_all_hooks()
        self.pipe.enable_sequential_cpu_offload(device=self._device)

    def _restore(self) -> None:
        self.session.clear()  # a tiled VAE's numbers are not those of a whole one
        self.pipe.vae.disable_tiling()
        if self._device.type != "cpu":
            self.pipe.remove_all_hooks()
            self.pipe.to(self._device)

    def _free(self) -> None:
        import torch

        self.session.clear()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(
        self,
        works: Sequence[Work],
        report: Report,
        is_stopped: Callable[[], bool],
        *,
        split: bool,
    ) -> list[Outcome] | None:
        """Run tasks in one pass or, with `split`, one output after the other: the pictures are the same."""
        first = works[0].task
        if first.kind == "describe":
            return [self._describe(work) for work in works]
        self._use_lora(first.lora)
        pieces = [
            (number, output, 1 if split else work.task.num_outputs)
            for number, work in enumerate(works)
            for output in range(work.task.num_outputs if split else 1)
        ]
        passes = [[piece] for piece in pieces] if split else [pieces]
        images: list[list[Image.Image]] = [[] for _ in works]
        facts: list[dict[str, Any]] = [{} for _ in works]
        for turn, group in enumerate(passes):
            shown = [works[number].task.previews for number, _, _ in group]
            previews = self._previewer.begin(shown, first.steps, may_decode=not split)
            told: list[Future[None]] = []
            watch = self._watch(first.steps, turn, len(passes), previews, report, is_stopped, told)
            encoded = self.session.memory.made["posterior"]
            try:
                with self.session.remembering():
                    parts = [(works[number], start, count) for number, start, count in group]
                    output = self._call(parts, watch)
            finally:
                wait(told)
            for one in told:
                one.result()
            previews.end()
            is_known = self.session.memory.made["posterior"] == encoded
            if output.interrupted:
                return None
            each = len(output.images) // len(group)
            for place, (number, _, _) in enumerate(group):
                mine = slice(place * each, (place + 1) * each)
                images[number] += output.images[mine]
                facts[number] |= {"width": output.width, "height": output.height}
                if works[number].pictures:
                    # Of several outputs made one by one, the first says whether the picture was known.
                    facts[number].setdefault("reused", is_known)
                if output.prompt is not None:
                    facts[number]["prompt"] = output.prompt
                if output.checks is not None:
                    checks = [{**asdict(one), "summary": one.summary} for one in output.checks[mine]]
                    facts[number]["checks"] = [*facts[number].get("checks", []), *checks]
        outcomes = []
        for work, own, fact in zip(works, images, facts, strict=True):
            fact["usage"] = self._usage(work, fact["width"] * fact["height"])
            fact["width"], fact["height"] = own[0].size
            files = tuple(encode(one, work.task.output_format, work.task.output_compression) for one in own)
            outcomes.append(Outcome(images=files, facts=fact))
        return outcomes

    def _call(self, parts: Sequence[tuple[Work, int, int]], watch: Callable[..., dict[str, Any]]) -> Any:
        """Call the pipeline once for several tasks, of each some outputs."""
        import torch

        tasks = [work.task for work, _, _ in parts]
        first = tasks[0]
        num_outputs = parts[0][2]
        seeds = [work.task.seed + start + n for work, start, count in parts for n in range(count)]
        call: dict[str, Any] = {
            "num_inference_steps": first.steps,
            "guidance_scale": first.guidance,
            "num_images_per_prompt": num_outputs,
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "callback_on_step_end": watch,
        }
        if first.width is not None:
            call |= {"width": first.width, "height": first.height}
        negative = [task.negative_prompt for task in tasks]
        if negative[0] is not None:
            call["negative_prompt"] = negative
        pictures = [[_decode(data) for data in work.pictures] for work, _, _ in parts]
        if first.kind in {"move", "rotate", "camera"}:
            if negative[0] is not None:
                call["negative_prompt"] = negative[0]
            call |= first.framing
            return getattr(self.pipe, first.kind)(pictures[0][0], **first.spatial, **call)
        call["prompt"] = [task.prompt for task in tasks]
        if pictures[0]:
            if self.info.takes_several:
                call["images"] = pictures
            else:
                call["image"] = [own[0] for own in pictures]
                call |= first.framing
                mask = parts[0][0].mask
                if mask is not None:
                    call["region"] = mask_to_region(_decode(mask))
        return self.pipe(**call)

    def _watch(
        self,
        steps: int,
        turn: int,
        num_turns: int,
        previews: PassPreviews,
        report: Report,
        is_stopped: Callable[[], bool],
        told: list[Future[None]],
    ) -> Callable[..., dict[str, Any]]:
        """Make the callback of one pass: tell how far it is, and stop it."""

        def watch(pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if is_stopped():
                pipe._interrupt = True
                return {}
            draw = previews.after_step(pipe, step, tensors["latents"])
            number, total = turn * steps + step + 1, num_turns * steps
            told.append(
                self._teller.submit(lambda: report(number, total, [make and make() for make in draw]))
            )
            return {}

        return watch

    def _usage(self, work: Work, canvas_pixels: int) -> dict[str, int]:
        """Count the tokens of a task as the model has them: words, and patches of latents."""
        text = len(self.pipe.tokenizer(work.task.prompt)["input_ids"])
        patch = 2 * self.pipe.vae_scale_factor_spatial
        picture = canvas_pixels // (patch * patch)
        return {
            "text_tokens": text,
            "image_tokens": picture * len(work.pictures),
            "output_tokens": picture * work.task.num_outputs,
        }

    def _describe(self, work: Work) -> Outcome:
        pictures = [_decode(data) for data in work.pictures]
        task = work.task
        question = {} if task.question is None else {"question": task.question}
        answer = self.pipe.describe(pictures, max_new_tokens=task.max_new_tokens, **question)
        return Outcome(facts={"text": answer})

    def _use_lora(self, name: str | None) -> None:
        if not self.info.loras:
            return
        transformer = self.pipe.transformer
        if name is None:
            transformer.disable_adapters()
        else:
            transformer.enable_adapters()
            transformer.set_adapters(name)


def load_runner(settings: ServerSettings, number: int = 0) -> LocalRunner:
    """Load the checkpoint.

    Args:
        settings: Of the server.
        number: Of the replica, for the choice of the device.

    Returns:
        The pipeline, ready.

    Raises:
        CheckpointError: It can't be read.
        ValueError: A setting is out of range.
    """
    import torch

    from joyimage.pipeline.buckets import bucket_sizes

    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        device = f"cuda:{number % max(1, torch.cuda.device_count())}"
    dtype = settings.dtype or ("float32" if device == "cpu" else "bfloat16")
    if settings.base_size is not None:
        bucket_sizes(settings.base_size)  # refuses a base that doesn't exist
    pipe = _pipeline_class(settings.model).from_pretrained(settings.model, dtype=dtype).to(device)
    if settings.base_size is not None:
        pipe.register_to_config(base_size=settings.base_size)
    load_adapters(pipe, settings.loras)
    return LocalRunner(
        pipe,
        loras=tuple(settings.loras),
        preview_px=settings.preview_px,
        preview=settings.preview,
        session_bytes=settings.session_bytes,
    )


def load_adapters(pipe: Any, loras: Mapping[str, Path]) -> None:
    """Give a pipeline the adapters that requests may name, all switched off."""
    for name, path in loras.items():
        pipe.load_lora_weights(path, adapter_name=name)
    if loras:
        pipe.transformer.disable_adapters()


def encode(picture: Image.Image, output_format: str, quality: int) -> bytes:
    """Write a picture as a file; what is transparent becomes white where the format has no transparency."""
    file = io.BytesIO()
    if output_format == "jpeg" and picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if output_format == "png":
        picture.save(file, "PNG")
    else:
        picture.save(file, output_format.upper(), quality=quality)
    return file.getvalue()


def _pipeline_class(model: str) -> Any:
    """Return the pipeline that a checkpoint is for: that for several references where its index says so."""
    import json
    from pathlib import Path

    from joyimage.pipeline.edit import JoyImageEditPipeline
    from joyimage.pipeline.edit_plus import JoyImageEditPlusPipeline

    try:
        index = json.loads((Path(model) / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        index = {}
    is_plus = index.get("_class_name") == "JoyImageEditPlusPipeline" or "Edit-Plus" in model
    return JoyImageEditPlusPipeline if is_plus else JoyImageEditPipeline


def _decode(data: bytes) -> Image.Image:
    """Decode a picture that has been decoded before."""
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(sign in str(error).lower() for sign in _NO_MEMORY)
