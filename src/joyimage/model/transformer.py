"""The transformer of JoyAI-Image-Edit: a double-stream MMDiT over [target | references | text].

Read this first, then `packing.py` (how items become tokens) and `blocks.py` (what a layer does).
Dimension key: B batch, C channels, T frames, L tokens, D model width.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import AttentionMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn

from joyimage.compat.diffusers import ContextParallelInput, ContextParallelOutput, hook_registry, is_parallel
from joyimage.errors import InvalidInputError
from joyimage.model import packing
from joyimage.model.adapters.mixin import AdapterMixin
from joyimage.model.blocks import JoyImageTransformerBlock
from joyimage.model.caches import StepCacheMixin
from joyimage.model.checkpoint.mixin import CheckpointMixin
from joyimage.model.config import TransformerConfig, modernize
from joyimage.model.embeddings import ConditionEmbedding, PatchEmbedding
from joyimage.model.reuse import Reuse
from joyimage.model.rope import ItemRotaryEmbedding, TextRotaryEmbedding

T = TypeVar("T")


class JoyImageEditTransformer3DModel(  # pyright: ignore[reportIncompatibleMethodOverride]
    CheckpointMixin, StepCacheMixin, AdapterMixin, ModelMixin, ConfigMixin, AttentionMixin
):
    """Predict the flow-matching velocity of a target picture, given references and text.

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
        "double_blocks.0": {
            "hidden_states": ContextParallelInput(split_dim=1, expected_dims=3, split_output=False),
            "encoder_hidden_states": ContextParallelInput(split_dim=1, expected_dims=3, split_output=False),
        },
        "double_blocks.*": {
            "encoder_hidden_states_mask": ContextParallelInput(
                split_dim=1, expected_dims=2, split_output=False
            ),
        },
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
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
        self.double_blocks = nn.ModuleList(
            JoyImageTransformerBlock(config.hidden_size, config.num_attention_heads, config.mlp_width_ratio)
            for _ in range(config.num_layers)
        )
        self.norm_out = FP32LayerNorm(config.hidden_size, eps=1e-6, elementwise_affine=False)
        self.proj_out = nn.Linear(config.hidden_size, math.prod(config.patch_size) * config.out_channels)
        self.gradient_checkpointing = False

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
        return super().from_config(cast("Any", config), return_unused_kwargs, **kwargs)

    def forward(
        self,
        hidden_states: Tensor | Sequence[Tensor],
        timestep: Tensor,
        encoder_hidden_states: Tensor | None = None,
        encoder_hidden_states_mask: Tensor | None = None,
        return_dict: bool = True,
        target_only: bool = False,
        reuse: Reuse | None = None,
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
            target_only: Predict the target's velocity only: the last block leaves out what it doesn't need.
            reuse: Keeps what this forward has in common with others of the same edit; None: nothing.

        Returns:
            The velocity, in the layout of `hidden_states`; with `target_only` the target's,
            `[B, C, T, H, W]`.

        Raises:
            InvalidInputError: A shape that doesn't fit, or no text.
        """
        patch_size = self.settings.patch_size
        items = packing.split_items(hidden_states, self.settings.in_channels, patch_size)
        batch_size = items[0].shape[0]
        if (
            encoder_hidden_states is None
            or encoder_hidden_states.ndim != 3
            or len(encoder_hidden_states) != batch_size
        ):
            got = None if encoder_hidden_states is None else tuple(encoder_hidden_states.shape)
            raise InvalidInputError(
                "`encoder_hidden_states` must be the text encoder's states,"
                f" [{batch_size}, L, {self.settings.text_dim}]: got {got}."
            )
        if timestep.numel() not in {1, batch_size}:
            raise InvalidInputError(
                f"`timestep` must hold one time per sample, [{batch_size}]: got {tuple(timestep.shape)}."
            )
        timestep = timestep.reshape(-1).expand(batch_size)
        grids = tuple(packing.item_grid(item, patch_size) for item in items)

        # 1. Text, time and items become tokens.
        once = _every_time if reuse is None or torch.compiler.is_compiling() else reuse.once
        sources = _text_sources(encoder_hidden_states, encoder_hidden_states_mask)
        text = once("text", sources, lambda: packing.pack_text(*sources))
        txt = once(
            "txt", sources, lambda: self.condition_embedder.text_embedder(text.states)
        )  # [B, L_txt, D]
        dtype = encoder_hidden_states.dtype
        if reuse is None:
            temb = self.condition_embedder.embed_time(timestep, dtype)  # [B, 6, D]
        else:
            steps = once(
                f"time {dtype}",
                (reuse.timesteps,),
                lambda: self.condition_embedder.embed_time(reuse.timesteps, dtype),
            )
            temb = steps[reuse.step, None]  # [1, 6, D]
        target, *references = items
        img = torch.cat(
            [
                self._embed_item(target),
                *(once("item", (item,), partial(self._embed_item, item)) for item in references),
            ],
            dim=1,
        )  # [B, L_img, D]

        # 2. Positions: of image tokens always, of text tokens with "mrope".
        image_rotary_emb = self.item_rope(grids, img.device)
        text_rotary_emb = None
        if self.settings.has_text_positions:
            text_rotary_emb = once(
                f"positions {grids}", sources, lambda: self.text_rope(grids, text.token_index())
            )

        # 3. The blocks. The first shares image rows with the other branch, the last leaves out the rest.
        is_short = target_only and self._may_shorten()
        first, last = self.double_blocks[0], self.double_blocks[-1]
        image_rows = None if reuse is None else reuse.image_rows(tuple(items))
        for block in self.double_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                img, txt = cast("Any", self._gradient_checkpointing_func)(
                    block, img, txt, temb, image_rotary_emb, text_rotary_emb, text.mask
                )
            else:
                extras: dict[str, Any] = {}
                if image_rows is not None and block is first and block is not last:
                    extras["image_rows"] = image_rows
                if is_short and block is last:
                    extras["num_target_tokens"] = math.prod(grids[0])
                img, txt = block(
                    hidden_states=img,
                    encoder_hidden_states=txt,
                    temb=temb,
                    image_rotary_emb=image_rotary_emb,
                    text_rotary_emb=text_rotary_emb,
                    encoder_hidden_states_mask=text.mask,
                    **extras,
                )

        # 4. Tokens become items again.
        if target_only:
            grids = grids[:1]
            img = img[:, : math.prod(grids[0])]
        tokens = self.proj_out(self.norm_out(img))  # [B, L_img, patch * C]
        parts = tokens.split([math.prod(grid) for grid in grids], dim=1)
        velocities = [
            packing.unpatchify(part, grid, patch_size) for part, grid in zip(parts, grids, strict=True)
        ]
        velocity = velocities[0] if target_only else packing.join_items(velocities, like=hidden_states)
        if not return_dict:
            return (velocity,)
        return Transformer2DModelOutput(sample=velocity)

    def prepare(
        self,
        hidden_states: Tensor | Sequence[Tensor],
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None = None,
        *,
        reuse: Reuse,
    ) -> None:
        """Do ahead what would make the device wait for the host in the first forward of a loop.

        That is the positions' tables, which are built on the host, and the search for padding. No weight is
        touched: they may be elsewhere until `forward` is called.

        Args:
            hidden_states: As in `forward`; sizes and device count.
            encoder_hidden_states: The very tensor that `forward` will be given.
            encoder_hidden_states_mask: Likewise.
            reuse: Likewise.
        """
        items = packing.split_items(hidden_states, self.settings.in_channels, self.settings.patch_size)
        grids = tuple(packing.item_grid(item, self.settings.patch_size) for item in items)
        self.item_rope.prepare(grids, items[0].device)
        sources = _text_sources(encoder_hidden_states, encoder_hidden_states_mask)
        reuse.once("text", sources, lambda: packing.pack_text(*sources))

    def _embed_item(self, item: Tensor) -> Tensor:
        """Return an item's tokens `[B, L, D]`."""
        return self.img_in(item).flatten(2).transpose(1, 2)

    def _may_shorten(self) -> bool:
        """Tell whether the last block may leave tokens out: nothing else counts on all of them."""
        last: Any = self.double_blocks[-1]
        has_hooks = any(hook_registry(module) is not None for module in (last, last.attn))
        return not (has_hooks or self.is_cache_enabled or is_parallel(self))


def _text_sources(states: Tensor, mask: Tensor | None) -> tuple[Tensor] | tuple[Tensor, Tensor]:
    """Return what a text is made of."""
    return (states,) if mask is None else (states, mask)


def _every_time(_name: str, _sources: tuple[Tensor, ...], make: Callable[[], T]) -> T:
    """Stand in for `Reuse.once` where nothing is kept."""
    return make()
