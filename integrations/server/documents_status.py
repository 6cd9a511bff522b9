"""Where a document of a library stands. Knows no file and no HTTP; names and ids are `rag.uploads`'s."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...rag import FileInfo
from ...rag.uploads import document_id, document_name


@dataclass(frozen=True)
class Status:
    """Where a document stands."""

    id: str
    name: str
    status: str
    """queued, reading, embedding, ready, failed. From `embedding` on it is found by its words."""
    done: int = 0
    """Passages that have their vectors, of `total`; while embedding, those of everything that waits."""
    total: int = 0
    seconds_left: float | None = None
    error: str | None = None
    kind: str | None = None
    title: str | None = None
    encoding: str | None = None
    size: int = 0
    modified: float = 0.0
    passages: int = 0
    warnings: tuple[str, ...] = ()
    uploaded: bool = True
    """False for a file that the library reads where it lies."""

    @property
    def over(self) -> bool:
        """Whether nothing more will change by itself."""
        return self.status in ("ready", "failed")

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"object": "document", **asdict(self)}


def of_file(info: FileInfo) -> Status:
    """Where a document stands that the library has."""
    id = document_id(info.path)
    whole = info.embedded >= info.passages
    return Status(
        id=id,
        name=document_name(info.path),
        status="ready" if whole else "embedding",
        done=info.embedded,
        total=info.passages,
        kind=info.kind,
        title=info.title,
        encoding=info.encoding,
        size=info.size,
        modified=info.modified,
        passages=info.passages,
        warnings=info.warnings,
        uploaded=not id.startswith("file-"),
    )
