"""Prompts become the tokens that the model was trained with, whatever the user writes."""

from __future__ import annotations

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joyimage.pipeline.prompts import prefix_length, tokenize_conversation
from tests import random_models

TOKENIZER = random_models.make_tokenizer()
PLAIN_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=40)
PLENTY = 4096
IMAGE = "<|vision_start|>" + "<|image_pad|>" * 3 + "<|vision_end|>"


def as_trained(user: str) -> list[int]:
    """Tokenize a conversation as one string, control tokens and all."""
    turns = f"{random_models.SYSTEM_MESSAGE}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    return TOKENIZER(turns).input_ids


def decoded(ids: list[int]) -> str:
    """Return the text of one sequence; the tokenizer's own method takes several as well."""
    return "".join(TOKENIZER.batch_decode([ids]))


def token_id(token: str) -> int:
    return TOKENIZER.get_vocab()[token]


def words_of(ids: list[int], num_image_tokens: tuple[int, ...] = ()) -> str:
    """Return what stands between the template's parts."""
    start = len(as_trained("")) - len(TOKENIZER("<|im_end|>\n<|im_start|>assistant\n").input_ids)
    start += sum(num + 2 for num in num_image_tokens)
    end = len(ids) - len(TOKENIZER("<|im_end|>\n<|im_start|>assistant\n").input_ids)
    return decoded(ids[start:end])


@given(prompt=PLAIN_TEXT)
def test_tokens_when_text_is_plain_then_those_of_the_whole_string(prompt: str) -> None:
    assert tokenize_conversation(TOKENIZER, prompt, [], max_tokens=PLENTY) == as_trained(prompt)


@given(prompt=PLAIN_TEXT)
def test_tokens_when_images_then_they_stand_in_front(prompt: str) -> None:
    ids = tokenize_conversation(TOKENIZER, prompt, [3, 3], max_tokens=PLENTY)

    assert ids == as_trained(IMAGE + IMAGE + prompt)


@pytest.mark.parametrize("marker", ["<|im_end|>", "<|im_start|>", "<|image_pad|>", "<|vision_start|>"])
def test_tokens_when_user_writes_a_control_token_then_it_is_text(marker: str) -> None:
    ids = tokenize_conversation(TOKENIZER, f"paint {marker} on it", [3], max_tokens=PLENTY)

    control = token_id(marker)
    without = tokenize_conversation(TOKENIZER, "paint  on it", [3], max_tokens=PLENTY)
    assert ids.count(control) == without.count(control)
    assert words_of(ids, (3,)) == f"paint {marker} on it"


def test_tokens_when_user_writes_a_placeholder_then_it_is_text() -> None:
    ids = tokenize_conversation(TOKENIZER, "write <image>\nbelow", [3], max_tokens=PLENTY)

    assert ids.count(token_id("<|image_pad|>")) == 3
    assert words_of(ids, (3,)) == "write <image>\nbelow"


def test_tokens_when_placeholders_are_asked_for_then_images_take_their_places() -> None:
    ids = tokenize_conversation(TOKENIZER, "put <image>\non it", [3, 3], max_tokens=PLENTY, placeholders=True)

    assert ids == as_trained(f"{IMAGE}put {IMAGE}on it")


def test_tokens_when_more_placeholders_than_images_then_rejected() -> None:
    with pytest.raises(ValueError, match="`prompt` has 2 `<image>` placeholders for 1 images"):
        tokenize_conversation(TOKENIZER, "<image>\n<image>\n", [3], max_tokens=PLENTY, placeholders=True)


@pytest.mark.parametrize("num_image_tokens", [(), (3,), (3, 5)])
def test_tokens_when_prompt_is_too_long_then_only_words_go_and_a_warning_says_so(
    num_image_tokens: tuple[int, ...],
) -> None:
    prompt = "Make the car red and the sky blue"
    whole = tokenize_conversation(TOKENIZER, prompt, list(num_image_tokens), max_tokens=PLENTY)
    num_kept = len(whole) - prefix_length(TOKENIZER) - 4

    with pytest.warns(UserWarning, match="`prompt` is 4 tokens too long"):
        ids = tokenize_conversation(TOKENIZER, prompt, list(num_image_tokens), max_tokens=num_kept)

    assert len(ids) == len(whole) - 4
    assert prompt.startswith(words_of(ids, num_image_tokens))
    pad = token_id("<|image_pad|>")
    assert ids.count(pad) == sum(num_image_tokens)
    assert decoded(ids).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_tokens_when_prompt_is_longer_than_the_tokenizer_knows_then_our_warning_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    logger = logging.getLogger("transformers.tokenization_utils_base")
    monkeypatch.setattr(logger, "warning", lambda text, *_: said.append(text))
    tokenizer = random_models.make_tokenizer()
    tokenizer.model_max_length = 60

    with pytest.warns(UserWarning, match="tokens too long; its end is left out"):
        tokenize_conversation(tokenizer, "a " * 200, [], max_tokens=40)

    assert said == []


def test_tokens_when_prompt_fits_exactly_then_nothing_goes() -> None:
    whole = tokenize_conversation(TOKENIZER, "Make the car red", [3], max_tokens=PLENTY)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = tokenize_conversation(
            TOKENIZER, "Make the car red", [3], max_tokens=len(whole) - prefix_length(TOKENIZER)
        )

    assert ids == whole


def test_tokens_when_images_alone_are_too_many_then_rejected() -> None:
    with pytest.raises(ValueError, match="`max_sequence_length`"):
        tokenize_conversation(TOKENIZER, "Make the car red", [50], max_tokens=20)


def test_tokens_when_several_threads_share_the_tokenizer_then_each_gets_its_own() -> None:
    prompts = ["blue", "write <|im_end|> on it", "Make the car red"]
    expected = [tokenize_conversation(TOKENIZER, prompt, [3], max_tokens=PLENTY) for prompt in prompts]

    with ThreadPoolExecutor(6) as pool:
        rows = list(
            pool.map(
                lambda n: tokenize_conversation(TOKENIZER, prompts[n % 3], [3], max_tokens=PLENTY),
                range(1200),
            )
        )

    assert all(ids == expected[number % 3] for number, ids in enumerate(rows))
