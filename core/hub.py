"""Models that were downloaded: where they lie, which there are, and how to get more.

Knows hubs and folders, no engines.
"""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path


def cache_folder() -> Path:
    """Where downloads go: `HANPACA_CACHE`, or the user's cache folder. It may not exist yet."""
    chosen = os.environ.get("HANPACA_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("hanpaca")) / "models"


def folder_of(repository: str) -> Path:
    """The folder of one repository, "org/name", in the cache."""
    return cache_folder() / repository.replace("/", "--")


def find_gguf(repository: str, pattern: str | None = None) -> Path | None:
    """The largest downloaded GGUF file of `repository` whose name matches `pattern` (any letter case)."""
    files = [
        file
        for file in folder_of(repository).glob("*.gguf")
        if pattern is None or fnmatch(file.name.lower(), pattern.lower())
    ]
    return max(files, key=lambda file: file.stat().st_size, default=None)


def find_checkpoint(repository: str) -> Path | None:
    """The folder of a whole downloaded checkpoint."""
    folder = folder_of(repository)
    return folder if (folder / "config.json").exists() else None
