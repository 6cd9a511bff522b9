"""Structured output of the LlamaIndex model: by constraint in all four forms, and errors where it is cut or refused."""

from pathlib import Path

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.types import PydanticProgramMode
from llama_index_models import Animal, exact, llm
from loops import wire
from pydantic import BaseModel, field_validator

from hanpaca.core.errors import HanpacaError

pytestmark = pytest.mark.usefixtures("smollm2")


class Even(BaseModel):
    """What no grammar can promise."""

    number: int

    @field_validator("number")
    @classmethod
    def _never(cls, number: int) -> int:
        raise ValueError("never")


async def test_structured_output_in_all_four_forms_is_valid_by_construction() -> None:
    model, prompt = llm(max_tokens=60), PromptTemplate("Describe a {animal}.")
    whole = model.structured_predict(Animal, prompt, animal="llama")
    assert isinstance(whole, Animal)  # not the same each time: what is cached changes a quantized file's last digits
    streamed = list(model.stream_structured_predict(Animal, prompt, animal="llama"))
    assert len(streamed) > 2
    assert isinstance(streamed[-1], Animal)
    assert isinstance(await model.astructured_predict(Animal, prompt, animal="llama"), Animal)
    stream = await model.astream_structured_predict(Animal, prompt, animal="llama")
    assert isinstance([known async for known in stream][-1], Animal)
    chat_prompt = ChatPromptTemplate([ChatMessage("Be exact.", role="system"), ChatMessage("Describe a {animal}.")])
    assert isinstance(model.structured_predict(Animal, chat_prompt, animal="llama"), Animal)


def test_random_weights_too_can_only_write_what_matches(tiny: Path) -> None:
    class Choice(BaseModel):
        number: int | None
        kind: bool

    model = exact(tiny, temperature=1.5, top_k=0, top_p=1.0, max_tokens=200)
    for seed in range(3):
        found = model.structured_predict(Choice, PromptTemplate("the tea"), {"seed": seed, "stop": ["no such text"]})
        assert isinstance(found, Choice)


def test_a_structured_llm() -> None:
    response = llm(max_tokens=60).as_structured_llm(Animal).chat([ChatMessage("Describe a llama.")])
    assert isinstance(response.raw, Animal)


def test_a_truncated_answer_raises_instead_of_being_guessed_at() -> None:
    prompt = PromptTemplate("Describe a llama.")
    with pytest.raises(HanpacaError, match="max_tokens"):
        llm(max_tokens=3).structured_predict(Animal, prompt)
    with pytest.raises(HanpacaError, match="max_tokens"):
        list(llm(max_tokens=3).stream_structured_predict(Animal, prompt))


def test_a_stop_text_in_a_structured_answer_is_named() -> None:
    with pytest.raises(HanpacaError, match="stop text"):
        llm(max_tokens=60, stop=["legs"]).structured_predict(Animal, PromptTemplate("Describe a llama."))


@pytest.mark.parametrize("way", ["output_cls", "structured llm"])
async def test_a_query_engine_does_not_swallow_a_truncated_answer(tiny: Path, way: str) -> None:
    model = exact(tiny, max_tokens=3)
    given = {"output_cls": Animal, "llm": model} if way == "output_cls" else {"llm": model.as_structured_llm(Animal)}
    synthesizer = get_response_synthesizer(**given)
    nodes = [NodeWithScore(node=TextNode(text="A llama has four legs."), score=1.0)]
    with pytest.raises(HanpacaError, match="max_tokens"):
        synthesizer.synthesize("legs?", nodes)
    with pytest.raises(HanpacaError, match="max_tokens"):
        await synthesizer.asynthesize("legs?", nodes)


def test_what_validators_refuse_raises() -> None:
    with pytest.raises(HanpacaError, match="Even refuses it"):
        llm(max_tokens=30).structured_predict(Even, PromptTemplate("Give a small number."))


def test_another_program_mode_is_llama_indexs_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llm(max_tokens=60, pydantic_program_mode=PydanticProgramMode.LLM)
    sent = wire(model.loaded().engine, monkeypatch)
    with pytest.raises(Exception, match=r"json|JSON|Could not|validation error"):
        model.structured_predict(Animal, PromptTemplate("Say hello."))
    assert sent[0].sampling.json_schema is None
