"""Train the grown text encoder to answer, and keep the states that the edit model reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from joyimage.compat.torch import fast_autocast
from joyimage.pipeline.prompts import tokenize_chat
from joyimage.tiny.checkpoint import SIZE, SYSTEM_TURN
from joyimage.tiny.comparing import COMPARING_LAYER, aim_comparing_layer, changed_parts
from joyimage.tiny.objective import tokenize_edit
from joyimage.tiny.worlds.scenes import TASKS
from joyimage.training.text_states import MERGE_SIZE, PATCH_SIZE_PX, encode_prompts, to_patches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

    from joyimage.tiny.pairs import Pairs
    from joyimage.tiny.readings import Readings

_GRID = SIZE // PATCH_SIZE_PX
_IMAGE_TOKENS = (_GRID // MERGE_SIZE) ** 2
PROMPTS = 4
"""Prompts of edits in a step that keeps their states."""
_MOST_ASKS = 5
_PARTS_WEIGHT = 1.0
_AIMED_PAIRS = 32
# Questions of more tokens, which quote the prompt of a camera move, get batches of their own: less is padded.
_LONG = 60
_LEAST_STEM = 8
# Share of the questions that are asked, of kinds that are learned first; others are always asked.
_ASKED = {"drawn": 0.15, "background": 0.25, "count": 0.25, "missing": 0.5, "color": 0.5}
_KEEP_WEIGHT = 3.0
_KEEP_SHARE = 0.3
_IMAGE_STATE_WEIGHT = 0.1
# Share of images that are blurred and get noise, as an edited image has no exact pixels.
_SOFT_SHARE = 0.4
_SOFTEST_NOISE = 8.0  # of 255


@dataclass(frozen=True)
class _Row:
    """One or two images and what is asked about them, in tokens.

    Attributes:
        images: Numbers of the images, among those of its source.
        source: Number of the readings that it is from.
        asks: Question with the opening of the answer, answer with its end, and kind.
    """

    images: tuple[int, ...]
    source: int
    asks: tuple[tuple[list[int], list[int], str], ...]


@dataclass(frozen=True)
class ReadingBatch:
    """How many images, and pairs of images, each step asks about."""

    singles: int
    pairs: int


@dataclass(frozen=True, kw_only=True)
class ReadingData:
    """Everything that a reading step draws from.

    Attributes:
        images: Images of each source, `[N, H, W, 3]` 8-bit.
        rows: Rows with one image, rows with two, and those of two whose questions are long.
        prefixes: Tokens in front of every question about one image, and about two.
        positions: Positions of the tokens in front, `[3, L]`.
        image_token: Token id that images stand at.
        pad_token: Token id of the padding.
    """

    images: list[Any]
    rows: tuple[list[_Row], list[_Row], list[_Row]]
    prefixes: tuple[Tensor, Tensor]
    positions: tuple[Tensor, Tensor]
    image_token: int
    pad_token: int


@dataclass(frozen=True, kw_only=True)
class PromptData:
    """Prompts of edits with the images that they are about.

    Attributes:
        pixels: `[N, H, W, 3]` 8-bit.
        tokens: Whole conversations of edits.
        drawings: Whole conversations without an image.
        prefix_tokens: Tokens at the start that the edit model does not read.
    """

    pixels: Any
    tokens: list[Tensor]
    drawings: list[Tensor]
    prefix_tokens: int


def prepare_readings(
    text_encoder: Qwen3VLForConditionalGeneration, tokenizer: Qwen2Tokenizer, sources: Sequence[Readings]
) -> ReadingData:
    """Put all questions and answers into tokens."""
    model: Any = text_encoder
    end = int(str(tokenizer.convert_tokens_to_ids("<|im_end|>")))
    known: dict[str, list[int]] = {}
    draws = np.random.default_rng(0)

    def tokens_of(text: str) -> list[int]:
        if text not in known:
            known[text] = list(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)
        return known[text]

    rows: tuple[list[_Row], list[_Row], list[_Row]] = ([], [], [])
    closing = list(tokenizer("<|im_end|>\n<|im_start|>assistant\n").input_ids)
    for number, source in enumerate(sources):
        for images, asks in zip(source.members, source.asks, strict=True):
            asks = [one for one in asks if float(draws.random()) < _ASKED.get(one.kind, 1.0)] or asks[:1]
            pairs = tuple(
                (tokens_of(one.question) + closing, [*tokens_of(one.answer), end], one.kind) for one in asks
            )
            is_long = len(images) == 2 and max(len(question) for question, *_ in pairs) > _LONG
            rows[len(images) - 1 + is_long].append(_Row(tuple(images), number, pairs))
    prefixes, positions = [], []
    for count in (1, 2):
        ids = tokenize_chat(tokenizer, "", [_IMAGE_TOKENS] * count)[: -len(closing)]
        tokens = torch.tensor([ids])
        kinds = (tokens == model.config.image_token_id).int()
        grid = torch.tensor([[1, _GRID, _GRID]] * count)
        prefixes.append(tokens[0])
        positions.append(model.model.get_rope_index(tokens, kinds, image_grid_thw=grid)[0][:, 0])
    return ReadingData(
        images=[source.images for source in sources],
        rows=rows,
        prefixes=(prefixes[0], prefixes[1]),
        positions=(positions[0], positions[1]),
        image_token=model.config.image_token_id,
        pad_token=int(str(tokenizer.pad_token_id)),
    )


def prepare_prompts(tokenizer: Qwen2Tokenizer, pairs: Pairs) -> PromptData:
    """Put the prompts of pairs into tokens."""
    is_drawing = [TASKS[task] == "text-to-image" for task in pairs.tasks]
    edits = [number for number, drawing in enumerate(is_drawing) if not drawing]
    return PromptData(
        pixels=pairs.sources[edits],
        tokens=[tokenize_edit(tokenizer, pairs.prompts[number], True) for number in edits],
        drawings=[
            tokenize_edit(tokenizer, prompt, False)
            for prompt, drawing in zip(pairs.prompts, is_drawing, strict=True)
            if drawing
        ],
        prefix_tokens=len(tokenizer(SYSTEM_TURN).input_ids) + 1,
    )


@torch.no_grad()
def aim_at_pairs(student: Any, data: ReadingData) -> None:
    """Tell the comparing layer where the other image is, from what a few questions about pairs make of their tokens."""
    rows = [data.rows[1][int(torch.randint(len(data.rows[1]), ()))] for _ in range(_AIMED_PAIRS)]
    pixels = torch.stack(
        [torch.from_numpy(data.images[row.source][image].copy()) for row in rows for image in row.images]
    )
    grid = torch.tensor([[1, _GRID, _GRID]]).expand(len(pixels), -1).to(student.device)
    features = student.model.visual(to_patches(pixels.to(student.device)), grid_thw=grid)
    states: list[Tensor] = []
    tokens: list[Tensor] = []
    layer = student.model.language_model.layers[COMPARING_LAYER]
    hooks = (
        layer.input_layernorm.register_forward_hook(lambda *call: states.append(call[2])),
        student.get_input_embeddings().register_forward_pre_hook(lambda *call: tokens.append(call[1][0])),
    )
    vision = features.pooler_output, list(features.deepstack_features)
    _answers_of(student, data, 1, rows, vision, student.device)
    for hook in hooks:
        hook.remove()
    is_real = tokens[0] != data.pad_token
    place = data.positions[1][0, data.prefixes[1] == data.image_token]
    distance = int(place[_IMAGE_TOKENS] - place[0])
    is_image = tokens[0] == data.image_token
    aim_comparing_layer(student, states[0][is_real], is_image[is_real], distance)


def reading_loss(
    student: Any,
    teacher: Any,
    probe: nn.Module,
    data: ReadingData,
    prompts: PromptData,
    batch: ReadingBatch,
) -> tuple[Tensor, dict[str, float]]:
    """Draw one batch of questions and one of prompts, and return the loss.

    Args:
        student: The grown text encoder to train.
        teacher: The text encoder whose states the edit model was trained with.
        probe: Tells of a token of the second image whether its part of the image changed, `[..., D]` to `[..., 1]`.
        data: Questions.
        prompts: Prompts of edits.
        batch: How much is asked.

    Returns:
        Cross-entropy of the answers plus relative distance of the states, and both for the log.
    """
    device = student.device
    with fast_autocast(device):
        answers, numbers = _answer_loss(student, probe, data, batch, device)
        kept = answers.new_zeros(())
        if torch.rand(()) < _KEEP_SHARE:
            kept = _state_distance(student, teacher, prompts, data.pad_token, device)
    total = answers + _KEEP_WEIGHT * kept
    return total, {"answers": float(answers.detach()), **numbers, "moved": float(kept.detach())}


def _answer_loss(
    student: Any, probe: nn.Module, data: ReadingData, batch: ReadingBatch, device: torch.device
) -> tuple[Tensor, dict[str, float]]:
    singles, pairs, long_pairs = data.rows
    is_long = float(torch.rand(())) * (len(pairs) + len(long_pairs)) < len(long_pairs)
    chosen = [
        [rows[int(torch.randint(len(rows), ()))] for _ in range(count)]
        for rows, count in ((singles, batch.singles), (long_pairs if is_long else pairs, batch.pairs))
    ]
    numbers = [(row.source, image) for rows in chosen for row in rows for image in row.images]
    pixels = torch.stack([torch.from_numpy(data.images[source][image].copy()) for source, image in numbers])
    pixels = pixels.to(device)
    grid = torch.tensor([[1, _GRID, _GRID]], device=device).expand(len(numbers), -1)
    features = student.model.visual(to_patches(_soften(pixels)), grid_thw=grid)
    split = batch.singles * _IMAGE_TOKENS
    losses, rights = [], dict[str, list[float]]()
    parts_loss = torch.zeros((), device=device)
    for number, part in enumerate((slice(0, split), slice(split, None))):
        if not chosen[number]:
            continue
        vision = features.pooler_output[part], [feature[part] for feature in features.deepstack_features]
        loss, right, compared = _answers_of(student, data, number, chosen[number], vision, device)
        losses.append(loss)
        for kind, is_right in right:
            rights.setdefault(kind, []).append(is_right)
        if number == 1:
            both = pixels[batch.singles :].unflatten(0, (-1, 2))
            changed = changed_parts(both[:, 0], both[:, 1], _GRID // MERGE_SIZE)
            found = probe(compared.float().unflatten(0, (-1, 2, _IMAGE_TOKENS))[:, 1])[..., 0]
            parts_loss = nn.functional.binary_cross_entropy_with_logits(found, changed)
    log = {kind: sum(right) / len(right) for kind, right in rights.items()}
    return torch.cat(losses).mean() + _PARTS_WEIGHT * parts_loss, {"parts": float(parts_loss.detach()), **log}


def _visible_tokens(segment: Tensor, stem: Tensor) -> Tensor:
    """Return which tokens each token sees, `[B, L, L]`, from the segments and stems of tokens, `[B, L]`.

    It sees the images, its own question, and what that question has in common with another one.
    """
    seen = segment[:, None]
    sees = (segment[:, :, None] == seen) | (seen == 0) | (stem[:, :, None] == seen)
    return sees & torch.ones(sees.shape[1:], dtype=torch.bool, device=segment.device).tril()


def _answers_of(
    student: Any,
    data: ReadingData,
    number: int,
    rows: list[_Row],
    vision: tuple[Tensor, list[Tensor]],
    device: torch.device,
) -> tuple[Tensor, list[tuple[str, float]], Tensor]:
    """Answer questions.

    Returns:
        The loss of each question; its kind, and whether the answer is the most likely one, token by token; and the
        states of image tokens that the comparing layer writes, `[images * tokens, D]`.
    """
    layouts = [_lay_out(row, data.prefixes[number], data.positions[number]) for row in rows]
    ids = _pad([layout.ids for layout in layouts], data.pad_token, device)
    position_ids = _pad([layout.positions for layout in layouts], 0, device).permute(2, 0, 1)  # [3, B, L]
    segment = _pad([layout.segments for layout in layouts], -1, device)
    stem = _pad([layout.stems for layout in layouts], -2, device)
    sees = _visible_tokens(segment, stem)
    answers = [(index, *answer) for index, layout in enumerate(layouts) for answer in layout.answers]
    embeds = student.get_input_embeddings()(ids)
    is_image = ids == data.image_token
    embeds = embeds.masked_scatter(is_image[..., None], vision[0].to(embeds.dtype))
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else embeds.dtype
    bias = torch.zeros(sees.shape, device=device, dtype=dtype).masked_fill_(~sees, -1e4)[:, None]
    compared: list[Tensor] = []
    last = student.model.language_model.layers[-1]
    last.rows = _read_places(layouts, device)
    hook = student.model.language_model.layers[COMPARING_LAYER].register_forward_hook(
        lambda *call: compared.append(call[2])
    )
    states = student.model.language_model(
        inputs_embeds=embeds,
        attention_mask=bias,
        position_ids=position_ids,
        use_cache=False,
        visual_pos_masks=is_image,
        deepstack_visual_embeds=vision[1],
    ).last_hidden_state
    hook.remove()
    last.rows = None
    row_of = torch.tensor([row for row, _, answer, _ in answers for _ in answer], device=device)
    place_of = torch.tensor(
        [begin + i for _, begin, answer, _ in answers for i in range(len(answer))], device=device
    )
    wanted = torch.tensor([token for _, _, answer, _ in answers for token in answer], device=device)
    ask_of = torch.tensor([i for i, (_, _, answer, _) in enumerate(answers) for _ in answer], device=device)
    lengths = torch.tensor([len(answer) for _, _, answer, _ in answers], device=device)
    logits = student.lm_head(states[row_of, place_of]).float()
    each = nn.functional.cross_entropy(logits, wanted, reduction="none")
    sums = torch.zeros(len(answers), device=device).index_add(0, ask_of, each)
    wrong = torch.zeros(len(answers), device=device).index_add(
        0, ask_of, (logits.argmax(-1) != wanted).float()
    )
    # Long answers count more, by the root of their length: most of their tokens are easy.
    right = (wrong == 0).float().tolist()
    return (
        sums / lengths.sqrt(),
        [(answers[i][3], right[i]) for i in range(len(answers))],
        compared[0][is_image],
    )


def _read_places(layouts: Sequence[_Layout], device: torch.device) -> Tensor:
    """Return which states of each row answers are read from, `[B, N]`, filled up with the first, which is not read."""
    places = [[begin + i for begin, answer, _ in one.answers for i in range(len(answer))] for one in layouts]
    most = max(map(len, places))
    return torch.tensor([[*row, *[0] * (most - len(row))] for row in places], device=device)


@dataclass(frozen=True)
class _Layout:
    """Questions about the same images in one sequence.

    Attributes:
        ids: Tokens, `[L]`.
        positions: `[L, 3]`.
        segments: 0 for the images; a number for each question and for what two have in common, `[L]`.
        stems: For a token of a question, the segment of what it has in common with another one, `[L]`; -2 for none.
        answers: Where each answer is predicted from, its tokens, and the kind of question.
    """

    ids: Tensor
    positions: Tensor
    segments: Tensor
    stems: Tensor
    answers: list[tuple[int, list[int], str]]


def _lay_out(row: _Row, prefix: Tensor, prefix_positions: Tensor) -> _Layout:
    asks = [row.asks[int(i)] for i in torch.randperm(len(row.asks))[:_MOST_ASKS].sort().values]
    following = int(prefix_positions.max()) + 1
    ids, positions = [*prefix.tolist()], [prefix_positions.T]
    segments, stems = [0] * len(prefix), [-2] * len(prefix)
    answers: list[tuple[int, list[int], str]] = []
    common: list[int] = []
    stem = -2
    for index, (question, answer, kind) in enumerate(asks):
        if stem == -2 or question[: len(common)] != common:
            following_question = asks[index + 1][0] if index + 1 < len(asks) else []
            common, stem = _common(question, following_question), -2
        if common and stem == -2:
            stem = 2 * index + 1
            _append(common, following, stem, -2, ids, positions, segments, stems)
        rest = [*question[len(common) :], *answer[:-1]]  # the end of the answer is predicted, never read
        _append(rest, following + len(common), 2 * index + 2, stem, ids, positions, segments, stems)
        answers.append((len(ids) - len(answer), answer, kind))
    return _Layout(
        torch.tensor(ids), torch.cat(positions), torch.tensor(segments), torch.tensor(stems), answers
    )


def _append(
    tokens: list[int],
    position: int,
    segment: int,
    stem: int,
    ids: list[int],
    positions: list[Tensor],
    segments: list[int],
    stems: list[int],
) -> None:
    ids += tokens
    positions.append(torch.arange(position, position + len(tokens))[:, None].expand(-1, 3))
    segments += [segment] * len(tokens)
    stems += [stem] * len(tokens)


def _common(one: list[int], other: list[int]) -> list[int]:
    """Return how two questions begin alike; nothing where that is too short to be worth a segment."""
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    return one[:length] if length >= _LEAST_STEM else []


def _pad(rows: list[Tensor], value: int, device: torch.device) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value).to(device)


def _state_distance(
    student: Any, teacher: Any, prompts: PromptData, pad_token: int, device: torch.device
) -> Tensor:
    """Return the mean relative distance of the states of a batch of edit prompts from the teacher's."""
    with_image = torch.rand(()) < 0.8
    if with_image:
        chosen = torch.randint(len(prompts.tokens), (PROMPTS,)).tolist()
        tokens = [prompts.tokens[i].to(device) for i in chosen]
        pixels = torch.stack([torch.from_numpy(prompts.pixels[i].copy()) for i in chosen]).to(device)
    else:
        chosen = torch.randint(len(prompts.drawings), (PROMPTS,)).tolist()
        tokens, pixels = [prompts.drawings[i].to(device) for i in chosen], None
    with torch.no_grad():
        expected, mask = encode_prompts(teacher, tokens, pixels, prompts.prefix_tokens, pad_token)
    got, _ = encode_prompts(student, tokens, pixels, prompts.prefix_tokens, pad_token)
    expected, got = expected.float(), got.float()
    distance = ((got - expected).pow(2).mean(-1) / expected.pow(2).mean(-1) + 1e-6).sqrt()
    weight = torch.ones_like(distance) if mask is None else mask.float()
    if with_image:
        weight[:, : _IMAGE_TOKENS + 3] *= _IMAGE_STATE_WEIGHT  # "user", line break, start, and the image
    return (distance * weight).sum() / weight.sum()


def _soften(pixels: Tensor) -> Tensor:
    """Blur some of the images and add noise, `[B, H, W, 3]` in 0..255."""
    images = pixels.float()
    is_soft = (torch.rand(len(images), 1, 1, 1) < _SOFT_SHARE).to(images.device)
    rolled = torch.stack([images.roll((y, x), (1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1)]).mean(0)
    amount = torch.rand(len(images), 1, 1, 1).to(images.device)
    noise = torch.randn(images.shape).to(images.device) * torch.rand(len(images), 1, 1, 1).to(images.device)
    soft = images.lerp(rolled, amount) + _SOFTEST_NOISE * noise
    return torch.where(is_soft, soft, images)
