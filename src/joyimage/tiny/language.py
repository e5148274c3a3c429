"""The language half of `joyimage-tiny`: new words for its tokenizer, and new layers for its Qwen3-VL.

Both begin where the edit model ends. Ids of old tokens and the tokens of old prompts stay, and the new layers write
nothing until they are trained: at first the states that the edit model reads are those from before, to the bit.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration, Qwen3VLTextRMSNorm

from joyimage.tiny.checkpoint import EDIT_TEXT_LAYERS, EDIT_VOCABULARY_SIZE, SPECIAL_TOKENS, SYSTEM_TURN
from joyimage.tiny.readings import CASE_WEIGHTS, readings_of
from joyimage.tiny.scope import vocabulary
from joyimage.tiny.worlds.scenes import TASKS, generate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenizers import Tokenizer

STREAM_SCALE = 2.0**-5
"""Factor on the states of the text encoder, which the transformer's first text layer takes back.

Edit training leaves states of 30 to 600 where a new layer writes about 10: what it writes would be lost in the final
norm. A power of two costs no precision, and no norm in between sees the difference.
"""

TEXT_LAYERS = 6
VISION_LAYERS = 4
_CORPUS_CASES_PER_TASK = 150
_PROMPT_SCENES_PER_TASK = 400
# Rarer words of questions are names of strangers, which are to stay what an unknown word looks like.
_LEAST_COUNT = 40

Pair = tuple[str, str]


def is_grown(text_encoder: Any) -> bool:
    """Tell whether a text encoder has the layers and the words that reading takes."""
    return bool(getattr(text_encoder.config, "has_language", True))


def extend_tokenizer(tokenizer: Qwen2Tokenizer) -> Qwen2Tokenizer:
    """Give the words of questions and answers tokens of their own; prompts of edits keep their tokens.

    Args:
        tokenizer: Tokenizer of the edit model.

    Returns:
        A tokenizer with the same tokens under the same ids, and more behind them.
    """
    backend: Any = tokenizer.backend_tokenizer
    model = json.loads(backend.to_str())["model"]
    # Control tokens are behind the vocabulary; inside of it they keep their ids when it grows.
    vocab: dict[str, int] = dict(model["vocab"])
    for token in sorted(SPECIAL_TOKENS, key=lambda token: int(str(tokenizer.convert_tokens_to_ids(token)))):
        vocab[token] = int(str(tokenizer.convert_tokens_to_ids(token)))
    merges: list[Pair] = [(first, second) for first, second in model["merges"]]
    known = set(_words(backend, _prompts()))
    new = {
        word: count for word, count in Counter(_words(backend, _conversations())).items() if word not in known
    }
    frequent = {word: count for word, count in new.items() if count >= _LEAST_COUNT}
    for merge in _further_merges(backend, known, frequent):
        merges.append(merge)
        vocab.setdefault("".join(merge), len(vocab))
    make_tokenizer: Any = Qwen2Tokenizer  # its annotations leave out what it takes
    extended = make_tokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=tokenizer.model_max_length,
    )
    extended.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    return extended


def scale_stream(text_encoder: Qwen3VLForConditionalGeneration, transformer: Any) -> None:
    """Multiply the text encoder's states by `STREAM_SCALE` and the weights that read them by its inverse, in place."""
    model: Any = text_encoder.model
    writers = [model.language_model.embed_tokens]
    for layer in model.language_model.layers:
        writers += [layer.self_attn.o_proj, layer.mlp.down_proj]
    writers += [merger.linear_fc2 for merger in (model.visual.merger, *model.visual.deepstack_merger_list)]
    with torch.no_grad():
        for writer in writers:
            for parameter in writer.parameters():
                parameter.mul_(STREAM_SCALE)
        transformer.condition_embedder.text_embedder.linear_1.weight.div_(STREAM_SCALE)
    text: Any = text_encoder.config.text_config
    text.rms_norm_eps *= STREAM_SCALE**2
    for module in model.language_model.modules():
        if isinstance(module, Qwen3VLTextRMSNorm):
            module.variance_epsilon = text.rms_norm_eps


def grow_text_encoder(
    text_encoder: Qwen3VLForConditionalGeneration, tokenizer: Qwen2Tokenizer
) -> Qwen3VLForConditionalGeneration:
    """Return a deeper copy with a language head of its own and a row for every token, in fp32.

    Args:
        text_encoder: Text encoder of the edit model.
        tokenizer: From `extend_tokenizer`.

    Returns:
        The copy. Its states on tokens that the original knows are the original's.
    """
    config: Any = copy.deepcopy(text_encoder.config)
    old_layers, old_depth = config.text_config.num_hidden_layers, config.vision_config.depth
    config.text_config.num_hidden_layers = TEXT_LAYERS
    config.text_config.vocab_size = (len(tokenizer) + 7) // 8 * 8
    config.vision_config.depth = VISION_LAYERS
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    # It compares two images only with the layer that `add_comparing_layer` adds.
    config.update({"has_language": True, "language_scope": "drawn scenes", "judges_edits": False})
    grown: Any = Qwen3VLForConditionalGeneration(config).float()
    state = {name: tensor.float() for name, tensor in text_encoder.state_dict().items()}
    embeddings = state.pop("model.language_model.embed_tokens.weight")
    state.pop("lm_head.weight", None)
    grown.load_state_dict(state, strict=False)
    with torch.no_grad():
        rows: torch.Tensor = grown.get_input_embeddings().weight
        rows.normal_(std=float(embeddings.std()))
        rows[: len(embeddings)] = embeddings
        for layer in grown.model.language_model.layers[old_layers:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for block in grown.model.visual.blocks[old_depth:]:
            for linear in (block.attn.proj, block.mlp.linear_fc2):
                linear.weight.zero_()
                linear.bias.zero_()
    return cast("Qwen3VLForConditionalGeneration", grown)


def freeze_edit_half(text_encoder: Any) -> None:
    """Keep what the edit model's text states are made of: its first layers, its tokens, and what writes image tokens.

    Args:
        text_encoder: From `grow_text_encoder`.
    """
    model = text_encoder.model
    for layer in model.language_model.layers[: EDIT_TEXT_LAYERS - 1]:
        layer.requires_grad_(False)
    for merger in (model.visual.merger, *model.visual.deepstack_merger_list):
        merger.linear_fc2.requires_grad_(False)

    def keep_old_rows(gradient: torch.Tensor) -> torch.Tensor:
        kept = gradient.clone()
        kept[:EDIT_VOCABULARY_SIZE] = 0
        return kept

    model.language_model.embed_tokens.weight.register_hook(keep_old_rows)


def freeze_reading_half(text_encoder: Any) -> None:
    """Keep what an encoder that reads single images sees and knows: the vision tower, all tokens, the edit layers.

    What compares images and what answers is left to train, a third of the cost of a step less.

    Args:
        text_encoder: One that was trained to read.
    """
    model = text_encoder.model
    for part in (
        *model.language_model.layers[:EDIT_TEXT_LAYERS],
        model.language_model.embed_tokens,
        model.visual,
    ):
        part.requires_grad_(False)


def _prompts() -> Iterable[str]:
    """Return everything whose tokens must stay: prompts of all tasks, and their words in any place of a sentence."""
    yield SYSTEM_TURN.replace("<|im_start|>", "").replace("<|im_end|>", "")
    yield from ("user\n", "assistant\n", "\n")
    yield from (generate(task, seed).prompt for task in TASKS for seed in range(_PROMPT_SCENES_PER_TASK))
    yield from (f"{word} {word}." for word in vocabulary())


def _conversations() -> Iterable[str]:
    for task in CASE_WEIGHTS:
        for seed in range(_CORPUS_CASES_PER_TASK):
            for reading in readings_of((task, seed)):
                for ask in reading.asks:
                    yield from (ask.question, ask.answer)


def _words(backend: Tokenizer, texts: Iterable[str]) -> Iterable[str]:
    """Cut texts where no merge ever crosses; in the byte-level alphabet."""
    cut: Any = backend.pre_tokenizer
    for text in texts:
        yield from (word for word, _ in cut.pre_tokenize_str(text))


def _further_merges(backend: Tokenizer, known: set[str], counts: dict[str, int]) -> Iterable[Pair]:
    """Continue byte-pair encoding on new words, without the pairs that stand in a known word."""
    tokenize: Any = backend.model
    split = {word: [token.value for token in tokenize.tokenize(word)] for word in counts}
    blocked = {pair for word in known for pair in pairwise(token.value for token in tokenize.tokenize(word))}
    while True:
        found: Counter[Pair] = Counter()
        for word, tokens in split.items():
            for pair in pairwise(tokens):
                if pair not in blocked:
                    found[pair] += counts[word]
        if not found:
            return
        # Of equally frequent pairs the first in the alphabet, so that the result does not depend on the order.
        best = min(found, key=lambda pair: (-found[pair], pair))
        yield best
        split = {word: _merge(tokens, best) for word, tokens in split.items()}


def _merge(tokens: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged
