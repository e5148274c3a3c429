"""What enters the blocks: patches, the time and the text.

Dimension key: B batch, L tokens, C channels, D model width.
"""

import torch
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from torch import Tensor, nn

from joyimage.model.packing import item_grid, patchify

_TIME_FREQUENCIES = 256


class PatchEmbedding(nn.Conv3d):
    """Project patches to the model width: a Conv3d in weight, input and output, a matmul in execution.

    cuDNN's Conv3d with kernel = stride is slower by orders of magnitude in bf16 on several GPUs. Staying a
    Conv3d in shape keeps the published weights working, and adapters too: peft makes their matrices of the
    layer's own class.
    """

    def forward(self, item: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return `[B, D, t, h, w]` (stored with D fastest) from `[B, C, T, H, W]`."""
        t, h, w = self.kernel_size
        tokens = nn.functional.linear(
            patchify(item, (t, h, w)), self.weight.flatten(1), self.bias
        )  # [B, L, D]
        return torch.unflatten(tokens, 1, item_grid(item, (t, h, w))).movedim(-1, 1)


class ConditionEmbedding(nn.Module):
    """Embed the time and the text.

    The time goes through sinusoids (cosines first) and an MLP whose weights stay fp32, then through SiLU and
    one projection that all blocks share; the text goes through a two-layer MLP.
    """

    def __init__(self, hidden_size: int, text_dim: int) -> None:
        super().__init__()
        self.timesteps_proj = Timesteps(_TIME_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(_TIME_FREQUENCIES, hidden_size)
        self.act_fn = nn.SiLU()
        self.time_proj = nn.Linear(hidden_size, 6 * hidden_size)
        self.text_embedder = PixArtAlphaTextProjection(text_dim, hidden_size, act_fn="gelu_tanh")

    def embed_time(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the modulation signal `[B, 6, D]` of scheduler times `[B]`, in the dtype of the blocks."""
        frequencies = self.timesteps_proj(timestep)  # fp32
        weight_dtype = self.time_embedder.linear_1.weight.dtype
        # Integer weights are quantized ones: their layer takes floats.
        if weight_dtype.is_floating_point:
            frequencies = frequencies.to(weight_dtype)
        temb = self.time_embedder(frequencies).to(dtype)
        modulation = self.time_proj(self.act_fn(temb))  # [B, 6 * D]
        return modulation.unflatten(1, (6, -1))


class TokenStreams(nn.Module):
    """Join the tokens of all items into the image stream, beside the text's.

    It holds no parameters; it is a module so that context parallelism can split what it returns. Split here rather than
    in the first block, a step cache in front of that block holds the part that its process computes.
    """

    def forward(self, items: list[Tensor], txt: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image stream `[B, L_img, D]` from the items' tokens `[B, L, D]`, and the text stream as it is."""
        return torch.cat(items, dim=1), txt
