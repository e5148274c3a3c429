"""Run tasks on one pipeline: the part of a server that knows torch. It knows neither HTTP nor the queue."""

from __future__ import annotations

import gc
import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from joyimage.serving.http.errors import OutOfMemoryError
from joyimage.serving.workers.protocol import Made, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from joyimage.serving.workers.preview import PassPreviews
    from joyimage.serving.workers.protocol import Report, Work

logger = logging.getLogger(__name__)

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


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
        from joyimage.serving.workers.preview import Previewer

        self.pipe = pipe
        self.session = pipe.session(max_bytes=session_bytes)
        self._device = pipe.device
        self._previewer = Previewer(pipe, preview_px, preview)
        # Previews are drawn and told beside the device's work, one after the other.
        self._teller = ThreadPoolExecutor(1, "joyimage-previews")
        self._is_offloaded = False  # also between runs, as the device had no room to come back to
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
    ) -> list[Made] | None:
        """Run tasks, and where memory runs out again with less of it; see `Runner`.

        Raises:
            OutOfMemoryError: It fits with no setting.
        """
        if self._is_offloaded:
            self._restore()
        levels = self._memory_levels()
        level = 0
        try:
            for level, (name, lower, split) in enumerate(levels):
                if level:
                    logger.warning("Out of memory; trying again with %s.", name)
                lower()
                try:
                    made = self._run(works, report, is_stopped, split=split)
                except Exception as error:
                    if not _is_out_of_memory(error):
                        raise
                else:
                    if made is not None and level:
                        for one in made:
                            one.facts["memory"] = name
                    return made
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
        if self._device.type == "cpu":
            return
        self.pipe.remove_all_hooks()
        try:
            self.pipe.to(self._device)
            self._is_offloaded = False
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            self._is_offloaded = True
        if self._is_offloaded:
            # Half here and half there it could run nothing more.
            logger.warning("The model no longer fits on %s; its parts stay in main memory.", self._device)
            self._free()
            self.pipe.enable_model_cpu_offload(device=self._device)

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
    ) -> list[Made] | None:
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
        images: list[list[Image]] = [[] for _ in works]
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
            if output.interrupted:
                return None
            previews.end()
            is_known = self.session.memory.made["posterior"] == encoded
            each = len(output.images) // len(group)
            for place, (number, _, _) in enumerate(group):
                work = works[number]
                images[number] += output.images[place * each : (place + 1) * each]
                facts[number]["usage"] = self._usage(work, output.width * output.height)
                if work.pictures:
                    # Of several outputs made one by one, the first says whether the picture was known.
                    facts[number].setdefault("reused", is_known)
        return [Made(images=tuple(own), facts=fact) for own, fact in zip(images, facts, strict=True)]

    def _call(self, parts: Sequence[tuple[Work, int, int]], watch: Callable[..., dict[str, Any]]) -> Any:
        """Call the pipeline once for several tasks, of each some outputs."""
        import torch

        works = [work for work, _, _ in parts]
        first = works[0]
        seeds = [work.task.seed + start + n for work, start, count in parts for n in range(count)]
        call: dict[str, Any] = {
            "prompt": [work.prompt for work in works],
            "num_inference_steps": first.task.steps,
            "guidance_scale": first.task.guidance,
            "num_images_per_prompt": parts[0][2],
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "callback_on_step_end": watch,
        }
        if first.canvas is not None:
            call["width"], call["height"] = first.canvas
        if first.task.negative_prompt is not None:
            call["negative_prompt"] = [work.task.negative_prompt for work in works]
        if first.pictures and self.info.takes_several:
            call["images"] = [list(work.pictures) for work in works]
        elif first.pictures:
            # They have been brought to the canvas already.
            call |= {"image": [work.pictures[0] for work in works], "fit": "exact"}
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
        text = len(self.pipe.tokenizer(work.prompt)["input_ids"])
        patch = 2 * self.pipe.vae_scale_factor_spatial
        picture = canvas_pixels // (patch * patch)
        return {
            "text_tokens": text,
            "image_tokens": picture * len(work.pictures),
            "output_tokens": picture * work.task.num_outputs,
        }

    def _describe(self, work: Work) -> Made:
        task = work.task
        question = {} if task.question is None else {"question": task.question}
        answer = self.pipe.describe(list(work.pictures), max_new_tokens=task.max_new_tokens, **question)
        return Made(facts={"text": answer})

    def _use_lora(self, name: str | None) -> None:
        if not self.info.loras:
            return
        transformer = self.pipe.transformer
        if name is None:
            transformer.disable_adapters()
        else:
            transformer.enable_adapters()
            transformer.set_adapters(name)


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(sign in str(error).lower() for sign in _NO_MEMORY)
