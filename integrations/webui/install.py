"""Putting the extension into a host's folder, saying how it stands, and taking it out again. Touches no running host.

Nothing of the user's is overwritten: a file that is not as some version of ours wrote it stays, and is named; what was
written is remembered by its digest (`files`). What is put into `config-user.yaml` stands in front of the user's own
entries, which therefore win, and leaves their text as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import BadInput
from .files import MANIFEST, digest, disk_errors_told, name_of, remember, same, sweep, write_whole, written
from .template import FILE, FOLDER, NAME

EXTENSION = "hanpaca"
FILES = ("script.py", "README.md", FILE.name)
MARKERS = ("server.py", "modules/extensions.py", "modules/shared.py")
"""A folder that has these is the host."""
PATTERN = ".*chinese-?alpaca-?2.*"
"""Model files that are given the template, as a regular expression of the host."""
_BLOCK = f"'{PATTERN}':\n  instruction_template: {NAME}\n"
_OURS = re.compile(rf"^(['\"]?){re.escape(PATTERN)}\1:[ \t]*\r?\n(?:[ \t]+[^\n]*\n?)+", re.MULTILINE)


@dataclass
class Report:
    """What is where, and what was done."""

    folder: str
    """The extension's folder in the host."""
    installed: bool = False
    """Whether all of its files are there, as this version has them."""
    template: bool = False
    """Whether the prompt template is there."""
    entry: bool = False
    """Whether model files of that name are given the template."""
    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """What is not ours and stayed, with what to do."""


@dataclass(frozen=True)
class Host:
    """The folders of one host."""

    root: Path
    user_data: Path

    @property
    def extension(self) -> Path:
        """Where the extension is, or belongs."""
        old = self.root / "extensions" / EXTENSION
        return old if (old / "script.py").is_file() else self.user_data / "extensions" / EXTENSION

    @property
    def template(self) -> Path:
        return self.user_data / "instruction-templates" / FILE.name

    @property
    def config(self) -> Path:
        return self.user_data / "models" / "config-user.yaml"


def host_in(folder: Path, user_data: Path | None = None) -> Host:
    """The host in a folder: its own, or one around it (portable builds keep it in `app`). Raises `BadInput`."""
    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}.", "Name the folder of text-generation-webui.")
    for root in (folder, folder / "app"):
        if all((root / marker).is_file() for marker in MARKERS):
            beside = [root / "user_data", root.parent / "user_data"]
            found = user_data or next((path for path in beside if path.is_dir()), None)
            if user_data is not None and not user_data.is_dir():
                raise BadInput(f"There is no folder {user_data}.", "Name the web UI's own: --user-data-dir FOLDER.")
            if found is None:
                raise BadInput(f"{root} has no user_data folder.", "Name it: --user-data-dir FOLDER.")
            return Host(root, found)
    raise BadInput(
        f"{folder} is not text-generation-webui: it has no {', '.join(MARKERS)}.", "Name the folder that has server.py."
    )


def status(host: Host) -> Report:
    """How the extension stands in a host."""
    return Report(
        folder=str(host.extension),
        installed=all(same(FOLDER / name, host.extension / name) for name in FILES),
        template=same(FILE, host.template),
        entry=_has_entry(host),
    )


def install(host: Host) -> Report:
    """Put the extension's folder, the prompt template and its entry in place, or bring them to this version; what
    somebody changed stays. Raises `BadInput` where files cannot be written: those that were new are taken back."""
    done: list[str] = []
    kept: list[str] = []
    new: list[Path] = []
    known = written(host.extension)
    with disk_errors_told(new):
        for ours, there in _pairs(host):
            if same(ours, there):
                continue
            present = there.exists() or there.is_symlink()
            if present and not _as_written(there, known):
                kept.append(f"{there} was changed, and stays. Move it away and install again to have this version's.")
                continue
            if not there.parent.exists():
                new.append(there.parent)
            there.parent.mkdir(parents=True, exist_ok=True)
            if not present:
                new.append(there)
            write_whole(there, ours.read_bytes())
            done.append(f"{'updated' if present else 'wrote'} {there}")
        if not (host.extension / MANIFEST).exists():
            new.append(host.extension / MANIFEST)
        _remember(host)
        if not _has_entry(host):
            (done if _add_entry(host) else kept).append(_entry_told(host))
    report = status(host)
    report.done, report.kept = done, kept
    return report


def remove(host: Host) -> Report:
    """Take out what `install` put in, where it was not changed since. Raises `BadInput` where files cannot be removed;
    the next `remove` goes on."""
    done: list[str] = []
    kept: list[str] = []
    folder, known, pairs = host.extension, written(host.extension), _pairs(host)
    with disk_errors_told([]):
        if folder.is_symlink():
            folder.unlink()
            done.append(f"removed the link {folder}")
        for ours, there in pairs:
            if same(ours, there) or _as_written(there, known):
                there.unlink()
                done.append(f"removed {there}")
            elif there.exists():
                kept.append(f"{there} was changed; delete it yourself if you do not want it.")
        (folder / MANIFEST).unlink(missing_ok=True)
        sweep(folder)
        if _has_entry(host) and _remove_entry(host):
            done.append(f"took the entry {PATTERN} out of {host.config}")
        elif PATTERN in _mapping(host.config):
            kept.append(f"the entry {PATTERN} in {host.config} was changed; it stays.")
    report = status(host)
    report.done, report.kept = done, kept
    return report


def _as_written(there: Path, known: Mapping[str, str]) -> bool:
    """Whether a file is as some version of ours wrote it."""
    return name_of(there) in known and digest(there) == known[name_of(there)]


def _remember(host: Host) -> None:
    """Note the files that are ours now; those in a linked folder are the package's own."""
    known = written(host.extension)
    now = known | {name_of(there): digest(there) for ours, there in _pairs(host) if same(ours, there)}
    if now != known and not host.extension.is_symlink():
        remember(host.extension, now)


def _pairs(host: Host) -> list[tuple[Path, Path]]:
    """Our files, and where each belongs."""
    return [*((FOLDER / name, host.extension / name) for name in FILES), (FILE, host.template)]


# -- the entry in config-user.yaml -----------------------------------------------------------------------------------


def _mapping(path: Path) -> dict[str, Any]:
    """The file's entries; of one that is no mapping, none."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _has_entry(host: Host) -> bool:
    entry = _mapping(host.config).get(PATTERN)
    return isinstance(entry, dict) and entry.get("instruction_template") == NAME


def _add_entry(host: Host) -> bool:
    """Put our entry first; False where that would change anything else, or where the pattern is the user's."""
    path, before = host.config, _mapping(host.config)
    if PATTERN in before:
        return False
    old = path.read_bytes() if path.exists() else b""
    if old.strip() and not before:  # another encoding, another shape, or broken
        return False
    head = re.match(rb"(?:[ \t]*#[^\n]*\n|[ \t]*\r?\n)*---[ \t]*\r?\n", old)
    at = head.end() if head else 0
    return _replaced(path, old[:at] + _BLOCK.encode("ascii") + old[at:], {PATTERN: _entry()} | before)


def _remove_entry(host: Host) -> bool:
    """Take our entry out; False where it, or the file, was written in a way that we cannot undo safely."""
    path, before = host.config, _mapping(host.config)
    if before.get(PATTERN) != _entry():
        return False
    text = _OURS.sub("", path.read_bytes().decode("utf-8"), count=1)
    left = {key: value for key, value in before.items() if key != PATTERN}
    if not left and not text.strip() and not path.is_symlink():
        path.unlink()
        return True
    return _replaced(path, text.encode("utf-8"), left)


def _replaced(path: Path, data: bytes, wanted: dict[str, Any]) -> bool:
    """Write a file if it then means what is wanted, and nothing else."""
    import yaml

    try:
        if (yaml.safe_load(data.decode("utf-8")) or {}) != wanted:
            return False
    except (UnicodeDecodeError, yaml.YAMLError):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)
    return True


def _entry() -> dict[str, str]:
    return {"instruction_template": NAME}


def _entry_told(host: Host) -> str:
    if _has_entry(host):
        return f"gave model files named {PATTERN} the template, in {host.config}"
    return f"{host.config} was left alone. For the template of Chinese-Alpaca-2 add to it:\n{_BLOCK}"
