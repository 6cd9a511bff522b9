"""A library that is closed while threads use it: what is under way ends, what comes next is refused."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from test_library_durability import HashedEmbedder

from hanpaca.core.errors import Closed, EngineFailure
from hanpaca.rag import Library
from hanpaca.rag.embedding import load_embedder
from hanpaca.rag.library import DATABASE


def test_closing_waits_for_what_other_threads_do_and_ends_it(tmp_path: Path) -> None:
    for number in range(3):
        library = Library.open(tmp_path / str(number), HashedEmbedder())
        library.add_text("山水风云，春夏秋冬。" * 20, "first")
        searching, adding = partial(library.search, "山水风云", 5), partial(library.add_text, "金木水火土", "second")
        with ThreadPoolExecutor(5) as pool:
            working = [pool.submit(repeat, one) for one in [searching] * 4 + [adding]]
            time.sleep(0.5)
            library.close()
            assert [type(one.exception(30)) for one in working] == [Closed] * 5
        with Library.open(tmp_path / str(number), HashedEmbedder()) as library:
            assert library.store.rows("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("block", ["read", "write"])
def test_closed_in_the_middle_of_its_own_work_it_ends_that_first(tmp_path: Path, block: str) -> None:
    library = Library.open(tmp_path, HashedEmbedder())
    library.add_text("山水风云。", "first")
    with getattr(library.store, block)() as connection:
        library.close()
        assert connection.execute("SELECT count(*) FROM files").fetchone() == (1,)
    with pytest.raises(Closed):
        library.search("山水")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_threads_that_ended_leave_no_connection(tmp_path: Path) -> None:
    with Library.open(tmp_path, HashedEmbedder()) as library:
        library.add_text("山水风云。", "first")
        for _ in range(16):
            thread = threading.Thread(target=library.search, args=("山水",))
            thread.start()
            thread.join()
        descriptors = [str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
        assert 1 <= sum(name.endswith(DATABASE) for name in descriptors) < 8  # SQLite closes some later


def test_interrupted_while_it_waits_for_another_a_write_leaves_no_transaction_open(tmp_path: Path) -> None:
    with Library.open(tmp_path, HashedEmbedder()) as library:
        writing = threading.Event()

        def another() -> None:
            with library.store.write():
                writing.set()
                time.sleep(0.1)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)

        thread = threading.Thread(target=another)
        thread.start()
        assert writing.wait(10)
        with pytest.raises(KeyboardInterrupt), library.store.write():
            time.sleep(5)
        thread.join()
        library.add_text("山水风云。", "first")
        assert library.stats().files == 1


def repeat(work: Callable[[], object]) -> None:
    """Until it fails."""
    while True:
        work()


def test_a_forked_process_is_told_that_it_can_neither_use_nor_open_one(tmp_path: Path) -> None:
    library = Library.open(tmp_path / "first")
    library.add_text("羊驼住在山上，风很大。", "first")
    assert len(library.search("羊驼住在哪里？")) == 1
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)
            uses: list[Callable[[], object]] = [
                partial(library.search, "羊驼"),
                partial(library.add_text, "水", "second"),
                library.stats,
                partial(library.query_vector, "羊驼"),
                partial(Library.open, tmp_path / "second"),
                partial(load_embedder().embed_queries, ["羊驼"]),
            ]
            for use in uses:
                with pytest.raises(EngineFailure, match="forked"):
                    use()
            library.close()
            os.write(writer, b"told")
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 1000) == b"told"
    os.waitpid(child, 0)
    os.close(reader)
    assert len(library.search("风")) == 1, "the parent's is as it was"
    library.close()
