"""What one pass computes: how many tokens of which running sequence. Knows no queue and no outputs.

Every decoding sequence has its one token, so that none waits; prompts come in chunks beside them (`chunks.py`), and
where there are none, guesses at what the decoding ones say next (`lookup.py`).
"""

from __future__ import annotations

from .chunks import chunk_beside
from .jobs import Decoder, Slot
from .sequences import QUICK, Sequences

GUESSING = 32
"""Tokens of a pass above which none are guessed: it takes longer by each then."""

Shares = list[tuple[Slot, int]]


def shares_of(sequences: Sequences, decoder: Decoder, chunk: int) -> Shares:
    """The running sequences that take part in the next pass, each with how many tokens it computes.

    Where a copy to or from the shelf has taken this step's time already, the decoding ones go on alone.
    Every decoding sequence has one. Of the rest the oldest prefilling sequence gets half, so that it ends; the
    others follow by what they still need, so that a short prompt need not wait for a long one.
    `chunk` is that of `chunk_beside`.
    """
    decoding = [sequence for sequence in sequences.running if len(sequence.pending) == 1]
    prefilling = [sequence for sequence in sequences.running if len(sequence.pending) > 1]
    if not prefilling:
        return _with_guesses(decoding, decoder)
    shares = [(sequence, 1) for sequence in decoding]
    if shares and sequences.moved > QUICK:
        return shares
    oldest, others = prefilling[0], sorted(prefilling[1:], key=lambda s: len(s.pending))
    room = decoder.batch
    if shares:
        pending = sum(len(s.pending) for s in prefilling)
        room = chunk_beside(decoder, chunk, len(shares), len(oldest.tokens), pending)
    left = room // 2 if others else room
    counts = {oldest.id: min(left, len(oldest.pending))}
    room -= counts[oldest.id]
    for sequence in others:
        counts[sequence.id] = min(room, len(sequence.pending))
        room -= counts[sequence.id]
    counts[oldest.id] += min(room, len(oldest.pending) - counts[oldest.id])
    return _within_outputs(shares + [(s, counts[s.id]) for s in prefilling if counts[s.id]], decoder.outputs)


def _with_guesses(decoding: list[Slot], decoder: Decoder) -> Shares:
    """One token each, and guesses at the next ones, for which cells are promised already, where there is room for
    everyone's; what one does not take is the others'."""
    room = min(GUESSING, decoder.batch, decoder.outputs) - len(decoding)
    for index, sequence in enumerate(decoding if room >= len(decoding) else ()):
        if sequence.job and sequence.job.lookup:
            most = min(room // (len(decoding) - index), sequence.promised - 2)  # its last token is not computed
            sequence.guess = sequence.job.lookup.guess(sequence.target, most)
            room -= len(sequence.guess)
    return [(sequence, 1 + len(sequence.guess)) for sequence in decoding]


def _within_outputs(shares: Shares, most: int) -> Shares:
    """Cut shares so that no more than `most` tokens ask for logits, as many as one pass gives; a score may ask for
    many."""
    result: Shares = []
    for sequence, count in shares:
        assert sequence.job is not None
        silent = max(0, min(count, sequence.job.first_output - len(sequence.tokens)))
        count = silent + min(count - silent, most)
        most -= count - silent
        if count:
            result.append((sequence, count))
    return result
