"""llama-cpp-python's own OpenAI-style server, started on loopback, and a crowd of clients for it.

Needs `pip install "llama-cpp-python[server]"`.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def llama_cpp_server(path: Path) -> Iterator[str]:
    """The server's base URL, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"model": path, "port": port, "n_ctx": 2048, "n_threads": 2, "flash_attn": "true", "verbose": "false"}
    options["interrupt_requests"] = "false"  # else each new client ends the one before
    command = [sys.executable, "-m", "llama_cpp.server"]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/v1/models", timeout=1).read()
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError('llama_cpp.server ended; pip install "llama-cpp-python[server]"') from None
                time.sleep(0.2)
        else:
            raise RuntimeError("llama_cpp.server does not answer")
        yield url
    finally:
        process.terminate()
        process.wait(20)


def rate(url: str, clients: int, new: int, **extra: object) -> float:
    """Total tokens per second of `clients` streaming completions at the same time; `extra` fields go to the server."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=20) as answer:
        model = json.load(answer)["data"][0]["id"]
    counts = [0] * clients

    def client(index: int) -> None:
        body = {"prompt": f"{index} llamas went to the", "max_tokens": new, "temperature": 0.0, "stream": True,
                "logit_bias": {"0": -100.0, "2": -100.0}, "model": model, **extra}  # fmt: skip
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            counts[index] = sum(1 for line in answer if line.startswith(b"data: {"))

    threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = clients * new if extra.get("ignore_eos") else sum(counts)  # a chunk may hold more than one token
    return total / (time.perf_counter() - start)
