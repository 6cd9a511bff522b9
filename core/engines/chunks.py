"""How much of waiting prompts one pass computes beside the sequences that decode: their next tokens wait for it.

Attention looks at all that came before a chunk, so a pass takes longer the further a prompt has come; and where a
decoder computes it in tiles, a pass that fills whole ones can take less time than a shorter one. With four sequences
decoding and 4,000 tokens before, 60 tokens take three quarters of the time of 43 (`tests/benchmarks/LOG.md`).
"""

from __future__ import annotations

from .jobs import Decoder

DEEP = 8192
"""Tokens before a chunk that make it half as long, where attention has no tiles."""
DEEP_TAIL = 2048
"""Tokens before the end of a prompt from which on that goes in two halves, where it fills no tile."""


def chunk_beside(decoder: Decoder, chunk: int, decoding: int, depth: int, pending: int) -> int:
    """Most tokens of prompts, of `pending`, beside `decoding` sequences, after `depth` tokens of the oldest prompt.

    `chunk` is that number for a decoder without tiles at the beginning of a prompt.
    """
    if decoder.tile == 1:
        return min(-(-chunk * DEEP // (DEEP + depth)), decoder.batch - decoding)
    room = min(_rows(decoder, decoding, depth), decoder.batch) - decoding
    is_costly_tail = depth >= DEEP_TAIL and room // 2 < pending < room
    return -(-pending // 2) if is_costly_tail else room


def _rows(decoder: Decoder, decoding: int, depth: int) -> int:
    """Rows of a pass: whole tiles, or halves where whole ones gain little, with half a unit for prompts at least."""
    unit = decoder.tile if depth < decoder.tile_depth else decoder.tile // 2
    return ((decoding + unit // 2) // unit + 1) * unit
