"""One file over HTTP, whole or not at all: resumed after a cut, checked by its checksum, renamed when it is right.

Knows URLs and checksums, no hubs. A part that was fetched lies beside the file as `NAME.<checksum>.part`, so another
revision never continues it, and a second process that wants the same file waits for nobody: it is told.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from .errors import DownloadFailed
from .locks import locked

CHUNK = 1 << 20
PATIENCE = 30.0
"""Seconds without a byte after which a connection counts as cut."""
ATTEMPTS = 5
"""Tries in a row that may bring nothing."""


@dataclass(frozen=True)
class RemoteFile:
    """A file at a hub, or (with a file: URL) in a folder."""

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    """Checksum of small files that a hub keeps in git itself: sha1 over "blob SIZE\\0" and the content."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent to this URL's own host only, never to one that it redirects to."""


OnBytes = Callable[[int], None]
"""Called with the number of bytes of this file that are there now."""


def open_url(url: str, headers: Mapping[str, str], extra: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
    """Open `url`. `headers` stay with its host; `extra` follow redirects. Raises `urllib.error.URLError`."""
    request = urllib.request.Request(url, headers={"User-Agent": "hanpaca", **(extra or {})})
    for key, value in headers.items():
        request.add_unredirected_header(key, value)
    response: http.client.HTTPResponse = urllib.request.build_opener(_SameHost(headers)).open(request, timeout=PATIENCE)
    return response


def download(file: RemoteFile, target: Path, on_bytes: OnBytes | None = None, pause: float = 1.0) -> str:
    """Fetch `file` to `target` and return its SHA-256. What a cut connection left is continued.

    Waits `pause`, then twice that, and so on between tries that bring nothing. Raises `DownloadFailed` for refusals,
    for connections that stay cut (the part is kept), for a wrong checksum (the part is deleted) and a full disk;
    `urllib.error.HTTPError` for what a hub has to explain (401, 403, 404).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    key = (file.sha256 or file.git_sha1 or hashlib.sha256(file.url.encode()).hexdigest())[:12]
    part = target.with_name(f"{target.name}.{key}.part")
    with _locked(part, target.name) as out:
        hashes = _Hashes(file, out)
        _need_space(target.parent, (file.size or 0) - hashes.length, target.name)
        _fetch(file, out, hashes, on_bytes or (lambda _count: None), pause)
        if problem := hashes.mismatch():
            part.unlink(missing_ok=True)
            raise DownloadFailed(
                f"{file.name} came with {problem}; it was deleted.",
                "Pull again; if it happens again, the source is damaged: try another (--from).",
            )
        out.flush()
        os.fsync(out.fileno())
        part.replace(target)
    return hashes.sha256.hexdigest()


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Keeps private headers on redirects inside one host (hubs rename models so), and drops them elsewhere."""

    def __init__(self, private: Mapping[str, str]) -> None:
        self.private = private

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and urlsplit(newurl)[:2] == urlsplit(req.full_url)[:2]:
            for key, value in self.private.items():
                new.add_unredirected_header(key, value)
        return new


def is_whole(file: RemoteFile, target: Path, known: str | None) -> bool:
    """Whether `target` is that very file already. `known` is the SHA-256 that was noted when it came; without a note
    (it was put there by hand, or the process ended before) the file is read."""
    if not target.is_file() or (file.size is not None and target.stat().st_size != file.size):
        return False
    if file.sha256 is not None and known is not None:
        return known == file.sha256.lower()
    if file.sha256 is None and file.git_sha1 is None:
        return True
    with target.open("rb") as there:
        return not _Hashes(replace(file, size=target.stat().st_size), there).mismatch()


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Hashes:
    """The checksums of what has arrived, starting with what an earlier try left in `out`."""

    def __init__(self, file: RemoteFile, out: IO[bytes]) -> None:
        self.file = file
        self.restart(out, keep=True)

    def restart(self, out: IO[bytes], *, keep: bool) -> None:
        self.length = 0
        self.sha256: _Digest = hashlib.sha256()
        self.git: _Digest = hashlib.sha1(f"blob {self.file.size}\0".encode(), usedforsecurity=False)
        if not keep:
            out.truncate(0)
        out.seek(0)
        while data := out.read(CHUNK):
            self.add(data)

    def add(self, data: bytes) -> None:
        self.length += len(data)
        self.sha256.update(data)
        if self.file.git_sha1:
            self.git.update(data)

    def mismatch(self) -> str:
        """What is wrong with the whole file; empty if nothing is."""
        if self.file.size is not None and self.length != self.file.size:
            return f"{self.length:,} bytes instead of {self.file.size:,}"
        if self.file.sha256 and self.sha256.hexdigest() != self.file.sha256.lower():
            return "a wrong checksum"
        if self.file.git_sha1 and self.git.hexdigest() != self.file.git_sha1.lower():
            return "a wrong checksum"
        return ""


def _fetch(file: RemoteFile, out: IO[bytes], hashes: _Hashes, on_bytes: OnBytes, pause: float) -> None:
    """Append to `out` until the file is whole, opening the connection again where it is cut."""
    failures, reason = 0, ""
    on_bytes(hashes.length)
    while file.size is None or hashes.length < file.size:
        before = hashes.length
        try:
            if _receive(file, out, hashes, on_bytes) or hashes.length == file.size:
                return
            reason = "it ended early"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is longer than the file: it cannot be the same
                hashes.restart(out, keep=False)
            elif error.code not in (408, 429, 500, 502, 503, 504):
                raise
            reason = f"the server answered {error.code}"
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in _LOCAL_ERRORS:
                raise
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        failures = 0 if hashes.length > before else failures + 1
        if failures >= ATTEMPTS:
            have = f"{hashes.length:,} of {file.size:,} bytes" if file.size else f"{hashes.length:,} bytes"
            raise DownloadFailed(
                f"The connection was cut at {have} of {file.name}: {reason}.",
                "Run the same command again: it continues where it stopped.",
            )
        time.sleep(pause * 2 ** max(0, failures - 1))


_LOCAL_ERRORS = (5, 28, 30, 122)
"""EIO, ENOSPC, EROFS, EDQUOT: the disk's fault, which no new connection mends."""


def _receive(file: RemoteFile, out: IO[bytes], hashes: _Hashes, on_bytes: OnBytes) -> bool:
    """One connection's worth of bytes. True where the file has no known size and the server says it is complete."""
    extra = {"Range": f"bytes={hashes.length}-"} if hashes.length else {}
    if file.url.startswith("file:"):
        return _copy(file, out, hashes, on_bytes)
    with open_url(file.url, file.headers, {"Accept-Encoding": "identity", **extra}) as response:
        if extra and response.status != 206:
            hashes.restart(out, keep=False)
        while data := response.read1(CHUNK):
            out.write(data)
            hashes.add(data)
            on_bytes(hashes.length)
        return file.size is None and not response.length
    return False


def _copy(file: RemoteFile, out: IO[bytes], hashes: _Hashes, on_bytes: OnBytes) -> bool:
    with Path(urllib.request.url2pathname(urlsplit(file.url).path)).open("rb") as source:
        source.seek(hashes.length)
        while data := source.read(CHUNK):
            out.write(data)
            hashes.add(data)
            on_bytes(hashes.length)
    return True


@contextmanager
def _locked(part: Path, name: str) -> Iterator[IO[bytes]]:
    while True:
        with part.open("a+b") as out:
            if not locked(out):
                raise DownloadFailed(
                    f"Another process is downloading {name}.", "Wait for it; then run this command again."
                )
            if _is_file_at(out, part):
                yield out
                return
        # Another process renamed the part to its target before it was locked here: this handle is the finished file.


def _is_file_at(out: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(out.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _need_space(folder: Path, wanted: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise DownloadFailed(
            f"{name} needs {wanted:,} more bytes, and {folder} has {free:,} free.",
            "Free some (`hanpaca rm` deletes downloaded models), or set HANPACA_CACHE to a larger disk.",
        )
