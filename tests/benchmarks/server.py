"""Our server against llama-cpp-python's own, over HTTP, on the same GGUF file, in one run.

    python tests/benchmarks/server.py [--json] [--model smollm2 | --model FILE.gguf] [--new 64] [--rounds 3]

1, 4 and 16 clients stream at the same time: total tokens per second, and the time to the first token. With `--vllm` a
running vLLM of the same model is the second peer. Then answers from documents: a follow-up against a first question.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _peer_server as peer_server
from _report import Report

from hanpaca.core.catalog import resolve

CLIENTS = (1, 4, 16)
BARS = {1: 0.95, 16: 3.0}
"""Least total tokens/s of ours as a multiple of llama_cpp.server's."""
MANUAL = Path(__file__).parents[2] / "docs" / "en"
ASKED = (
    ("engine.md", "What is computed once?", "What happens to finished conversations?"),
    ("quantization.md", "Which type saves the most memory?", "And which one loses the least?"),
    ("context.md", "How is the context extended?", "What does it cost?"),
    ("models.md", "What does the prompt template look like?", "Where does its system prompt go?"),
    ("webui.md", "How do I install the extension?", "And how do I remove it?"),
    ("langchain.md", "How do I stream an answer?", "And how do I stream it with asyncio?"),
    ("overview.md", "What is Hanpaca for?", "Which languages does it answer in?"),
)


@dataclass
class Run:
    """What a crowd of clients saw."""

    tokens: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def post(url: str, body: dict[str, Any]) -> Iterator[tuple[float, Any]]:
    """Seconds since the request, and the JSON of each event."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=600) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                yield time.perf_counter() - start, json.loads(line[6:])


def crowd(url: str, clients: int, new: int, **extra: Any) -> Run:
    """`clients` streaming completions at the same time; `extra` fields go to the server."""
    run, lock = Run(), threading.Lock()
    with urllib.request.urlopen(f"{url}/v1/models", timeout=20) as answer:
        model = json.load(answer)["data"][0]["id"]

    def client(index: int) -> None:
        body = {"prompt": f"{index} llamas went to the", "max_tokens": new, "temperature": 0.0, "stream": True,
                "logit_bias": {"0": -100.0, "2": -100.0}, "model": model, **extra}  # fmt: skip
        pieces, told, first = 0, 0, 0.0
        for seconds, event in post(f"{url}/v1/completions", body):
            if event.get("choices") and event["choices"][0].get("text"):
                pieces, first = pieces + 1, first or seconds
            told = (event.get("usage") or {}).get("completion_tokens", told)
        with lock:
            run.tokens += told or pieces  # llama_cpp.server sends a piece for each token and no usage
            run.first.append(first)

    threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.seconds = time.perf_counter() - start
    return run


@contextmanager
def our_server(path: Path, library: Path) -> Iterator[str]:
    """Our server in a process of its own, over exactly this file."""
    command = [sys.executable, __file__, "--serve", str(path), "--library", str(library)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(30)


def serve(path: Path, library: Path) -> int:
    """The other side of `our_server`."""
    import hanpaca
    from hanpaca.integrations.server import ServerSettings, create_app
    from hanpaca.integrations.server.running import listen, run, url_of

    settings = ServerSettings(port=0, requests_per_minute=0, library_folder=library)
    model = hanpaca.load(path, tuned=False, threads=2, context=2048)
    _ = model.engine
    with listen(settings) as own:
        run(create_app(settings, model), own, lambda: print(url_of(own), flush=True))
    return 0


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def compare(report: Report, name: str, ours: Callable[[int], Run], theirs: Callable[[int], Run], rounds: int) -> None:
    """Rounds alternate, so that noise of the machine falls on both sides."""
    for clients in CLIENTS:
        pairs = [(ours(clients), theirs(clients)) for _ in range(rounds)]
        mine, other = (statistics.median(run.rate for run in runs) for runs in zip(*pairs, strict=True))
        bar = BARS.get(clients) if name == "llama_cpp.server" else None
        report.say(f"  {clients} clients: {mine:.1f} tokens/s, {name} {other:.1f}")
        report.check(f"{clients} clients, tokens/s / {name}", mine / other, least=bar)
        for share in (0.5, 0.95):
            waits = [[one for run in runs for one in run.first] for runs in zip(*pairs, strict=True)]
            mine, other = (quantile(found, share) for found in waits)
            report.say(f"  {clients} clients: p{share * 100:.0f} first token {mine * 1000:.0f} ms, {other * 1000:.0f}")
            report.check(f"{clients} clients, p{share * 100:.0f} first token / {name}", mine / other)


def follow_ups(report: Report, url: str) -> None:
    """Time to the first token of a follow-up over the same document, as a share of the first question's."""
    first, second = [], []
    for name, question, more in ASKED:
        upload(url, MANUAL / name)
        history = [{"role": "user", "content": question}]
        seconds, text = ask(url, history, name)
        first.append(seconds)
        history += [{"role": "assistant", "content": text or "…"}, {"role": "user", "content": more}]
        second.append(ask(url, history, name)[0])
    report.say(f"  documents: first {statistics.median(first):.2f} s, follow-up {statistics.median(second):.2f} s")
    ratio = statistics.median(second) / statistics.median(first)
    report.check("documents, follow-up / first question, p50 first token", ratio, most=0.25)


def ask(url: str, messages: list[dict[str, str]], file: str) -> tuple[float, str]:
    body = {"messages": messages, "stream": True, "max_tokens": 48, "temperature": 0, "use_documents": True}
    first, text = 0.0, ""
    for seconds, event in post(f"{url}/v1/chat/completions", body | {"filters": {"files": [file]}}):
        piece = event["choices"][0]["delta"].get("content") if event["choices"] else None
        first = first or (seconds if piece else 0.0)
        text += piece or ""
    return first, text


def upload(url: str, path: Path) -> None:
    """As a form does, and wait until it is ready."""
    edge = "----hanpaca"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'
    body = head.encode() + path.read_bytes() + f"\r\n--{edge}--\r\n".encode()
    form = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/documents", body, form), timeout=60) as answer:
        id = json.load(answer)["data"][0]["id"]
    while True:
        with urllib.request.urlopen(f"{url}/v1/documents/{id}", timeout=60) as answer:
            if json.load(answer)["status"] in ("ready", "failed"):
                return
        time.sleep(0.1)


def main() -> int:
    report = Report("server", __doc__ or "")
    report.parser.add_argument("--model", default="smollm2", help="smollm2 or a GGUF file; default: %(default)s")
    report.parser.add_argument("--new", type=int, default=64, help="tokens of each answer; default: %(default)s")
    report.parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    report.parser.add_argument("--vllm", metavar="URL", help="a running vLLM of the same model, without /v1")
    report.parser.add_argument("--serve", type=Path, metavar="FILE", help="only serve this file (for the benchmark)")
    report.parser.add_argument("--library", type=Path, help="where, with --serve")
    options = report.parse()
    if options.serve:
        return serve(options.serve, options.library)
    path = resolve(options.model).path
    assert path is not None
    with tempfile.TemporaryDirectory() as folder, our_server(path, Path(folder) / "library") as own:

        def ours(clients: int) -> Run:
            usage = {"include_usage": True}
            settings = {"raw": True, "repetition_penalty": 1.0}
            return crowd(own, clients, options.new, stream_options=usage, **settings)

        ours(2)  # the first requests open what is open from then on
        with peer_server.llama_cpp_server(path) as url:
            crowd(url, 1, 4)
            theirs = lambda clients: crowd(url, clients, options.new)  # noqa: E731
            compare(report, "llama_cpp.server", ours, theirs, options.rounds)
        if options.vllm:
            more = {"ignore_eos": True, "stream_options": {"include_usage": True}}
            vllm = lambda clients: crowd(options.vllm, clients, options.new, **more)  # noqa: E731
            compare(report, "vLLM", ours, vllm, options.rounds)
        follow_ups(report, own)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
