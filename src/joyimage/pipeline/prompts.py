"""From a prompt to token ids: the trained template around the user's words."""

from __future__ import annotations

import threading
from typing import Any

from joyimage.advice import advise
from joyimage.errors import InvalidInputError

# As trained: the blank, the backslash and the letter n after the first line break are literal.
SYSTEM_MESSAGE = (
    "<|im_start|>system\n \\nDescribe the image by detailing the color, shape, size, texture, quantity, "
    "text, spatial relationships of the objects and background:<|im_end|>\n"
)
IMAGE_PLACEHOLDER = "<image>\n"
PROMPT_TEMPLATES = {
    "image": SYSTEM_MESSAGE + "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "multiple_images": SYSTEM_MESSAGE + "{}<|im_start|>assistant\n",
}
"""The template as text, for programs that read it; `tokenize_conversation` builds the same token by token."""

_tokenizer_lock = threading.RLock()
"""Held while a tokenizer runs: it stores in itself whether control tokens are read as text, for the next call."""


def prefix_length(tokenizer: Any) -> int:
    """Count the leading tokens whose states are dropped: the system message and one more, 34 as published."""
    # As trained: the opening token of the user's turn goes as well.
    with _tokenizer_lock:
        return len(tokenizer(SYSTEM_MESSAGE).input_ids) + 1


def tokenize_conversation(
    tokenizer: Any, prompt: str, image_tokens: list[int], *, max_tokens: int, placeholders: bool = False
) -> list[int]:
    r"""Put a prompt into the template.

    Args:
        tokenizer: Qwen's tokenizer.
        prompt: Prompt of the user; control tokens in it are plain text.
        image_tokens: Number of tokens of each image.
        max_tokens: Maximum number of tokens after the prefix; the prompt is shortened to fit.
        placeholders: Whether "<image>\\n" in the prompt stands for an image; such images come after those in
            front.

    Returns:
        Token ids of the whole conversation.

    Raises:
        InvalidInputError: There are more placeholders than images, or there is no room for the prompt.
    """
    pieces = prompt.split(IMAGE_PLACEHOLDER) if placeholders else [prompt]
    leading = len(image_tokens) - (len(pieces) - 1)
    if leading < 0:
        raise InvalidInputError(
            f"`prompt` has {len(pieces) - 1} `<image>` placeholders for {len(image_tokens)} images; "
            "give one image for each."
        )
    with _tokenizer_lock:
        # Line break and prompt are one text to the tokenizer where nothing stands between them.
        opening, first = ("user\n", pieces[0]) if leading else ("", "user\n" + pieces[0])
        start, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>"))
        head = [*tokenizer(SYSTEM_MESSAGE).input_ids, start, *_plain(tokenizer, opening)]
        head += _image_tokens(tokenizer, image_tokens[:leading])
        texts = [_plain(tokenizer, piece) for piece in (first, *pieces[1:])]
        images = [_image_tokens(tokenizer, [count]) for count in image_tokens[leading:]]
        tail = [end, *tokenizer("\n<|im_start|>assistant\n").input_ids]
        room = max_tokens + prefix_length(tokenizer) - len(head) - len(tail) - sum(map(len, images))
    _shorten(texts, room, max_tokens)
    ids = head + texts[0]
    for image, text in zip(images, texts[1:], strict=True):
        ids += image + text
    return ids + tail


def tokenize_chat(tokenizer: Any, question: str, image_tokens: list[int]) -> list[int]:
    """Put a question about images into Qwen3-VL's own chat form, without a system message.

    Args:
        tokenizer: Qwen's tokenizer.
        question: Question of the user; control tokens in it are plain text.
        image_tokens: Number of tokens of each image.

    Returns:
        Token ids up to where the answer begins.
    """
    with _tokenizer_lock:
        opening = tokenizer("<|im_start|>user\n").input_ids
        closing = tokenizer("<|im_end|>\n<|im_start|>assistant\n").input_ids
        return [
            *opening,
            *_image_tokens(tokenizer, image_tokens),
            *_plain(tokenizer, question),
            *closing,
        ]


def _shorten(texts: list[list[int]], room: int, max_tokens: int) -> None:
    """Drop tokens of the prompt's end, in place, until it fits.

    Raises:
        InvalidInputError: There is no room for any token.
    """
    excess = sum(map(len, texts)) - room
    if excess <= 0:
        return
    if room < 1:
        raise InvalidInputError(
            f"`max_sequence_length` is {max_tokens}; expected more than the number of the images' tokens."
        )
    advise(f"`prompt` is {excess} tokens too long; its end is left out.")
    for text in reversed(texts):
        cut = min(excess, len(text))
        del text[len(text) - cut :]
        excess -= cut


def _image_tokens(tokenizer: Any, counts: list[int]) -> list[int]:
    """Return the tokens that images stand for, each between its start and its end."""
    token = tokenizer.convert_tokens_to_ids
    ids: list[int] = []
    for count in counts:
        ids += [token("<|vision_start|>"), *[token("<|image_pad|>")] * count, token("<|vision_end|>")]
    return ids


def _plain(tokenizer: Any, text: str) -> list[int]:
    """Tokenize with every control token read as text."""
    if not text:
        return []
    # Not verbose: what is too long is cut with a warning of ours, while transformers' one promises errors.
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
