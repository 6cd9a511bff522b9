"""The extension's settings: those `params` of script.py that Hanpaca reads, checked.

The host keeps `params` in its settings.yaml, where people also write by hand: a value of a wrong type is told and taken
as the default, since an error here would keep the host from starting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What the tab sets."""

    backend: bool = False
    """Whether Hanpaca's own model answers."""
    model: str = ""
    """Its name, or the path of its file."""
    context: int = 0
    """Its context in tokens; 0 for its own window."""
    documents: bool = False
    """Whether passages of the library go into prompts."""
    library: str = "webui"
    """The library's name; `hanpaca ask --library NAME` reads the same."""
    passages: int = 4
    """Most passages in a prompt."""
    write_sources: bool = False
    """Whether sources become a part of the reply, so that clients of the API get them, instead of being shown under
    it."""
    always_use: bool = False
    """Whether passages are used even if the library does not seem to hold an answer."""


def read(params: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """The settings, and a sentence for each value that cannot be one."""
    defaults, chosen, problems = Settings(), dict[str, Any](), list[str]()
    for field in dataclasses.fields(Settings):
        default = getattr(defaults, field.name)
        value = params.get(field.name, default)
        fits = type(value) is type(default) and (not isinstance(value, int) or value >= 0)
        if not fits or (field.name == "passages" and value < 1):
            problems.append(f"{field.name} in settings.yaml cannot be {value!r}; {default!r} is used.")
            value = default
        chosen[field.name] = value
    return Settings(**chosen), problems
