"""Describe, judge and intent on the published text encoder at its full size, with random weights, on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from joyimage.pipeline.answers import ImageReader
from joyimage.understanding import questions
from joyimage.understanding.intent import parse
from tests import random_models
from tests.understanding.published import make_published_pipeline

pytestmark = pytest.mark.gpu

BEFORE, AFTER = random_models.make_image(0, 512, 512), random_models.make_image(1, 512, 512)
QUESTION = "Is it red? Answer yes or no."


@pytest.fixture(scope="module")
def pipe() -> Any:
    return make_published_pipeline(widths={}, rope_sections=None, device="cuda", dtype=torch.bfloat16)


@torch.no_grad()
def test_yes_when_asked_then_the_librarys_probability_of_the_first_token(pipe: Any) -> None:
    (found,) = ImageReader(pipe).yes([BEFORE, AFTER], [QUESTION])

    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": QUESTION}]
    chat = pipe.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    asked = pipe.processor(text=[chat], images=[BEFORE, AFTER], return_tensors="pt")
    logits = pipe.text_encoder(**asked.to(pipe.text_encoder.device)).logits[0, -1].float()
    tokens = [pipe.tokenizer(answer).input_ids[0] for answer in ("Yes", "No")]
    assert found == pytest.approx(float(logits[tokens].softmax(0)[0]), abs=0.02)  # bf16


def test_describe_when_asked_then_an_answer_of_at_most_that_many_tokens(pipe: Any) -> None:
    answer = pipe.describe(BEFORE, max_new_tokens=8)

    assert 0 < len(pipe.tokenizer(answer).input_ids) <= 16  # text need not become the same tokens again


def test_judge_when_an_edit_is_shown_then_the_probability_of_its_question(pipe: Any) -> None:
    before, after = random_models.make_image(2), random_models.make_image(3)  # of the base size: not framed

    verdict = pipe.judge(before, after, "Make it green.")

    question = questions.edit_is_done("Make it green.")
    (expected,) = ImageReader(pipe).yes([before, after], [question])
    assert verdict.answers[question] == pytest.approx(expected, abs=0.02)


def test_intent_when_no_rule_knows_the_words_then_the_model_is_asked(pipe: Any) -> None:
    reader = ImageReader(pipe)

    found = parse("let us see the chair's other side please", reader, BEFORE)

    assert found == parse("let us see the chair's other side please", reader, BEFORE)
    assert parse("Make it green.", reader, BEFORE) is None
