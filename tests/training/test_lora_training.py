"""Training an adapter: what the network sees, resuming, several processes, export, validation."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from joyimage.errors import CheckpointError, ImageError, InvalidInputError, OutOfMemoryError
from joyimage.pipeline.edit import JoyImageEditPipeline
from joyimage.training import train
from joyimage.training.adapter_loss import Batch, bell_weight, draw_sigma, predict_loss
from joyimage.training.features import Features, encode_features
from joyimage.training.lora import plan, write_dry_run
from joyimage.training.memory import MemoryPlan, Savings
from joyimage.training.optimizers import make_optimizer, optimizer_tensors, restore_optimizer
from joyimage.training.order import sample_generator
from joyimage.training.validation import measure_losses
from tests.forked import start
from tests.training.pairs import CAPTION, framed, make_config, scene, write_pairs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"), 8)


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = JoyImageEditPipeline.from_pretrained("tiny")
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def features(pipe: Any) -> Features:
    images = [Image.fromarray(one) for one in (scene(0), framed(scene(0)))]
    return encode_features(pipe, images[:1], images[1], CAPTION, torch.device("cpu"), takes_several=False)


def test_features_when_encoded_then_what_the_pipeline_gives_its_transformer(
    pipe: Any, features: Features
) -> None:
    seen: dict[str, Any] = {}

    def look(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        seen.update(kwargs)

    hook = pipe.transformer.register_forward_pre_hook(look, with_kwargs=True)
    try:
        pipe(
            image=Image.fromarray(scene(0)),
            prompt=CAPTION,
            num_inference_steps=1,
            guidance_scale=1.0,
            reference_latents="mode",
            generator=torch.Generator().manual_seed(0),
        )
    finally:
        hook.remove()

    items = seen["hidden_states"]
    reference = items[0] if isinstance(items, list) else items[:, 0]
    assert torch.allclose(reference[0], features.references[0], atol=1e-5)
    assert torch.allclose(seen["encoder_hidden_states"][0], features.prompt, atol=1e-4)
    assert not torch.allclose(features.prompt[: len(features.empty)], features.empty)


def test_loss_when_the_transformer_knows_the_answer_then_zero_and_weights_have_a_mean_of_one(
    features: Features,
) -> None:
    batch = Batch.collate([features, features], [False, True], torch.device("cpu"))
    noise = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.2, 0.9])
    seen: dict[str, Any] = {}

    def exact(**arguments: Any) -> tuple[torch.Tensor]:
        seen.update(arguments)
        return (noise - batch.target,)

    for loss_weight in ("none", "bell"):
        loss, mse = predict_loss(
            exact,
            batch,
            noise,
            sigma,
            precision=torch.float32,
            loss_weight=loss_weight,
            changed_region_weight=3.0,
        )
        assert float(loss) == float(mse) == 0.0
    reference, noisy = seen["hidden_states"]
    assert torch.equal(reference, batch.references[0])
    assert torch.allclose(noisy[1], 0.1 * batch.target[1] + 0.9 * noise[1], atol=1e-6)
    assert seen["timestep"].tolist() == pytest.approx([200.0, 900.0])
    assert seen["encoder_hidden_states_mask"].sum(dim=1).tolist() == [
        len(features.prompt),
        len(features.empty),
    ]
    assert float(bell_weight(torch.linspace(0, 1, 1001)).mean()) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize(("how", "middle"), [("uniform", 0.5), ("shift", 0.75), ("logit_normal", 0.5)])
def test_sigma_when_drawn_many_times_then_its_median_is_the_schedules(how: str, middle: float) -> None:
    levels = [draw_sigma(how, 3.0, sample_generator(0, number)) for number in range(2000)]

    assert np.median(levels) == pytest.approx(middle, abs=0.03)
    assert all(0 <= level <= 1 for level in levels)


def adapter_bytes(config: Any) -> bytes:
    return config.adapter_path.read_bytes()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema": 0.9, "optimizer": "muon", "gradient_accumulation": 2},
        {
            "timesteps": "logit_normal",
            "loss_weight": "bell",
            "changed_region_weight": 2.0,
            "dtype": "float32",
        },
    ],
)
def test_train_when_interrupted_and_run_again_then_the_same_bytes_as_in_one_go(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    pairs = write_pairs(tmp_path / "pairs", 3)

    def config(name: str, steps: int) -> Any:
        return make_config(
            pairs, tmp_path / f"{name}/a.safetensors", train={"steps": steps, "save_every": 1, **settings}
        )

    train(config("whole", 4), progress=False)
    train(config("parts", 1), progress=False)
    # What a kill leaves: a newer log than state, and a partial file.
    run_path = config("parts", 4).run_path
    with (run_path / "log.jsonl").open("a") as log:
        log.write('{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    (run_path / ".joyimage-0-partial").write_bytes(b"x")
    train(config("parts", 4), progress=False)

    assert adapter_bytes(config("parts", 4)) == adapter_bytes(config("whole", 4))
    steps = [json.loads(line)["step"] for line in (run_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 4]


def test_train_when_the_caption_or_an_image_changes_then_encoded_again_and_the_old_state_is_rejected(
    tmp_path: Path,
) -> None:
    folder = write_pairs(tmp_path / "pairs", 2)

    def config(caption: str) -> Any:
        return make_config(folder, tmp_path / "a.safetensors", train={"steps": 1}, data={"caption": caption})

    def num_cached() -> int:
        return len(list((tmp_path / "a-run/cache").rglob("*.safetensors")))

    train(config("One."), progress=False)
    assert num_cached() == 2
    with pytest.raises(CheckpointError, match=r"`data` was \"2 pairs of content (.*)\" and is \"2 .*delete"):
        train(config("Two."), progress=False)
    Image.fromarray(scene(9)).save(folder / "control/0000.png")
    with pytest.raises(CheckpointError, match="`data` was"):
        train(config("One."), progress=False)
    assert num_cached() == 2  # rejected before anything is loaded
    config("One.").run_path.joinpath("state.safetensors").unlink()
    train(config("One."), progress=False)
    assert num_cached() == 3


def test_resume_when_the_rate_falls_at_the_end_then_the_same_run_is_finished_but_no_longer_one(
    pairs: Path, tmp_path: Path
) -> None:
    def config(steps: int, decay_steps: int) -> Any:
        settings = {"steps": steps, "decay_steps": decay_steps, "save_every": 1}
        return make_config(pairs, tmp_path / f"{decay_steps}.safetensors", train=settings)

    train(config(2, 0), progress=False)
    adapter = train(config(2, 1), progress=False).adapter

    assert adapter.read_bytes() != config(2, 0).adapter_path.read_bytes()
    assert train(config(2, 1), progress=False).steps == 2
    with pytest.raises(CheckpointError, match=r"`train\.steps` was 2 and is 3"):
        train(config(3, 1), progress=False)


def test_resume_when_settings_differ_then_each_is_named_with_both_values(pairs: Path, tmp_path: Path) -> None:
    def config(**sections: Any) -> Any:
        train_settings = {"steps": 1, **sections.pop("train", {})}
        return make_config(pairs, tmp_path / "a.safetensors", train=train_settings, **sections)

    train(config(), progress=False)
    for sections, words in (
        (
            {"train": {"learning_rate": 0.5}},
            "another run: `train.learning_rate` was 0.001 and is 0.5. Resume",
        ),
        (
            {"train": {"seed": 7}, "lora": {"rank": 4}},
            "another run: `lora.rank` was 16 and is 4, `train.seed` was 0 and is 7. Resume",
        ),
        ({"lora": {"targets": ["img_attn_qkv"]}}, '`lora.targets` was "blocks" and is ["img_attn_qkv"]'),
        ({"memory": {"quantization": "int8"}}, '`memory.quantization` was not set and is "int8"'),
        ({"data": {"caption_dropout": 0.5}}, "`data[0].caption_dropout` was 0.1 and is 0.5"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(words)):
            plan(config(**sections), progress=False)
    assert plan(config(train={"steps": 9, "save_every": 2}), progress=False).settings


def test_resume_when_memory_is_to_be_saved_then_the_run_continues_with_the_same_bytes(
    pairs: Path, tmp_path: Path
) -> None:
    def config(name: str, steps: int, **sections: Any) -> Any:
        return make_config(pairs, tmp_path / name / "a.safetensors", train={"steps": steps}, **sections)

    train(config("whole", 2), progress=False)
    train(config("parts", 1), progress=False)
    train(config("parts", 2, memory={"offload": "disk"}), progress=False)

    assert adapter_bytes(config("parts", 2)) == adapter_bytes(config("whole", 2))


def test_export_when_loaded_into_the_pipeline_then_acts_as_in_training_and_the_header_tells_its_origin(
    pairs: Path, tmp_path: Path, pipe: Any
) -> None:
    config = make_config(
        pairs,
        tmp_path / "green.safetensors",
        train={"steps": 6, "dtype": "float32"},
        lora={"rank": 4, "alpha": 8.0},
        data={"held_out": 0.3},
        validate={"every": 6, "num_samples": 0},
        trigger="green",
    )
    result = train(config, progress=False)

    with safe_open(result.adapter, framework="pt") as file:
        header = file.metadata()
    assert header["ss_network_dim"] == "4"
    assert header["ss_network_alpha"] == "8"
    assert header["modelspec.trigger_phrase"] == "green"
    assert header["joyimage.base_model"] == "tiny"
    assert header["joyimage.steps"] == "6"
    assert len(header["joyimage.data_sha256"]) == 64
    assert all(key.startswith("diffusion_model.double_blocks.") for key in load_file(result.adapter))

    planned = plan(config, progress=False)
    keys = [one.key for one in planned.survey.held_out]
    arguments = (planned.cache, keys, torch.device("cpu"), torch.float32, 0)
    before = measure_losses(pipe.transformer, *arguments)
    pipe.load_lora_weights(result.adapter)
    try:
        after = measure_losses(pipe.transformer, *arguments)
    finally:
        pipe.unload_lora_weights()
    assert after == pytest.approx(result.validation, rel=1e-4)
    assert before != pytest.approx(result.validation, rel=1e-2)


def test_validation_when_pairs_are_held_out_then_numbers_stand_beside_copying_and_a_sheet_is_written(
    pairs: Path, tmp_path: Path
) -> None:
    edit = {"image": str(pairs / "control/0000.png"), "prompt": CAPTION, "seed": 1}
    config = make_config(
        pairs,
        tmp_path / "a.safetensors",
        train={"steps": 1},
        data={"held_out": 0.3},
        validate={"every": 1, "num_samples": 1, "edits": [edit]},
    )

    result = train(config, progress=False)

    assert result.validation["copy_psnr_outside"] == 99.0
    assert 0 < result.validation["psnr_outside"] < 60
    assert result.validation["copy@0.5"] == pytest.approx(4 * result.validation["copy@1"], rel=1e-5)
    sheets = sorted((config.run_path / "samples").iterdir())
    assert [one.name for one in sheets] == ["step-000000.png", "step-000001.png"]
    assert Image.open(sheets[0]).height > 2 * 192


def test_dry_run_when_called_then_a_sheet_of_all_pairs_and_nothing_is_loaded(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(pairs, tmp_path / "a.safetensors")
    monkeypatch.setattr(JoyImageEditPipeline, "from_pretrained", None)

    planned = plan(config, progress=False)
    sheet = Image.open(write_dry_run(config, planned))

    assert len(planned.survey.training) == 8
    assert sheet.height == 8 + 8 * (192 + 18 + 8)
    assert planned.memory.peak < 10**9
    # The frame of the first target, in the second column of the first row, at twice its size.
    assert sheet.getpixel((8 + 200 + 24, 8 + 18 + 96)) == (45, 165, 75)


def test_plan_when_images_are_damaged_then_all_are_listed_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 3)
    for name in ("0000", "0002"):
        (folder / f"target/{name}.png").write_bytes(b"no image")

    with pytest.raises((InvalidInputError, ImageError), match=r"0000\.png.*0002\.png"):
        plan(make_config(folder, tmp_path / "a.safetensors"), progress=False)


@pytest.mark.parametrize(
    ("sections", "error", "words"),
    [
        ({"lora": {"targets": ["to_q"]}}, InvalidInputError, "'to_q', which names no layer"),
        ({"train": {"optimizer": "prodigy"}}, InvalidInputError, r"package prodigyopt; .*joyimage\[train\]"),
        ({"tensorboard": True}, InvalidInputError, r"pip install 'joyimage\[train\]'"),
        ({"model": "nowhere"}, CheckpointError, "no folder nowhere"),
    ],
)
def test_train_when_something_is_missing_then_rejected_before_anything_is_loaded(
    pairs: Path, tmp_path: Path, sections: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        train(make_config(pairs, tmp_path / "a.safetensors", **sections), progress=False)
    assert not (tmp_path / "a-run").exists()


def test_memory_when_the_prediction_is_too_large_then_rejected_with_the_way_out() -> None:
    def planned(checkpointing: bool) -> MemoryPlan:
        return MemoryPlan(
            base=32 * 10**9,
            adapter=10**9,
            activations=60 * 10**9,
            available=80 * 10**9,
            savings=Savings(gradient_checkpointing=checkpointing, quantization="int8"),
            tokens=9000,
        )

    with pytest.raises(
        OutOfMemoryError, match=r"about 102 GB .* 80 GB .*: set `memory\.gradient_checkpointing"
    ):
        planned(checkpointing=False).check()
    with pytest.raises(OutOfMemoryError, match=r"smaller `train\.batch_size`"):
        planned(checkpointing=True).check()


def test_gradient_checkpointing_when_on_then_the_same_adapter(pairs: Path, tmp_path: Path) -> None:
    configs = [
        make_config(
            pairs,
            tmp_path / f"{is_on}.safetensors",
            train={"steps": 2, "dtype": "float32"},
            memory={"gradient_checkpointing": is_on},
        )
        for is_on in (False, True)
    ]
    plain, recomputed = (load_file(train(one, progress=False).adapter) for one in configs)

    for key, tensor in plain.items():
        assert torch.equal(tensor, recomputed[key]), key


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizer_when_restored_then_the_next_step_is_the_same_to_the_bit(name: str) -> None:
    def run(steps: int, restored: bool) -> torch.Tensor:
        parameter = torch.nn.Parameter(torch.linspace(0, 1, 12).view(3, 4))
        optimizer = make_optimizer(name, [parameter], 0.01)
        for step in range(steps):
            if restored and step == 2:
                state = optimizer_tensors(optimizer)
                optimizer = make_optimizer(name, [parameter], 0.01)
                restore_optimizer(optimizer, *state)
            parameter.grad = torch.sin(parameter.detach() * (step + 1))
            optimizer.step()
        return parameter.detach()

    assert torch.equal(run(4, True), run(4, False))


class WithQuantizedMoments(torch.optim.SGD):
    """Keeps its moments as bitsandbytes' optimizers do: in a dict of their own, with tensors and numbers."""

    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            inner = state.setdefault("quantized", {"state1": torch.zeros(3, dtype=torch.uint8), "count": 0})
            inner["state1"] += 1
            inner["count"] += 2


def test_optimizer_when_its_state_is_nested_then_restored_from_tensors_and_json() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    optimizer, other = (WithQuantizedMoments(parameters, lr=0.1) for _ in range(2))
    optimizer.step()
    tensors, numbers = optimizer_tensors(optimizer)

    restore_optimizer(other, tensors, json.loads(json.dumps(numbers)))

    assert set(tensors) == {"0.quantized/state1", "1.quantized/state1"}
    restored = other.state[parameters[1]]["quantized"]
    assert restored["count"] == 2
    assert torch.equal(restored["state1"], torch.ones(3, dtype=torch.uint8))


PROGRAM = """
from pathlib import Path
from joyimage.training import train
from tests.forked import start
from tests.training.pairs import make_config
settings = {{"steps": 3, "gradient_accumulation": 2, "save_every": 1}}
if __name__ == "__main__":
    train(make_config(Path({pairs!r}), Path({output!r}), train=settings), progress=False)
"""


BASES = ("none", "int8", "fp8", "nf4")


def train_on_bases(pairs: Path, folder: Path) -> None:
    """Train on the plain base and on quantized ones, and a turbo adapter, each in a folder of its own."""
    settings = {"steps": 2, "gradient_accumulation": 2, "save_every": 1}
    runs: dict[str, dict[str, Any]] = {base: {"memory": {"quantization": base}} for base in BASES}
    runs["turbo"] = {"turbo": {"num_inference_steps": 2, "teacher_steps": 2, "teacher_guidance": 2.0}}
    for name, sections in runs.items():
        config = make_config(pairs, folder / name / "a.safetensors", train=settings, **sections)
        train(config, progress=False)


def train_as_one_of_two(rank: int, port: int, pairs: Path, folder: Path) -> None:
    """Train in a process that is told of the other one as `torchrun` tells it."""
    variables = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2,
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in variables.items()}, MASTER_ADDR="127.0.0.1")
    train_on_bases(pairs, folder)


def test_train_when_two_processes_shard_a_plain_or_quantized_base_then_the_same_bytes_as_one(
    tmp_path: Path,
) -> None:
    pairs = write_pairs(tmp_path / "pairs", 4)  # those of one step
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = [start(train_as_one_of_two, rank, port, pairs, tmp_path / "two") for rank in (0, 1)]
    train_on_bases(pairs, tmp_path / "one")
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0]
    one, two = (
        [(tmp_path / name / base / "a.safetensors").read_bytes() for base in BASES] for name in ("one", "two")
    )
    assert one == two
    assert len(set(one)) == len(BASES)
    # Its batches have several gradients, which are summed in another order.
    alone, shared = (
        torch.cat(
            [tensor.flatten() for tensor in load_file(tmp_path / name / "turbo/a.safetensors").values()]
        )
        for name in ("one", "two")
    )
    assert float(torch.cosine_similarity(alone, shared, dim=0)) > 1 - 1e-5


def test_train_when_tensorboard_is_on_then_its_events_are_those_of_the_log_and_all_are_written(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            self.folder = folder

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((step, name, round(value, 6)))  # as in the log

        def close(self) -> None:
            told.append(self.folder)

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    output = tmp_path / "run"

    train(make_config(pairs, output, train={"steps": 2}, tensorboard=True), progress=False)

    logged = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    *scalars, closed = told
    assert {name for _, name, _ in scalars} >= {"loss"}
    assert scalars == [
        (entry["step"], name, value) for entry in logged for name, value in entry.items() if name != "step"
    ]
    assert closed == str(output / "tensorboard")


def test_command_when_given_a_folder_then_trains_and_prints_the_file(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from joyimage.cli.main import main

    def run(*more: str) -> tuple[int, str, str]:
        arguments = ["train", "lora", str(pairs), "-o", str(tmp_path / "a.safetensors"), "--model", "tiny"]
        code = main([*arguments, "--device", "cpu", "--caption", CAPTION, "--steps", "1", *more])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    planned = run("--plan")
    assert planned[0] == 0
    assert "held out. Predicted peak" in planned[2]
    dry = run("--dry-run")
    assert dry[0] == 0
    assert Path(dry[1].strip()).name == "dry-run.png"
    trained = run()
    assert trained[0] == 0
    assert Path(trained[1].strip()) == tmp_path / "a.safetensors"
    assert load_file(tmp_path / "a.safetensors")
    # Where standard error is a file, no bar is drawn into it.
    assert not any(char in one[2] for one in (planned, dry, trained) for char in "\r%")


def test_command_when_given_a_config_with_an_unknown_key_then_one_line_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from joyimage.cli.main import main

    (tmp_path / "c.toml").write_text('output = "x"\n[[data]]\ntarget = "t"\n[train]\nstesp = 1\n')

    assert main(["train", "lora", str(tmp_path / "c.toml")]) == 2
    assert "Did you mean `train.steps`?" in capsys.readouterr().err
