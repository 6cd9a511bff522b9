"""`hanpaca ask`: one question to a library, the answer as it is written, then its citations."""

from __future__ import annotations

import argparse
import contextlib

from ...core import Model, load
from ...core.errors import BadInput
from .answers import plain_answer, show_answer
from .arguments import (
    SAMPLING_OPTIONS,
    Parser,
    add_abstain,
    add_json,
    add_library,
    add_model,
    add_sampling,
    passage_count,
    sampling_of,
)
from .library import add_filters, add_rerank, filters_of, open_library
from .output import as_json, write
from .places import BUNDLED, MODEL_OPTIONS, NO_MODEL, READER, model_name, model_options, no_model


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
        model = model_of(found, opened, bundled)
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
    """The model that the options name, closed with `opened`; None where they want none. Raises `BadInput` for options
    of a model then."""
    mode = getattr(found, "mode", "auto")
    if mode != "extract" and not no_model(found.model):
        return opened.enter_context(load(model_name(found.model, bundled), **model_options(found, bundled)))
    if mode not in ("auto", "extract"):
        raise BadInput(f"Answering by {mode} needs a model.", "Name one with --model, or choose --mode extract.")
    given = {"--model": None if no_model(found.model) else found.model} | {
        f"--{name.replace('_', '-')}": getattr(found, name, None) for name in (*MODEL_OPTIONS, *SAMPLING_OPTIONS)
    }
    if useless := [name for name, value in given.items() if value is not None]:
        raise BadInput(f"Quotations are made without a model: {useless[0]} is of no use.", "Leave it out.")
    return None
