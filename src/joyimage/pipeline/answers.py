"""Probabilities of answers to questions about images, from the text encoder's own language head, without sampling.

All questions about the same images share their prefix, as the prompts of an edit do.

Dimension key: L tokens, D text width, V vocabulary.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from joyimage.pipeline.feature_cache import FeatureCache
from joyimage.pipeline.images import ModelImage
from joyimage.pipeline.prompts import tokenize_chat
from joyimage.pipeline.qwen3_vl import count_tokens
from joyimage.pipeline.text_encoder import ConversationReader
from joyimage.spatial.prompts import without_article
from joyimage.understanding.questions import NO, YES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image
    from torch import Tensor

    from joyimage.pipeline.parts import PipelineParts


class ImageReader:
    """Asks the text encoder of a pipeline about images; the `Reader` that `joyimage.understanding` expects.

    Where the pipeline's parts are offloaded, the caller frees them afterwards.

    Args:
        pipe: The pipeline.
        cache: Where features of single images are kept, which the next edit of the same image needs too.
    """

    def __init__(self, pipe: PipelineParts, cache: FeatureCache | None = None) -> None:
        self._pipe = pipe
        self._cache = cache

    @property
    def has_language(self) -> bool:
        """Whether the text encoder learned to answer questions about an image; the embedded model's config says so."""
        return has_language(self._pipe)

    @property
    def compares_images(self) -> bool:
        """Whether it learned to answer questions about an edit, from two images."""
        return self.has_language and getattr(self._pipe.text_encoder.config, "judges_edits", True)

    def compares(self, images: Sequence[Image]) -> bool:
        """Tell whether it may be asked about these two images.

        The embedded model looks at the same place of the other image a fixed number of tokens away, in squares. It
        judged .99 of edits of squares right, .68 of the same scenes padded to 4:3, and .86 squeezed into a square.
        """
        tokens = getattr(self._pipe.text_encoder.config, "compared_tokens", None)
        fits = tokens is None or set(count_tokens(self._pipe.processor, images)) == {tokens}
        return self.compares_images and fits

    @property
    def reads_any_text(self) -> bool:
        """Whether questions may be in any words: the embedded model, which has a setting, knows its own alone."""
        return not hasattr(self._pipe.text_encoder.config, "has_language")

    def own_words(self, name: str) -> str | None:
        """Return the name of an object as it may be asked about; None where the answer would say nothing.

        The embedded model was trained on names in lower case. A name with words that it does not know beside others,
        such as "heart-shaped thing", is to it another object than the heart, and as absent as an elephant.
        """
        if self.reads_any_text:
            return name
        tokenizer: Any = self._pipe.tokenizer
        words = re.findall(r"[^\W\d_]+", without_article(name.strip()).lower())
        # Each word of its training is one token, and so is any letter.
        known = [
            len(word) > 1 and len(tokenizer(f" {word}", add_special_tokens=False).input_ids) == 1
            for word in words
        ]
        return " ".join(words) if words and (all(known) or not any(known)) else None

    @torch.no_grad()
    def yes(self, images: Sequence[Image], asked: Sequence[str]) -> list[float]:
        """Return P(yes) / (P(yes) + P(no)) of the first token of the answer to each question about the same images.

        Source: Z. Lin et al., "Evaluating text-to-visual generation with image-to-text generation", 2024 (VQAScore),
        arXiv 2404.01291.
        """
        tokenizer: Any = self._pipe.tokenizer
        tokens = [tokenizer(answer).input_ids[0] for answer in (YES, NO)]
        rows = self._tokenize(images, asked)
        states = self._states(images, rows)
        return [float(self._logits(states[row][-1:])[0, tokens].softmax(0)[0]) for row in rows]

    def choose(self, images: Sequence[Image], question: str, answers: Sequence[str]) -> list[float]:
        """Return the probability of each answer, 1 in total, as if there were no other: of all its tokens."""
        likelihoods = self._log_likelihoods(images, [(question, answer) for answer in answers])
        return [float(one) for one in likelihoods.softmax(0)]

    def confirm(self, images: Sequence[Image], answers: Sequence[tuple[str, str]]) -> list[float]:
        """Return how likely each question about the same images gets exactly its answer."""
        return [float(one) for one in self._log_likelihoods(images, answers).exp()]

    @torch.no_grad()
    def _log_likelihoods(self, images: Sequence[Image], answers: Sequence[tuple[str, str]]) -> Tensor:
        """Return the log likelihood of the answer to each question, of all its tokens, `[len(answers)]`."""
        tokenizer: Any = self._pipe.tokenizer
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        asked = self._tokenize(images, [question for question, _ in answers])
        endings = [(*tokenizer(answer).input_ids, end) for _, answer in answers]
        # The token that ends an answer is never read.
        states = self._states(images, [row + ending[:-1] for row, ending in zip(asked, endings, strict=True)])
        scores: list[Tensor] = []
        for row, ending in zip(asked, endings, strict=True):
            own = states[row + ending[:-1]][len(row) - 1 :]  # [tokens of the answer, D]
            likelihoods = self._logits(own).log_softmax(1)
            scores.append(likelihoods[range(len(ending)), list(ending)].sum())
        return torch.stack(scores)

    def _tokenize(self, images: Sequence[Image], asked: Sequence[str]) -> list[tuple[int, ...]]:
        counts = count_tokens(self._pipe.processor, images)
        return [tuple(tokenize_chat(self._pipe.tokenizer, question, counts)) for question in asked]

    def _states(
        self, images: Sequence[Image], rows: Sequence[tuple[int, ...]]
    ) -> dict[tuple[int, ...], Tensor]:
        """Return the states `[L, D]` of conversations about the same images."""
        pipe = self._pipe
        device = pipe.compute_device
        digests = [ModelImage(image).digest for image in images]
        cache = self._cache if len(images) == 1 else None
        reader = ConversationReader(
            pipe.text_encoder,
            pipe.processor,
            device,
            list(images),
            (pipe.text_encoder, device, *digests),
            FeatureCache() if cache is None else cache,
        )
        return reader.encode(list(dict.fromkeys(rows)))

    def _logits(self, states: Tensor) -> Tensor:
        """Return the language head's logits `[L, V]` of states `[L, D]`, in float32."""
        text_encoder: Any = self._pipe.text_encoder
        return text_encoder.lm_head(text_encoder.model.language_model.norm(states)).float()


def has_language(pipe: PipelineParts) -> bool:
    """Tell whether the text encoder of a pipeline learned to answer; the embedded model's config says so."""
    return getattr(pipe.text_encoder.config, "has_language", True)
