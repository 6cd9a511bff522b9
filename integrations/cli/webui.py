"""`hanpaca webui`: put the extension into text-generation-webui, say how it stands there, take it out.

Knows the command's words; `integrations.webui.install` does the work.
"""

from __future__ import annotations

import dataclasses

from ...core.errors import EngineUnavailable
from .arguments import Parser, add_json, some_path
from .output import as_json, note, say

ACTIONS = ("install", "status", "remove")


def run(argv: list[str]) -> int:
    """Install, look at, or remove the extension in the host's folder."""
    parser = Parser("webui", "Put Hanpaca's extension into text-generation-webui, or take it out.")
    parser.add_argument("action", choices=ACTIONS, help="install, status or remove; each may be repeated")
    parser.add_argument("folder", type=some_path, metavar="DIR", help="the web UI's folder, the one with server.py")
    parser.add_argument(
        "--user-data-dir",
        type=some_path,
        metavar="DIR",
        help="as the web UI's own option; default: user_data beside it",
    )
    add_json(parser)
    found = parser.parse(argv)
    try:
        import yaml  # noqa: F401

        from ..webui import install
    except ImportError as error:
        raise EngineUnavailable(
            f"This needs a package that is missing: {error.name}.", 'Run: pip install "hanpaca[webui]".'
        ) from error
    host = install.host_in(found.folder.expanduser(), found.user_data_dir and found.user_data_dir.expanduser())
    report = getattr(install, found.action)(host)
    if found.json:
        as_json({"host": str(host.root), "user_data": str(host.user_data), **dataclasses.asdict(report)})
    else:
        _print(found.action, report)
    whole = report.installed and report.template and report.entry
    return 0 if whole else {"install": 2, "status": 1, "remove": 0}[found.action]


def _print(action: str, report: object) -> None:
    told = dataclasses.asdict(report)  # type: ignore[call-overload]
    for line in told["done"]:
        say(line)
    for line in told["kept"]:
        note(line)
    say(f"extension: {'installed' if told['installed'] else 'not installed'} in {told['folder']}")
    say(f"template Chinese-Alpaca-2: {'there' if told['template'] else 'not there'}")
    say(f"entry in config-user.yaml: {'there' if told['entry'] else 'not there'}")
    if action == "install" and told["installed"]:
        say("Start the web UI with --extensions hanpaca, or tick it under Session.")
