"""Verdicts on edits: the model's own probabilities, joined with pixel checks; never a reassurance without evidence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from joyimage.errors import InvalidInputError
from joyimage.loading import load_pipeline
from joyimage.pipeline.answers import ImageReader
from joyimage.spatial import ObjectMove, draw_red_box
from joyimage.tiny.worlds.outcomes import wrong_outcome
from joyimage.tiny.worlds.scenes import generate, render_objects
from joyimage.understanding import questions
from joyimage.understanding.judge import Reader, check_objects_present, check_present, is_absent, judge_edit
from tests import random_models
from tests.optional import present
from tests.understanding.published import make_published_pipeline

ONE, OTHER = random_models.make_image(0, 64, 64), random_models.make_image(1, 64, 96)
ASKED = ["Is it red? Answer yes or no.", "Did it move a long way? Answer yes or no."]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return make_published_pipeline()


@pytest.fixture(scope="module")
def mute() -> Any:
    """The embedded model without what it learned of language."""
    loaded = load_pipeline("tiny", device="cpu", dtype="float32").pipe
    loaded.text_encoder.config.has_language = False
    loaded.set_progress_bar_config(disable=True)
    return loaded


@torch.no_grad()
def logits(pipe: Any, images: list[Image.Image], text: str, answer: str = "") -> tuple[torch.Tensor, int]:
    """Return the library's logits of a conversation `[L, V]`, and the number of tokens before the answer."""
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
    chat = pipe.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    asked = pipe.processor(text=[chat], images=images, return_tensors="pt")
    full = pipe.processor(text=[chat + answer], images=images, return_tensors="pt")
    return pipe.text_encoder(**full).logits[0].float(), asked["input_ids"].shape[1]


@pytest.mark.parametrize("images", [[ONE], [ONE, OTHER]], ids=["one image", "two images"])
def test_yes_when_asked_then_the_librarys_probability_of_the_first_token(
    pipe: Any, images: list[Image.Image]
) -> None:
    tokens = [pipe.tokenizer("Yes").input_ids, pipe.tokenizer("No").input_ids]
    assert [len(one) for one in tokens] == [1, 1]

    found = ImageReader(pipe).yes(images, ASKED)

    for question, probability in zip(ASKED, found, strict=True):
        rows, length = logits(pipe, images, question)
        expected = rows[length - 1, [tokens[0][0], tokens[1][0]]].softmax(0)[0]
        assert probability == pytest.approx(float(expected), abs=1e-4)
    assert abs(found[0] - found[1]) > 1e-3


def test_choose_when_answers_have_several_tokens_then_the_librarys_likelihoods(pipe: Any) -> None:
    question = questions.visible_side("car")

    found = ImageReader(pipe).choose([ONE], question, questions.VIEWS)

    scores = []
    for view in questions.VIEWS:
        rows, length = logits(pipe, [ONE], question, f"{view}<|im_end|>")
        ending = [*pipe.tokenizer(view).input_ids, pipe.tokenizer.convert_tokens_to_ids("<|im_end|>")]
        own = rows[length - 1 : length - 1 + len(ending)].log_softmax(1)
        scores.append(sum(own[n, token] for n, token in enumerate(ending)))
    expected = torch.stack(scores).softmax(0)
    assert found == pytest.approx(expected.tolist(), abs=1e-4)
    assert sum(found) == pytest.approx(1)


def test_yes_when_questions_are_about_the_same_images_then_they_are_read_once(pipe: Any) -> None:
    calls: list[int] = []
    visual = pipe.text_encoder.model.visual
    handles = [
        visual.register_forward_hook(lambda *_: calls.append(0)),
        pipe.text_encoder.model.register_forward_hook(lambda *_: calls.append(1)),
    ]
    try:
        ImageReader(pipe).yes([ONE, OTHER], ASKED)
    finally:
        for handle in handles:
            handle.remove()

    assert calls == [0, 1]


def test_judge_when_a_model_has_language_then_both_answers_and_always_the_same(pipe: Any) -> None:
    before, after = random_models.make_image(2), random_models.make_image(3)

    verdict = pipe.judge(before, after, "Make it green. <|im_end|>")

    question = questions.edit_is_done("Make it green. <|im_end|>")
    (expected,) = ImageReader(pipe).yes([before, after], [question])
    assert verdict.answers[question] == pytest.approx(expected, abs=1e-5)
    assert verdict.done == pytest.approx(expected, abs=1e-5)
    assert verdict.kept is not None
    assert verdict == pipe.judge(before, after, "Make it green. <|im_end|>")
    assert verdict.to_dict()["summary"].startswith("Done 0.")


def test_judge_when_rotated_then_the_view_is_asked_too(pipe: Any) -> None:
    after = random_models.make_image(3)

    verdict = pipe.judge(random_models.make_image(2), after, "Rotate the car to show the left side view.")

    probabilities = ImageReader(pipe).choose([after], questions.visible_side("car"), questions.VIEWS)
    assert verdict.answers[questions.visible_side("car")] == pytest.approx(probabilities[4], abs=1e-4)


def test_judge_when_made_from_text_then_one_question_about_the_image(pipe: Any) -> None:
    verdict = pipe.judge(None, random_models.make_image(3), "a red car")

    assert list(verdict.answers) == [questions.shows_prompt("a red car")]
    assert verdict.kept is None


def drawn_move() -> tuple[Image.Image, Image.Image, Any]:
    case = generate("move", 920_003)
    assert case.background is not None
    return Image.fromarray(render_objects(case.before, case.background, case.size)), case.target_image, case


def test_judge_when_there_is_no_language_then_pixels_judge_a_move_and_nothing_else(mute: Any) -> None:
    before, after, case = drawn_move()
    prompt = ObjectMove(case.subject.name, case.box).prompt

    moved = mute.judge(before, after, prompt, box=case.box)
    untouched = mute.judge(before, before, prompt, box=case.box)
    recolored = mute.judge(before, after, "Make it green.")

    assert (moved.done, moved.kept) == (1.0, None)
    assert "left its place and is now in the box" in moved.summary
    assert untouched.done == 0
    assert recolored.done is None
    assert recolored.summary.startswith("Not judged: the checkpoint has no language")
    assert mute.judge(None, after, "a red car").summary == "Not judged: the checkpoint has no language."


class Answers:
    """A reader whose answers are given."""

    has_language = True
    compares_images = True
    reads_any_text = True

    def __init__(self, **given: float) -> None:
        self.given = given
        self.seen: list[list[Image.Image]] = []

    def compares(self, images: Any) -> bool:
        return True

    def own_words(self, name: str) -> str:
        return name

    def yes(self, images: Any, asked: Any) -> list[float]:
        self.seen.append(list(images))
        return [next(value for word, value in self.given.items() if word in question) for question in asked]

    def choose(self, images: Any, question: str, answers: Any) -> list[float]:
        return [1 / len(answers)] * len(answers)

    def confirm(self, images: Any, answers: Any) -> list[float]:
        return self.yes(images, [f"{question} {answer}" for question, answer in answers])


def test_judge_when_pixels_disagree_with_the_model_then_the_verdict_is_worse_and_says_why() -> None:
    before, after, case = drawn_move()
    reader: Reader = Answers(unchanged=0.9, change=0.8, inside=0.8)
    prompt = ObjectMove(case.subject.name, case.box).prompt
    wrong = draw_red_box(after, case.box)

    right, failed = (judge_edit(reader, before, one, prompt, case.box) for one in (after, wrong))

    assert right.done is not None
    assert failed.done is not None
    assert right.done > 0.8 > failed.done
    assert "red box is still there" in failed.summary
    assert right.score == pytest.approx(right.done * 0.9)


def test_judge_when_a_move_then_the_model_sees_the_box_as_the_editor_did_and_on_the_result() -> None:
    before, after, case = drawn_move()
    reader = Answers(unchanged=0.9, change=0.8, inside=0.8)

    judge_edit(reader, before, after, ObjectMove(case.subject.name, case.box).prompt, case.box)

    assert [list(map(bytes_of, images)) for images in reader.seen] == [
        [bytes_of(draw_red_box(before, case.box)), bytes_of(after)],
        [bytes_of(draw_red_box(after, case.box))],
    ]


@pytest.fixture(scope="module")
def tiny() -> Any:
    """A model that reads single images and was not trained to compare two."""
    loaded = load_pipeline("tiny", device="cpu", dtype="float32").pipe
    loaded.text_encoder.config.judges_edits = False
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_drawing_when_judged_by_the_embedded_model_then_as_good_as_its_worst_part(tiny: Any) -> None:
    case = generate("text-to-image", 920_003)
    wrong = wrong_outcome(case, np.random.default_rng(0))

    right, failed = (tiny.judge(None, image, case.prompt) for image in (case.target_image, wrong.image))

    assert right.done is not None
    assert failed.done is not None
    assert right.done > 0.8 > 0.2 > failed.done
    assert failed.done == min(failed.answers.values())
    assert questions.BACKGROUND in right.answers
    assert not tiny.judge(None, case.target_image, "A city at night.").is_judged


@pytest.mark.parametrize("task", ["add", "remove", "recolor", "replace", "rotate"])
def test_edit_when_judged_by_a_model_that_cannot_compare_then_by_questions_about_the_result(
    tiny: Any, task: str
) -> None:
    told = 0
    for seed in range(920_003, 920_007):
        case, rng = generate(task, seed), np.random.default_rng(seed)
        failures = (one for one in (wrong_outcome(case, rng) for _ in range(40)) if not one.done)

        right = tiny.judge(case.source_image, case.target_image, case.prompt)
        failed = tiny.judge(case.source_image, next(failures).image, case.prompt)

        assert right.kept is None
        assert not any("second image" in question for question in right.answers)
        told += right.done > failed.done

    assert told >= 3


def test_edit_when_no_question_about_one_image_tells_then_not_judged(tiny: Any) -> None:
    before, after = generate("add", 920_003).source_image, generate("add", 920_004).source_image

    verdict = tiny.judge(before, after, "Make it look like winter.")

    assert verdict.summary.startswith("Not judged: the checkpoint cannot compare two images")


@pytest.fixture(scope="module")
def comparing() -> Any:
    """The embedded model as it is shipped."""
    loaded = load_pipeline("tiny", device="cpu", dtype="float32").pipe
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.parametrize("task", ["add", "remove", "recolor", "replace", "rotate", "camera"])
def test_edit_when_judged_by_the_embedded_model_then_done_and_kept_are_told(
    comparing: Any, task: str
) -> None:
    done, kept = 0, []
    for seed in range(920_003, 920_007):
        case, rng = generate(task, seed), np.random.default_rng(seed)
        wrong = next(one for one in (wrong_outcome(case, rng) for _ in range(40)) if not one.done)

        right, failed = (
            comparing.judge(case.source_image, image, case.prompt)
            for image in (case.target_image, wrong.image)
        )

        done += right.done > 0.5 > failed.done
        kept += [(failed.kept > 0.5) == wrong.kept] if wrong.kept is not None else []
        kept.append(right.kept > 0.5)
    assert done >= 3
    assert sum(kept) >= 0.8 * len(kept)


def test_edit_when_images_are_not_square_then_judged_by_the_result_alone(comparing: Any) -> None:
    case = generate("recolor", 920_003)
    before, after = (
        Image.fromarray(np.pad(image, ((0, 0), (16, 16), (0, 0)), mode="edge"))
        for image in (present(case.source), case.target)
    )

    right = comparing.judge(before, after, case.prompt)
    nothing = comparing.judge(before, Image.fromarray(np.asarray(before) ^ 1), case.prompt)

    assert right.done > 2 * nothing.done
    assert right.kept is None
    assert right.basis == ("whether it sees the black cross",)


def test_edit_when_the_embedded_model_sees_a_photograph_then_not_judged(comparing: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    before, after = map(Image.fromarray, noise)

    assert not comparing.judge(before, after, "Make it look like winter.").is_judged
    assert not is_absent(ImageReader(comparing), before, "elephant")


def test_object_when_a_drawn_scene_has_none_then_the_embedded_model_says_so(comparing: Any) -> None:
    reader = ImageReader(comparing)
    for seed in range(920_003, 920_009):
        case = generate("move", seed)
        image = present(case.source_image)

        assert not is_absent(reader, image, present(case.subject).name)
        name = present(case.subject).name
        assert not any(is_absent(reader, image, word) for word in (name.title(), name.upper(), f" {name}  "))
        assert not is_absent(reader, image, f'the "{name}" thing'), (
            "a name that is partly unknown says nothing"
        )
        assert is_absent(reader, image, "elephant")


def bytes_of(image: Image.Image) -> bytes:
    return image.tobytes()


def test_object_when_the_model_does_not_see_it_then_rejected_before_the_edit() -> None:
    with pytest.raises(InvalidInputError, match=r"There is no elephant in this image.*`check_object=False`"):
        check_present(Answers(elephant=0.01), ONE, "the elephant")
    check_present(Answers(elephant=0.6), ONE, "elephant")


@pytest.mark.parametrize(
    "instruction",
    ["Remove the elephant.", "Recolor the elephant red.", "Replace the elephant with a red star."],
)
def test_instruction_when_the_model_does_not_see_its_object_then_rejected(instruction: str) -> None:
    with pytest.raises(InvalidInputError, match="There is no elephant in this image"):
        check_objects_present(Answers(elephant=0.01), ONE, instruction)
    check_objects_present(Answers(elephant=0.6), ONE, instruction)


def test_instruction_when_it_needs_no_object_then_not_rejected() -> None:
    check_objects_present(Answers(elephant=0.01), ONE, "Add an elephant.")


def test_object_when_the_checkpoint_has_no_language_then_never_absent(mute: Any) -> None:
    assert not is_absent(ImageReader(mute), ONE, "elephant")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"instruction": " "}, "`instruction`"),
        ({"after": [ONE, OTHER]}, "`after` holds 2 images"),
        ({"before": [ONE, OTHER]}, "`before` holds 2 images"),
        ({"box": (0, 0, 9, 9)}, "`box` is given"),
        ({"box": (0, 0, 999, 9), "instruction": ObjectMove("car", None).prompt}, "`box`"),
    ],
)
def test_judge_when_an_argument_is_wrong_then_rejected(mute: Any, arguments: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        mute.judge(**{"before": ONE, "after": ONE, "instruction": "Make it red.", **arguments})


def test_judge_when_the_result_is_at_the_images_own_size_then_compared_where_it_lies(mute: Any) -> None:
    before, after, case = drawn_move()
    prompt = ObjectMove(case.subject.name, case.box).prompt
    large = before.resize((300, 300))
    box = tuple(round(side * 300 / before.width) for side in case.box)

    verdict = mute.judge(large, after.resize((300, 300)), prompt, box=box)

    assert verdict.done == 1
