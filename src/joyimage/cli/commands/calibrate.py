"""`joyimage calibrate`: measure the speed presets on one's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from joyimage.cli.console import notify, say_loading
from joyimage.cli.options import ModelOptions
from joyimage.cli.surface import GROUPS, check_sampling
from joyimage.errors import InvalidInputError

_INPUT = Parameter(group=GROUPS["Input"])
_OUTPUT = Parameter(group=GROUPS["Output"])
_MEASURED = Parameter(group=Group("Measurement", sort_key=10))


def calibrate(
    images: Annotated[list[Path], _INPUT, Parameter(negative=[])],
    *,
    prompt: Annotated[list[str], _INPUT, Parameter(negative=[])],
    options: ModelOptions | None = None,
    output: Annotated[Path | None, _OUTPUT, Parameter(name=["--output", "-o"])] = None,
    balanced: Annotated[float, _MEASURED] = 46.0,
    fast: Annotated[float, _MEASURED] = 38.0,
    steps: Annotated[int | None, _MEASURED] = None,
    guidance: Annotated[float | None, _MEASURED] = None,
    overwrite: Annotated[bool, _OUTPUT, Parameter(negative=[])] = False,
) -> None:
    """Measure the thresholds of the speed presets on your own images, and store them beside the checkpoint.

    Args:
        images: Images like those that will be edited.
        prompt: One prompt for all images, or one per image in their order.
        options: Which model is measured, and how it is loaded.
        output: File to write. Default: speed.json in the checkpoint's folder, where loading finds it.
        balanced: Lowest accepted PSNR, in dB, of an image with the balanced preset against its exact edit.
        fast: Lowest accepted PSNR, in dB, of an image with the fast preset against its exact edit.
        steps: Number of denoising steps. Default: the checkpoint's own.
        guidance: Guidance scale. Default: the checkpoint's own.
        overwrite: Replace an existing file.
    """
    options = options or ModelOptions()
    options.check()
    check_sampling(steps, guidance)
    path = _output_path(options.model, output, overwrite=overwrite)
    prompts = _prompts(prompt, len(images))
    say_loading(options.model)
    # Loaded here: `joyimage --help` must not wait for torch.
    from joyimage.acceleration.presets import write_presets
    from joyimage.cli.runners import hide_loading_bars
    from joyimage.devices import choose_device
    from joyimage.evaluation.calibration import calibrate as measure
    from joyimage.imaging import read_image
    from joyimage.loading import default_model, load_pipeline

    sources = [read_image(image).image for image in images]
    hide_loading_bars()
    chosen = {"model": options.model or default_model(choose_device(options.device))}
    pipe = load_pipeline(**{**options.to_load(), **chosen}).pipe
    pipe.set_progress_bar_config(disable=True)
    found = measure(
        pipe,
        sources,
        prompts,
        {"balanced": balanced, "fast": fast},
        num_inference_steps=steps,
        guidance_scale=guidance,
        announce=notify,
    )
    write_presets({name: one.preset for name, one in found.items()}, path)
    for name, one in found.items():
        print(
            f"{name}: {one.preset}; {one.exact_forwards / one.forwards:.2f} times fewer forwards, lowest PSNR "
            f"{one.lowest_psnr:.1f} dB"
        )
    notify(f"Written: {path}")


def _prompts(given: list[str], num_images: int) -> list[str]:
    """Return a prompt for each image.

    Raises:
        InvalidInputError: There is another number of prompts.
    """
    if len(given) not in {1, num_images}:
        raise InvalidInputError(
            f"`--prompt` is given {len(given)} times for {num_images} images; expected once, or once for each."
        )
    return given * num_images if len(given) == 1 else given


def _output_path(model: str | None, output: Path | None, *, overwrite: bool) -> Path:
    """Return the file to write, checked before any work.

    Raises:
        InvalidInputError: There is no folder to write to, or the file exists.
    """
    from joyimage.acceleration.presets import PRESETS_FILE

    if output is None:
        if model is None or not Path(model).is_dir():
            shown = "not given" if model is None else f"{model!r}, which is not a folder"
            raise InvalidInputError(
                f"`--model` is {shown}; expected a checkpoint folder to store {PRESETS_FILE} in, or `--output FILE`."
            )
        output = Path(model) / PRESETS_FILE
    if not output.parent.is_dir():
        raise InvalidInputError(f"`--output` is {output}, whose folder does not exist; create it first.")
    if output.exists() and not overwrite:
        raise InvalidInputError(f"{output} exists; give `--overwrite` to replace it, or another `--output`.")
    return output
