"""The price of each speed preset: what it leaves out of an edit, and what that costs in agreement and success."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from joyimage.acceleration.presets import EXACT
from joyimage.evaluation.editors import pipeline_editor
from joyimage.evaluation.metrics import psnr
from joyimage.evaluation.runner import HELD_OUT, evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from PIL.Image import Image

    from joyimage.evaluation.editors import Editor
    from joyimage.evaluation.metrics import Pixels
    from joyimage.evaluation.runner import Evaluation
    from joyimage.evaluation.suites import CaseT, Suite


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a speed preset costs.

    Attributes:
        speed: The preset.
        leaves_out: What the preset says of itself.
        forwards: Forwards through all blocks per edit, each guidance branch counted once.
        fewer: Forwards of the exact edit over `forwards`.
        psnr: Mean PSNR against the exact images, dB, at most 60 for one image; None for exact edits.
        pooled_psnr: PSNR of the mean squared error over all images, dB; None for exact edits and where no image
            differs.
        done: Mean over the rows of the share of edits that happened.
        strict: Mean over the rows of the share of edits that happened and left the rest alone.
        largest_loss: Largest loss of `done` of a task or of the held-out combinations against exact edits.
        seconds: Seconds per edit, on a machine that may be busy.
        distance: Mean and largest perceptual distance from the exact images; None for exact edits and where none was
            asked for.
    """

    speed: str
    leaves_out: str
    forwards: float
    fewer: float
    psnr: float | None
    pooled_psnr: float | None
    done: float
    strict: float
    largest_loss: float
    seconds: float
    distance: tuple[float, float] | None = None


class ForwardCounter:
    """Counts forwards through all blocks, one per guidance branch and output.

    Attributes:
        count: Forwards so far.
    """

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def watching(self, pipe: Any) -> Generator[ForwardCounter]:
        """Count the forwards of a pipeline inside the `with`."""

        def add(_module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            states = keywords["hidden_states"] if "hidden_states" in keywords else arguments[0]
            self.count += len(states)

        # A step cache that reuses a step does not come to the last block's attention.
        attention = pipe.transformer.double_blocks[-1].attn
        handle = attention.register_forward_pre_hook(add, with_kwargs=True)
        try:
            yield self
        finally:
            handle.remove()


def measure_prices(
    pipe: Any,
    suite: Suite[CaseT],
    *,
    num: int = 200,
    batch_size: int = 20,
    num_inference_steps: int = 16,
    guidance_scale: float = 3.0,
    progress: bool = True,
    distance: Callable[[Pixels, Pixels], float] | None = None,
) -> list[Price]:
    """Run a suite under each speed preset of a pipeline.

    Args:
        pipe: The pipeline.
        suite: The cases.
        num: Cases per task; as many again are held-out combinations.
        batch_size: Cases per call.
        num_inference_steps: Denoising steps.
        guidance_scale: Guidance scale.
        progress: Whether to show a progress bar.
        distance: A perceptual distance of two images of the same size; None: it is not measured.

    Returns:
        One price per preset, exact edits first.
    """
    prices: list[Price] = []
    exact_images: list[Pixels] = []
    exact: Evaluation | None = None
    for speed, preset in pipe.speed_presets.items():
        editor = pipeline_editor(
            pipe, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, speed=speed
        )
        images: list[Pixels] = []
        with ForwardCounter().watching(pipe) as counter:
            found = evaluate(
                _recorded(editor, images), suite, num=num, batch_size=batch_size, progress=progress
            )
        if exact is None:
            exact, exact_images = found, images
        forwards = counter.count / len(images)
        is_exact = speed == EXACT
        mean, pooled = (None, None) if is_exact else compare_images(exact_images, images)
        distances: list[float] = []
        if distance is not None and not is_exact:
            distances = [distance(a, b) for a, b in zip(exact_images, images, strict=True)]
        prices.append(
            Price(
                speed=speed,
                leaves_out=str(preset),
                forwards=forwards,
                fewer=1.0 if is_exact else prices[0].forwards / forwards,
                psnr=mean,
                pooled_psnr=pooled,
                done=_mean(found, "done"),
                strict=_mean(found, "strict"),
                largest_loss=max(row.done - found.tasks[name].done for name, row in exact.tasks.items()),
                seconds=found.seconds_per_edit,
                distance=(float(np.mean(distances)), max(distances)) if distances else None,
            )
        )
    return prices


def compare_images(exact: Sequence[Pixels], found: Sequence[Pixels]) -> tuple[float, float | None]:
    """Return the mean PSNR of images, and the PSNR of their mean squared error (None where nothing differs)."""
    pairs = list(zip(exact, found, strict=True))
    error = float(np.mean([np.mean((a.astype(np.float64) - b) ** 2) for a, b in pairs]))
    pooled = float(10 * np.log10(255**2 / error)) if error else None
    return float(np.mean([psnr(a, b) for a, b in pairs])), pooled


def to_price_json(prices: Sequence[Price]) -> list[dict[str, Any]]:
    """Arrange prices for programs."""
    return [asdict(price) for price in prices]


def to_price_table(prices: Sequence[Price], *, num: int, rows: int, distance_name: str | None = None) -> str:
    """Arrange prices for a reader, as a Markdown table.

    Args:
        prices: From `measure_prices`.
        num: Cases per row.
        rows: Number of rows: the tasks, and the held-out combinations.
        distance_name: Name of the perceptual distance; None leaves its columns out.
    """
    extra = [] if distance_name is None else [distance_name, "largest"]
    names = ["speed", "forwards", "fewer", "PSNR, dB", "of all pixels", *extra]
    names += ["done", "strict", "largest loss of a task"]
    lines = ["| " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) - 1)]
    for price in prices:
        cells = [
            price.speed,
            f"{price.forwards:.1f}",
            f"{price.fewer:.2f}x",
            _number(price.psnr, 1),
            _number(price.pooled_psnr, 1),
            *(_number(value, 5) for value in (price.distance or (None, None)) if extra),
            f"{price.done:.3f}",
            f"{price.strict:.3f}",
            f"{price.largest_loss:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    seconds = ", ".join(f"{price.speed} {price.seconds:.2f}" for price in prices)
    return "\n".join(
        [
            *lines,
            "",
            f"{num} cases in each of {rows} rows. Forwards through all blocks per edit, each guidance branch counted",
            "once. PSNR against the exact images: its mean, 60 at most for one image, and that of the mean squared",
            f"error over all pixels. Seconds per edit in batches on this machine, as busy as it is: {seconds}.",
        ]
    )


def _recorded(editor: Editor, images: list[Pixels]) -> Callable[[Sequence[Any]], Sequence[Image]]:
    def edit(cases: Sequence[Any]) -> Sequence[Image]:
        made = editor(cases)
        images.extend(np.asarray(image.convert("RGB")) for image in made)
        return made

    return edit


def _mean(found: Evaluation, name: str) -> float:
    """Return the mean of a share over all rows, held-out combinations included."""
    assert HELD_OUT in found.tasks
    return float(np.mean([getattr(row, name) for row in found.tasks.values()]))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
