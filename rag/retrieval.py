"""Searching a library: what is asked for is checked, what the pool of passages gives is widened, reordered, explained.

Knows no language model; how passages are ranked is `pool`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadInput
from .filters import Filters
from .hits import Hit, filled, widen
from .pool import CANDIDATES, Pool
from .reranking import RERANKED, Reranker, load_reranker
from .splitting import TARGET

if TYPE_CHECKING:
    from .library import Library

MODES = ("hybrid", "keywords", "vectors")
MOST = 100_000
"""Passages that a search may be asked for."""


@dataclass(frozen=True)
class Found:
    """What a search gave, and what answering needs to know besides."""

    hits: list[Hit]
    weights: Mapping[str, float]
    """The question's terms that occur, with what each is worth."""
    best: float
    """The strongest evidence of a passage in the question's language."""
    least: float | None
    """The evidence under which the library is taken to have no answer; None where nobody knows."""
    answerable: bool
    nearly: bool
    """Not answerable, but so close to `least` that what is nearest is worth showing."""
    passages: int
    """Passages in the library; `pending` of them have no vectors yet."""
    pending: int


def find(
    library: Library,
    query: str,
    k: int = 5,
    mode: str = "hybrid",
    filters: Filters | Mapping[str, Any] | None = None,
    *,
    merge: bool = True,
    across: bool = True,
    neighbours: int = 0,
    fill: bool = True,
    rerank: str | Reranker | None = None,
) -> Found:
    """The `k` passages that answer `query` best, best first; fewer where the library or the filter has fewer.

    `merge` shows passages of nearly the same text once. `across` keeps the seats from the sixth on for passages in
    other languages than the question's, as far as there are any. `fill` makes a short hit a full passage with
    sentences around it, for people to read; a prompt is better without. `neighbours` widens each by so many passages
    on either side instead. `rerank` names a
    cross-encoder that orders the first passages anew (whether the library seems to have an answer is told without it).
    Vectors that are not computed yet are simply not used. Raises `BadInput` for an empty question, an empty library,
    an unknown mode, k below 1, neighbours below 0.
    """
    from .calibration import MARGINS, threshold

    check(library, query, k, mode)
    if neighbours < 0:
        raise BadInput(f"neighbours must be at least 0, not {neighbours}.", "It counts passages on either side.")
    reranker = load_reranker(rerank) if isinstance(rerank, str) else rerank
    with library.store.read() as reading:
        chosen = Filters.of(filters)
        allowed = chosen.passages(reading) if chosen else None
        pool = Pool(library, reading, query, mode, max(CANDIDATES, 4 * k), allowed)
        passages, vectors = pool.passages, pool.vectors
        pool_mode = mode if vectors else "keywords"
        least = threshold(library, pool_mode, pool.language)
        hits = pool.hits(max(k, RERANKED) if reranker else k, merge, across)
        if reranker:
            hits = reorder(reranker, query, hits)[:k]
        if neighbours:
            hits = [widen(library.store, hit, neighbours) for hit in hits]
        elif fill:
            hits = [filled(library.store, hit, TARGET) for hit in hits]
        return Found(
            hits,
            pool.question.weights,
            pool.best,
            least,
            pool.is_answerable(least),
            least is not None and least - MARGINS[pool_mode] <= pool.best < least,
            passages,
            passages - vectors,
        )


def check(library: Library, query: str, k: int, mode: str) -> None:
    """Raise `BadInput` for what `search` cannot do."""
    check_options(k, mode)
    if not isinstance(query, str):
        raise BadInput(f"The question is of type {type(query).__name__}.", "Give it as str.")
    if not query.strip():
        raise BadInput("The question is empty.", "Ask something.")
    if not library.store.rows("SELECT 1 FROM passages LIMIT 1"):
        raise BadInput(f"The library in {library.folder} is empty.", "Add documents: hanpaca ingest FOLDER.")


def check_options(k: int, mode: str) -> None:
    """Raise `BadInput` for what no library can do."""
    if mode not in MODES:
        raise BadInput(f"{mode!r} is not a way to search.", f"Valid: {', '.join(MODES)}.")
    if not isinstance(k, Integral) or k < 1:
        raise BadInput(f"k must be a whole number of at least 1, not {k!r}.", "It is the number of passages wanted.")
    if k > MOST:
        raise BadInput(f"k is {k}: more than {MOST:,} passages are not searched for.", "Ask for fewer.")


def reorder(reranker: Reranker, query: str, hits: Sequence[Hit]) -> list[Hit]:
    """The hits by what a cross-encoder says of them; `explain` tells it."""
    scores = reranker.score(query, [hit.text for hit in hits])
    order = sorted(range(len(hits)), key=lambda at: (-float(scores[at]), at))
    return [replace(hits[at], explain={**hits[at].explain, "rerank": round(float(scores[at]), 4)}) for at in order]


def query_vectors(library: Library, texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of many questions at once."""
    parts = [library.embedder.embed_queries(texts[at : at + 32]) for at in range(0, len(texts), 32)]
    return np.concatenate(parts) if parts else np.zeros((0, library.embedder.dimension), np.float32)
