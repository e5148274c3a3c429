"""The training config: every key is known, every value checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from joyimage.errors import InvalidInputError
from joyimage.training import read_config
from joyimage.training.config import TrainConfig, config_from_dict

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = """
model = "tiny"
output = "runs/sketch"
[[data]]
target = "data/after"
control = ["data/before"]
caption = "Turn it into a pencil sketch."
held_out = 0.05
[lora]
rank = 8
targets = "attention"
[train]
steps = 200
optimizer = "adamw"
[memory]
preset = "24"
[validate]
every = 25
edits = [{image = "val/a.png", prompt = "Sketch it.", seed = 3}]
"""


def test_read_when_the_documented_example_then_every_value_arrives(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(EXAMPLE)

    config = read_config(tmp_path / "config.toml")

    assert config.run_path == tmp_path / "runs/sketch"
    assert config.adapter_path == tmp_path / "runs/sketch/sketch.safetensors"
    assert config.data[0].control == (tmp_path / "data/before",)
    assert (config.lora.rank, config.lora.targets) == (8, "attention")
    assert config.validate.edits[0].seed == 3
    assert config.memory.preset == "24"


@pytest.mark.parametrize(
    ("given", "device", "expected"),
    [(None, "cpu", "float32"), (None, "cuda:1", "bfloat16"), ("bfloat16", "cpu", "bfloat16")],
)
def test_precision_when_not_given_then_fp32_on_a_cpu_and_bf16_elsewhere(
    given: str | None, device: str, expected: str
) -> None:
    assert TrainConfig(dtype=given).precision_on(device) == expected


@pytest.mark.parametrize(
    ("warmup_steps", "decay_steps", "expected"),
    [
        (0, 0, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        (1, 0, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        (1, 3, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
    ],
)
def test_rate_when_it_rises_and_falls_then_its_peak_is_the_learning_rate(
    warmup_steps: int, decay_steps: int, expected: list[float]
) -> None:
    settings = TrainConfig(steps=6, learning_rate=2.0, warmup_steps=warmup_steps, decay_steps=decay_steps)

    assert [settings.rate_at(step) for step in range(6)] == pytest.approx([2 * share for share in expected])


def test_output_when_it_is_a_file_then_the_run_is_beside_it(tmp_path: Path) -> None:
    config = config_from_dict({"output": "a/sketch.safetensors", "data": [{"target": "t"}]}, tmp_path)

    assert config.adapter_path == tmp_path / "a/sketch.safetensors"
    assert config.run_path == tmp_path / "a/sketch-run"


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"mode1": "tiny"}, r"`mode1`.*Did you mean `model`"),
        ({"train": {"step": 5}}, r"`train\.step`.*Did you mean `train\.steps`"),
        ({"lora": {"zzz": 5}}, r"`lora\.zzz`.*Known: rank"),
        ({"data": [{"targets": "x"}]}, r"`data\[0\]\.targets`.*Did you mean `data\[0\]\.target`"),
        ({"train": {"steps": "many"}}, r"`train\.steps` is 'many'; expected a whole number"),
        ({"train": {"steps": 0}}, r"`train\.steps` is 0; expected 1"),
        ({"train": {"steps": 5, "decay_steps": 6}}, r"`train\.decay_steps` is 6; expected 0 to 5"),
        ({"train": {"ema": float("nan")}}, r"`train\.ema` is nan"),
        ({"train": {"optimizer": "sgd"}}, r"`train\.optimizer` is 'sgd'; expected adamw"),
        ({"lora": {"targets": "all"}}, r"`lora\.targets` is 'all'"),
        ({"data": []}, r"lacks a section \[\[data\]\]"),
        ({"data": [{"caption": "x"}]}, r"`data\[0\]` needs either `target`"),
        ({"data": [{"target": "a", "folder_path": "b"}]}, "mean the same"),
        ({"memory": {"preset": 13}}, r"`memory\.preset` is '13'"),
        ({"validate": {"edits": [{"image": "a.png"}]}}, r"lacks the key `validate\.edits\[0\]\.prompt`"),
    ],
)
def test_read_when_something_is_wrong_then_the_message_names_it(section: dict[str, Any], words: str) -> None:
    content = {"output": "out", "data": [{"target": "t"}], **section}

    with pytest.raises(InvalidInputError, match=words):
        config_from_dict(content)


def test_read_when_the_file_is_no_toml_then_the_message_names_it(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("model = ")

    with pytest.raises(InvalidInputError, match=r"config\.toml is no TOML"):
        read_config(tmp_path / "config.toml")


def test_data_when_ai_toolkits_names_are_used_then_they_mean_ours() -> None:
    section = {"folder_path": "a", "control_path": "b", "caption_dropout_rate": 0.2, "num_repeats": 3}

    (data,) = config_from_dict({"output": "out", "data": [section]}).data

    assert (str(data.target), [str(one) for one in data.control]) == ("a", ["b"])
    assert (data.caption_dropout, data.weight) == (0.2, 3.0)
