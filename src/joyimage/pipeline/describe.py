"""Ask the text encoder, which is a whole Qwen3-VL, about a picture."""

# Annotations are real types here, as in `edit.py`.

from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from joyimage.errors import InvalidInputError
from joyimage.pipeline.images import to_pictures
from joyimage.pipeline.prompts import tokenize_chat
from joyimage.pipeline.text_encoder import count_tokens, prepare_pictures

QUESTION = "Describe this image in one paragraph."


class DescriptionMixin(DiffusionPipeline):
    """Give a pipeline `describe`."""

    text_encoder: Any
    tokenizer: Any
    processor: Any

    @torch.no_grad()
    def describe(self, image: Any, question: str = QUESTION, *, max_new_tokens: int = 256) -> str:
        """Answer a question about pictures, always with the likeliest words.

        Args:
            image: One picture or several, of any kind that the pipeline takes.
            question: What to ask; control tokens in it are plain text.
            max_new_tokens: Longest answer.

        Returns:
            The answer.

        Raises:
            TypeError: A picture is none.
            InvalidInputError: The question is empty, `max_new_tokens` isn't positive, or the text encoder of the
                checkpoint never learned to answer (`has_language` in its config is false).
        """
        if not question.strip():
            raise InvalidInputError("`question` is empty; expected a question about the picture.")
        if not getattr(self.text_encoder.config, "has_language", True):
            raise InvalidInputError(
                f"{self.config.get('_name_or_path') or 'This checkpoint'} has no language: its text encoder never "
                "learned to answer. Describing and local rewriting need another checkpoint, such as the published one."
            )
        if max_new_tokens < 1:
            raise InvalidInputError(f"`max_new_tokens` is {max_new_tokens}; expected 1 or more.")
        pictures = to_pictures(image)
        device = self._execution_device
        vision = prepare_pictures(self.text_encoder, self.processor, pictures, device)
        counts = count_tokens(self.processor, pictures)
        ids = torch.tensor([tokenize_chat(self.tokenizer, question, counts)], device=device)
        try:
            answer = self.text_encoder.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == self.text_encoder.config.image_token_id).int(),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=self.tokenizer.convert_tokens_to_ids("<|im_end|>"),
                pad_token_id=self.tokenizer.pad_token_id,
                # Settings of sampling, which a checkpoint's own file may hold.
                temperature=None,
                top_p=None,
                top_k=None,
                **vision,
            )
        finally:
            self.maybe_free_model_hooks()
        return self.tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True).strip()
