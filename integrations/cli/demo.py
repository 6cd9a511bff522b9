"""`hanpaca demo`: index the manual, then answer one English and one Chinese question through a LangChain chain.

What it does is what a user's own script would do; the chain is made of `HanpacaRetriever` and `ChatHanpaca`.
"""

from __future__ import annotations

import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...core.errors import BadInput
from .answers import show_citations, show_notes
from .arguments import Parser, add_json, add_library, add_model
from .ingest import show_report, synced
from .library import open_library
from .output import as_json, say, write
from .places import BUNDLED, READER, library_folder, model_name, model_options, no_model

QUESTIONS = ("How large is the 7B model at Q4_K?", "自适应NTK把上下文扩展到多长？")
PASSAGES = 3
"""Few, because the demo's model is small and gets confused by many."""
ONE_SENTENCE = [". ", "\n"]
"""Where the bundled model's answer stops: after its first sentence it copies what else it was given."""


def run(argv: list[str]) -> int:
    """Index and answer; everything on this machine."""
    parser = Parser("demo", "Index the manual, then answer one English and one Chinese question.")
    add_library(parser, default="demo")
    add_model(parser, READER)
    add_json(parser)
    found = parser.parse(argv)
    if no_model(found.model):
        raise BadInput("The demo is answers of a model.", "Name one with --model; `hanpaca ask --model none` quotes.")
    started = time.monotonic()
    chat = _chat(model_name(found.model, READER), model_options(found, READER))
    with open_library(found, create=True) as library:
        if not found.json:
            say(f"Indexing the manual in {manual()}")
        report = synced(library, [manual()])
        if not found.json:
            show_report(report)
    chain = _chain(library_folder(found.library), chat)
    answers = [_answer(chain, question, quiet=found.json) for question in QUESTIONS]
    if found.json:
        as_json({"embedded": report.embedded, "answers": answers})
        return 0
    say()
    say(f"Done in {time.monotonic() - started:.0f} s. With your own documents:")
    say("  hanpaca ingest FOLDER")
    say('  hanpaca ask "your question"')
    return 0


def manual() -> Path:
    """The folder of the manual, in a checkout or an installed package. Raises `BadInput` where it is missing."""
    folder = Path(str(files(__package__.partition(".")[0]) / "docs"))
    if not folder.is_dir():
        raise BadInput(f"The manual is missing: {folder}.", "Install Hanpaca again.")
    return folder


def _chat(model: str, options: dict[str, Any]) -> Any:
    """The model, opened: one that cannot be had is told before a minute of indexing."""
    try:
        from ..langchain import ChatHanpaca
    except ModuleNotFoundError as error:
        raise BadInput(f"The demo needs {error.name}.", 'Run: pip install "hanpaca[demo]"') from error
    stop = ONE_SENTENCE if model == BUNDLED else None
    context = options.pop("context", None)
    chat = ChatHanpaca(model=model, context=context, load_options=options, temperature=0, max_tokens=100, stop=stop)
    chat.loaded().count_tokens("")
    return chat


def _chain(library: Path, chat: Any) -> Any:
    from ..langchain import HanpacaRetriever, question_answering

    return question_answering(HanpacaRetriever(library=library, k=PASSAGES), chat)


def _answer(chain: Any, question: str, *, quiet: bool) -> dict[str, Any]:
    """Stream one answer; returns everything that the chain gave."""
    if not quiet:
        say()
        say(f"? {question}")
    whole: Any = None
    for chunk in chain.stream(question):
        whole = chunk if whole is None else whole + chunk
        if not quiet:
            write(chunk.get("answer", ""))
    if not quiet:
        say()
        show_notes(whole["notes"])
        show_citations(whole["sources"])
    return {"question": question, **{name: whole[name] for name in ("answer", "sources", "notes", "mode")}}
