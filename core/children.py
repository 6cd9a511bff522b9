"""How a process of our own is started: the same Python, the same modules, nothing of the current folder."""

from __future__ import annotations

import json
import sys

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {} import {} as start; start(*sys.argv[2:])"


def command(module: str, function: str, *arguments: str) -> list[str]:
    """What to run so that `module.function(*arguments)` is called there, wherever the module was found here. `-P`: a
    `json.py` in the current folder is not Python's."""
    return [sys.executable, "-P", "-c", _START.format(module, function), json.dumps(sys.path), *arguments]
