"""Private names of transformers that joyimage uses, because transformers has no public way to them."""

from __future__ import annotations

from typing import Any


def attention_implementation(config: Any) -> str | None:
    """Return the attention that a model's configuration selects, such as "sdpa" or "flash_attention_2"."""
    return config._attn_implementation
