"""Turbo adapters: what they learn, what their header sets, and that every surface takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from joyimage.acceleration import report
from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.imaging import read_record
from joyimage.model.adapters.conversion import convert_adapter
from joyimage.model.adapters.layouts import save_adapter
from joyimage.model.adapters.recipe import SamplingRecipe, read_recipe
from joyimage.model.adapters.updates import LayerUpdate
from joyimage.pipeline.edit import JoyImageEditPipeline
from joyimage.pipeline.guidance import combine
from joyimage.training import train
from joyimage.training.config import config_from_dict
from joyimage.training.features import Features
from joyimage.training.turbo import Distillation, noise_levels
from tests.training.pairs import make_config, scene, write_pairs

TWO_STEPS = SamplingRecipe(num_inference_steps=2, guidance_scale=1.0, shift=3.0)
STEP_LENGTHS = (0.25, 0.75)  # between the noise levels 1, 3/4 and 0
COND, UNCOND = 1.0, 2.0


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"), 4)


def write_turbo(
    path: Path, recipe: SamplingRecipe = TWO_STEPS, entries: dict[str, str] | None = None
) -> Path:
    """Write a turbo adapter that changes the image a little."""
    update = LayerUpdate(down=torch.full((2, 192), 0.01), up=torch.full((192, 2), 0.01), alpha=2.0)
    save_adapter(
        {"double_blocks.0.attn.img_attn_proj": update},
        path,
        "comfyui",
        {**recipe.to_header(), **(entries or {})},
    )
    return path


class FieldTransformer:
    """A velocity field that can be computed by hand: proportional to the latents, and other without the prompt."""

    def __init__(self, student_factor: float) -> None:
        self.student_factor = student_factor
        self.is_student = True
        self.seen: list[tuple[bool, float, float]] = []

    def disable_adapters(self) -> None:
        self.is_student = False

    def enable_adapters(self) -> None:
        self.is_student = True

    def __call__(self, hidden_states: list[Tensor], timestep: Tensor, **given: Any) -> tuple[Tensor]:
        prompt = float(given["encoder_hidden_states"][0, 0, 0])
        self.seen.append((self.is_student, round(float(timestep[0]), 3), prompt))
        latents = hidden_states[-1]
        if self.is_student:
            return (latents * self.student_factor,)
        bias = torch.linspace(-1, 1, latents.shape[1]).view(1, -1, 1, 1, 1)
        return (latents * 0.5 + prompt * bias,)


def make_features() -> Features:
    generator = torch.Generator().manual_seed(1)
    return Features(
        target=torch.randn(4, 1, 2, 2, generator=generator),
        references=(),
        prompt=torch.full((1, 1), COND),
        empty=torch.full((1, 1), UNCOND),
    )


def distill(transformer: FieldTransformer, guidance: float, own_share: float = 0.5) -> Distillation:
    return Distillation(
        transformer,
        TWO_STEPS,
        teacher_steps=6,
        teacher_guidance=guidance,
        own_share=own_share,
        precision=torch.float32,
    )


@pytest.mark.parametrize(("num_steps", "shift"), [(4, 1.0), (4, 1.5), (4, 3.0), (4, 5.0)])
def test_levels_when_four_steps_then_none_is_nearly_empty_and_they_are_those_of_the_pipeline(
    num_steps: int, shift: float
) -> None:
    pipe: Any = JoyImageEditPipeline.from_pretrained("tiny")
    pipe.scheduler.set_shift(shift)
    levels = noise_levels(num_steps, shift)

    pipe.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / num_steps, num_steps).tolist())

    assert levels == pytest.approx(pipe.scheduler.sigmas.tolist(), abs=1e-6)
    assert min(np.diff(levels[::-1])) > 0.06
    assert set(np.round(levels, 9)) <= set(np.round(noise_levels(4 * num_steps, shift), 9))


@pytest.mark.parametrize(("step", "guidance"), [(0, 3.0), (1, 3.0), (1, 1.0)])
def test_loss_when_the_field_is_known_then_the_distance_to_the_teachers_guided_steps(
    step: int, guidance: float
) -> None:
    transformer, features = FieldTransformer(0.0), make_features()
    noise = torch.randn(1, 4, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    levels = noise_levels(6, 3.0)
    bias = torch.linspace(-1, 1, 4).view(1, -1, 1, 1, 1)
    first = 3 * step
    start = latents = torch.lerp(features.target[None], noise, levels[first])
    for number in range(first, first + 3):
        velocity = latents * 0.5 + COND * bias
        if guidance > 1:
            other = latents * 0.5 + UNCOND * bias
            velocity = combine(velocity[:, None], other[:, None], guidance)[:, 0]
        latents = latents - (levels[number] - levels[number + 1]) * velocity
    expected = (start - latents) / (levels[first] - levels[first + 3])

    [(loss, value)] = distill(transformer, guidance).losses([features], noise, step)

    # As far as its error moves the latents, with weights whose mean is 1.
    weight = STEP_LENGTHS[step] ** 2 / np.mean(np.square(STEP_LENGTHS))
    assert float(loss) == pytest.approx(weight * float(expected.square().mean()), rel=1e-5)
    assert float(value) == pytest.approx(float(loss))
    branches = {prompt for is_student, _, prompt in transformer.seen if not is_student}
    assert branches == ({COND, UNCOND} if guidance > 1 else {COND})
    assert [one for one in transformer.seen if one[0]] == [(True, round(1000 * levels[first], 3), COND)]


def test_losses_when_the_student_goes_all_its_way_then_each_step_starts_where_its_own_led() -> None:
    transformer, features = FieldTransformer(0.25), make_features()
    noise = torch.randn(1, 4, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    level = 1 - STEP_LENGTHS[0]
    # Pure noise, and from where the first step leads.
    moved = Features(
        target=((1 - STEP_LENGTHS[0] * 0.25) * noise[0] - level * noise[0]) / (1 - level),
        references=(),
        prompt=features.prompt,
        empty=features.empty,
    )
    distillation = distill(transformer, 3.0)
    given = [
        next(distillation.losses([start], noise, step))[0] for step, start in enumerate((features, moved))
    ]
    transformer.seen.clear()

    own = [loss for loss, _ in distillation.losses([features], noise, None)]

    assert [float(loss) for loss in own] == pytest.approx([float(loss) / 2 for loss in given], rel=1e-5)
    students = [(level, prompt) for is_student, level, prompt in transformer.seen if is_student]
    assert students == [(1000.0, COND), (750.0, COND)]
    assert transformer.is_student


@pytest.mark.parametrize(("own_share", "learned"), [(0.0, {0, 1}), (1.0, {None}), (0.5, {None, 0, 1})])
def test_draw_when_a_share_of_the_batches_is_the_students_own_then_the_others_learn_one_step(
    own_share: float, learned: set[int | None]
) -> None:
    distillation = distill(FieldTransformer(0.0), 3.0, own_share)
    generator = torch.Generator().manual_seed(0)

    drawn = [distillation.draw_step(generator) for _ in range(200)]

    assert set(drawn) == learned
    assert drawn.count(None) / 200 == pytest.approx(own_share, abs=0.1)


def test_train_when_a_step_has_several_batches_then_all_run_equal_forwards(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Processes divide the batches and gather the sharded base in each forward: unequal counts would never end.
    seen: list[int | None] = []

    def look(distillation: Distillation, features: Any, noise: Tensor, step: int | None) -> Any:
        seen.append(step)
        return losses(distillation, features, noise, step)

    losses = Distillation.losses
    monkeypatch.setattr(Distillation, "losses", look)
    config = make_config(
        pairs,
        tmp_path / "a.safetensors",
        train={"steps": 6, "gradient_accumulation": 2},
        lora={"rank": 2},
        turbo={"num_inference_steps": 2, "teacher_steps": 2, "teacher_guidance": 1.0},
        validate={"every": 0},
    )

    train(config, progress=False)

    assert seen[::2] == seen[1::2]
    assert len(set(seen)) > 1


def turbo_config(pairs: Path, output: Path, steps: int) -> Any:
    return make_config(
        pairs,
        output,
        train={"steps": steps, "save_every": 1, "ema": 0.9},
        data={"held_out": 0.3},
        lora={"rank": 2},
        turbo={"num_inference_steps": 2, "teacher_steps": 4, "teacher_guidance": 3.0, "shift": 2.0},
        validate={"every": 2, "num_samples": 1},
    )


def test_train_when_interrupted_then_the_same_bytes_and_the_header_sets_steps_shift_and_guidance(
    pairs: Path, tmp_path: Path
) -> None:
    whole = train(turbo_config(pairs, tmp_path / "whole/a.safetensors", 3), progress=False)
    train(turbo_config(pairs, tmp_path / "parts/a.safetensors", 1), progress=False)
    parts = train(turbo_config(pairs, tmp_path / "parts/a.safetensors", 3), progress=False)

    assert parts.adapter.read_bytes() == whole.adapter.read_bytes()
    assert read_recipe(whole.adapter) == SamplingRecipe(num_inference_steps=2, guidance_scale=1.0, shift=2.0)
    assert {"loss@step1", "loss@step2", "psnr"} <= set(whole.validation)
    converted = tmp_path / "kohya.safetensors"
    convert_adapter(whole.adapter, converted, "kohya")
    assert read_recipe(converted) == read_recipe(whole.adapter)


def test_train_when_another_teacher_is_asked_for_then_the_old_state_is_rejected(
    pairs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a.safetensors"
    for guidance in (2.0, 3.0):
        config = make_config(
            pairs,
            output,
            train={"steps": 1},
            turbo={"num_inference_steps": 1, "teacher_steps": 2, "teacher_guidance": guidance},
        )
        if guidance == 2.0:
            train(config, progress=False)
            continue
        with pytest.raises(CheckpointError, match=r"`turbo\.teacher_guidance` was 2\.0 and is 3\.0"):
            train(config, progress=False)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"turbo": {"teacher_step": 8}}, r"`turbo\.teacher_step`.*Did you mean `turbo\.teacher_steps`"),
        ({"turbo": {"teacher_steps": 6}}, r"`turbo\.teacher_steps` is 6; expected a multiple"),
        ({"turbo": {"teacher_guidance": 0.5}}, r"`turbo\.teacher_guidance` is 0\.5; expected 1 to 100"),
        ({"turbo": {"own_share": 2}}, r"`turbo\.own_share` is 2"),
        ({"turbo": {}, "train": {"loss_weight": "bell"}}, r"`train\.loss_weight` has no effect"),
        ({"turbo": {}, "train": {"timesteps": "uniform"}}, r"`train\.timesteps` has no effect"),
    ],
)
def test_config_when_a_turbo_setting_is_wrong_then_the_message_names_it(
    sections: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        config_from_dict({"output": "out", "data": [{"target": "t"}], **sections})


def test_pipeline_when_a_turbo_adapter_is_active_then_its_settings_are_the_defaults(tmp_path: Path) -> None:
    pipe: Any = JoyImageEditPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    own_shift, image = pipe.scheduler.shift, Image.fromarray(scene(0))
    seen: list[float] = []

    def look(_pipe: Any, _step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(round(float(timestep), 2))
        return tensors

    def levels(**call: Any) -> list[float]:
        seen.clear()
        pipe(
            image=image,
            prompt="Remove the heart.",
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            callback_on_step_end=look,
            **call,
        )
        return list(seen)

    plain = levels(num_inference_steps=2)
    with pytest.raises(InvalidInputError, match='`speed` is "turbo", which needs a turbo adapter'):
        levels(speed="turbo")

    pipe.load_lora_weights(write_turbo(tmp_path / "turbo.safetensors"), adapter_name="turbo")
    turbo = [round(1000 * level, 2) for level in noise_levels(2, 3.0)[:-1]]
    assert levels() == turbo
    assert (pipe.guidance_scale, pipe.speed) == (1.0, "turbo")
    assert str(report(pipe).speed).startswith("turbo (all blocks")
    assert levels(speed="turbo") == turbo
    assert pipe.scheduler.shift == own_shift
    assert len(levels(num_inference_steps=3)) == 3
    assert levels(guidance_scale=2.0, speed="exact") == turbo
    assert (pipe.guidance_scale, pipe.speed) == (2.0, "exact")
    assert levels(schedule="diffusers") != turbo

    pipe.disable_lora()
    assert levels(num_inference_steps=2) == plain
    pipe.enable_lora()
    assert levels() == turbo
    other = SamplingRecipe(num_inference_steps=4, guidance_scale=1.0, shift=3.0)
    pipe.load_lora_weights(write_turbo(tmp_path / "other.safetensors", other), adapter_name="other")
    pipe.set_adapters(["turbo", "other"])
    with pytest.raises(InvalidInputError, match="Two turbo adapters are active"):
        levels()
    pipe.delete_adapters("other")
    pipe.unload_lora_weights()
    assert pipe.defaults.speed == "exact"
    assert levels(num_inference_steps=2) == plain


@pytest.mark.parametrize(
    ("key", "value"),
    [("joyimage.num_inference_steps", "2.5"), ("joyimage.shift", "x"), ("joyimage.guidance_scale", "nan")],
)
def test_adapter_when_its_recipe_is_damaged_then_the_message_names_the_entry(
    tmp_path: Path, key: str, value: str
) -> None:
    path = write_turbo(tmp_path / "turbo.safetensors", entries={key: value})

    with pytest.raises(CheckpointError, match=rf"`{key}` '{value}'; expected"):
        read_recipe(path)


def test_command_when_given_a_turbo_adapter_then_the_record_has_its_steps_and_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from joyimage.cli.main import main

    adapter = write_turbo(tmp_path / "turbo.safetensors")
    image = tmp_path / "a.png"
    Image.fromarray(scene(0)).save(image)

    def edit(name: str, *more: str) -> dict[str, Any]:
        command = ["edit", str(image), "Remove the heart.", "-o", str(tmp_path / name), "--model", "tiny"]
        assert main([*command, "--device", "cpu", "--seed", "1", *more]) == 0, capsys.readouterr().err
        record = read_record(tmp_path / name)
        assert record is not None
        return record

    plain, turbo = edit("plain.png"), edit("turbo.png", "--lora", str(adapter))
    slow = edit("slow.png", "--lora", str(adapter), "--steps", "3", "--speed", "exact")

    def settings(record: dict[str, Any]) -> tuple[Any, ...]:
        return record["num_inference_steps"], record["guidance_scale"], record["speed"]

    assert settings(plain) == (4, 1.0, "exact")
    assert settings(turbo) == (2, 1.0, "turbo")
    assert settings(slow) == (3, 1.0, "exact")
    assert turbo["adapters"][0]["name"] == "turbo.safetensors"
    capsys.readouterr()
    command = ["edit", str(image), "x", "-o", str(tmp_path / "b.png"), "--model", "tiny", "--device", "cpu"]
    assert main([*command, "--speed", "turbo"]) == 2
    assert "needs a turbo adapter" in capsys.readouterr().err


def test_train_command_when_the_config_is_of_the_other_kind_then_rejected_or_planned(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from joyimage.cli.main import main

    config = tmp_path / "turbo.toml"
    config.write_text(
        f'model = "tiny"\ndevice = "cpu"\noutput = "{tmp_path}/t.safetensors"\n'
        f'[[data]]\ntarget = "{pairs}/target"\ncontrol = ["{pairs}/control"]\ncaption = "x"\n[turbo]\nshift = 2.0\n'
    )
    assert main(["train", "lora", str(config)]) == 2
    assert "run `joyimage train turbo" in capsys.readouterr().err
    assert main(["train", "turbo", str(config), "--dry-run"]) == 0
    assert Path(capsys.readouterr().out.strip()).name == "dry-run.png"
    few = ["--num-inference-steps", "1", "--teacher-steps", "2", "--teacher-guidance", "2", "--steps", "1"]
    assert main(["train", "turbo", str(config), *few]) == 0
    with safe_open(capsys.readouterr().out.strip(), framework="np") as file:
        assert file.metadata()["joyimage.num_inference_steps"] == "1"
