"""A library survives what happens to it: kills, full and read-only disks, other processes; and deletes for good."""

import hashlib
import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanpaca.core.errors import BadInput, HanpacaError
from hanpaca.rag import Library
from hanpaca.rag.vector_rows import read_vectors, unpack

CHILD = Path(__file__).with_name("syncing.py")
WORDS = "山水风云日月星辰江河湖海花草树木鸟兽虫鱼春夏秋冬东西南北金木火土"


def write_documents(folder: Path, count: int = 14) -> None:
    folder.mkdir()
    chance = random.Random(7)
    for number in range(count):
        lines = ["".join(chance.choices(WORDS, k=60)) + "。" for _ in range(20)]
        (folder / f"文档{number:02}.txt").write_text("\n".join(lines), encoding="utf-8")


class HashedEmbedder:
    """A stand-in where only durability is tested: vectors from a hash, slow enough to be interrupted."""

    identity = "hash"
    dimension = 16
    max_tokens = 512

    def __init__(self, delay: float = 0.0) -> None:
        self._delay = delay

    def count_tokens(self, text: str) -> int:
        return len(text)

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        time.sleep(self._delay)
        rows = [np.frombuffer(hashlib.sha512(text.encode()).digest(), np.uint8)[:16] for text in texts]
        vectors = np.array(rows, np.float32).reshape(len(texts), 16) - 127.5
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    embed_passages = embed_queries


def sync_in_child(folder: Path, documents: Path, delay: float = 0.0, **options: object) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, str(CHILD), str(folder), str(documents), str(delay)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


def contents(library: Library) -> dict[str, object]:
    """All that a library holds, row numbers aside."""
    passages = library.store.rows(
        "SELECT f.path, p.position, p.text, p.start, p.end, v.vector FROM passages p JOIN files f ON f.id = p.file"
        " JOIN vectors v ON v.passage = p.id ORDER BY f.path, p.position"
    )
    vocabulary = library.store.rows("SELECT term, doc, cnt FROM vocabulary ORDER BY term")
    found = {
        f"{mode} {query}": [(hit.file, hit.start, round(hit.score, 4)) for hit in library.search(query, 8, mode)]
        for query in ("山水风云", "春夏秋冬和东西南北", "金木水火土")
        for mode in ("hybrid", "keywords", "vectors")
    }
    return {"passages": passages, "vocabulary": vocabulary, "found": found, "pending": library.stats().passages}


def test_killed_at_random_moments_the_next_sync_goes_on(tmp_path: Path) -> None:
    documents = tmp_path / "docs"
    write_documents(documents)
    with Library.open(tmp_path / "whole", HashedEmbedder()) as library:
        library.sync([documents])
        whole = contents(library)
    chance = random.Random(11)
    killed, attempt = 0, 0
    while killed < 20 and attempt < 60:
        # Each library is killed twice. The embedder is called twice, 0.35 s each, so that a kill seldom comes too late.
        child = sync_in_child(tmp_path / f"killed {attempt // 2}", documents, delay=0.35)
        assert child.stdout is not None
        started = child.stdout.readline()
        assert started == b"start\n", child.stderr.read() if child.stderr else b""
        time.sleep(chance.uniform(0.0, 0.3 if attempt % 2 else 0.65))
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            killed += 1
        child.communicate()
        attempt += 1
    assert killed == 20
    for number in range((attempt + 1) // 2):
        with Library.open(tmp_path / f"killed {number}", HashedEmbedder()) as library:
            library.sync([documents])
            assert contents(library) == whole
            ids = {row[0] for row in library.store.rows("SELECT passage FROM vectors")}
            assert library.vectors.indexed() == ids


def test_deleted_words_are_in_no_byte(tmp_path: Path) -> None:
    documents = tmp_path / "docs"
    write_documents(documents, 3)
    secret = "密钥是紫檀木匣中的翡翠蟾蜍，Zanzibar-Xylophone-42。"
    (documents / "绝密档案.txt").write_text(f"{secret}\n无关的一句话。", encoding="utf-8")
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
        assert library.search("翡翠蟾蜍", mode="keywords")[0].text.startswith("密钥")
        number = library.search("翡翠蟾蜍", mode="keywords")[0].passage_id
        with library.store.read() as reading:
            _, (vector,) = unpack(read_vectors(reading, [number]))
        library.delete("绝密档案.txt")
        forms = ["翡翠", "蟾蜍", "zanzibar", "Zanzibar", "xylophone", "绝密档案", "绝密"]
        assert_in_no_byte(library.folder, [form.encode() for form in forms] + [vector.tobytes()])
        assert number not in library.vectors.indexed()
        with pytest.raises(BadInput):
            library.resolve("绝密档案.txt")
    assert_in_no_byte(library.folder, [form.encode() for form in forms] + [vector.tobytes()])


def test_words_of_a_changed_or_removed_file_are_in_no_byte_either(tmp_path: Path) -> None:
    documents = tmp_path / "docs"
    write_documents(documents, 3)
    (documents / "a.txt").write_text("旧的说法是翡翠。", encoding="utf-8")
    (documents / "b.txt").write_text("另一个说法是蟾蜍。", encoding="utf-8")
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
        (documents / "a.txt").write_text("新的说法是白玉。", encoding="utf-8")
        (documents / "b.txt").unlink()
        library.sync([documents])
    assert_in_no_byte(library.folder, ["翡翠".encode(), "蟾蜍".encode()])


def assert_in_no_byte(folder: Path, needles: list[bytes]) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for needle in needles:
                assert needle not in data, (path, needle)


def test_a_full_disk_keeps_what_was_finished(tmp_path: Path) -> None:
    documents = tmp_path / "docs"
    write_documents(documents)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000))

    child = sync_in_child(tmp_path / "library", documents, preexec_fn=limit)
    out, error = child.communicate(timeout=60)
    assert child.returncode == 3, (out, error)
    assert "Traceback" not in out.decode()
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        assert library.store.rows("PRAGMA integrity_check")[0][0] == "ok"
        library.sync([documents])
        assert library.stats().files == 14


@pytest.mark.skipif(sys.platform != "linux", reason="drops root's rights as Linux does")
def test_a_read_only_library_is_searched_and_not_written(tmp_path: Path) -> None:
    documents, folder = tmp_path / "docs", tmp_path / "library"
    write_documents(documents, 3)
    with Library.open(folder, HashedEmbedder()) as library:
        library.sync([documents])
    everything = [folder, *folder.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        child = subprocess.run(
            [sys.executable, str(CHILD), str(folder), str(documents), "0", "search"], capture_output=True, check=False
        )
    finally:
        for path in everything:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert child.returncode == 0, child.stderr.decode()
    said = json.loads(child.stdout.decode().splitlines()[-1])
    assert said["found"] == 5
    assert "cannot be written" in said["sync"]


def test_others_read_while_one_writes(tmp_path: Path) -> None:
    documents = tmp_path / "docs"
    write_documents(documents, 4)
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
        for number in range(4, 12):
            (documents / f"新{number}.txt").write_text("金木水火土。" * 100, encoding="utf-8")
        child = sync_in_child(tmp_path / "library", documents, delay=0.2)
        searches = 0
        while child.poll() is None:
            assert library.search("山水风云", k=3)
            searches += 1
        out, error = child.communicate()
        assert child.returncode == 0, (out, error)
        assert searches > 3
        assert library.stats().files == 12
        assert len(library.search("金木水火土", k=3)) >= 1
        ids = {row[0] for row in library.store.rows("SELECT passage FROM vectors")}
        assert library.vectors.indexed() == ids


def test_a_second_process_that_writes_is_told_to_wait(tmp_path: Path) -> None:
    documents = tmp_path / "docs"
    write_documents(documents, 2)
    with Library.open(tmp_path / "library", HashedEmbedder()) as library, library.writing():
        out, _ = sync_in_child(tmp_path / "library", documents).communicate(timeout=60)
    assert b"Another process is writing" in out


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = tmp_path / "docs"
    write_documents(documents, 2)
    restless = documents / "不安分.txt"
    restless.write_text("一", encoding="utf-8")
    from hanpaca.rag import sync

    real = sync.read

    def read(path: Path, **options: Any) -> object:
        document = real(path, **options)
        if path.name == restless.name:
            restless.write_text(restless.read_text(encoding="utf-8") + "一", encoding="utf-8")
        return document

    monkeypatch.setattr(sync, "read", read)
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        report = library.sync([documents])
        assert [(Path(path).name, "changes while it is read" in message) for path, message in report.failed] == [
            (restless.name, True)
        ]
        monkeypatch.setattr(sync, "read", real)
        assert [Path(path).name for path in library.sync([documents]).added] == [restless.name]


@pytest.mark.parametrize("damage", ["removed", "garbage", "emptied"])
def test_chroma_can_be_lost(tmp_path: Path, damage: str) -> None:
    import shutil

    documents = tmp_path / "docs"
    write_documents(documents, 3)
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
        before = contents(library)
    chroma = tmp_path / "library" / "chroma"
    if damage == "removed":
        shutil.rmtree(chroma)
    elif damage == "garbage":
        next(chroma.rglob("chroma.sqlite3")).write_bytes(b"garbage" * 1000)
    else:
        for path in chroma.glob("0*"):
            shutil.rmtree(path)
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        assert contents(library) == before
        ids = {row[0] for row in library.store.rows("SELECT passage FROM vectors")}
        assert library.vectors.indexed() == ids


def test_a_broken_database_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "library.sqlite3").write_bytes(b"garbage" * 1000)
    with pytest.raises(HanpacaError, match="cannot be used"):
        Library.open(tmp_path)
