"""Run tasks on one pipeline: the part of a server that knows torch. It knows neither HTTP nor the queue."""

from __future__ import annotations

import gc
import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from joyimage.acceleration.parallel import ParallelError
from joyimage.advice import collect_advice
from joyimage.edits import Describe
from joyimage.errors import InvalidResultError, OutOfMemoryError
from joyimage.serving.workers.adapters import parse_adapter
from joyimage.serving.workers.failures import computes, is_fatal, is_out_of_memory
from joyimage.serving.workers.protocol import DeviceFailedError, ModelInfo, ModelOutput
from joyimage.serving.workers.scope import check_readable
from joyimage.serving.workers.sessions import ClientSessions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL.Image import Image

    from joyimage.companions import Companions
    from joyimage.edits import Sampling
    from joyimage.serving.workers.preview import PassPreviews
    from joyimage.serving.workers.protocol import ProgressCallback, WorkItem

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryLevel:
    """One way to run tasks within the memory of the device.

    Attributes:
        name: Such as "model offload"; clients see it as the `memory` of a job.
        apply: Changes the pipeline; what is changed is undone after the run.
        runs_singly: Whether outputs run one at a time.
    """

    name: str
    apply: Callable[[], object]
    runs_singly: bool = False


def _change_nothing() -> None:
    pass


class LocalRunner:
    """A pipeline in this process.

    Args:
        pipe: The pipeline, on its device.
        loras: Names of the adapters that it was given.
        lora_sha256: Hash of each adapter's content by its name, where it is known.
        preview_px: Longest side of previews from latents.
        preview: When they are decoded; see `Previewer`.
        companions: Processes that share its edits; None: there are none.
        session_bytes: Maximum size in bytes of the cached features of images, for the next edit of an image.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        loras: Sequence[str] = (),
        lora_sha256: Mapping[str, str] | None = None,
        preview_px: int = 256,
        preview: str = "auto",
        session_bytes: int = 2**30,
        companions: Companions | None = None,
    ) -> None:
        from joyimage import acceleration
        from joyimage.pipeline.adapters import defaults_of
        from joyimage.serving.workers.preview import Previewer

        self.pipe = pipe
        self.companions = companions
        self.sessions = ClientSessions(pipe, session_bytes)
        self._device = pipe.compute_device
        self._previewer = Previewer(pipe, preview_px, preview)
        # Previews are drawn and reported beside the device's work, one after the other.
        self._reporter = ThreadPoolExecutor(1, "joyimage-previews")
        self._is_offloaded = False  # also between runs, as the device had no room to come back to
        report = acceleration.report(pipe)
        self._is_resident = report.offload == "none"  # a memory plan that keeps weights elsewhere stays
        pipe.set_progress_bar_config(disable=True)
        self.info = ModelInfo(
            base_size=pipe.config["base_size"],
            steps=pipe.config["default_num_inference_steps"],
            guidance=pipe.config["default_guidance_scale"],
            takes_several=pipe.takes_several_images,
            device=str(self._device),
            dtype=str(pipe.dtype).removeprefix("torch."),
            loras=tuple(loras),
            speeds=tuple(pipe.speed_presets),
            lora_sha256=dict(lora_sha256 or {}),
            lora_defaults={
                name: defaults_of(recipe) for name, recipe in pipe.transformer.turbo_recipes().items()
            },
            acceleration=report.to_dict(),
        )

    def run(
        self,
        items: Sequence[WorkItem],
        report: ProgressCallback,
        is_stopped: Callable[[], bool],
    ) -> list[ModelOutput] | None:
        """Run tasks, and where memory runs out again with less of it; see `Runner`.

        Raises:
            DeviceFailedError: The device is broken until the process is restarted.
            OutOfMemoryError: The tasks fit with no setting.
        """
        if self._is_offloaded:
            self._restore()
        levels = self._memory_levels()
        level = 0
        try:
            for level, setting in enumerate(levels):
                if level:
                    logger.warning("Out of memory; retrying with %s.", setting.name)
                setting.apply()
                try:
                    if self.companions is not None:
                        self.companions.tell(items)
                    made = self._run(items, report, is_stopped, split=setting.runs_singly)
                except Exception as error:
                    if is_out_of_memory(error):
                        pass
                    elif isinstance(error, ParallelError) or is_fatal(error) or not computes(self._device):
                        raise DeviceFailedError(str(error).partition("\n")[0]) from error
                    else:
                        raise
                else:
                    if made is not None and level:
                        for one in made:
                            one.metadata["memory"] = setting.name
                    return made
                # Outside of the except clause: the exception holds the tensors that have to go.
                self._free()
        finally:
            if level:
                self._restore()
        raise OutOfMemoryError(
            f"The edit does not fit into the memory of {self._device}, even with {levels[-1].name}; "
            "request a smaller size."
        )

    def _memory_levels(self) -> list[MemoryLevel]:
        """List settings that need less and less memory; the first one is that of a usual run."""
        levels = [MemoryLevel("the usual settings", _change_nothing)]
        if len(self.sessions):
            levels.append(MemoryLevel("an empty image cache", self.sessions.clear))
        levels.append(
            MemoryLevel("one output at a time and a tiled VAE", self.pipe.vae.enable_tiling, runs_singly=True)
        )
        if self._is_resident and self._device.type != "cpu":
            levels += [
                MemoryLevel("model offload", self._offload_parts, runs_singly=True),
                MemoryLevel("sequential offload", self._offload_layers, runs_singly=True),
            ]
        return levels

    def _offload_parts(self) -> None:
        self.pipe.enable_model_cpu_offload(device=self._device)

    def _offload_layers(self) -> None:
        self.pipe.remove_all_hooks()
        self.pipe.enable_sequential_cpu_offload(device=self._device)

    def _restore(self) -> None:
        self.sessions.clear()  # a tiled VAE's numbers are not those of a whole one
        self.pipe.vae.disable_tiling()
        if not self._is_resident or self._device.type == "cpu":
            return
        self.pipe.remove_all_hooks()
        try:
            self.pipe.to(self._device)
            self._is_offloaded = False
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._is_offloaded = True
        if self._is_offloaded:
            # Half here and half there it could run nothing more.
            logger.warning("The model no longer fits on %s; its parts stay in host memory.", self._device)
            self._free()
            self.pipe.enable_model_cpu_offload(device=self._device)

    def _free(self) -> None:
        import torch

        self.sessions.clear()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(
        self,
        items: Sequence[WorkItem],
        report: ProgressCallback,
        is_stopped: Callable[[], bool],
        *,
        split: bool,
    ) -> list[ModelOutput] | None:
        """Run tasks in one call or, with `split`, one output after the other: the images are the same."""
        from joyimage.serving.workers.judging import check_object

        first = items[0].task
        if isinstance(first.edit, Describe):
            answers = [self._describe(item, is_stopped) for item in items]
            return None if None in answers else [one for one in answers if one is not None]
        sampling = first.edit.sampling
        adapters = self._use_loras(sampling.loras or ())
        for item in items:
            check_object(self.pipe, item)
        steps = sampling.num_inference_steps or self.info.steps
        rounds = _rounds(items, split=split)
        made = [_TaskOutput(item, metadata={"adapters": adapters} if adapters else {}) for item in items]
        session = self.sessions.of({item.client for item in items})
        for number_of_round, batch in enumerate(rounds):
            shown = [items[number].task.has_previews for number, _, _ in batch]
            previews = self._previewer.begin(shown, steps, may_decode=not split)
            reported: list[Future[None]] = []
            watch = self._watch(steps, number_of_round, len(rounds), previews, report, is_stopped, reported)
            encoded = session.cache.miss_count["posterior"]
            try:
                with session.caching(), collect_advice() as warnings:
                    parts = [(items[number], start, count) for number, start, count in batch]
                    output = self._call(parts, watch)
            finally:
                wait(reported)
            for one in reported:
                one.result()
            if output.interrupted:
                return None
            previews.end()
            is_known = session.cache.miss_count["posterior"] == encoded
            each = len(output.images) // len(batch)
            for place, (number, _, _) in enumerate(batch):
                said: list[str] = made[number].metadata.setdefault("warnings", [])
                own = [str(one) for one in warnings if one.prompt is None or one.prompt % len(batch) == place]
                # Its negative prompt may be as much too long as its prompt.
                said += [sentence for sentence in dict.fromkeys(own) if sentence not in said]
                self._add(made[number], output, output.images[place * each : (place + 1) * each], is_known)
        self.sessions.trim()
        return [ModelOutput(images=tuple(one.images), metadata=one.metadata) for one in made]

    def _add(self, made: _TaskOutput, output: Any, images: list[Image], is_known: bool) -> None:
        """Add what one call of the pipeline made of a task.

        Args:
            made: What earlier calls made of the task.
            output: What the pipeline returned.
            images: The task's own images in it.
            is_known: Whether the call encoded no image.
        """
        from joyimage.serving.workers.judging import judge_item

        item = made.item
        if output.candidates is not None:
            images = images[:1]  # the best comes first
            made.metadata |= {
                "candidates": [one.to_dict() for one in output.candidates],
                "seed": output.candidates[0].seed,
            }
        made.images += images
        if _sampling(item).judge or output.candidates is not None:
            verdicts = [judge_item(self.pipe, item, image).to_dict() for image in images]
            made.metadata.setdefault("verdicts", []).extend(verdicts)
        made.metadata["usage"] = self._usage(item, output.width * output.height)
        if item.images:
            # Of several outputs made one by one, the first says whether the image was known.
            made.metadata.setdefault("reused", is_known)

    def _call(self, parts: Sequence[tuple[WorkItem, int, int]], watch: Callable[..., dict[str, Any]]) -> Any:
        """Call the pipeline once for several tasks, of each some outputs."""
        import torch

        from joyimage.serving.workers.judging import choice_of, choose

        items = [item for item, _, _ in parts]
        first = items[0]
        samplings = [_sampling(item) for item in items]
        seeds = [
            (sampling.seed or 0) + start + n
            for sampling, (_, start, count) in zip(samplings, parts, strict=True)
            for n in range(count)
        ]
        call: dict[str, Any] = {
            "prompt": [item.prompt for item in items],
            "num_inference_steps": samplings[0].num_inference_steps,
            "guidance_scale": samplings[0].guidance_scale,
            "speed": samplings[0].speed or "exact",
            "num_images_per_prompt": parts[0][2],
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "callback_on_step_end": watch,
        }
        if first.target_size is not None:
            call |= {"width": first.target_size.width, "height": first.target_size.height}
        if samplings[0].negative_prompt is not None:
            call["negative_prompt"] = [sampling.negative_prompt for sampling in samplings]
        if first.images and self.info.takes_several:
            call["images"] = [list(item.images) for item in items]
        elif first.images:
            # They have been brought to the target size already.
            call |= {"image": [item.images[0] for item in items], "fit": "exact"}
        choice = choice_of(samplings[0])
        return choose(self.pipe, first, choice, call) if choice.is_needed else self.pipe(**call)

    def _watch(
        self,
        steps: int,
        number_of_round: int,
        num_rounds: int,
        previews: PassPreviews,
        report: ProgressCallback,
        is_stopped: Callable[[], bool],
        reported: list[Future[None]],
    ) -> Callable[..., dict[str, Any]]:
        """Make the callback of one call: it reports progress, and stops the call."""

        def watch(pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if is_stopped():
                pipe._interrupt = True
                return {}
            latents = tensors["latents"]
            if step + 1 == steps and not latents.isfinite().all():
                raise InvalidResultError(
                    "The model produced values that are not finite, so there is no image; try another seed "
                    "or a server with another dtype."
                )
            draw = previews.after_step(pipe, step, latents)
            number, total = number_of_round * steps + step + 1, num_rounds * steps
            reported.append(
                self._reporter.submit(lambda: report(number, total, [make and make() for make in draw]))
            )
            return {}

        return watch

    def _usage(self, item: WorkItem, target_pixels: int) -> dict[str, int]:
        """Count the tokens of a task as the model has them: of the prompt, and patches of latents."""
        text = len(self.pipe.tokenizer(item.prompt)["input_ids"])
        patch = 2 * self.pipe.vae_scale_factor_spatial
        image = target_pixels // (patch * patch)
        return {
            "text_tokens": text,
            "image_tokens": image * len(item.images),
            "output_tokens": image * item.task.num_images,
        }

    def _describe(self, item: WorkItem, is_stopped: Callable[[], bool]) -> ModelOutput | None:
        """Answer a question; None where the run was stopped."""
        edit = item.task.edit
        assert isinstance(edit, Describe)
        check_readable(self.pipe, item.images, edit.question)
        question = {} if edit.question is None else {"question": edit.question}

        def check(*_: Any) -> None:
            if is_stopped():
                raise _StoppedError

        # Each token is one forward of the text encoder.
        hook = self.pipe.text_encoder.register_forward_pre_hook(check)
        try:
            answer = self.pipe.describe(list(item.images), max_new_tokens=edit.max_new_tokens, **question)
        except _StoppedError:
            return None
        finally:
            hook.remove()
        return ModelOutput(metadata={"text": answer})

    def _use_loras(self, given: Sequence[str]) -> list[dict[str, Any]]:
        """Switch on the adapters of a task, each with its scale, and all others off.

        Returns:
            What a record says about each of them.
        """
        if not self.info.loras:
            return []
        transformer = self.pipe.transformer
        if not given:
            transformer.disable_adapters()
            return []
        adapters = [parse_adapter(text, self.info.loras) for text in given]
        transformer.enable_adapters()
        transformer.set_adapters([name for name, _ in adapters], [scale for _, scale in adapters])
        return [
            {"name": name, "scale": scale, "sha256": self.info.lora_sha256.get(name)}
            for name, scale in adapters
        ]


@dataclass
class _TaskOutput:
    """What a task has become so far.

    Attributes:
        item: The task.
        images: Images, in order.
        metadata: What is known about them, for the job's record.
    """

    item: WorkItem
    images: list[Image] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)


def _rounds(items: Sequence[WorkItem], *, split: bool) -> list[list[tuple[int, int, int]]]:
    """Return which outputs run together: number of the task, first output and number of outputs of each."""
    pieces = [
        (number, output, 1 if split else item.task.num_images)
        for number, item in enumerate(items)
        for output in range(item.task.num_images if split else 1)
    ]
    return [[piece] for piece in pieces] if split else [pieces]


class _StoppedError(Exception):
    """A description was stopped between two tokens."""


def _sampling(item: WorkItem) -> Sampling:
    edit = item.task.edit
    assert not isinstance(edit, Describe)
    return edit.sampling
