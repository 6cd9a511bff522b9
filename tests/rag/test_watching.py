"""Watching a folder: what changes there is in the library a moment later; it ends when told to."""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from test_library_durability import HashedEmbedder

from hanpaca.core.errors import BadInput, HanpacaError, LibraryBusy
from hanpaca.rag import Library, SyncReport, watching
from hanpaca.rag.watching import Outcome, watch

PATIENCE = 40.0


class Watcher:
    """A library that watches a folder in a thread of its own."""

    def __init__(self, library: Library, folder: Path) -> None:
        self.library, self.folder = library, folder
        self.outcomes: list[Outcome] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=watch, args=(library, [folder], self.outcomes.append, self.stop))
        self.thread.start()
        self.wait(lambda: len(self.outcomes) >= 1)
        time.sleep(1.5)  # until the operating system's watch is in place

    def wait(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, self.outcomes
            assert self.thread.is_alive()
            time.sleep(0.05)

    def names(self) -> set[str]:
        return {Path(info.path).name for info in self.library.files()}


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Watcher]:
    folder = tmp_path / "文档"
    folder.mkdir()
    (folder / "一.txt").write_text("羊驼住在高原上。", encoding="utf-8")
    # The library lies below the watched folder: its own files must not set off a sync.
    with Library.open(folder / "library", HashedEmbedder()) as library, watching_of(library, folder) as made:
        yield made


@contextlib.contextmanager
def watching_of(library: Library, path: Path) -> Iterator[Watcher]:
    made = Watcher(library, path)
    try:
        yield made
    finally:
        made.stop.set()
        made.thread.join(PATIENCE)
    assert not made.thread.is_alive()


def test_changes_arrive_and_come_together(watcher: Watcher) -> None:
    assert watcher.names() == {"一.txt"}
    for number in range(30):
        (watcher.folder / f"新{number}.md").write_text(f"第{number}份新文件。", encoding="utf-8")
    watcher.wait(lambda: len(watcher.names()) == 31)
    assert len(watcher.outcomes) <= 4, "thirty files in one go are not thirty syncs"
    assert watcher.library.search("新文件", mode="keywords")
    (watcher.folder / "一.txt").rename(watcher.folder / "二.txt")
    watcher.wait(lambda: "二.txt" in watcher.names())
    (watcher.folder / "二.txt").unlink()
    watcher.wait(lambda: "二.txt" not in watcher.names())
    reports = [outcome for outcome in watcher.outcomes if isinstance(outcome, SyncReport)]
    assert sum(len(report.renamed) for report in reports) == 1


def test_what_does_not_concern_the_library_sets_nothing_off(watcher: Watcher) -> None:
    watcher.wait(lambda: len(watcher.outcomes) == 2)  # the words, then the vectors
    (watcher.folder / ".hidden.txt").write_text("x", encoding="utf-8")
    (watcher.folder / "~$lock.docx").write_text("x", encoding="utf-8")
    (watcher.folder / "picture.jpg").write_bytes(b"x")
    watcher.library.add_text("一份不是文件的文本。", "笔记")
    time.sleep(2.5)
    assert len(watcher.outcomes) == 2


def test_a_moved_folder_is_followed(watcher: Watcher, tmp_path: Path) -> None:
    outside = tmp_path / "v1.2"
    outside.mkdir()
    (outside / "三.txt").write_text("第三份文件。", encoding="utf-8")
    outside.rename(watcher.folder / "v1.2")
    watcher.wait(lambda: "三.txt" in watcher.names())
    (watcher.folder / "v1.2").rename(outside)
    watcher.wait(lambda: "三.txt" not in watcher.names())


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


@pytest.mark.parametrize("lose", [moved, shutil.rmtree])
@pytest.mark.parametrize("pause", [0.0, 3.0])
def test_a_watched_folder_that_goes_and_comes_back(tmp_path: Path, lose: Callable[[Path], None], pause: float) -> None:
    folder = tmp_path / "文档"
    folder.mkdir()
    (folder / "一.txt").write_text("羊驼住在高原上。", encoding="utf-8")
    with Library.open(tmp_path / "library", HashedEmbedder()) as library, watching_of(library, folder) as watcher:
        lose(folder)
        time.sleep(pause)
        folder.mkdir()
        (folder / "二.txt").write_text("它回来了。", encoding="utf-8")
        watcher.wait(lambda: watcher.names() == {"二.txt"})
        time.sleep(2.5)  # until the new watch is in place
        (folder / "三.txt").write_text("又来了一份。", encoding="utf-8")
        watcher.wait(lambda: "三.txt" in watcher.names())


def test_a_watched_file_is_replaced_as_editors_do(tmp_path: Path) -> None:
    path = tmp_path / "一.txt"
    path.write_text("第0次保存。", encoding="utf-8")
    with Library.open(tmp_path / "library", HashedEmbedder()) as library, watching_of(library, path) as watcher:
        for number in (1, 2, 3):
            (tmp_path / "new").write_text(f"第{number}次保存。", encoding="utf-8")
            (tmp_path / "new").replace(path)
            watcher.wait(lambda: str(number) in library.passages(path)[0].text)  # noqa: B023 - it is called at once
            time.sleep(2.5)


def test_a_failed_sync_is_told_and_the_next_one_tries_again(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    real = watcher.library.sync
    calls: list[int] = []

    def busy(*given: object, **options: object) -> SyncReport:
        calls.append(1)
        if len(calls) == 1:
            raise LibraryBusy("Another process is writing.", "Wait.")
        return real(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(watcher.library, "sync", busy)
    (watcher.folder / "四.txt").write_text("第四份文件。", encoding="utf-8")
    watcher.wait(lambda: isinstance(watcher.outcomes[-1], HanpacaError))
    (watcher.folder / "五.txt").write_text("第五份文件。", encoding="utf-8")
    watcher.wait(lambda: {"四.txt", "五.txt"} <= watcher.names())


def test_a_broken_file_is_told_once(watcher: Watcher) -> None:
    (watcher.folder / "坏.pdf").write_bytes(b"%PDF-1.4 broken")
    watcher.wait(lambda: any(isinstance(one, SyncReport) and one.failed for one in watcher.outcomes))
    (watcher.folder / "六.txt").write_text("第六份文件。", encoding="utf-8")
    watcher.wait(lambda: "六.txt" in watcher.names())
    told = [failure for one in watcher.outcomes if isinstance(one, SyncReport) for failure in one.failed]
    assert len(told) == 1


def test_a_change_does_not_wait_for_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file's words are found while the vectors of a large one are still computed."""
    monkeypatch.setattr(watching, "_EMBEDDING", 0.2)
    go_on = threading.Event()

    class Slow(HashedEmbedder):
        def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
            time.sleep(0.0 if go_on.is_set() else 0.5)
            return super().embed_passages(texts)

    folder = tmp_path / "文档"
    folder.mkdir()
    (folder / "一.txt").write_text("\n\n".join(f"第{n}段讲的是羊驼。" * 40 for n in range(900)), encoding="utf-8")
    with Library.open(tmp_path / "library", Slow()) as library:
        made = Watcher(library, folder)
        (folder / "二.txt").write_text("骆马每天喝八升水。", encoding="utf-8")
        made.wait(lambda: "二.txt" in made.names())
        stats = library.stats()
        assert stats.embedded < stats.passages
        assert "八升" in library.search("骆马喝多少水", mode="keywords")[0].text
        go_on.set()
        made.wait(lambda: library.stats().embedded == stats.passages)
        made.wait(lambda: any(isinstance(one, SyncReport) and one.embedded for one in made.outcomes))
        made.stop.set()
        made.thread.join(PATIENCE)
    told = [one.embedded for one in made.outcomes if isinstance(one, SyncReport)]
    assert sum(told) == stats.passages and told[0] == 0 and len(told) == 3


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with Library.open(tmp_path / "library", HashedEmbedder()) as library, pytest.raises(BadInput, match="no file or"):
        watch(library, [tmp_path / "nowhere"], print)
