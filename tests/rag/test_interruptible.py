"""An answer that is given up stops its model at once, whichever way it is made."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import hanpaca
from hanpaca.core import Model
from hanpaca.rag import Answer, Library, aanswer, astream_answer

QUESTION = "How much does a grown llama carry?"
NO_END = {0: -100.0, 2: -100.0}
LONG = {"max_tokens": 3000, "logit_bias": NO_END, "temperature": 0}


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    with hanpaca.load("smollm2", threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    folder = tmp_path_factory.mktemp("interruptible")
    for number in range(3):
        text = f"A grown llama of herd {number} carries a load of thirty kilograms, and hums."
        (folder / f"herd {number}.txt").write_text(text)
    with Library.open(folder / "library") as library:
        library.sync([folder / f"herd {number}.txt" for number in range(3)])
        yield library


@pytest.mark.parametrize("mode", ["stuff", "refine", "map_reduce"])
async def test_an_answer_that_is_given_up_stops_its_model(model: Model, library: Library, mode: str) -> None:
    engine = model.engine
    before = engine.computed  # type: ignore[attr-defined]
    events = astream_answer(library, model, QUESTION, mode=mode, k=1, sampling=LONG, abstain=False)
    asking = asyncio.ensure_future(anext(events))
    while engine.computed == before:  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    await events.aclose()  # type: ignore[attr-defined]
    # The whole of it would have been 3,000 tokens and more.
    assert engine.computed - before < 2500  # type: ignore[attr-defined]
    answer = await aanswer(library, model, QUESTION, mode=mode, k=1, sampling={"max_tokens": 8}, abstain=False)
    assert isinstance(answer, Answer) and answer.text
