"""`HanpacaLoader`: the readers of `hanpaca.rag` as a LangChain document loader. Translates types and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import Document

from ...core.adapting import refuse_unknown
from ...rag.loading import check_unit, load_parts, paths_of

OPTIONS = ("paths", "unit", "encoding", "skip_unreadable")


class HanpacaLoader(BaseLoader):
    """PDF, DOCX, PPTX, XLSX, CSV, HTML, EPUB, Markdown and text files, in any Chinese encoding, as documents.

    >>> HanpacaLoader("report.pdf").load()   # doctest: +SKIP

    `paths` is a file, a folder, or several. `unit` page gives a document per page, slide or sheet, file one per file;
    the metadata says which (`file`, `page`, `line`, `start`, `end`, `headings`, `title`, `kind`, `encoding`). With
    `skip_unreadable` files that give no text are logged and left out; otherwise they raise `UnreadableDocument`.
    """

    def __init__(
        self,
        paths: Path | str | Sequence[Path | str],
        *,
        unit: str = "page",
        encoding: str | None = None,
        skip_unreadable: bool = False,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self).__name__, unknown, OPTIONS)
        check_unit(unit)
        self.paths = paths_of(paths)
        self._options: dict[str, Any] = {"unit": unit, "encoding": encoding, "skip_unreadable": skip_unreadable}

    def lazy_load(self) -> Iterator[Document]:
        """The documents, one at a time."""
        for part in load_parts(self.paths, **self._options):
            yield Document(page_content=part.text, metadata={"source": part.metadata["file"], **part.metadata})
