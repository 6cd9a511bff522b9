"""Chroma as the index of a large library, in a folder and as a server; below that size it is not asked."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import pytest
from test_library_durability import HashedEmbedder, write_documents

from hanpaca.core.errors import BadInput, EngineUnavailable
from hanpaca.rag import Library, keywords, vectors
from hanpaca.rag.chroma_index import close_connections
from hanpaca.rag.removal import remove_library

QUESTIONS = ("山水风云", "春夏秋冬", "金木水火土")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any library is large enough for Chroma."""
    monkeypatch.setattr(vectors, "COMPARED", 0)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    write_documents(tmp_path / "docs", 6)
    return tmp_path / "docs"


def found(library: Library) -> list[list[tuple[str, int, float]]]:
    hits = (library.search(question, 8, "vectors", merge=False) for question in QUESTIONS)
    return [[(hit.file, hit.start, round(hit.explain["cosine"], 2)) for hit in some] for some in hits]


def vector_ids(library: Library) -> set[int]:
    return {row[0] for row in library.store.rows("SELECT passage FROM vectors")}


def run(code: str, library: Path) -> str:
    """What another process prints that has this module as `here`, `Library`, `vectors` and the folder as `where`."""
    first = (
        "import sys; sys.path.insert(0, sys.argv[1]); where = sys.argv[2]\n"
        "import test_chroma_index as here; from hanpaca.rag import Library, vectors\n"
    )
    words = [sys.executable, "-c", first + code, str(Path(__file__).parent), str(library)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_chroma_finds_what_comparing_everything_finds(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
        compared = found(library)
        monkeypatch.setattr(vectors, "COMPARED", 0)
        asked = found(library)
    assert [[hit[:2] for hit in some] for some in asked] == [[hit[:2] for hit in some] for some in compared]
    for some, others in zip(asked, compared, strict=True):
        assert [hit[2] for hit in some] == pytest.approx([hit[2] for hit in others], abs=0.011)


@pytest.mark.usefixtures("large")
def test_what_another_thread_opened_is_closed_for_good(documents: Path, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "library", HashedEmbedder())
    library.sync([documents])
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: found(library), range(8)))
    assert all(one == answers[0] for one in answers)
    held = library.vectors._chroma._held
    library.close()
    assert held and not held.is_locked
    filelock.FileLock(tmp_path / "library" / "chroma" / "lock", timeout=0).acquire()


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("half", ["keywords", "vectors"])
def test_an_error_in_one_half_of_a_search_leaves_the_other_in_order(
    half: str, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("broken")

    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
        before = found(library)
        with monkeypatch.context() as patch:
            if half == "keywords":
                patch.setattr(keywords, "weigh", broken)
                with pytest.raises(ValueError, match="broken"):
                    found(library)
            else:
                patch.setattr(library.vectors._chroma, "_ask", broken)
                assert [[hit[:2] for hit in some] for some in found(library)] == [
                    [hit[:2] for hit in some] for some in before
                ]
        assert found(library) == before


def test_a_thread_searches_after_the_main_one_has_ended(tmp_path: Path, documents: Path) -> None:
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
    code = (
        "import threading, time\n"
        "vectors.COMPARED = 0\n"
        "library = Library.open(where, here.HashedEmbedder())\n"
        "def late():\n"
        "    time.sleep(.5); print(len(library.search('山水风云', 3)))\n"
        "threading.Thread(target=late).start()\n"
    )
    assert run(code, tmp_path / "library") == "3\n"


def test_a_search_in_a_small_library_loads_no_chroma(tmp_path: Path, documents: Path) -> None:
    with Library.open(tmp_path / "library") as library:
        library.sync([documents])
    code = (
        "import sys; from hanpaca.rag import Library\n"
        f"library = Library.open({str(tmp_path / 'library')!r}, create=False)\n"
        "assert library.search('山水风云')[0].explain['cosine']\n"
        "print([name for name in ('chromadb', 'torch', 'llama_cpp') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout == "[]\n", ran.stderr


def test_room_for_vectors_to_come_holds_nothing(tmp_path: Path, documents: Path) -> None:
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
        files = sorted((tmp_path / "library" / "chroma").rglob("data_level0.bin"))
        assert files
        assert not any(path.read_bytes().strip(b"\0") for path in files)  # fewer than Chroma writes to this file
        files[0].write_bytes(b"secret" + bytes(files[0].stat().st_size - 6))
        (documents / "later.txt").write_text("后来的话。", encoding="utf-8")
        library.sync([documents])
        assert not any(path.read_bytes().strip(b"\0") for path in files)
        ids = vector_ids(library)
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        assert library.vectors.indexed() == ids


@pytest.mark.usefixtures("large")
def test_another_process_has_it_open(tmp_path: Path, documents: Path) -> None:
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        library.sync([documents])
        whole = found(library)
        code = (
            "import json; vectors.COMPARED = 0\n"
            "print(json.dumps(here.found(Library.open(where, here.HashedEmbedder()))))"
        )
        told = json.loads(run(code, tmp_path / "library"))
    assert [[tuple(hit[:2]) for hit in some] for some in told] == [[hit[:2] for hit in some] for some in whole]


# -- a server --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`chroma run` on loopback."""
    port, folder = free_port(), tmp_path_factory.mktemp("chroma")
    command = [str(Path(sys.executable).with_name("chroma")), "run", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--path", str(folder)], stdout=log, stderr=log, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api/v2/heartbeat", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.usefixtures("large")
def test_a_server_holds_the_vectors_for_several(server: str, documents: Path, tmp_path: Path) -> None:
    with Library.open(tmp_path / "plain", HashedEmbedder()) as library:
        library.sync([documents])
        wanted = found(library)
    with Library.open(tmp_path / "library", HashedEmbedder(), chroma=server) as library:
        library.sync([documents])
        assert found(library) == wanted
        assert library.vectors.indexed() == vector_ids(library)
        # The library remembers its server, and a second one uses it at the same time.
        with Library.open(tmp_path / "library", HashedEmbedder()) as other:
            assert other.vectors.indexed() == vector_ids(library)
            assert found(other) == wanted
            other.delete("文档00.txt")
            assert library.vectors.indexed() == other.vectors.indexed() == vector_ids(library)
        assert not [path for path in (tmp_path / "library" / "chroma").iterdir() if path.is_dir()]
    with Library.open(tmp_path / "library", HashedEmbedder(), chroma="") as library:
        library.sync([documents])
        assert found(library) == wanted
        assert library.store.meta("chroma") == ""


@pytest.mark.usefixtures("large")
def test_a_deleted_library_leaves_nothing_on_its_server(server: str, documents: Path, tmp_path: Path) -> None:
    import chromadb

    host, port = server.removeprefix("http://").split(":")
    client = chromadb.HttpClient(host, int(port))
    before = {one.name for one in client.list_collections()}
    with Library.open(tmp_path / "library", HashedEmbedder(), chroma=server) as library:
        library.sync([documents])
        found(library)
    assert {one.name for one in client.list_collections()} > before
    remove_library(tmp_path / "library")
    assert {one.name for one in client.list_collections()} == before and not (tmp_path / "library").exists()
    close_connections(client)


@pytest.mark.usefixtures("large")
def test_a_server_that_lost_its_data_is_filled_again(server: str, documents: Path, tmp_path: Path) -> None:
    import chromadb

    with Library.open(tmp_path / "library", HashedEmbedder(), chroma=server) as library:
        library.sync([documents])
        wanted, ids = found(library), vector_ids(library)
        identity = library.store.meta("identity")
    host, port = server.removeprefix("http://").split(":")
    client: Any = chromadb.HttpClient(host, int(port))
    client.delete_collection(f"hanpaca-{identity}-zh")
    client.close()
    close_connections(client)
    with Library.open(tmp_path / "library", HashedEmbedder()) as library:
        assert library.vectors.indexed() == ids
        assert found(library) == wanted


@pytest.mark.usefixtures("large")
def test_a_server_that_is_not_there(documents: Path, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with Library.open(tmp_path / "library", HashedEmbedder(), chroma=address) as library:
        with pytest.raises(EngineUnavailable, match=r"does not answer.*chroma run"):
            library.sync([documents])
        assert library.search("山水风云", mode="vectors"), "searching compares the vectors in SQLite"


@pytest.mark.parametrize("address", ["somewhere", "ftp://host", "http://", "http://host:port"])
def test_what_is_no_address(documents: Path, tmp_path: Path, address: str) -> None:
    with (
        Library.open(tmp_path / "library", HashedEmbedder(), chroma=address) as library,
        pytest.raises(BadInput, match="no address"),
    ):
        library.sync([documents])
