"""Other frameworks' own clients of OpenAI's API, against a running server."""

from typing import Any

import pytest
from pydantic import BaseModel, Field
from servers import Running

FRANCE = "What is the capital of France? Answer in one word."


def test_langchains_own_openai_model(running: Running) -> None:
    chat_models = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    chat = chat_models.ChatOpenAI(base_url=running.api, api_key="none", model="smollm2", temperature=0, max_tokens=24)
    answer = chat.invoke(FRANCE)
    assert "Paris" in answer.content and answer.usage_metadata["output_tokens"] > 0
    assert "".join(piece.content for piece in chat.stream(FRANCE)) == answer.content

    class Rating(BaseModel):
        city: str = Field(max_length=12)
        stars: int = Field(ge=1, le=5)

    rated = chat.with_structured_output(Rating, method="json_schema").invoke("Rate Paris as JSON.")
    assert isinstance(rated, Rating)


def test_llama_indexs_openai_like(running: Running) -> None:
    reason = "llama-index-llms-openai-like is not installed"
    openai_like: Any = pytest.importorskip("llama_index.llms.openai_like", reason=reason)
    messages = pytest.importorskip("llama_index.core.llms")
    llm = openai_like.OpenAILike(
        model="smollm2", api_base=running.api, api_key="none", is_chat_model=True, temperature=0, max_tokens=24,
        context_window=8192,
    )  # fmt: skip
    asked = [messages.ChatMessage(role="user", content=FRANCE)]
    said = llm.chat(asked).message.content
    assert "Paris" in said and "Paris" in llm.complete(FRANCE).text
    assert "".join(piece.delta or "" for piece in llm.stream_chat(asked)) == said
