"""What an edit costs, counted rather than timed: the same numbers on every machine.

Both implementations run a whole edit on shapes alone (see `op_counter.py`), at the model's real sizes.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from joyimage.benchmark.baseline import make_baseline
from joyimage.benchmark.memory_traffic import compiled_bytes, kernel_bytes
from joyimage.benchmark.models import FULL, PROMPT, BenchModel, build, make_image
from joyimage.benchmark.op_counter import OpCounter
from joyimage.benchmark.stages import STAGES, STEP, watch
from joyimage.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS = 40
"""Of the edit whose cost is told, with guidance: the published default."""

_BLOCK = 1  # neither the first, which the guidance branches share in part, nor the last, which is cut short
_COUNTED_STEPS = 2  # the first, and one that stands for all others


@dataclass(frozen=True, kw_only=True)
class EditCounts:
    """What one implementation does in one edit.

    Attributes:
        encoder_tflop: Operations of the text encoder for both prompts.
        vae_encode_tflop: Operations of encoding the reference with the VAE.
        vae_decode_tflop: Operations of decoding the result with the VAE.
        forward_tflop: Operations of one forward of the transformer after the first step; mean of both prompts.
        transformer_tflop: Operations of all forwards of the transformer in the edit.
        transformer_forwards: Number of forwards of the transformer in the edit.
        encoder_tokens: Tokens that the language model of Qwen3-VL processes.
        vision_passes: Number of forwards of the vision tower.
        vae_frames_encoded: Number of frames that the VAE encodes.
        vae_frames_decoded: Number of frames that the VAE decodes.
        eager_block_gb: Elementwise traffic of one block if every operator runs by itself.
        compiled_block_gb: Elementwise traffic of one block if a compiler fuses all operators between two matmuls.
        kernel_block_gb: Elementwise traffic of one block with our kernels; None if the implementation has none.
        first_step_copies: Tensors copied from the host to the device in the first step.
        first_step_syncs: How often the host waits for the device in the first step.
        step_copies: Tensors copied from the host to the device in every later step.
        step_copy_mb: Size of these copies.
        step_syncs: How often the host waits for the device in every later step.
        step_host_tensors: Tensors built on the host in every later step.
    """

    encoder_tflop: float
    vae_encode_tflop: float
    vae_decode_tflop: float
    forward_tflop: float
    transformer_tflop: float
    transformer_forwards: int
    encoder_tokens: int
    vision_passes: int
    vae_frames_encoded: int
    vae_frames_decoded: int
    eager_block_gb: float
    compiled_block_gb: float
    kernel_block_gb: float | None
    first_step_copies: int
    first_step_syncs: int
    step_copies: int
    step_copy_mb: float
    step_syncs: int
    step_host_tensors: int

    @property
    def vae_tflop(self) -> float:
        """Both halves of the VAE."""
        return self.vae_encode_tflop + self.vae_decode_tflop


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a counter must reach at the published sizes.

    Attributes:
        name: What is counted.
        limit: Largest allowed value.
        got: Counted value.
        unit: Unit of `limit` and `got`.
    """

    name: str
    limit: float
    got: float
    unit: str

    @property
    def holds(self) -> bool:
        """Whether the budget is kept."""
        return self.got <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Return it with whether it holds."""
        return {**asdict(self), "holds": self.holds}


def count(model: BenchModel = FULL) -> tuple[EditCounts, EditCounts]:
    """Count one edit by both implementations.

    Args:
        model: At least three blocks: one of them is neither first nor last.

    Returns:
        Ours and diffusers'.

    Raises:
        InvalidInputError: The model has fewer blocks.
    """
    if model.num_layers <= _BLOCK + 1:
        raise InvalidInputError(f"`layers` is {model.num_layers}; counters need {_BLOCK + 2} or more.")
    ours = build(model, torch.device("meta"), torch.bfloat16)
    reference = make_baseline(ours)
    counts = [_count_edit(pipe, model) for pipe in (ours, reference)]
    inputs = {"grid": (model.base_size // 8,) * 2, "num_text_tokens": counts[0].pop("text_tokens")}
    counts[1].pop("text_tokens")
    return (
        EditCounts(
            **counts[0],
            compiled_block_gb=compiled_bytes(ours.transformer, _BLOCK, **inputs) / 1e9,
            kernel_block_gb=_in_gb(kernel_bytes(ours.transformer, _BLOCK, **inputs)),
        ),
        EditCounts(
            **counts[1],
            compiled_block_gb=compiled_bytes(reference.transformer, _BLOCK, **inputs) / 1e9,
            kernel_block_gb=None,
        ),
    )


def budgets(ours: EditCounts, reference: EditCounts) -> list[Budget]:
    """Return what must hold at the published sizes.

    Args:
        ours: Counts of joyimage on the full model.
        reference: Counts of diffusers on the full model.

    Returns:
        The budgets, whether they hold or not.

    Source: the arithmetic of the exact savings at 4,096 + 4,096 + 1,040 tokens.
    """
    ratio = ours.transformer_tflop / reference.transformer_tflop
    limits = [
        Budget(name="text encoder", limit=21.6, got=ours.encoder_tflop, unit="TFLOP"),
        Budget(name="VAE", limit=7.6, got=ours.vae_tflop, unit="TFLOP"),
        Budget(name="transformer over diffusers'", limit=0.986, got=ratio, unit=""),
        Budget(name="elementwise per block, compiled", limit=2.0, got=ours.compiled_block_gb, unit="GB"),
        Budget(
            name="copies to the device in the loop's first step", limit=0, got=ours.first_step_copies, unit=""
        ),
        Budget(
            name="waits for the device in the loop's first step", limit=0, got=ours.first_step_syncs, unit=""
        ),
        Budget(name="copies to the device in every later step", limit=0, got=ours.step_copies, unit=""),
        Budget(name="waits for the device in every later step", limit=0, got=ours.step_syncs, unit=""),
    ]
    if ours.kernel_block_gb is not None:
        limits.append(
            Budget(name="elementwise per block, kernels", limit=1.0, got=ours.kernel_block_gb, unit="GB")
        )
    return limits


def _count_edit(pipe: Any, model: BenchModel) -> dict[str, Any]:
    """Run one edit of two steps on shapes and return what was counted, without the compiled forms."""
    counter = OpCounter()
    steps = [f"step {number}" for number in range(_COUNTED_STEPS + 1)]
    region: list[str] = []

    def mark(stage: str) -> None:
        name = stage
        if stage == STAGES[2]:
            name = steps[0]
        elif stage == STEP:
            name = steps[steps.index(region[-1]) + 1]
        if region:
            counter.leave(region[-1])
        region.append(name)
        counter.enter(name)

    with torch.no_grad(), _Passes(pipe, counter).counting() as passes, counter.counting(), watch(pipe, mark):
        pipe(
            image=make_image(model.base_size),
            prompt=PROMPT,
            num_inference_steps=_COUNTED_STEPS,
            guidance_scale=4.0,
            output_type="pt",
        )
    first, later = counter[steps[0]], counter[steps[1]]
    forwards = passes.forwards // _COUNTED_STEPS
    return {
        "encoder_tflop": counter[STAGES[0]].flops / 1e12,
        "vae_encode_tflop": counter[STAGES[1]].flops / 1e12,
        "vae_decode_tflop": counter[STAGES[3]].flops / 1e12,
        "forward_tflop": later.flops / forwards / 1e12,
        "transformer_tflop": (first.flops + (STEPS - 1) * later.flops) / 1e12,
        "transformer_forwards": forwards * STEPS,
        "encoder_tokens": passes.encoder_tokens,
        "vision_passes": passes.vision,
        "vae_frames_encoded": passes.encoded,
        "vae_frames_decoded": passes.decoded,
        "eager_block_gb": counter["block"].elementwise_bytes / passes.forwards / 1e9,
        "first_step_copies": first.host_copies,
        "first_step_syncs": first.syncs,
        "step_copies": later.host_copies,
        "step_copy_mb": later.host_copy_bytes / 1e6,
        "step_syncs": later.syncs,
        "step_host_tensors": later.host_tensors,
        "text_tokens": passes.text_tokens,
    }


class _Passes:
    """Count how often the parts of a pipeline run, and on how much."""

    def __init__(self, pipe: Any, counter: OpCounter) -> None:
        self._pipe = pipe
        self._counter = counter
        self.forwards = self.vision = self.encoder_tokens = self.encoded = self.decoded = self.text_tokens = 0

    @contextmanager
    def counting(self) -> Iterator[_Passes]:
        """Count what runs inside the block."""
        vae, text_encoder, transformer = self._pipe.vae, self._pipe.text_encoder.model, self._pipe.transformer
        hooks = [
            (transformer, self._on_transformer),
            (text_encoder.visual, self._on_vision),
            (text_encoder.language_model, self._on_language),
            (vae.encoder, self._on_vae_encoder),
            (vae.decoder, self._on_vae_decoder),
            (transformer.double_blocks[_BLOCK], lambda *_: self._counter.enter("block")),
        ]
        handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module, hook in hooks]
        handles.append(
            transformer.double_blocks[_BLOCK].register_forward_hook(lambda *_: self._counter.leave("block"))
        )
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _on_transformer(self, _module: Any, _args: Any, kwargs: Any) -> None:
        self.forwards += 1
        self.text_tokens = max(self.text_tokens, kwargs["encoder_hidden_states"].shape[1])

    def _on_vision(self, *_: Any) -> None:
        self.vision += 1

    def _on_language(self, _module: Any, _args: Any, kwargs: Any) -> None:
        batch_size, tokens = kwargs["inputs_embeds"].shape[:2]
        self.encoder_tokens += batch_size * tokens

    def _on_vae_encoder(self, _module: Any, args: Any, _kwargs: Any) -> None:
        self.encoded += args[0].shape[0] * args[0].shape[2]

    def _on_vae_decoder(self, _module: Any, args: Any, _kwargs: Any) -> None:
        self.decoded += args[0].shape[0] * args[0].shape[2]


def _in_gb(num_bytes: int | None) -> float | None:
    return None if num_bytes is None else num_bytes / 1e9
