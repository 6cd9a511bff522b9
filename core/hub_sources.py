"""What a hub has of a repository: the Hugging Face hub or a mirror of it, ModelScope, and folders carried by hand.

Lists files with sizes and checksums; `download.py` fetches them. Explains refusals in the hub's own terms.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from .download import RemoteFile, open_url
from .errors import BadInput, DownloadFailed, ModelNotFound

MODELSCOPE = "https://modelscope.cn"
HUGGING_FACE = "https://huggingface.co"
CARRY = "or carry the files here and name their folder: hanpaca pull NAME --from FOLDER"


@dataclass(frozen=True)
class Listing:
    """The files of one repository at one revision."""

    repository: str
    revision: str
    files: tuple[RemoteFile, ...]
    source: str
    """Where it was found: a host, or a folder."""
    page: str = ""
    """The repository's page for people."""


def list_hub(repository: str, revision: str | None = None, endpoint: str | None = None) -> Listing:
    """The files of `repository` at the Hugging Face hub, or at the mirror that `HF_ENDPOINT` names."""
    endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or HUGGING_FACE).rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise DownloadFailed("HF_HUB_OFFLINE is set: the hub is not asked.", f"Unset it, {CARRY}.")
    headers = _authorization()
    branch = quote(revision or "main", safe="")
    page = f"{endpoint}/{repository}"
    info = _json(f"{endpoint}/api/models/{repository}/revision/{branch}?blobs=true", headers, page)
    commit = str(info.get("sha") or revision or "main")
    files = []
    for item in info.get("siblings", ()):
        lfs, name = item.get("lfs") or {}, _safe(item["rfilename"])
        files.append(
            RemoteFile(
                name,
                f"{endpoint}/{repository}/resolve/{quote(commit, safe='')}/{quote(name)}",
                size=lfs.get("size", item.get("size")),
                sha256=lfs.get("sha256"),
                git_sha1=None if lfs else item.get("blobId"),
                headers=headers,
            )
        )
    return Listing(repository, commit, tuple(files), urlsplit(endpoint).netloc, page)


def list_modelscope(repository: str, revision: str | None = None, endpoint: str | None = None) -> Listing:
    """The files of `repository` at ModelScope."""
    endpoint, revision = (endpoint or MODELSCOPE).rstrip("/"), revision or "master"
    base = f"{endpoint}/api/v1/models/{repository}/repo"
    query = urlencode({"Revision": revision, "Recursive": "true"})
    page = f"{endpoint}/models/{repository}"
    answer = _json(f"{base}/files?{query}", {}, page)
    files = [
        RemoteFile(
            _safe(item["Path"]),
            f"{base}?{urlencode({'Revision': revision, 'FilePath': item['Path']})}",
            size=item.get("Size"),
            sha256=item.get("Sha256") or None,
        )
        for item in (answer.get("Data") or {}).get("Files") or ()
        if item.get("Type") != "tree"
    ]
    return Listing(repository, revision, tuple(files), urlsplit(endpoint).netloc, page)


def list_folder(repository: str, folder: Path) -> Listing:
    """The files that somebody carried here: `folder` itself, or its subfolder with the repository's name.

    Checksums come from a `SHA256SUMS` file, or `NAME.sha256` files, where the folder has them.
    """
    names = (repository.replace("/", "--"), repository.rpartition("/")[2], "")
    found = next((folder / name for name in names if (folder / name).is_dir()), None)
    if found is None:
        raise BadInput(f"There is no folder {folder}.", "--from takes a folder, or: hub, modelscope.")
    sums = checksums(found)
    files = [
        RemoteFile(path.name, path.resolve().as_uri(), path.stat().st_size, sums.get(path.name))
        for path in sorted(found.iterdir())
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith((".part", ".sha256"))
    ]
    return Listing(repository, "", tuple(files), str(found))


SOURCES: dict[str, Callable[..., Listing]] = {"hub": list_hub, "modelscope": list_modelscope}


def explain(error: urllib.error.HTTPError, page: str) -> DownloadFailed | ModelNotFound:
    """What a hub's refusal means, and what to do. `page` is the model's page."""
    host, code = urlsplit(page).netloc, error.headers.get("X-Error-Code", "")
    if code == "GatedRepo" and error.code == 401:
        return DownloadFailed(
            f"{page} is gated: {host} wants to know who you are.",
            f"Accept the licence on {page}, make a token at {host}/settings/tokens, and set HF_TOKEN to it.",
        )
    if code == "GatedRepo" or error.code == 403:
        return DownloadFailed(
            f"{host} forbids this account to download {page}.",
            f"Ask for access or accept the licence on {page}; check that the token may read gated models.",
        )
    if code == "RevisionNotFound":
        return ModelNotFound(f"{page} has no such revision.", "Leave --revision out for the newest.")
    if error.code in (401, 404):
        return ModelNotFound(
            f"{host} has no model at {page}, or it is private.", "Check the name; for a private one set HF_TOKEN."
        )
    return DownloadFailed(f"{host} answered {error.code} {error.reason} for {page}.", "Try again later.")


def unreachable(page: str, reason: object) -> DownloadFailed:
    """The message for a machine that is offline, or a hub that is not there."""
    host = urlsplit(page).netloc
    return DownloadFailed(
        f"{host} could not be reached: {reason}.",
        f"Check the connection; use a mirror (HF_ENDPOINT=https://…) or --from modelscope; {CARRY}.",
    )


def _authorization() -> dict[str, str]:
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _json(url: str, headers: dict[str, str], page: str) -> dict[str, Any]:
    try:
        with open_url(url, headers) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise explain(error, page) from None
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(page, getattr(error, "reason", "") or error or type(error).__name__) from None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise DownloadFailed(
            f"{urlsplit(page).netloc} did not answer like a model hub.", "Check HF_ENDPOINT, or a proxy's login page."
        )
    return answer


def _safe(name: str) -> str:
    """`name`, which a server sent; refused where it would leave the model's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise DownloadFailed(f"The hub lists a file with an unsafe name, {name!r}.", "Do not trust this source.")
    return name


def checksums(folder: Path) -> dict[str, str]:
    """File name → SHA-256, from the `SHA256SUMS` and `NAME.sha256` files in `folder`."""
    sums = {}
    for path in (*folder.glob("SHA256SUMS*"), *folder.glob("*.sha256")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if match := re.match(r"([0-9a-fA-F]{64})(?:\s+\*?(.+))?$", line.strip()):
                sums[Path(match[2] or path.stem).name] = match[1].lower()
    return sums
