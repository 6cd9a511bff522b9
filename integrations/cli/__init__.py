"""The `hanpaca` command: a dict of name → function, of which only the chosen one's module is imported.

Knows no command's options; each command's module has its own. Errors that Hanpaca raises on purpose become one
message on stderr and the exit code the error carries.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("demo", "run", "index the manual, then answer one English and one Chinese question"),
    "ask": ("ask", "run", "answer a question from a library's documents, with citations"),
    "ingest": ("ingest", "ingest", "read documents and folders into a library"),
    "sync": ("ingest", "sync", "bring a library in step with folders, also by watching them"),
    "sources": ("library", "sources", "list the documents in a library"),
    "search": ("library", "search", "show the passages that fit a question, without a model"),
    "delete": ("library", "delete", "remove documents from a library"),
    "summarize": ("tend", "summarize", "summarize a document in a library"),
    "eval": ("tend", "evaluate", "measure search on your own questions"),
    "reindex": ("tend", "reindex", "compute a library's vectors anew"),
    "backup": ("tend", "backup", "write a library to one file"),
    "restore": ("tend", "restore", "make a library from a backup"),
    "chat": ("chat", "run", "talk to a model"),
    "serve": ("serve", "run", "serve a model and a library to OpenAI's clients"),
    "webui": ("webui", "run", "put the extension into text-generation-webui, or take it out"),
    "models": ("models", "run", "list the models that have a name here"),
    "pull": ("pull", "run", "download a model"),
    "verify": ("verify", "run", "say what a model on disk really is"),
    "rope": ("rope", "run", "say how a model serves a long context, for each tool that may run it"),
    "rm": ("pull", "remove", "delete a downloaded model"),
    "convert": ("weights", "convert", "write a checkpoint or a LoRA adapter as a GGUF file"),
    "quantize": ("weights", "quantize", "write a GGUF file in a smaller type"),
    "imatrix": ("measure", "imatrix", "measure a model's importance matrix, for quantizing it better"),
    "merge": ("weights", "merge", "merge LoRA adapters into a checkpoint"),
    "extract-lora": ("weights", "extract", "write what a tuning changed as a LoRA adapter"),
    "vocab": ("vocab", "run", "extend a model's vocabulary: train, merge, extend, grow, report"),
    "pretrain": ("train", "pretrain", "train a model further on plain text"),
    "finetune": ("train", "finetune", "tune a model on instructions"),
    "prefer": ("train", "prefer", "align a model with pairs of answers (DPO)"),
    "bench": ("measure", "bench", "measure a model's speed on this machine"),
    "tune": ("measure", "tune", "choose the fastest weight type for a model on this machine"),
    "doctor": ("doctor", "run", "say what works on this machine and which models fit"),
}
"""Name → (module in this folder, function in it that takes the words after the name, one line of help)."""

INTERRUPTED, PIPE_CLOSED = 130, 141
"""Exit codes as a shell gives them to a program that a signal ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. `argv` is without the program's name and defaults to `sys.argv`."""
    from ...core.errors import HanpacaError
    from .streams import prepare

    prepare()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except HanpacaError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("stopped.", INTERRUPTED)
    except BrokenPipeError:
        # The reader went away (as `head` does); the interpreter's own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PIPE_CLOSED
    except OSError as error:
        what = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
        hint = " Change its permissions, or name another place." if isinstance(error, PermissionError) else ""
        return _fail(f"{what}.{hint}" if hint else what, 1)
    except MemoryError:
        return _fail("there is not enough memory for this. Close other programs, or give smaller files.", 1)
    except Exception as error:
        if type(error).__module__ != "sqlite3":  # by name: importing sqlite3 would slow down every command
            raise
        return _fail(f"the library's database says: {error}. `hanpaca restore` brings back a backup.", 1)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        from ... import __version__

        print(f"hanpaca {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        from ...core.errors import BadInput

        near = difflib.get_close_matches(name, COMMANDS, n=2, cutoff=0.5)
        guess = f" Did you mean {' or '.join(near)}?" if near else ""
        raise BadInput(f"{name!r} is not a command.{guess}", f"Commands: {', '.join(COMMANDS)}.")
    module, function, _ = COMMANDS[name]
    try:
        return int(getattr(importlib.import_module(f".{module}", __package__), function)(rest))
    except SystemExit as leaving:  # argparse leaves this way after --help
        return int(leaving.code or 0)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, _, line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hanpaca COMMAND [options]",
            "",
            "Chinese LLaMA-2 / Alpaca-2 and other LLaMA models, and questions to your own documents, on this machine.",
            "",
            *lines,
            "",
            "`hanpaca COMMAND --help` shows a command's options. `hanpaca --version` shows the version.",
        ]
    )


def _fail(message: str, code: int) -> int:
    from .streams import harmless

    print(f"hanpaca: {harmless(message)}", file=sys.stderr)
    return code
