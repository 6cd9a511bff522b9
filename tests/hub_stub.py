"""A model hub on loopback: the parts of the Hugging Face and ModelScope HTTP APIs that downloading uses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the stub holds and how it misbehaves."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    """Repositories whose files need the token `good`; any other token is forbidden."""
    cuts: list[int] = field(default_factory=list)
    """Each entry ends one answer with a file after so many bytes."""
    stalled: threading.Event | None = None
    """Set when an answer stops half-way; it goes no further."""
    failures: list[int] = field(default_factory=list)
    """Each entry is one status code in place of a file."""
    lies: dict[str, str] = field(default_factory=dict)
    """File name → the sha256 that the listing claims."""
    elsewhere: str = ""
    """Where files are redirected to, as real hubs do."""
    ranges: bool = True
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def files_asked(self) -> list[dict[str, str]]:
        """The headers of each request for a file's content."""
        return [headers for path, headers in self.requests if "/resolve/" in path or "FilePath" in path]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append((self.path, dict(self.headers)))
        parts = unquote(url.path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self.listing("/".join(parts[2:4]))
        if parts[:3] == ["api", "v1", "models"]:
            return self.modelscope("/".join(parts[3:5]), parts[-1], parse_qs(url.query))
        if "resolve" in parts:
            return self.resolve("/".join(parts[:2]), "/".join(parts[parts.index("resolve") + 2 :]))
        return self.refuse(404)

    def listing(self, repository: str) -> None:
        if repository not in self.hub.repositories:
            return self.refuse(401, "RepoNotFound")
        if "/revision/old" in self.path:
            return self.refuse(404, "RevisionNotFound")
        siblings = []
        for name, data in self.hub.repositories[repository].items():
            item: dict[str, Any] = {"rfilename": name, "size": len(data)}
            if name.endswith((".gguf", ".safetensors", ".model")):
                sha = self.hub.lies.get(name, hashlib.sha256(data).hexdigest())
                item["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 134}
            else:
                item["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            siblings.append(item)
        return self.answer({"id": repository, "sha": COMMIT, "siblings": siblings})

    def modelscope(self, repository: str, last: str, query: dict[str, list[str]]) -> None:
        files = self.hub.repositories.get(repository)
        if files is None:
            return self.refuse(404)
        if last == "files":
            rows = [
                {"Path": n, "Name": n, "Type": "blob", "Size": len(d), "Sha256": hashlib.sha256(d).hexdigest()}
                for n, d in files.items()
            ]
            return self.answer({"Code": 200, "Data": {"Files": [*rows, {"Path": "folder", "Type": "tree"}]}})
        return self.send(files[query["FilePath"][0]])

    def resolve(self, repository: str, name: str) -> None:
        token = self.headers.get("Authorization", "")
        if repository in self.hub.gated and token != "Bearer good":
            return self.refuse(403 if token else 401, "GatedRepo")
        if self.hub.elsewhere:
            self.send_response(302)
            self.send_header("Location", self.hub.elsewhere + self.path)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        return self.send(self.hub.repositories[repository][name])

    def send(self, data: bytes) -> None:
        if self.hub.failures:
            return self.refuse(self.hub.failures.pop(0))
        start, status = 0, 200
        if self.hub.ranges and (wanted := self.headers.get("Range")):
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(data):
                return self.refuse(416)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = start + self.hub.cuts.pop(0) if self.hub.cuts else len(data)
        if self.hub.stalled is not None:
            self.wfile.write(data[start : start + (len(data) - start) // 2])
            self.wfile.flush()
            self.hub.stalled.set()
            threading.Event().wait(5)
            return None
        self.wfile.write(data[start:stop])
        self.close_connection = True
        return None

    def answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
