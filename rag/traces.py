"""What removed texts leave in a library's files, and how it goes: by the next run where this one was cut short.

`_forget` notes in its own transaction that words stay in the keyword index; who proves a deletion notes first that no
byte may stay. The note goes when that is so. Knows no file that was read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .store import Store

if TYPE_CHECKING:
    from .vectors import VectorIndex

NOTE = "untidy"
WORDS, BYTES = "words", "bytes"
"""What may be left: entries of the keyword index that nothing points at; besides them free pages, the log, vectors."""


def note(store: Store, what: str) -> None:
    """Say what a removal leaves; inside `Store.write` as part of that transaction."""
    if store.meta(NOTE) != BYTES:
        store.set_meta(NOTE, what)


def left(store: Store) -> bool:
    """Whether words of removed texts may still be in the files."""
    return store.meta(NOTE) is not None


def remove(store: Store, vectors: VectorIndex) -> None:
    """Leave nothing of removed texts in the keyword index and, if it was to be proved, in no byte of any file.

    Where another process reads the library meanwhile, its log keeps what that sees: then the note stays too.
    """
    what = store.meta(NOTE)
    if what is None:
        return
    with store.write() as writing:
        writing.execute("INSERT INTO keywords (keywords) VALUES ('optimize')")
        if what == WORDS:
            writing.execute("DELETE FROM meta WHERE key = ?", (NOTE,))
            return
        last = writing.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        writing.execute("DELETE FROM outbox")
        store.set_meta("pruned", str(last[0] if last else 0))
    vectors.purge()
    if store.compact():
        with store.write() as writing:
            writing.execute("DELETE FROM meta WHERE key = ?", (NOTE,))
