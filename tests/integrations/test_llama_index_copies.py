"""What a copied or changed LlamaIndex object answers with, and what the event loop waits for while it loads."""

import asyncio
import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from loops import EXACT, slow, ticking

from hanpaca.core import model as core_model
from hanpaca.core.errors import BadInput
from hanpaca.integrations.llama_index import HanpacaEmbedding, HanpacaLLM, HanpacaRetriever
from hanpaca.rag import Library


def llm(file: Path, **options: Any) -> HanpacaLLM:
    return HanpacaLLM(**{"model": str(file), "temperature": 0, "max_tokens": 4, "load_options": EXACT, **options})


@pytest.fixture
def slow_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that need a while to load."""
    slow(monkeypatch, core_model, "open_engine")


def test_a_copy_with_other_options_is_another_model(tiny: Path) -> None:
    model = llm(tiny)
    model.complete("the tea")
    other = model.model_copy(update={"system_prompt": "Be a pirate.", "context": 512})
    assert other.metadata.context_window == 512
    assert "Be a pirate." in other.loaded().identity
    assert model.metadata.context_window != 512
    assert model.model_copy(update={"seed": 3}).loaded() is model.loaded()


def test_an_option_assigned_after_a_call_counts(tiny: Path) -> None:
    model = llm(tiny)
    model.complete("the tea")
    model.system_prompt, model.context = "Be a pirate.", 512
    assert model.metadata.context_window == 512
    assert "Be a pirate." in model.loaded().identity


def test_a_deep_copy_loads_its_own(tiny: Path) -> None:
    model = llm(tiny)
    text = model.complete("the tea").text
    other = copy.deepcopy(model)
    assert other.loaded() is not model.loaded()
    assert other.complete("the tea").text == text


def in_capitals(prompt: str) -> str:
    return f"<s>{prompt.upper()}"


def test_a_prompt_of_ones_own_is_pickled_or_refused(tiny: Path) -> None:
    model = llm(tiny, completion_to_prompt=in_capitals)
    assert pickle.loads(pickle.dumps(model)).completion_to_prompt is in_capitals
    for name in ("completion_to_prompt", "messages_to_prompt"):
        model = llm(tiny, **{name: lambda given: "<s>"})
        own = getattr(model, name)
        with pytest.raises(BadInput, match=f"{name} cannot be pickled"):
            pickle.dumps(model)
        assert getattr(model, name) is own  # LlamaIndex's own way of pickling takes it from the object itself


def test_handles_stay_behind_and_stay_here(tiny: Path) -> None:
    class Deaf(LlamaDebugHandler):
        """Of no module, so that it cannot be pickled."""

    for built in (llm(tiny, callback_manager=CallbackManager([Deaf()])),
                  HanpacaEmbedding(callback_manager=CallbackManager([Deaf()]))):  # fmt: skip
        assert not pickle.loads(pickle.dumps(built)).callback_manager.handlers
        assert len(built.callback_manager.handlers) == 1


def test_an_embedding_follows_its_model() -> None:
    embedding = HanpacaEmbedding()
    expected = embedding.get_query_embedding("a")
    assert copy.deepcopy(embedding).get_query_embedding("a") == expected
    with pytest.raises(Exception, match="no-such-model"):
        embedding.model_copy(update={"model_name": "no-such-model"}).get_query_embedding("a")


def test_a_retriever_follows_its_folder(tmp_path: Path) -> None:
    places = []
    for word in ("thirty", "grass"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "llamas.txt").write_text(f"A llama and {word}.", encoding="utf-8")
        places.append(tmp_path / f"library {word}")
        with Library.open(places[-1]) as library:
            library.sync([tmp_path / word])
    retriever = HanpacaRetriever(places[0], mode="keywords")
    assert "thirty" in retriever.retrieve("llama")[0].text
    retriever.library = places[1]
    assert "grass" in retriever.retrieve("llama")[0].text


@pytest.mark.parametrize("before", ["another call", "loaded()", "a failure"])
async def test_the_first_load_never_holds_the_loop(tiny: Path, slow_engine: None, before: str) -> None:
    model = llm(tiny, max_tokens=1)
    async with ticking() as ticks:
        if before == "another call":
            first = asyncio.create_task(model.acomplete("the tea"))
            await asyncio.sleep(0.1)
        elif before == "loaded()":
            model.loaded()
        else:
            model.load_options = {**EXACT, "kv_type": "no such type"}
            with pytest.raises(BadInput):
                await model.acomplete("the tea")
            with pytest.raises(BadInput):  # the second one too is off the loop
                await model.acomplete("the tea")
            model.load_options = EXACT
        await model.acomplete("the tea")
        if before == "another call":
            await first
    assert ticks.longest < 0.4
