"""Attention among the tokens of each text only, where several lie in one row. Knows PyTorch.

transformers would build a mask of all against all for such a row; here each text is attended to by itself, which costs
the sum of the squares of the lengths instead of the square of the sum. FlashAttention-2 does the same on its own.
"""

from __future__ import annotations

from functools import cache
from typing import Any

NAME = "hanpaca_segments"


@cache
def register() -> str:
    """Make it known to transformers under `NAME`; no mask is made for it."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attend)
    return NAME


def _attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: tuple[int, ...] | None = None,
    **_: Any,
) -> tuple[Any, None]:
    """transformers' interface: (1, heads, tokens, width) → (1, tokens, heads, width). `segments`: lengths of texts."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    grouped = query.shape[1] != key.shape[1]
    if segments is None or len(segments) == 1:
        parts = [(query, key, value)]
    else:
        lengths = list(segments)
        parts = list(zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True))
    outputs = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=grouped)
        for q, k, v in parts
    ]
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return joined.transpose(1, 2).contiguous(), None
