"""From a prompt to token ids: the trained template around the user's words."""

from __future__ import annotations

import warnings
from typing import Any

from joyimage.errors import InvalidInputError

# As trained: the blank, the backslash and the letter n after the first line break are literal.
SYSTEM_MESSAGE = (
    "<|im_start|>system\n \\nDescribe the image by detailing the color, shape, size, texture, quantity, "
    "text, spatial relationships of the objects and background:<|im_end|>\n"
)
IMAGE_PLACEHOLDER = "<image>\n"


def prefix_length(tokenizer: Any) -> int:
    """Count the leading tokens whose states are dropped: the system message and one more, 34 as published."""
    # As trained: the opening token of the user's turn goes as well.
    return len(tokenizer(SYSTEM_MESSAGE).input_ids) + 1


def tokenize_conversation(
    tokenizer: Any, prompt: str, image_tokens: list[int], *, max_tokens: int, placeholders: bool = False
) -> list[int]:
    r"""Put the user's words into the template.

    Args:
        tokenizer: Qwen's.
        prompt: The user's words; control tokens in it are plain text.
        image_tokens: Number of image tokens of each picture.
        max_tokens: Most tokens after the prefix; the user's words are shortened to fit.
        placeholders: Whether "<image>\\n" in the prompt stands for a picture; such pictures come after those
            in front.

    Returns:
        Token ids of the whole conversation.

    Raises:
        InvalidInputError: There is another number of placeholders than of pictures, or no room for any word.
    """
    pieces = prompt.split(IMAGE_PLACEHOLDER) if placeholders else [prompt]
    leading = len(image_tokens) - (len(pieces) - 1)
    if leading < 0:
        raise InvalidInputError(
            f"`prompt` has {len(pieces) - 1} `<image>` placeholders for {len(image_tokens)} pictures; "
            "give one picture for each."
        )
    token = tokenizer.convert_tokens_to_ids

    def pictures(counts: list[int]) -> list[int]:
        return _picture_tokens(tokenizer, counts)

    # The line break and the words are one text to the tokenizer where nothing stands between them.
    opening, first = ("user\n", pieces[0]) if leading else ("", "user\n" + pieces[0])
    head = [*tokenizer(SYSTEM_MESSAGE).input_ids, token("<|im_start|>"), *_plain(tokenizer, opening)]
    words = [_plain(tokenizer, first), *(_plain(tokenizer, piece) for piece in pieces[1:])]
    after = [pictures([count]) for count in image_tokens[leading:]]
    tail = [token("<|im_end|>"), *tokenizer("\n<|im_start|>assistant\n").input_ids]
    fixed = len(head) + len(tail) + sum(map(len, after)) + len(pictures(image_tokens[:leading]))
    room = max_tokens + prefix_length(tokenizer) - fixed
    excess = sum(map(len, words)) - room
    if excess > 0:
        if room < 1:
            raise InvalidInputError(
                f"`max_sequence_length` is {max_tokens}; expected more than the pictures' tokens."
            )
        warnings.warn(f"`prompt` is {excess} tokens too long; its end is left out.", stacklevel=3)
        for piece in reversed(words):
            cut = min(excess, len(piece))
            del piece[len(piece) - cut :]
            excess -= cut
    ids = head + pictures(image_tokens[:leading]) + words[0]
    for picture, piece in zip(after, words[1:], strict=True):
        ids += picture + piece
    return ids + tail


def tokenize_chat(tokenizer: Any, question: str, image_tokens: list[int]) -> list[int]:
    """Put a question about pictures into Qwen3-VL's own chat form, without a system message.

    Args:
        tokenizer: Qwen's.
        question: The user's words; control tokens in it are plain text.
        image_tokens: Number of image tokens of each picture.

    Returns:
        Token ids up to where the answer begins.
    """
    opening = tokenizer("<|im_start|>user\n").input_ids
    closing = tokenizer("<|im_end|>\n<|im_start|>assistant\n").input_ids
    return [*opening, *_picture_tokens(tokenizer, image_tokens), *_plain(tokenizer, question), *closing]


def _picture_tokens(tokenizer: Any, counts: list[int]) -> list[int]:
    token = tokenizer.convert_tokens_to_ids
    ids: list[int] = []
    for count in counts:
        ids += [token("<|vision_start|>"), *[token("<|image_pad|>")] * count, token("<|vision_end|>")]
    return ids


def _plain(tokenizer: Any, text: str) -> list[int]:
    """Tokenize with every control token read as text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids if text else []
