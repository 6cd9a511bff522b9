"""A server under a mixed load for half an hour: chats, answers from documents, searches, uploads, and everything wrong.

    python tests/benchmarks/server_load.py [--json] [--minutes 30] [--clients 8] [--model smollm2]

Clients hang up in the middle, upload too much, send what is no JSON. Bars: no status from 500 on, memory flat (the
median of the last quarter against that of the second), and nothing left running at the end.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from _report import Report

MANUAL = Path(__file__).parents[2] / "docs"
MIB = 2**20
LARGEST = MIB
"""Bytes of an upload that the server takes here."""
GROWTH = 1.1
WORDS = ("llama", "羊驼", "document", "文档", "quantization", "量化", "context", "上下文", "server", "服务器", "memory")


@dataclass
class Load:
    """What the clients share."""

    url: str
    end: float
    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, status: int, text: str = "") -> None:
        with self.lock:
            self.kinds[kind] += 1
            self.statuses[status] += 1
            if status >= 500 and len(self.faults) < 10:
                self.faults.append(f"{kind}: {status} {text[:300]}")


class Client:
    """One client, which does one thing after another, chosen by chance."""

    def __init__(self, load: Load, seed: int) -> None:
        self.load, self.choose = load, random.Random(seed)
        self.http = httpx.Client(base_url=load.url, timeout=300)
        self.uploaded: list[str] = []

    def run(self) -> None:
        doings: list[Callable[[], None]] = [
            self.chat, self.stream, self.leave, self.leave, self.leave_documents, self.from_documents, self.search,
            self.upload, self.delete, self.oversize, self.no_json, self.wrong, self.embed, self.look,
        ]  # fmt: skip
        while time.monotonic() < self.load.end:
            doing = self.choose.choice(doings)
            try:
                doing()
            except httpx.TransportError as error:  # a body that is too large may find its connection closed
                self.load.note(doing.__name__, 0, repr(error))
        self.http.close()

    def say(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": " ".join(self.choose.choices(WORDS, k=self.choose.randint(1, 40)))}]

    def post(self, kind: str, path: str, **sent: Any) -> httpx.Response:
        answer = self.http.post(path, **sent)
        self.load.note(kind, answer.status_code, answer.text)
        return answer

    def chat(self) -> None:
        self.post(
            "chat",
            "/v1/chat/completions",
            json={"messages": self.say(), "max_tokens": 24, "n": self.choose.randint(1, 3)},
        )

    def stream(self) -> None:
        self._stream("stream", {"messages": self.say(), "max_tokens": 32, "logprobs": True}, 10**6)

    def leave(self) -> None:
        self._stream("leave", {"messages": self.say(), "max_tokens": 1500}, self.choose.randint(0, 12))

    def leave_documents(self) -> None:
        mode = self.choose.choice(["stuff", "refine", "map_reduce"])
        body = {"messages": self.say(), "max_tokens": 200, "use_documents": True, "mode": mode}
        self._stream("leave documents", body, self.choose.randint(0, 3))

    def from_documents(self) -> None:
        mode = self.choose.choice(["auto", "extract", "stuff"])
        self._stream(
            "documents", {"messages": self.say(), "max_tokens": 24, "use_documents": True, "mode": mode}, 10**6
        )

    def _stream(self, kind: str, body: dict[str, Any], lines: int) -> None:
        """So many lines of a stream, then hang up; without any line, hang up before the first."""
        wait = 300 if lines else self.choose.uniform(0.01, 0.5)
        try:
            with self.http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}, timeout=wait) as answer:
                self.load.note(kind, answer.status_code)
                for _ in zip(range(lines), answer.iter_lines(), strict=False):
                    pass
        except httpx.TimeoutException:
            self.load.note(kind, 0)

    def search(self) -> None:
        self.post("search", "/v1/search", json={"query": self.say()[0]["content"], "k": self.choose.randint(1, 20)})

    def upload(self) -> None:
        text = "\n\n".join(self.say()[0]["content"] for _ in range(self.choose.randint(1, 60)))
        told = self.post("upload", "/v1/documents", files={"file": ("<b>羊驼</b>.txt", text.encode())})
        if told.status_code == 202:
            self.uploaded.append(told.json()["data"][0]["id"])
        if len(self.uploaded) > 3:  # the library stays as large as it is
            self.delete()

    def delete(self) -> None:
        if self.uploaded:
            answer = self.http.delete(f"/v1/documents/{self.uploaded.pop(0)}")
            self.load.note("delete", answer.status_code, answer.text)

    def oversize(self) -> None:
        self.post("oversize", "/v1/documents", files={"file": ("large.txt", b"a" * (2 * LARGEST))})

    def no_json(self) -> None:
        body = self.choose.choice([b"{", b'{"messages": [', b"\xff\xfe", b"[]", b"", b"[" * 5000])
        self.post("no json", "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})

    def wrong(self) -> None:
        field = self.choose.choice(["tempreature", "tools", "num_beams", "n", "max_tokens"])
        self.post("wrong", "/v1/chat/completions", json={"messages": self.say(), field: 10**7})

    def embed(self) -> None:
        self.post("embed", "/v1/embeddings", json={"input": self.say()[0]["content"]})

    def look(self) -> None:
        path = self.choose.choice(
            ["/v1/models", "/v1/documents", "/metrics", "/health", "/", "/v1/libraries", "/nowhere"]
        )
        answer = self.http.get(path)
        self.load.note("look", answer.status_code, answer.text)


@contextmanager
def server(model: str, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The server as a user starts it, in a process of its own."""
    start = "from hanpaca.integrations.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", start, "serve", "--model", model, "--port", "0", "--json", "--quiet"]
    command += ["--library", str(folder), "--requests-per-minute", "0", "--max-upload", str(LARGEST // MIB)]
    command += ["--prefix-memory", "256"]  # so that it is full before growth is measured
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def fill(url: str) -> None:
    """The manual as the library's first documents, until they are ready."""
    files = [("file", (path.name, path.read_bytes())) for path in sorted(MANUAL.glob("*/*.md"))]
    ids = [one["id"] for one in httpx.post(f"{url}/v1/documents", files=files, timeout=300).json()["data"]]
    while any(
        httpx.get(f"{url}/v1/documents/{id}", timeout=300).json()["status"] not in ("ready", "failed") for id in ids
    ):
        time.sleep(0.5)


def left(url: str) -> int:
    """Requests that the server still works on, after some time to end them; this look is one by itself."""
    for _ in range(120):
        figures = httpx.get(f"{url}/metrics", timeout=60).text
        open_now = next(line for line in figures.splitlines() if line.startswith("hanpaca_requests_open "))
        if float(open_now.split()[1]) <= 1:
            return 0
        time.sleep(0.5)
    return int(float(open_now.split()[1])) - 1


def watch(process: psutil.Process, load: Load, sizes: list[float], report: Report) -> None:
    begun = told = time.monotonic()
    while (now := time.monotonic()) < load.end:
        sizes.append(process.memory_info().rss / MIB)
        if now - told > 60:
            told = now
            report.say(f"  {(now - begun) / 60:.0f} min: {sizes[-1]:.0f} MiB, {sum(load.kinds.values())} requests")
        time.sleep(1)


def main() -> int:
    report = Report("server_load", __doc__ or "")
    report.parser.add_argument("--minutes", type=float, default=30, help="default: %(default)g")
    report.parser.add_argument("--clients", type=int, default=8, help="default: %(default)s")
    report.parser.add_argument("--model", default="smollm2", help="default: %(default)s")
    options = report.parse()
    sizes: list[float] = []
    with tempfile.TemporaryDirectory() as folder, server(options.model, Path(folder) / "library") as (url, process):
        fill(url)
        load = Load(url, time.monotonic() + 60 * options.minutes)
        clients = [Client(load, seed) for seed in range(options.clients)]
        with ThreadPoolExecutor(options.clients + 1) as pool:
            running = [pool.submit(client.run) for client in clients]
            watch(process, load, sizes, report)
            for one in running:
                one.result()
        unfinished = left(url)
        for line in load.faults:
            report.say(f"  {line}")
        report.say(f"  {dict(sorted(load.statuses.items()))} {dict(load.kinds)}")
        quarter = len(sizes) // 4
        growth = statistics.median(sizes[3 * quarter :]) / statistics.median(sizes[quarter : 2 * quarter])
        report.check("requests", sum(load.kinds.values()))
        report.check("statuses from 500 on", sum(n for status, n in load.statuses.items() if status >= 500), most=0)
        report.check("memory, last quarter / second", growth, most=GROWTH)
        report.check("requests left at the end", unfinished, most=0)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
