"""`hanpaca ask`: one question to a library, the answer as it is written, then its citations."""

from __future__ import annotations

import argparse
import contextlib

from ...core import Model, load
from ...core.errors import BadInput
from .answers import plain_answer, show_answer, write
from .arguments import Parser, add_abstain, add_json, add_library, add_model, add_sampling, passage_count, sampling_of
from .library import add_filters, add_rerank, filters_of, open_library
from .output import as_json
from .places import BUNDLED, NO_MODEL, READER, model_name, model_options, no_model


def run(argv: list[str]) -> int:
    """Answer a question."""
    from ...rag import AnswerDelta, stream_answer
    from ...rag.asking import MODES

    parser = Parser("ask", "Answer a question from a library's documents, with citations.")
    parser.add_argument("question", nargs="+")
    add_library(parser)
    add_model(
        parser,
        READER,
        f" ({BUNDLED} for other modes than auto and focus); `{NO_MODEL}` quotes without a model",
    )
    parser.add_argument("--mode", choices=MODES, default="auto", help="how to answer; default: %(default)s")
    parser.add_argument(
        "-k", type=passage_count, default=5, metavar="N", help="passages to answer from; default: %(default)s"
    )
    add_abstain(parser)
    add_filters(parser)
    add_rerank(parser)
    add_sampling(parser)
    add_json(parser)
    found = parser.parse(argv)
    with contextlib.ExitStack() as opened:
        library = opened.enter_context(open_library(found))
        bundled = READER if found.mode in ("auto", "focus") else BUNDLED
        model = None if found.mode == "extract" else model_of(found, opened, bundled)
        events = stream_answer(
            library,
            model,
            " ".join(found.question),
            mode=found.mode,
            k=found.k,
            sampling=sampling_of(found),
            filters=filters_of(found),
            abstain=found.abstain,
            rerank=found.rerank,
        )
        for event in events:
            if isinstance(event, AnswerDelta):
                if not found.json:
                    write(event.text)
            elif found.json:
                as_json(plain_answer(event, model))
            else:
                show_answer(event)
    return 0


def model_of(found: argparse.Namespace, opened: contextlib.ExitStack, bundled: str = BUNDLED) -> Model | None:
    """The model that the options name, closed with `opened`; None where they want none."""
    if no_model(found.model):
        if getattr(found, "mode", "auto") not in ("auto", "extract"):
            raise BadInput(
                f"Answering by {found.mode} needs a model.", "Name one with --model, or choose --mode extract."
            )
        return None
    return opened.enter_context(load(model_name(found.model, bundled), **model_options(found, bundled)))
