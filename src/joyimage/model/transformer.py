"""The transformer of JoyAI-Image-Edit: a double-stream MMDiT over [target | references | text].

Read this first, then `packing.py` (how items become tokens) and `blocks.py` (what a layer does).
Dimension key: B batch, C channels, T frames, L tokens, D model width.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config  # pyright: ignore[reportUnknownVariableType]
from diffusers.models.attention import AttentionMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn

from joyimage.compat.diffusers import ContextParallelInput, ContextParallelOutput, is_parallel
from joyimage.errors import InvalidInputError
from joyimage.model import packing
from joyimage.model.adapters.mixin import AdapterMixin
from joyimage.model.blocks import JoyImageTransformerBlock
from joyimage.model.checkpoint.mixin import CheckpointMixin
from joyimage.model.config import TransformerConfig, modernize
from joyimage.model.embeddings import ConditionEmbedding, PatchEmbedding, TokenStreams
from joyimage.model.forward_plan import ForwardPlan, TextTokens
from joyimage.model.ops import PLAIN_OPS, TransformerOps
from joyimage.model.rope import Grid, ItemRotaryEmbedding, TextRotaryEmbedding
from joyimage.model.slices import LayerSlice
from joyimage.model.step_cache import StepCacheMixin


class JoyImageEditTransformer3DModel(  # pyright: ignore[reportIncompatibleMethodOverride]
    CheckpointMixin, StepCacheMixin, AdapterMixin, ModelMixin, ConfigMixin, AttentionMixin
):
    """Predict the flow-matching velocity of a target image, given references and text.

    The defaults are those of the published code, not of the published checkpoint, whose `config.json` names
    every value. Both generations of that file load.

    Args:
        patch_size: Patch (t, h, w) in latent pixels.
        in_channels: Channels of the latents.
        out_channels: Channels of the velocity; None means `in_channels`.
        hidden_size: Width of both streams.
        num_attention_heads: Heads of the joint attention.
        text_dim: Width of the text encoder's states.
        mlp_width_ratio: Width of the MLPs over `hidden_size`.
        num_layers: Number of double-stream blocks.
        rope_dim_list: Channels of a head that turn with item, row and column; None means three equal parts.
        rope_type: "rope" gives positions to image tokens only, "mrope" to text tokens too.
        theta: Base of the rotary frequencies.

    Raises:
        InvalidInputError: A setting that can't be; the sentence names it.

    Source: JoyAI-Image, arXiv 2605.04128.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["JoyImageTransformerBlock"]  # noqa: RUF012 - diffusers' attributes, here and below
    _repeated_blocks = ["JoyImageTransformerBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["img_in", "condition_embedder", "norm"]  # noqa: RUF012
    _keep_in_fp32_modules = ["time_embedder", "norm_out"]  # noqa: RUF012
    _cp_plan = {  # noqa: RUF012
        # Attention doesn't mind the order of its keys: a rank takes a part of the image and one of the text.
        "item_rope": {
            index: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True) for index in (0, 1)
        },
        "text_rope": {
            index: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True) for index in (0, 1)
        },
        "token_streams": {
            index: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True) for index in (0, 1)
        },
        "double_blocks.*": {
            "encoder_hidden_states_mask": ContextParallelInput(
                split_dim=1, expected_dims=2, split_output=False
            ),
        },
        # Not `proj_out` itself: an adapter that is loaded later wraps it, and has to see its own part of the tokens.
        "patches": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        patch_size: Sequence[int] = (1, 2, 2),
        in_channels: int = 16,
        out_channels: int | None = None,
        hidden_size: int = 3072,
        num_attention_heads: int = 24,  # 128 channels each
        text_dim: int = 4096,
        mlp_width_ratio: float = 4.0,
        num_layers: int = 20,
        rope_dim_list: Sequence[int] | None = (16, 56, 56),
        rope_type: str = "rope",
        theta: float = 256,
    ) -> None:
        super().__init__()
        config = TransformerConfig.resolve(
            {
                "patch_size": patch_size,
                "in_channels": in_channels,
                "out_channels": out_channels,
                "hidden_size": hidden_size,
                "num_attention_heads": num_attention_heads,
                "text_dim": text_dim,
                "mlp_width_ratio": mlp_width_ratio,
                "num_layers": num_layers,
                "rope_dim_list": rope_dim_list,
                "rope_type": rope_type,
                "theta": theta,
            }
        )
        self.settings = config
        self.img_in = PatchEmbedding(
            config.in_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.condition_embedder = ConditionEmbedding(config.hidden_size, config.text_dim)
        self.item_rope = ItemRotaryEmbedding(config.axis_dims, config.theta)
        self.text_rope = TextRotaryEmbedding(config.axis_dims, config.theta)
        self.token_streams = TokenStreams()
        self.double_blocks = nn.ModuleList(
            JoyImageTransformerBlock(config.hidden_size, config.num_attention_heads, config.mlp_width_ratio)
            for _ in range(config.num_layers)
        )
        self.norm_out = FP32LayerNorm(config.hidden_size, eps=1e-6, elementwise_affine=False)
        self.proj_out = nn.Linear(config.hidden_size, math.prod(config.patch_size) * config.out_channels)
        self.patches = nn.Identity()  # where devices divide the tokens, their parts are put together here
        self.gradient_checkpointing = False
        self._ops = PLAIN_OPS
        self.acceleration: object = None  # what `joyimage.acceleration.accelerate` chose
        self.layer_slice = LayerSlice()  # what this process has of the blocks' large layers

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | None = None,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return a model built from a config of either generation; see `ConfigMixin.from_config`.

        Raises:
            CheckpointError: The config lacks a key, contradicts itself or describes another architecture.
        """
        if isinstance(config, Mapping):
            config = modernize(config)
        return cast("Any", super()).from_config(config, return_unused_kwargs, **kwargs)

    @property
    def blocks(self) -> list[JoyImageTransformerBlock]:
        """The blocks in their order."""
        return cast("list[JoyImageTransformerBlock]", list(self.double_blocks))

    @property
    def ops(self) -> TransformerOps:
        """What blocks compute between their matmuls; see `set_ops`."""
        return self._ops

    def set_ops(self, ops: TransformerOps) -> None:
        """Have every block use `ops` between its matmuls."""
        self._ops = ops
        for block in self.blocks:
            block.ops = block.attn.ops = ops

    def forward(
        self,
        hidden_states: Tensor | Sequence[Tensor],
        timestep: Tensor,
        encoder_hidden_states: Tensor | None = None,
        encoder_hidden_states_mask: Tensor | None = None,
        return_dict: bool = True,
        target_only: bool = False,
        plan: ForwardPlan | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor | list[Tensor]]:
        """Predict the velocity of every item.

        Args:
            hidden_states: Latents, target last: `[B, C, T, H, W]`, `[B, items, C, T, H, W]`, or a list of
                `[B, C, T, H, W]` whose heights and widths may differ.
            timestep: Scheduler times in [0, 1000], `[B]`.
            encoder_hidden_states: Text encoder states `[B, L, text_dim]`.
            encoder_hidden_states_mask: `[B, L]`, non-zero for real tokens; None means that all are real.
                Padded tokens are never attended to.
            return_dict: False returns a tuple of one.
            target_only: Return the target's velocity only.
            plan: Provides the tokens in place of this model, such as
                `joyimage.acceleration.ForwardCache`; None embeds every input in this call, and every block
                computes all tokens.

        Returns:
            The velocity, in the layout of `hidden_states`; with `target_only` the target's,
            `[B, C, T, H, W]`.

        Raises:
            InvalidInputError: A shape that doesn't fit, or no text.
        """
        plan = self if plan is None else plan
        patch_size = self.settings.patch_size
        items = packing.split_items(hidden_states, self.settings.in_channels, patch_size)
        states = self._checked_text(encoder_hidden_states, batch_size=len(items[0]))
        timestep = self._checked_timestep(timestep, batch_size=len(items[0]))
        grids = tuple(packing.item_grid(item, patch_size) for item in items)

        # 1. Text, time and items become tokens.
        text = plan.embed_text(states, encoder_hidden_states_mask, grids)
        temb = plan.embed_time(timestep, states.dtype)  # [1 or B, 6, D]
        target, *references = items
        tokens = [self.embed_item(target), *(plan.embed_reference(item) for item in references)]
        img, txt = self.token_streams(tokens, text.states)  # [B, L_img, D], [B, L_txt, D]

        # 2. Positions: of image tokens always, of text tokens (`text.rotary_emb`) with "mrope".
        image_rotary_emb = self.item_rope(grids, img.device)

        # 3. The blocks.
        extras = plan.block_arguments(items, target_only=target_only)
        for index, block in enumerate(self.blocks):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                img, txt = cast("Any", self._gradient_checkpointing_func)(
                    block, img, txt, temb, image_rotary_emb, text.rotary_emb, text.mask
                )
            else:
                img, txt = block(
                    hidden_states=img,
                    encoder_hidden_states=txt,
                    temb=temb,
                    image_rotary_emb=image_rotary_emb,
                    text_rotary_emb=text.rotary_emb,
                    encoder_hidden_states_mask=text.mask,
                    **extras.get(index, {}),
                )

        # 4. Tokens become items again.
        grids = grids[:1] if target_only else grids
        sizes = [math.prod(grid) for grid in grids]
        if not is_parallel(self):  # where devices divide the tokens, the head puts them together
            img = img[:, : sum(sizes)]
        patches = self.patches(self.proj_out(self.norm_out(img)))  # [B, L, patch * C]
        parts = patches[:, : sum(sizes)].split(sizes, dim=1)
        velocities = [
            packing.unpatchify(part, grid, patch_size) for part, grid in zip(parts, grids, strict=True)
        ]
        velocity = velocities[0] if target_only else packing.join_items(velocities, like=hidden_states)
        if not return_dict:
            return (velocity,)
        return Transformer2DModelOutput(sample=velocity)

    def embed_text(self, states: Tensor, mask: Tensor | None, grids: tuple[Grid, ...]) -> TextTokens:
        """Return the tokens of a text beside items of these sizes; see `ForwardPlan`."""
        return self.embed_packed_text(packing.pack_text(states, mask), grids)

    def embed_packed_text(self, text: packing.PackedText, grids: tuple[Grid, ...]) -> TextTokens:
        """Return the tokens of a text whose common padding is taken out already."""
        rotary_emb = self.text_rope(grids, text.token_index()) if self.settings.has_text_positions else None
        return TextTokens(self.condition_embedder.text_embedder(text.states), text.mask, rotary_emb)

    def embed_time(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the modulation signal `[B, 6, D]` of times `[B]`."""
        return self.condition_embedder.embed_time(timestep, dtype)

    def embed_item(self, item: Tensor) -> Tensor:
        """Return an item's tokens `[B, L, D]` from `[B, C, T, H, W]`."""
        return self.img_in(item).flatten(2).transpose(1, 2)

    embed_reference = embed_item

    def block_arguments(self, items: list[Tensor], *, target_only: bool) -> Mapping[int, Mapping[str, Any]]:  # noqa: ARG002 - part of `ForwardPlan`
        """Return no additional arguments: every block computes all tokens."""
        return {}

    def _checked_text(self, states: Tensor | None, batch_size: int) -> Tensor:
        """Return the text encoder's states.

        Raises:
            InvalidInputError: They are missing, or have another shape.
        """
        if states is None or states.ndim != 3 or len(states) != batch_size:
            got = None if states is None else tuple(states.shape)
            raise InvalidInputError(
                "`encoder_hidden_states` must be the text encoder's states,"
                f" [{batch_size}, L, {self.settings.text_dim}]: got {got}."
            )
        return states

    def _checked_timestep(self, timestep: Tensor, batch_size: int) -> Tensor:
        """Return one time per sample, `[B]`.

        Raises:
            InvalidInputError: The number of times is neither 1 nor `batch_size`.
        """
        if timestep.numel() not in {1, batch_size}:
            raise InvalidInputError(
                f"`timestep` must hold one time per sample, [{batch_size}]: got {tuple(timestep.shape)}."
            )
        return timestep.reshape(-1).expand(batch_size)
