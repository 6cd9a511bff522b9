"""What a LlamaIndex model is built with: keys of servers, options of the engine, prompts; and what refuses it."""

import json
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import CacheControl, CachePoint, TextBlock, ThinkingBlock
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.prompts import PromptTemplate
from loops import EXACT, wire
from pydantic import BaseModel

from hanpaca.core.errors import BadInput
from hanpaca.integrations.llama_index import HanpacaLLM

KEY = "a-secret-key"


def llm(file: Path, **options: Any) -> HanpacaLLM:
    return HanpacaLLM(**{"model": str(file), "temperature": 0, "max_tokens": 4, "load_options": EXACT, **options})


# -- a model on a server --------------------------------------------------------------------------------------------


class OneAnswer(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that always says "wool", and remembers who asked."""

    asked: list[str | None]

    def do_GET(self) -> None:
        self._answer(json.dumps({"data": [{"id": "far", "max_model_len": 2048}]}))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        event = json.dumps({"choices": [{"index": 0, "text": "wool", "finish_reason": "stop"}]})
        self._answer(f"data: {event}\n\ndata: [DONE]\n\n")

    def _answer(self, text: str) -> None:
        self.asked.append(self.headers.get("Authorization"))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[str | None]]]:
    """A model's address, and the keys that came there."""
    asked: list[str | None] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (OneAnswer,), {"asked": asked})) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1#far", asked
        running.shutdown()


def far(url: str, tiny: Path, **options: Any) -> HanpacaLLM:
    return HanpacaLLM(model=url, load_options={"tokenizer": str(tiny), "server": "openai"}, max_tokens=4, **options)


def test_a_key_reaches_the_server(server: tuple[str, list[str | None]], tiny: Path) -> None:
    url, asked = server
    model = far(url, tiny, api_key=KEY)
    assert model.complete("the tea").text == "wool"
    assert set(asked) == {f"Bearer {KEY}"}
    asked.clear()
    assert pickle.loads(pickle.dumps(model)).complete("the tea").text == "wool"
    assert set(asked) == {f"Bearer {KEY}"}
    asked.clear()
    assert model.model_copy(update={"api_key": None}).complete("the tea").text == "wool"
    assert set(asked) == {None}


def test_a_key_is_not_shown(server: tuple[str, list[str | None]], tiny: Path) -> None:
    model = far(server[0], tiny, api_key=KEY)
    assert model.complete("the tea").text
    for shown in (repr(model), str(model), str(model.to_dict()), model.to_json(), str(model.to_payload())):
        assert KEY not in shown
    assert "api_key" not in model.to_dict()
    assert HanpacaLLM.from_dict(model.to_dict()).api_key is None


def test_a_model_on_this_machine_has_no_use_for_a_key(tiny: Path) -> None:
    assert llm(tiny, api_key=KEY, max_tokens=1).complete("the tea").raw


# -- options of the engine ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "field"), [("api_key", "api_key"), ("system_prompt", "system_prompt"), ("name", "model"), ("seed", "seed")]
)
def test_a_load_option_that_has_a_field_is_refused(tiny: Path, name: str, field: str) -> None:
    with pytest.raises(BadInput, match=rf"'{name}' is not one of load_options.*HanpacaLLM\({field}=") as refused:
        llm(tiny, load_options={name: KEY})
    assert KEY not in str(refused.value)
    model = llm(tiny)
    model.load_options = {name: KEY}
    with pytest.raises(BadInput, match=f"'{name}' is not one of load_options"):
        model.complete("the tea")


# -- prompts --------------------------------------------------------------------------------------------------------


def test_a_query_wrapper_wraps_what_is_completed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = PromptTemplate("Question: {query_str} Answer:")
    wrapped = llm(tiny, query_wrapper_prompt=wrapper)
    sent = wire(wrapped.loaded().engine, monkeypatch)
    wrapped.complete("tea {or} wool?")
    wrapped.chat([ChatMessage("Question: tea {or} wool? Answer:")])
    assert list(sent[0].tokens) == list(sent[1].tokens)  # in the user's turn, and not around the messages of a chat
    own = llm(tiny, query_wrapper_prompt=wrapper, completion_to_prompt=lambda prompt: f"<s>{prompt}!")
    sent = wire(own.loaded().engine, monkeypatch)
    own.complete("wool?")
    engine = own.loaded().engine
    assert b"".join(map(engine.token_bytes, sent[0].tokens)).endswith(b"Question: wool? Answer:!")


def test_thoughts_and_cache_points_are_left_out(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llm(tiny)
    sent = wire(model.loaded().engine, monkeypatch)
    said = [TextBlock(text="Wool."), CachePoint(cache_control=CacheControl(type="ephemeral"))]
    for blocks in ([ThinkingBlock(content="A sheep, or an alpaca?"), *said], said[:1]):
        answered = ChatMessage(blocks=blocks, role=MessageRole.ASSISTANT)
        model.chat([ChatMessage("What does it give?"), answered, ChatMessage("Why?")])
    assert list(sent[0].tokens) == list(sent[1].tokens)


# -- structured answers and agents ----------------------------------------------------------------------------------


class Animal(BaseModel):
    """An animal."""

    name: str


async def test_only_a_class_can_be_filled(tiny: Path) -> None:
    model, prompt = llm(tiny), PromptTemplate("Describe a llama.")
    schema: Any = Animal.model_json_schema()
    said = "structured_predict fills a Pydantic class"
    with pytest.raises(BadInput, match=said):
        model.structured_predict(schema, prompt)
    with pytest.raises(BadInput, match=said):
        list(model.stream_structured_predict(schema, prompt))
    with pytest.raises(BadInput, match=said):
        await model.astructured_predict(schema, prompt)
    with pytest.raises(BadInput, match=said):
        [known async for known in await model.astream_structured_predict(schema, prompt)]


async def test_the_agent_that_asks_in_words_calls_tools(tiny: Path) -> None:
    """What the manual says: ReActAgent is for these models, and AgentWorkflow chooses it by itself."""
    loads: list[str] = []

    def load_of(animal: str) -> str:
        """The load that an animal carries."""
        loads.append(animal)
        return "thirty kilograms"

    said = r'root ::= "Thought: a.\nAction: load_of\nAction Input: {\"animal\": \"llama\"}"'
    model = llm(tiny, grammar=said, max_tokens=200, context=8192)
    with pytest.raises(Exception, match="iterations"):  # it can say nothing else
        await ReActAgent(tools=[load_of], llm=model).run("What does a llama carry?", max_iterations=2)
    assert set(loads) == {"llama"}
    workflow = AgentWorkflow.from_tools_or_functions([load_of], llm=model)
    assert [type(agent) for agent in workflow.agents.values()] == [ReActAgent]
    with pytest.raises(ValueError, match="FunctionCallingLLM"):
        await FunctionAgent(tools=[load_of], llm=model).run("What does a llama carry?")


def test_a_structured_llm_completes_and_streams_chats(smollm2: Path) -> None:
    """What the manual says: LlamaIndex's StructuredLLM has no `stream_complete`."""
    model = HanpacaLLM(model="smollm2", temperature=0, max_tokens=60).as_structured_llm(Animal)
    assert isinstance(model.complete("Describe a llama.").raw, Animal)
    assert isinstance(list(model.stream_chat([ChatMessage("Describe a llama.")]))[-1].raw, Animal)
    with pytest.raises(NotImplementedError, match="stream_complete"):
        model.stream_complete("Describe a llama.")


@pytest.mark.parametrize("name", ["context", "max_tokens", "seed", "top_k", "temperature", "logprobs"])
def test_true_is_no_number(name: str, tiny: Path) -> None:
    with pytest.raises(BadInput, match=f"{name} must be"):
        llm(tiny, **{name: True})
