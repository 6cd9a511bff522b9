"""`HanpacaRetriever`: passages of a library as LlamaIndex nodes. Translates types and nothing else."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any, Self

from llama_index.core.callbacks import CallbackManager
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode

from ...core.adapting import refuse_unknown
from ...rag import Filters, Hit, Library
from ...rag.adapting import Opened, id_of_passage
from ...rag.retrieval import check_options

HIDDEN = ("start", "end", "passage_id", "line")
"""Metadata that is not shown to the model or the embedder; nor is what is empty."""

PER_CALL = ("k", "mode", "filters")
OPTIONS = ("library", "k", "mode", "filters", "embedder", "callback_manager", "verbose")


class HanpacaRetriever(BaseRetriever):
    """The passages of a library that answer a question best.

    >>> HanpacaRetriever("~/library", k=3).retrieve("How large is the 7B model?")   # doctest: +SKIP

    Building one opens nothing. The metadata of each node has `file`, `page` (None where the format has none), `line`,
    `headings`, `start`, `end` and `passage_id`; the score is the node's. `mode` is hybrid, keywords or vectors;
    `embedder` None is the one that the library was made with. An open `Library` may be given in place of its folder.
    LlamaIndex's `retrieve` takes a question and nothing else: `retriever.replace(k=8).retrieve(question)` searches once
    with another `k`, `mode` or `filters`.
    """

    def __init__(
        self,
        library: Path | str | Library,
        *,
        k: int = 5,
        mode: str = "hybrid",
        filters: Filters | None = None,
        embedder: str | None = None,
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self).__name__, unknown, OPTIONS)
        check_options(k, mode)
        super().__init__(callback_manager=callback_manager, verbose=verbose)
        self.library = library.folder if isinstance(library, Library) else Path(library).expanduser()
        self.k, self.mode, self.filters, self.embedder = k, mode, filters, embedder
        given = {(self.library, embedder): library} if isinstance(library, Library) else {}
        self._libraries: Opened[tuple[Path, str | None], Library] = Opened(given)

    def replace(self, **changed: Any) -> Self:
        """A retriever with another `k`, `mode` or `filters` that shares the open library."""
        refuse_unknown(f"{type(self).__name__}.replace", changed, PER_CALL)
        other = copy.copy(self)
        vars(other).update(changed)
        check_options(other.k, other.mode)
        return other

    @property
    def opened(self) -> Library:
        """The library, opened at first use. Raises `BadInput` where there is none."""
        folder, embedder = Path(self.library), self.embedder
        return self._libraries.get(
            (folder, embedder), lambda: Library.open(folder.expanduser(), embedder=embedder, create=False)
        )

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        # for prompts, in which what stands around a passage distracts small models
        library = self.opened
        hits = library.search(query_bundle.query_str, self.k, self.mode, self.filters, fill=False)
        return [to_node(hit, library.folder) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        # Opening the library may load the embedder: that too happens off the event loop.
        return await asyncio.to_thread(self._retrieve, query_bundle)


def to_node(hit: Hit, library: Path) -> NodeWithScore:
    """A passage of the library in that folder as a LlamaIndex node; its source document is the file."""
    metadata = {
        "file": hit.file,
        "page": hit.page,
        "line": hit.line,
        "headings": " > ".join(hit.headings),
        "start": hit.start,
        "end": hit.end,
        "passage_id": hit.passage_id,
    }
    hidden = [name for name, value in metadata.items() if name in HIDDEN or value in (None, "")]
    node = TextNode(
        id_=id_of_passage(library, hit),
        text=hit.text,
        metadata=metadata,
        start_char_idx=hit.start,
        end_char_idx=hit.end,
        excluded_llm_metadata_keys=hidden,
        excluded_embed_metadata_keys=hidden,
    )
    node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=hit.file)
    return NodeWithScore(node=node, score=hit.score)
