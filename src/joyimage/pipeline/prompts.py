"""Prompts as tokens: the template, the pictures' places, and the prefix that is cut off again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusers.utils import logging

logger = logging.get_logger(__name__)

IMAGE_PLACEHOLDER = "<image>\n"
"""Where a picture goes in a prompt; only `encode_prompt_multiple_images` reads it."""

IMAGE_TOKEN = "<|image_pad|>"

# As trained: the blank, the backslash and the letter n after the first newline are literal text.
_SYSTEM_TEXT = (
    "system\n \\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:"
)


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A run of tokens, of which the last `num_words` are the user's."""

    ids: list[int]
    num_words: int = 0


def prefix_length(tokenizer: Any) -> int:  # noqa: ANN401 - transformers' tokenizers share no public type
    """Count the tokens that are dropped in front of the states: 34 with the published tokenizer.

    Args:
        tokenizer: Of the text encoder.

    Returns:
        The system message's tokens and one more.
    """
    # As trained: the token that opens the user's turn goes too.
    return sum(len(piece.ids) for piece in _system_turn(tokenizer)) + 1


def tokenize(
    tokenizer: Any,  # noqa: ANN401
    words: str,
    num_image_tokens: Sequence[int] = (),
    *,
    max_length: int | None = None,
    is_marked: bool = False,
) -> list[int]:
    """Turn a prompt and its pictures' places into the tokens of a whole conversation.

    What looks like a control token in `words` is text. Where the prompt is too long, only words go.

    Args:
        tokenizer: Of the text encoder.
        words: The user's prompt.
        num_image_tokens: Tokens of each picture; the pictures stand in front of the words.
        max_length: Most tokens after the prefix; None sets no limit.
        is_marked: Let `<image>` and a newline in `words` say where pictures go, the last ones first; pictures
            without a mark stay in front.

    Returns:
        Token ids, prefix included.

    Raises:
        ValueError: More marks than pictures, or `max_length` leaves no room for what must stay.
    """
    parts = words.split(IMAGE_PLACEHOLDER) if is_marked else [words]
    num_leading = len(num_image_tokens) - (len(parts) - 1)
    if num_leading < 0:
        raise ValueError(
            f"`prompt` marks {len(parts) - 1} places for pictures, but `images` has {len(num_image_tokens)}:"
            " give one picture for each mark."
        )
    pictures = [_picture(tokenizer, num) for num in num_image_tokens]
    role = _text(tokenizer, "user\n")
    pieces = [*_system_turn(tokenizer), _control(tokenizer, "<|im_start|>")]
    if num_leading == 0:
        # One run of text, as the tokenizer reads it: a prompt may begin with a newline.
        opening = _text(tokenizer, f"user\n{parts[0]}")
        pieces.append(_Piece(ids=opening, num_words=len(opening) - len(role)))
    else:
        opening = _text(tokenizer, parts[0])
        pieces += [_Piece(ids=role), *pictures[:num_leading], _Piece(ids=opening, num_words=len(opening))]
    for picture, part in zip(pictures[num_leading:], parts[1:], strict=True):
        ids = _text(tokenizer, part)
        pieces += [picture, _Piece(ids=ids, num_words=len(ids))]
    pieces += [
        _control(tokenizer, "<|im_end|>"),
        _Piece(ids=_text(tokenizer, "\n")),
        _control(tokenizer, "<|im_start|>"),
        _Piece(ids=_text(tokenizer, "assistant\n")),
    ]
    if max_length is not None:
        pieces = _shorten(pieces, prefix_length(tokenizer) + max_length, max_length)
    return [token for piece in pieces for token in piece.ids]


def _shorten(pieces: list[_Piece], num_kept: int, max_length: int) -> list[_Piece]:
    excess = sum(len(piece.ids) for piece in pieces) - num_kept
    if excess <= 0:
        return pieces
    num_words = sum(piece.num_words for piece in pieces)
    if excess > num_words:
        raise ValueError(
            f"`max_sequence_length` is {max_length}, but pictures and template alone take"
            f" {max_length + excess - num_words} tokens: allow more, or give fewer or smaller pictures."
        )
    logger.warning(
        f"The prompt is too long for {max_length} tokens: its last {excess} of {num_words} tokens are left out."
    )
    shortened: list[_Piece] = []
    for piece in reversed(pieces):
        cut = min(excess, piece.num_words)
        excess -= cut
        shortened.insert(0, _Piece(ids=piece.ids[: len(piece.ids) - cut]))
    return shortened


def _system_turn(tokenizer: Any) -> list[_Piece]:  # noqa: ANN401
    return [
        _control(tokenizer, "<|im_start|>"),
        _Piece(ids=_text(tokenizer, _SYSTEM_TEXT)),
        _control(tokenizer, "<|im_end|>"),
        _Piece(ids=_text(tokenizer, "\n")),
    ]


def _picture(tokenizer: Any, num_tokens: int) -> _Piece:  # noqa: ANN401
    start, pad, end = tokenizer.convert_tokens_to_ids(["<|vision_start|>", IMAGE_TOKEN, "<|vision_end|>"])
    return _Piece(ids=[start, *[pad] * num_tokens, end])


def _control(tokenizer: Any, token: str) -> _Piece:  # noqa: ANN401
    return _Piece(ids=[tokenizer.convert_tokens_to_ids(token)])


def _text(tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401
    # Control tokens end a run of text for the tokenizer too, so piece by piece gives the same tokens as whole.
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
