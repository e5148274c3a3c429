"""`joyimage eval`: measure a checkpoint."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Group, Parameter

from joyimage.cli.console import say_loading
from joyimage.cli.options import MeasuredOptions
from joyimage.cli.surface import GROUPS, check_sampling

_MODEL = Parameter(group=GROUPS["Model"])
_OUTPUT = Parameter(group=GROUPS["Output"])
_SCENES = Parameter(group=Group("Scenes and sampling", sort_key=10))


def tiny(
    *,
    options: MeasuredOptions | None = None,
    num: Annotated[int, _SCENES] = 200,
    seed: Annotated[int, _SCENES] = 0,
    size: Annotated[int | None, _SCENES] = None,
    steps: Annotated[int | None, _SCENES] = None,
    guidance: Annotated[float | None, _SCENES] = None,
    batch_size: Annotated[int, _SCENES] = 20,
    lora: Annotated[list[str] | None, _MODEL, Parameter(negative=[])] = None,
    json: Annotated[bool, _OUTPUT, Parameter(negative=[])] = False,
) -> None:
    """Measure how well a checkpoint edits and reads drawn scenes that it was not trained on.

    Args:
        options: Which model is measured, and how it is loaded.
        num: Number of scenes per task, and of questions per kind if the checkpoint has language.
        seed: Seed of the scenes; every seed draws others.
        size: Side of the scenes in pixels. Default: the checkpoint's base size.
        steps: Number of denoising steps. Default: the checkpoint's own.
        guidance: Guidance scale. Default: the checkpoint's own.
        batch_size: Number of scenes edited at once.
        lora: LoRA adapter with an optional scale, PATH[:SCALE]; may be given several times.
        json: Print JSON instead of the table.
    """
    options = _start(options, steps, guidance, num=num, seed=seed, batch_size=batch_size)
    # Loaded here: `joyimage --help` must not wait for torch.
    from json import dumps

    from joyimage.evaluation.editors import copy_editor, pipeline_editor, round_trip_editor
    from joyimage.evaluation.reading import evaluate_reading, reading_to_json, reading_to_table
    from joyimage.evaluation.report import Comparison, to_json, to_table
    from joyimage.evaluation.runner import evaluate
    from joyimage.loading import load_pipeline
    from joyimage.pipeline.answers import has_language
    from joyimage.tiny.reading_suite import DrawnQuestions
    from joyimage.tiny.suite import DrawnScenes

    loaded = load_pipeline(**options.to_load(), loras=lora or ())
    pipe = loaded.pipe
    suite = DrawnScenes(seed=seed, size=size or pipe.config["base_size"])
    edit = pipeline_editor(pipe, num_inference_steps=steps, guidance_scale=guidance)
    editors = (lambda cases: loaded.run(lambda: edit(cases)), round_trip_editor(pipe), copy_editor)
    model_result, round_trip, copied = (
        evaluate(editor, suite, num=num, batch_size=batch_size) for editor in editors
    )
    result = Comparison(model=model_result, round_trip=round_trip, copied=copied)
    reading = None
    if has_language(pipe):
        questions = DrawnQuestions(seed=seed, size=suite.size)
        reading = evaluate_reading(
            lambda images, question: pipe.describe(list(images), question), questions, num=num
        )
    if json:
        report = {**to_json(result), **({} if reading is None else {"reading": reading_to_json(reading)})}
        sys.stdout.write(dumps(report, indent=2) + "\n")
    else:
        tables = [to_table(result, suite), *([] if reading is None else [reading_to_table(reading)])]
        sys.stdout.write("\n\n".join(tables) + "\n")


def speed(
    *,
    options: MeasuredOptions | None = None,
    num: Annotated[int, _SCENES] = 200,
    seed: Annotated[int, _SCENES] = 0,
    steps: Annotated[int, _SCENES] = 16,
    guidance: Annotated[float, _SCENES] = 3.0,
    batch_size: Annotated[int, _SCENES] = 20,
    json: Annotated[bool, _OUTPUT, Parameter(negative=[])] = False,
) -> None:
    """Measure what each speed preset skips in edits of drawn scenes, and what that costs.

    Args:
        options: Which model is measured, and how it is loaded.
        num: Number of scenes per task.
        seed: Seed of the scenes; every seed draws others.
        steps: Number of denoising steps.
        guidance: Guidance scale.
        batch_size: Number of scenes edited at once.
        json: Print JSON instead of the table.
    """
    options = _start(options, steps, guidance, num=num, seed=seed, batch_size=batch_size)
    from json import dumps

    from joyimage.evaluation.prices import measure_prices, to_price_json, to_price_table
    from joyimage.loading import load_pipeline
    from joyimage.tiny.suite import DrawnScenes

    pipe = load_pipeline(**options.to_load()).pipe
    suite = DrawnScenes(seed=seed, size=pipe.config["base_size"])
    prices = measure_prices(
        pipe, suite, num=num, batch_size=batch_size, num_inference_steps=steps, guidance_scale=guidance
    )
    table = to_price_table(prices, num=num, rows=len(suite.tasks) + 1)
    sys.stdout.write((dumps(to_price_json(prices), indent=2) if json else table) + "\n")


def _start(
    options: MeasuredOptions | None,
    steps: int | None,
    guidance: float | None,
    *,
    num: int,
    seed: int,
    batch_size: int,
) -> MeasuredOptions:
    """Check what a measurement is to do, say that its model loads, and return the model's options.

    Raises:
        InvalidInputError: An option has a value that is not accepted.
    """
    options = options or MeasuredOptions()
    options.check()
    check_sampling(steps, guidance)
    say_loading(options.model)
    from joyimage.cli.runners import hide_loading_bars
    from joyimage.evaluation.runner import check_amounts
    from joyimage.tiny.suite import DrawnScenes

    check_amounts(DrawnScenes(seed=seed), num=num, batch_size=batch_size)
    hide_loading_bars()
    return options
