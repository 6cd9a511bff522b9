"""`HanpacaReader`: the readers of `hanpaca.rag` as a LlamaIndex reader. Translates types and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from llama_index.core.readers.base import BaseReader
from llama_index.core.schema import Document

from ...core.adapting import refuse_unknown
from ...core.errors import BadInput
from ...rag.adapting import stable_id
from ...rag.loading import Part, check_unit, load_parts, paths_of

OPTIONS = ("unit", "encoding", "skip_unreadable")

HIDDEN = ("line", "start", "end", "kind", "encoding", "warnings")
"""Metadata that is not shown to the model or the embedder; nor is what is empty."""


class HanpacaReader(BaseReader):
    """PDF, DOCX, PPTX, XLSX, CSV, HTML, EPUB, Markdown and text files, in any Chinese encoding, as documents.

    >>> HanpacaReader().load_data("report.pdf")   # doctest: +SKIP

    `unit` page gives a document per page, slide or sheet, file one per file. It also serves in
    `SimpleDirectoryReader(file_extractor={".pdf": HanpacaReader()})`. With `skip_unreadable` files that give no text
    are logged and left out; otherwise they raise `UnreadableDocument`. The id of a document comes from its file and
    page, so that an index or a pipeline sees which ones are new.
    """

    def __init__(
        self, *, unit: str = "page", encoding: str | None = None, skip_unreadable: bool = False, **unknown: Any
    ) -> None:
        refuse_unknown(type(self).__name__, unknown, OPTIONS)
        check_unit(unit)
        self._options: dict[str, Any] = {"unit": unit, "encoding": encoding, "skip_unreadable": skip_unreadable}

    def lazy_load_data(
        self,
        file: Path | str | Sequence[Path | str],
        extra_info: Mapping[str, Any] | None = None,
        fs: Any = None,
        **unknown: Any,
    ) -> Iterator[Document]:
        """Documents of a file, a folder or several of them, one at a time; `extra_info` joins their metadata.

        `fs` is the fsspec file system that holds the files, as `SimpleDirectoryReader` gives it; None: this machine's.
        """
        refuse_unknown(f"{type(self).__name__}.load_data", unknown, ("file", "extra_info", "fs"))
        pages: Counter[tuple[str, str | None]] = Counter()
        for part in self._parts(file, fs):
            place = (part.metadata["file"], part.metadata["page"])
            pages[place] += 1  # a book may have two pages of one number
            metadata = {**part.metadata, **(extra_info or {})}
            hidden = [name for name, value in metadata.items() if name in HIDDEN or value in (None, "")]
            yield Document(
                id_=stable_id(*place, pages[place], self._options["unit"]),
                text=part.text,
                metadata=metadata,
                excluded_llm_metadata_keys=hidden,
                excluded_embed_metadata_keys=hidden,
            )

    def _parts(self, file: Path | str | Sequence[Path | str], fs: Any) -> Iterator[Part]:
        if fs is None:
            yield from load_parts(paths_of(file), **self._options)
            return
        for path in [file] if isinstance(file, PurePath | str) else file:
            if not fs.isfile(str(path)):
                raise BadInput(f"There is no file {path} in this file system.", "Give files, one by one.")
            with TemporaryDirectory() as folder:
                copy = Path(folder, PurePosixPath(path).name)
                fs.get_file(str(path), str(copy))
                for part in load_parts([copy], **self._options):
                    yield Part(part.text, {**part.metadata, "file": str(path)})
