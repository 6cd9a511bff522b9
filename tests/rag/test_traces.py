"""Deleted words and vectors go from the files also where the run that deleted them ended early, or was not alone."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from test_chroma_index import vector_ids
from test_library_durability import HashedEmbedder, assert_in_no_byte, contents, sync_in_child, write_documents

from hanpaca.core.errors import BadInput
from hanpaca.rag import Library, connections, store
from hanpaca.rag.vector_rows import read_vectors, unpack

SECRET = "密钥是紫檀木匣中的翡翠蟾蜍，Zanzibar-Xylophone-42。"
FORMS = [form.encode() for form in ("翡翠", "蟾蜍", "zanzibar", "Zanzibar", "xylophone")]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    write_documents(tmp_path / "docs", 3)
    (tmp_path / "docs" / "绝密.txt").write_text(SECRET, encoding="utf-8")
    return tmp_path / "docs"


class Interrupted(HashedEmbedder):
    """The user stops a run while it embeds."""

    def embed_passages(self, texts: Sequence[str]) -> np.ndarray:
        raise KeyboardInterrupt


def change(documents: Path) -> None:
    (documents / "绝密.txt").unlink()
    (documents / "新.txt").write_text("新的说法是白玉。", encoding="utf-8")


def test_a_sync_that_was_stopped_while_embedding_leaves_no_removed_word(tmp_path: Path, documents: Path) -> None:
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
    change(documents)
    with Library.open(tmp_path / "library", Interrupted()) as library, pytest.raises(KeyboardInterrupt):
        library.sync([documents])
    assert_in_no_byte(tmp_path / "library", FORMS)


@pytest.mark.parametrize("moment", [0.02, 0.1, 0.3])
def test_a_sync_that_was_killed_while_it_removed_is_made_up_for(tmp_path: Path, documents: Path, moment: float) -> None:
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
    change(documents)
    child = sync_in_child(tmp_path / "library", documents, delay=0.3)
    assert child.stdout is not None
    assert child.stdout.readline() == b"start\n"
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(moment)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
        found = contents(library)
        assert library.vectors.indexed() == vector_ids(library)
    assert_in_no_byte(tmp_path / "library", FORMS)
    with Library.open(tmp_path / "whole", HashedEmbedder()) as library:
        library.sync([documents])
        assert contents(library) == found


def test_a_deletion_that_was_cut_short_is_made_up_for(
    tmp_path: Path, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: store.Store) -> bool:
        raise KeyboardInterrupt

    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
        number = library.search("翡翠蟾蜍", 1, "keywords")[0].passage_id
        with library.store.read() as reading:
            _, (vector,) = unpack(read_vectors(reading, [number]))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(store.Store, "compact", killed)
            library.delete("绝密.txt")
        assert library.has_traces
        with pytest.raises(BadInput):  # it is gone; what it left goes now
            library.delete("绝密.txt")
        assert not library.has_traces
        assert_in_no_byte(library.folder, [*FORMS, "绝密".encode(), vector.tobytes()])


def test_a_text_that_replaces_another_leaves_no_word_of_it(tmp_path: Path) -> None:
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.add_text(SECRET, "n")
        library.add_text("别的话。", "n")
    assert_in_no_byte(tmp_path / "library", FORMS)


def test_a_deletion_while_another_process_reads_is_finished_by_the_next_change(
    tmp_path: Path, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BUSY_SECONDS", 0.2)
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
        reader = sqlite3.connect(tmp_path / "library" / "library.sqlite3", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM passages").fetchone()
        library.delete("绝密.txt")
        assert library.has_traces
        reader.close()
        library.sync([documents / "文档00.txt"])
        assert not library.has_traces
        assert_in_no_byte(library.folder, FORMS)


def test_vectors_go_from_a_chroma_that_another_process_has_open(tmp_path: Path, documents: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_library_durability import HashedEmbedder; from hanpaca.rag import Library\n"
        "with Library.open(sys.argv[2], HashedEmbedder()) as library: library.delete('绝密.txt')\n"
    )
    words = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "library")]
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
        number = library.search("翡翠蟾蜍", 1, "keywords")[0].passage_id
        with library.store.read() as reading:
            _, (vector,) = unpack(read_vectors(reading, [number]))
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        library.sync([documents / "文档00.txt"])
        assert_in_no_byte(library.folder, [*FORMS, vector.tobytes()])
        assert library.vectors.indexed() == vector_ids(library)


def test_another_embedder_is_calibrated_anew(tmp_path: Path, documents: Path) -> None:
    class Other(HashedEmbedder):
        identity = "other"

        def embed_passages(self, texts: Sequence[str]) -> np.ndarray:
            return super().embed_queries([f"{text}!" for text in texts])

    write_documents(documents / "more", 30)
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
        before = library.store.meta("calibration")
        library.rebuild_vectors(embedder=Other())
        after = library.store.meta("calibration")
    assert before is not None
    assert after not in (None, before)
