"""`hanpaca serve`: one model and one library for OpenAI's clients, until Ctrl+C."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import Model, load
from ...core.errors import BadInput, EngineUnavailable
from .arguments import Parser, add_json, add_library, add_model
from .ask import model_of
from .output import as_json, note, say
from .places import NO_MODEL, library_folder, model_name, model_options

if TYPE_CHECKING:
    from ..server.settings import ServerSettings

MIB = 2**20


def run(argv: list[str]) -> int:
    """Serve until a signal comes."""
    found = _parser().parse(argv)
    with contextlib.ExitStack() as opened:
        try:
            from ..server.app import create_app
            from ..server.running import listen, run, url_of
        except ImportError as error:
            raise EngineUnavailable(
                f"The server needs a package that is missing: {error.name}.", 'Run: pip install "hanpaca[server,rag]".'
            ) from error
        settings = _settings(found)
        opened.enter_context(_logging(found.quiet))
        own = opened.enter_context(listen(settings))  # a port that is taken is told before weights load
        model = _model(found, opened)
        if model is not None:
            note(f"loading {model.name} …")
            _ = model.engine
        app = create_app(settings, model)
        name = app.state.service.names[:1]
        run(app, own, lambda: _greet(found, url_of(own), settings, name[0] if name else None))
    note("stopped.")
    return 0


def _model(found: argparse.Namespace, opened: contextlib.ExitStack) -> Model | None:
    """The model to serve; one on another server may need a tokenizer of this machine."""
    if found.tokenizer is None:
        return model_of(found, opened)
    return opened.enter_context(load(model_name(found.model), tokenizer=found.tokenizer, **model_options(found)))


def _parser() -> Parser:
    parser = Parser("serve", "Serve a model and a library to OpenAI's clients, scripts and browsers on this machine.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one; default: %(default)s")
    parser.add_argument(
        "--token", action="append", metavar="TOKEN",
        help="clients must send it; made and shown where others can reach the server; default: $HANPACA_TOKEN; "
        "may be given again",
    )  # fmt: skip
    add_model(parser, extra=f"; `{NO_MODEL}` serves documents only")
    parser.set_defaults(many=True)  # requests that are computed together keep every core busy
    parser.add_argument(
        "--prefix-memory", type=int, metavar="MIB", help="memory for finished conversations, so that their next turn "
        "is computed from where they ended; default: a tenth of what is free, at most 2,048"
    )  # fmt: skip
    parser.add_argument("--tokenizer", metavar="FILE", help="the tokenizer of a --model on another server (a URL)")
    parser.add_argument("--name", metavar="NAME", help="what clients call the model; default: its own name")
    add_library(parser)
    parser.add_argument("--allow-host", action="append", metavar="NAME", help="a name clients may use for this server")
    parser.add_argument("--allow-origin", action="append", metavar="URL", help="another page that may call this server")
    parser.add_argument("--max-upload", type=int, metavar="MIB", help="largest upload; default: 256")
    parser.add_argument(
        "--requests-per-minute", type=int, metavar="N", help="of one address; 0 for no limit; default: 600"
    )
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="longest time for one answer; default: none")
    parser.add_argument("--quiet", action="store_true", help="log no requests, only what goes wrong")
    add_json(parser)
    return parser


def _settings(found: argparse.Namespace) -> ServerSettings:
    from ..server.settings import ServerSettings

    own = os.environ.get("HANPACA_TOKEN")
    tokens = found.token or ([own] if own else [])
    given: dict[str, Any] = {"host": found.host, "port": found.port, "tokens": tuple(tokens)}
    given |= {"served_name": found.name, "request_timeout": found.timeout}
    given |= {"allowed_hosts": tuple(found.allow_host or ()), "allowed_origins": tuple(found.allow_origin or ())}
    if found.max_upload is not None:
        given["max_upload"] = found.max_upload * MIB
    if found.requests_per_minute is not None:
        given["requests_per_minute"] = found.requests_per_minute
    if found.timeout is not None and not found.timeout > 0:
        raise BadInput("--timeout must be more than 0 seconds.", "Leave it out for no limit.")
    return ServerSettings(**given, **_library(found.library))


def _library(chosen: str) -> dict[str, Any]:
    """A name as it is; a folder under its last part."""
    folder = library_folder(chosen)
    is_path = os.sep in chosen or chosen.startswith((".", "~"))
    return {"library": Path(folder).resolve().name or "default", "library_folder": folder} if is_path else {
        "library": chosen
    }  # fmt: skip


@contextlib.contextmanager
def _logging(quiet: bool) -> Iterator[None]:
    """Requests on stderr, a line of JSON each; of uvicorn only what goes wrong. Afterwards as it was."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    levels = {"hanpaca.server": logging.WARNING if quiet else logging.INFO, "uvicorn": logging.ERROR}
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger, level in loggers.items():
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def _greet(found: argparse.Namespace, url: str, settings: ServerSettings, model: str | None) -> None:
    # A token from the command line or the environment is known already, and not repeated.
    made = settings.tokens[0] if settings.tokens and not (found.token or os.environ.get("HANPACA_TOKEN")) else None
    if found.json:
        as_json(
            {"url": url, "api": f"{url}/v1", "model": model, "library": settings.library, "token": made}, lines=False
        )
        return
    say(f"{model or 'documents'} at {url}/v1 (library {settings.library}); Ctrl+C stops.")
    if made:
        say(f"token: {made}")
