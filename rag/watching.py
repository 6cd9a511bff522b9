"""Keep a library in step with its folders: a sync at once, then one after every change, until told to stop.

Changes that come in quick succession are one sync. Words are searchable at once; vectors, which take long, are computed
between two looks at the folders, so that no change waits for them. Knows the operating system's word that something
changed; what changed is found out by the sync itself, as always.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import EngineUnavailable, HanpacaError
from .library import Library
from .paths import absolute, is_below
from .readers import is_readable
from .sync import SyncReport

SETTLED, LONGEST = 400, 5_000
"""Milliseconds without a change after which a sync begins; and after which one begins in any case."""
_LOOK = 500
"""Milliseconds between two looks at `stop`."""
_EMBEDDING = 5.0
"""Seconds of computing vectors between two looks at the folders."""

Outcome = SyncReport | HanpacaError
"""What a sync did, or why it could not: the next change tries again."""


def watch(
    library: Library,
    paths: Sequence[Path | str],
    on_sync: Callable[[Outcome], None],
    stop: threading.Event | None = None,
    **options: Any,
) -> None:
    """Sync `paths` now and after every change below them, until `stop` is set; `options` are those of `Library.sync`.

    `on_sync` hears of each sync that did something once its words are searchable, and again when the vectors are there.
    Raises what the first sync raises, `EngineUnavailable` where the package watchfiles is missing, and
    `KeyboardInterrupt` at Ctrl+C: the library is whole then, as after any interrupted sync.
    """
    try:
        import watchfiles  # noqa: F401 - before the first sync, which takes long
    except ImportError as error:
        raise EngineUnavailable(
            "Watching folders needs the package watchfiles.", 'Install it with: pip install "hanpaca[rag]"'
        ) from error
    given = [absolute(path) for path in paths]
    embed, options = options.get("embed", True), options | {"embed": False}
    first = library.sync(given, **options)
    on_sync(first)
    vectors = _Vectors(library, stop) if embed else None
    failed = set(first.failed)
    for changed in _rounds(library, given, stop):
        if changed:
            outcome = _again(library, given, options)
            if isinstance(outcome, HanpacaError) or _is_news(outcome, failed):
                on_sync(outcome)
        if vectors and (done := vectors.go_on(changed)):
            on_sync(done)


def _rounds(library: Library, given: Sequence[str], stop: threading.Event | None) -> Iterator[bool]:
    """Twice a second and after every change, until `stop` is set: whether there may be something to sync.

    The system watches what lay at a path when the watch began. Once that was moved away, deleted or replaced, the watch
    begins anew as soon as something lies there again.
    """
    import watchfiles

    while stop is None or not stop.is_set():
        before, lost, fresh = _identities(given), False, True
        rounds = watchfiles.watch(
            *given,
            watch_filter=lambda _, path: _concerns(library, given, path),
            debounce=LONGEST,
            step=SETTLED,
            rust_timeout=_LOOK,
            yield_on_timeout=True,
            stop_event=stop,
        )
        with contextlib.suppress(FileNotFoundError), contextlib.closing(rounds):
            for changed in rounds:
                # The first round ends with the watch in place: what changed before that is found now.
                yield fresh or bool(changed)
                now, fresh = _identities(given), False
                lost = lost or now != before or any((watchfiles.Change.deleted, path) in changed for path in given)
                if lost and None not in now:
                    break
        time.sleep(_LOOK / 1000)  # what is missing may take its time


def _identities(paths: Sequence[str]) -> list[tuple[int, int] | None]:
    """What lies at each path, whatever its name; None for nothing."""
    found: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            stat = Path(path).stat()
            found.append((stat.st_dev, stat.st_ino))
        except OSError:
            found.append(None)
    return found


class _Vectors:
    """The vectors that are missing, a few seconds at a time."""

    def __init__(self, library: Library, stop: threading.Event | None) -> None:
        self._library, self._stop = library, stop
        self._embedded, self._seconds = 0, 0.0

    def go_on(self, changed: bool) -> Outcome | None:
        """Compute some; what was done since the last time, once none is missing. Thresholds follow the library."""
        if not changed and not self._missing():
            return None
        start = time.monotonic()
        try:
            self._embedded += self._library.embed_pending(stop=lambda: self._enough(start))
        except HanpacaError as error:
            return error
        self._seconds += time.monotonic() - start
        if self._missing() or not self._embedded:
            return None
        done, self._embedded, self._seconds = SyncReport(embedded=self._embedded, seconds=self._seconds), 0, 0.0
        return done

    def _missing(self) -> bool:
        passages, vectors = self._library.store.counts()
        return vectors < passages

    def _enough(self, start: float) -> bool:
        if self._stop is not None and self._stop.is_set():
            return True
        return time.monotonic() - start > _EMBEDDING and self._missing()


def _again(library: Library, paths: Sequence[str], options: dict[str, Any]) -> Outcome:
    try:
        return library.sync(paths, **options)
    except HanpacaError as error:
        return error


def _is_news(report: SyncReport, failed: set[tuple[str, str]]) -> bool:
    """Whether anything happened; of the files that could not be read, the report keeps those not told before."""
    known = set(failed)
    failed.clear()
    failed.update(report.failed)
    report.failed = [failure for failure in report.failed if failure not in known]
    done = (report.added, report.changed, report.renamed, report.removed, report.failed, report.embedded)
    return any(done)


def _concerns(library: Library, given: Sequence[str], path: str) -> bool:
    """Whether a change of this path can matter: not the library's own files, nothing hidden, a readable type.

    What is gone already may have been a folder.
    """
    if is_below(path, library.folder):
        return False
    top = max((top for top in given if is_below(path, top)), key=len, default="")
    parts = Path(path).relative_to(top).parts if top else Path(path).parts[-1:]
    if any(part.startswith((".", "~$")) for part in parts):
        return False
    return path in given or is_readable(Path(path)) or Path(path).is_dir() or not Path(path).exists()
