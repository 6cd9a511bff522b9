"""A LangChain model at a server: its key is sent, and shown nowhere."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps
from loops import EXACT, chatml_model
from servers import Running, serving

import hanpaca
from hanpaca.core.errors import BadInput
from hanpaca.integrations.langchain import ChatHanpaca, HanpacaLLM

KEY = "sk-of-a-field"
KINDS = pytest.mark.parametrize("kind", [ChatHanpaca, HanpacaLLM])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chatml_model(tmp_path_factory.mktemp("remote") / "exact.gguf")


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[Running]:
    model = hanpaca.load(weights, **EXACT)
    with serving(model, library_folder=weights.parent / "library", tokens=(KEY,)) as running:
        yield running


def build(kind: type[Any], server: Running, weights: Path, **options: Any) -> Any:
    usual = {"model": server.api, "temperature": 0, "max_tokens": 4, "load_options": {"tokenizer": weights}}
    return kind(**{**usual, **options})


class Serialized(BaseCallbackHandler):
    """What callbacks are told of the object."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_chat_model_start(self, *given: Any, **more: Any) -> None:
        self.told.append(repr((given, more)))

    on_llm_start = on_chat_model_start


@KINDS
async def test_the_key_reaches_the_server_and_is_shown_nowhere(
    kind: type[Any], server: Running, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HANPACA_API_KEY", raising=False)
    with pytest.raises(BadInput, match="401"):
        build(kind, server, weights).invoke("the tea")
    model, heard = build(kind, server, weights, api_key=KEY), Serialized()
    said = model.invoke("the tea", {"callbacks": [heard]})
    assert getattr(said, "text", said)
    assert await model.ainvoke("the tea")
    shown = [repr(model), str(model), dumps(model), str(model.dict()), str(model.model_dump()), *heard.told]
    assert len(shown) == 6
    assert not any(KEY in text for text in shown)
    assert pickle.loads(pickle.dumps(model)).invoke("the tea")


@KINDS
def test_a_call_that_names_the_server_sends_the_key_too(kind: type[Any], server: Running, weights: Path) -> None:
    model = build(kind, server, weights, api_key=KEY)
    assert model.invoke("the tea", model=f"{server.api}#exact")
    other = model.model_copy(update={"api_key": None})
    assert other.loaded() is not model.loaded()


@KINDS
def test_a_model_on_this_machine_does_not_mind_a_key(kind: type[Any], weights: Path) -> None:
    assert kind(model=str(weights), api_key=KEY, max_tokens=2, load_options=EXACT).invoke("the tea") is not None


@KINDS
@pytest.mark.parametrize(
    ("name", "field"), [("api_key", "api_key"), ("system_prompt", "system_prompt"), ("context", "context"),
                        ("temperature", "temperature"), ("name", "model")],
)  # fmt: skip
def test_load_options_hold_no_fields(kind: type[Any], weights: Path, name: str, field: str) -> None:
    with pytest.raises(BadInput, match=rf"'{name}' is not one of load_options.*{kind.__name__}\({field}=…\)"):
        kind(model=str(weights), load_options={**EXACT, name: "x"})
    model = kind(model=str(weights), load_options=dict(EXACT))
    model.load_options[name] = "x"
    with pytest.raises(BadInput, match=name):
        model.loaded()
