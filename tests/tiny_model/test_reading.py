"""The language half of the embedded model: how it grows, learns and is measured."""

from __future__ import annotations

import copy
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from joyimage.evaluation.reading import evaluate_reading, reading_to_json, reading_to_table
from joyimage.pipeline.edit import JoyImageEditPipeline
from joyimage.pipeline.prompts import tokenize_chat
from joyimage.tiny import language, reading, weights_folder
from joyimage.tiny.checkpoint import (
    EDIT_VOCABULARY_SIZE,
    build_image_processor,
    build_text_encoder,
    build_tokenizer,
)
from joyimage.tiny.comparing import COMPARING_LAYER, add_comparing_layer, can_compare, changed_parts
from joyimage.tiny.fast_reading import use_fast_training
from joyimage.tiny.language import (
    extend_tokenizer,
    freeze_edit_half,
    freeze_reading_half,
    grow_text_encoder,
    scale_stream,
)
from joyimage.tiny.reading import aim_at_pairs, prepare_readings
from joyimage.tiny.reading_suite import DrawnQuestions
from joyimage.tiny.readings import load_readings, readings_about, write_readings
from joyimage.tiny.train import train_tiny
from joyimage.tiny.worlds.scenes import TASKS, generate
from joyimage.training.text_states import encode_prompts, to_patches
from joyimage.training.trainer import averaged_weights
from tests import random_models

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = [generate(task, seed).prompt for task in TASKS for seed in range(12)]


pytestmark = pytest.mark.usefixtures("short_corpus")


@pytest.fixture(scope="module")
def tokenizer(short_corpus: None) -> Any:
    """The edit model's own tokenizer, from fewer prompts."""
    return build_tokenizer()


@pytest.fixture(scope="module")
def extended(tokenizer: Any) -> Any:
    """It with words of a few questions."""
    return extend_tokenizer(tokenizer)


@pytest.fixture(scope="module")
def grown(tokenizer: Any, extended: Any) -> tuple[Any, Any]:
    """A random text encoder, and its grown copy."""
    torch.manual_seed(0)
    original = build_text_encoder(tokenizer).eval()
    return original, grow_text_encoder(original, extended).eval()


def states_of(text_encoder: Any, tokenizer: Any) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(generate("move", 3).source)]))
    image = "<|vision_start|>" + "<|image_pad|>" * 9 + "<|vision_end|>"
    tokens = torch.tensor(tokenizer(f"<|im_start|>user\n{image}{PROMPTS[0]}<|im_end|>").input_ids)
    with torch.no_grad():
        return encode_prompts(text_encoder, [tokens], pixels, 0, 0)[0]


def test_tokenizer_when_extended_then_prompts_keep_their_tokens_and_answers_have_their_own(
    tokenizer: Any, extended: Any
) -> None:
    for prompt in (*PROMPTS, "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"):
        assert extended(prompt).input_ids == tokenizer(prompt).input_ids
    for word in ("Yes", "No", " Answer"):
        (token,) = extended(word).input_ids
        assert token >= len(tokenizer)
    assert extended.decode(extended("Is there any zebra?").input_ids) == "Is there any zebra?"


def test_text_encoder_when_grown_then_its_states_are_the_same_to_the_bit(
    grown: tuple[Any, Any], tokenizer: Any, extended: Any
) -> None:
    original, deeper = grown

    assert torch.equal(states_of(original, tokenizer), states_of(deeper, extended))
    assert deeper.lm_head.weight is not deeper.get_input_embeddings().weight
    assert deeper.config.has_language


def test_comparing_layer_when_added_then_no_state_changes_and_heads_look_at_the_same_place_of_the_image_before(
    grown: tuple[Any, Any], extended: Any, tmp_path: Path
) -> None:
    before = grown[1]
    after = add_comparing_layer(before).eval()
    write_readings(tmp_path, [one for seed in range(3) for one in readings_about("recolor", seed, 96)])
    data = prepare_readings(after, extended, [load_readings(tmp_path)])

    assert torch.equal(states_of(before, extended), states_of(after, extended))
    use_fast_training(after)
    aim_at_pairs(after, data)

    assert torch.allclose(states_of(before, extended), states_of(after, extended), atol=1e-4)
    assert can_compare(after)
    assert not can_compare(before)
    caught: list[torch.Tensor] = []
    attention = after.model.language_model.layers[COMPARING_LAYER].self_attn
    hook = attention.register_forward_hook(lambda *call: caught.append(call[2][1]))
    aim_at_pairs(after, data)
    hook.remove()
    (places,) = (data.prefixes[1] == data.image_token).nonzero(as_tuple=True)
    weights = caught[0][:, :3, places[9:]][..., places[:9]]  # [rows, heads, second image, first image]
    assert float(weights.diagonal(dim1=2, dim2=3).mean()) > 0.7


def test_parts_when_an_object_is_recolored_then_those_that_it_covers_changed() -> None:
    before = torch.full((1, 96, 96, 3), 200, dtype=torch.uint8)
    after = before.clone()
    after[:, 4:28, 40:60] = 20

    assert changed_parts(before, after, 3).tolist() == [[0, 1, 0, 0, 0, 0, 0, 0, 0]]
    assert not changed_parts(before, before + 5, 3).any()


def test_training_when_a_reading_model_continues_then_what_it_sees_stays(grown: tuple[Any, Any]) -> None:
    student = add_comparing_layer(grown[1]).train().requires_grad_(True)

    freeze_reading_half(student)

    trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    layers = {int(name.split("layers.")[1].split(".")[0]) for name in trained if "layers." in name}
    assert layers == {3, 4, 5, 6}
    assert not any("visual" in name or "embed" in name for name in trained)


def test_stream_when_scaled_then_the_transformer_reads_what_it_read_before(tokenizer: Any) -> None:
    pipe: Any = JoyImageEditPipeline.from_pretrained(weights_folder())
    if pipe.text_encoder.config.text_config.rms_norm_eps < 1e-6:
        pytest.skip("the shipped model is already scaled")
    before = states_of(pipe.text_encoder, tokenizer)
    first = pipe.transformer.condition_embedder.text_embedder.linear_1
    read_before = first(before)

    scale_stream(pipe.text_encoder, pipe.transformer)

    after = states_of(pipe.text_encoder, tokenizer)
    assert torch.allclose(after, before * language.STREAM_SCALE, rtol=1e-4, atol=1e-5)
    assert torch.allclose(first(after), read_before, rtol=1e-4, atol=1e-3)


def test_training_when_the_edit_half_is_frozen_then_old_tokens_get_no_gradient(
    grown: tuple[Any, Any],
) -> None:
    student = copy.deepcopy(grown[1]).train().requires_grad_(True)
    freeze_edit_half(student)

    embeddings = student.get_input_embeddings().weight
    embeddings.sum().backward()

    assert torch.all(embeddings.grad[:EDIT_VOCABULARY_SIZE] == 0)
    assert torch.all(embeddings.grad[EDIT_VOCABULARY_SIZE:] == 1)
    frozen = [name for name, parameter in student.named_parameters() if not parameter.requires_grad]
    assert any("layers.0." in name for name in frozen)
    assert not any("layers.3." in name or "lm_head" in name for name in frozen)


@pytest.mark.parametrize("task", ["recolor", "camera", "text-to-image"])
def test_questions_when_packed_into_one_row_then_losses_are_those_of_separate_conversations(
    grown: tuple[Any, Any], extended: Any, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_MOST_ASKS", 99)
    torch.manual_seed(0)
    slow = copy.deepcopy(grown[1])
    for parameter in slow.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    fast = copy.deepcopy(slow)
    use_fast_training(fast)
    write_readings(tmp_path, readings_about(task, 11, 96))
    data = prepare_readings(fast, extended, [load_readings(tmp_path)])
    end = extended.convert_tokens_to_ids("<|im_end|>")

    for number, rows in enumerate((data.rows[0], [*data.rows[1], *data.rows[2]])):
        for row in rows:
            pixels = torch.stack([torch.from_numpy(data.images[0][image].copy()) for image in row.images])
            grid = torch.tensor([[1, 6, 6]] * len(pixels))
            with torch.no_grad():
                features = fast.model.visual(to_patches(pixels), grid_thw=grid)
                vision = features.pooler_output, features.deepstack_features
                got, *_ = reading._answers_of(fast, data, number, [row], vision, torch.device("cpu"))
                for loss, (question, answer, _) in zip(got, row.asks, strict=True):
                    assert answer[-1] == end
                    ids = torch.tensor([[*data.prefixes[number].tolist(), *question, *answer[:-1]]])
                    logits = slow(
                        input_ids=ids,
                        pixel_values=to_patches(pixels),
                        image_grid_thw=grid,
                        mm_token_type_ids=(ids == data.image_token).int(),
                    ).logits[0, -len(answer) :]
                    each = torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")
                    assert float(loss) == pytest.approx(float(each) / len(answer) ** 0.5, abs=2e-3)


def test_questions_when_tokenized_for_training_then_as_the_pipeline_asks_them(
    grown: tuple[Any, Any], extended: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_ASKED", {})
    readings = readings_about("remove", 11, 96)
    write_readings(tmp_path, readings)

    data = prepare_readings(grown[1], extended, [load_readings(tmp_path)])

    for number, row in ((0, data.rows[0][0]), (1, data.rows[1][0])):
        source = next(one for one in readings if len(one.images) == number + 1)
        for ask, (question, *_) in zip(source.asks, row.asks, strict=True):
            expected = tokenize_chat(extended, ask.question, [9] * (number + 1))
            assert [*data.prefixes[number].tolist(), *question] == expected


def test_read_stage_when_run_in_two_goes_then_resumes_and_exports_a_checkpoint_that_answers(
    extended: Any, tmp_path: Path
) -> None:
    train_tiny(tmp_path, stage="vae", vae_steps=1, progress=False)
    train_tiny(tmp_path, stage="edit", edit_steps=1, num_pairs=32, progress=False)
    extended.save_pretrained(tmp_path / "tokenizer")
    for steps in (1, 2):
        train_tiny(tmp_path, stage="read", read_steps=steps, num_readings=18, progress=False)
    folder = train_tiny(tmp_path, stage="export", progress=False)

    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if entry["stage"] == "read"] == [1, 2]
    pipe: Any = JoyImageEditPipeline.from_pretrained(folder)
    trained = averaged_weights(tmp_path, "read", "text_encoder")
    assert torch.allclose(pipe.text_encoder.lm_head.weight, trained["lm_head.weight"], atol=1e-3)
    assert isinstance(pipe.describe(random_models.make_image(0, 96, 96), max_new_tokens=3), str)
    case = generate("remove", 900_000)
    assert pipe(image=case.source_image, prompt=case.prompt).images[0].size == (96, 96)
    shutil.rmtree(folder)


def test_image_processor_when_an_image_is_larger_than_a_scene_then_read_at_the_size_of_scenes() -> None:
    processor = build_image_processor()

    sizes = [(96, 96), (384, 384), (192, 48)]

    counts = [processor.get_number_of_image_patches(height, width, {}) // 4 for width, height in sizes]
    assert counts == [9, 9, 12]


def test_evaluation_when_every_answer_is_right_then_all_shares_are_one() -> None:
    suite = DrawnQuestions()
    known = {
        (case.question, *(image.tobytes() for image in case.images)): case.answer
        for kind in suite.kinds
        for held_out, num in ((False, 2), (True, 1))
        for case in suite.cases(kind, num, held_out=held_out)
    }

    results = evaluate_reading(
        lambda images, question: known[question, *(image.tobytes() for image in images)],
        suite,
        num=2,
        progress=False,
    )

    assert {result.right for result in results.values()} == {1.0}
    assert results["drawn"].held_out_right is None
    assert "| color" in reading_to_table(results)
    assert reading_to_json(results)["view"]["n"] == 2


def test_evaluation_when_answers_are_wrong_then_none_counts() -> None:
    suite = DrawnQuestions()
    (case,) = suite.cases("description", 1, held_out=False)

    results = evaluate_reading(lambda _images, _question: "A purple elephant.", suite, num=1, progress=False)

    assert {result.right for result in results.values()} == {0.0}
    assert suite.is_right(case, case.answer.replace(" on the left", ""))
    assert not suite.is_right(case, case.answer + " A red star.".replace("red", "blue"))


def test_questions_when_the_seed_differs_then_other_scenes() -> None:
    one, other = (DrawnQuestions(seed=seed).cases("color", 3, held_out=False) for seed in (0, 1))

    assert [case.images[0].tobytes() for case in one] != [case.images[0].tobytes() for case in other]
    with pytest.raises(ValueError, match="`seed`"):
        DrawnQuestions(seed=-1)
