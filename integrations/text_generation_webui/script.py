"""Hanpaca in text-generation-webui: all that the host loads. What lives longer is in the installed package.

The host runs this file anew at each "Apply flags/extensions and restart"; the package, with the model and the open
libraries in it, stays. It imports nothing of its own folder, so that the folder may lie in `user_data/extensions` or in
`extensions`. Whatever goes wrong here is shown in the tab: an error that leaves this file would keep the host from
starting.
"""

import logging
import sys

params = {
    "display_name": "Hanpaca",
    "is_tab": True,
    "backend": False,
    "model": "",
    "context": 0,
    "documents": False,
    "library": "webui",
    "passages": 4,
    "write_sources": False,
    "always_use": False,
}
"""Saved by the host under Session; scalars only, and replaced as a whole by the tab."""

_extension = None
_problem = ""

try:
    from hanpaca.integrations.webui.extension import attach

    _extension = attach(sys.modules[__name__])
except ImportError as error:
    _problem = f'{error}. Install Hanpaca where the web UI runs: pip install "hanpaca[webui]", then restart it.'
except Exception as error:
    _problem = f"Hanpaca could not start: {type(error).__name__}: {error}"
if _problem:
    logging.getLogger("hanpaca").error("%s", _problem)


def setup() -> None:
    """Called by the host once for each load, before the page is made."""
    global _problem
    if _extension is not None:
        try:
            _extension.setup()
        except Exception as error:
            _problem = f"Hanpaca could not start: {type(error).__name__}: {error}"
            logging.getLogger("hanpaca").exception("Hanpaca could not start")


def ui() -> None:
    """The tab; where something is missing, a sentence that says what."""
    if _extension is not None and not _problem:
        _extension.ui()
        return
    import gradio

    gradio.Markdown(_problem)


def __getattr__(name: str) -> object:
    """The hooks that are wanted now: the host asks for each at every generation, so they come and go with the mode."""
    if _extension is not None and name in _extension.HOOKS:
        hook = _extension.hook(name)
        if hook is not None:
            return hook
    raise AttributeError(f"{__name__} has no {name}")
