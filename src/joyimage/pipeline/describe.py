"""Ask the text encoder, which is a whole Qwen3-VL, about an image.

It is a step of a pipeline rather than part of `joyimage.understanding`: that package is above this one and uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from joyimage.errors import InvalidInputError
from joyimage.pipeline.answers import has_language
from joyimage.pipeline.checks import check_count, check_text
from joyimage.pipeline.images import to_images
from joyimage.pipeline.prompts import tokenize_chat
from joyimage.pipeline.qwen3_vl import count_tokens, prepare_images
from joyimage.understanding.questions import CHANGED, DESCRIBE

if TYPE_CHECKING:
    from joyimage.pipeline.parts import PipelineParts


def answer_question(pipe: PipelineParts, image: Any, question: str | None, max_new_tokens: int) -> str:
    """Answer a question about images; see `PipelineParts.describe`.

    Raises:
        InvalidTypeError: An image is of a type that is not accepted, or the question is not text.
        InvalidInputError: The question is empty, `max_new_tokens` is not positive, or the text encoder of the
            checkpoint never learned to answer.
    """
    text_encoder: Any = pipe.text_encoder
    tokenizer: Any = pipe.tokenizer
    if question is not None:
        check_text("question", question, "a question about the image")
    if not has_language(pipe):
        raise InvalidInputError(
            f"{pipe.config.get('_name_or_path') or 'This checkpoint'} has no language: its text encoder never "
            "learned to answer. Describing and local rewriting need another checkpoint, such as the published one."
        )
    check_count("max_new_tokens", max_new_tokens)
    images = to_images(image)
    if question is None:
        question = DESCRIBE if len(images) == 1 else CHANGED
    device = pipe.compute_device
    vision = prepare_images(text_encoder, pipe.processor, images, device)
    counts = count_tokens(pipe.processor, images)
    ids = torch.tensor([tokenize_chat(tokenizer, question, counts)], device=device)
    try:
        answer = text_encoder.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == text_encoder.config.image_token_id).int(),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
            pad_token_id=tokenizer.pad_token_id,
            # Settings of sampling, which a checkpoint's own file may hold.
            temperature=None,
            top_p=None,
            top_k=None,
            **vision,
        )
    finally:
        pipe.maybe_free_model_hooks()
    return tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True).strip()
