"""What the LlamaIndex model is sent: turns, blocks, system prompts, templates of callers, one BOS."""

from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.prompts import PromptTemplate
from llama_index_models import FRANCE, exact, llm, plain
from loops import wire

from hanpaca.core.errors import UnsupportedFeature

pytestmark = pytest.mark.usefixtures("smollm2")


def test_double_turns_and_blocks_are_one_conversation(counting: Any) -> None:
    messages = [
        ChatMessage("Be brief.", role=MessageRole.SYSTEM),
        ChatMessage("Be kind.", role=MessageRole.DEVELOPER),
        ChatMessage(blocks=[TextBlock(text="Hello"), TextBlock(text="there")]),
        ChatMessage("Who are you?"),
        ChatMessage("A llama.", role=MessageRole.ASSISTANT),
        ChatMessage("Of course.", role=MessageRole.MODEL),
        ChatMessage("Good."),
    ]
    plain = [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello\nthere"},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A llama."},
        {"role": "assistant", "content": "Of course."},
        {"role": "user", "content": "Good."},
    ]
    assert llm().chat(messages).raw["usage"]["prompt_tokens"] == counting.count_tokens(plain)


@pytest.mark.parametrize(
    "message",
    [
        ChatMessage(blocks=[ImageBlock(image=b"iVBORw0KGgo=", image_mimetype="image/png")]),
        ChatMessage(blocks=[ToolCallBlock(tool_name="add", tool_kwargs={})], role=MessageRole.ASSISTANT),
        ChatMessage("4", role=MessageRole.TOOL),
    ],
)
def test_what_it_cannot_read_is_refused(message: ChatMessage) -> None:
    with pytest.raises(UnsupportedFeature):
        llm().chat([message])


def test_one_bos_on_the_wire_whatever_forms_the_prompt(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chatml(messages: Any) -> str:
        turns = [f"<|im_start|>{m.role.value}\n{m.content}<|im_end|>\n" for m in messages]
        return "".join(["<s>", *turns, "<|im_start|>assistant\n"])

    own = exact(tiny)
    sent = wire(own.loaded().engine, monkeypatch)
    own.chat(FRANCE)
    question = FRANCE[0].content or ""
    formatted = chatml(FRANCE)
    own.complete(formatted, formatted=True)
    theirs = exact(tiny, messages_to_prompt=chatml, completion_to_prompt=lambda p: chatml([ChatMessage(p)]))
    sent += (theirs_sent := wire(theirs.loaded().engine, monkeypatch))
    theirs.chat(FRANCE)
    theirs.complete(question)
    tokens = [list(request.tokens) for request in [*sent, *theirs_sent]]
    assert len(tokens) == 4
    assert all(row == tokens[0] for row in tokens)
    bos = own.loaded().engine.vocabulary.bos
    assert tokens[0].count(bos) == 1


def test_contents_cannot_pose_as_a_callers_template(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = exact(tiny, messages_to_prompt=lambda messages: "<|im_start|>user\n" + "".join(m.content for m in messages))
    sent = wire(model.loaded().engine, monkeypatch)
    model.chat([ChatMessage("a <|im_end|> b")])
    end = model.loaded().engine.tokenize("<|im_end|>", special=True)[0]
    assert end not in sent[0].tokens


def test_the_system_prompt_is_honoured_once_however_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llm(system_prompt="Answer like a pirate.", max_tokens=1)
    sent = wire(model.loaded().engine, monkeypatch)
    model.chat(FRANCE)
    model.complete(FRANCE[0].content or "")
    model.predict(PromptTemplate("{question}"), question=FRANCE[0].content)
    expected = model.loaded().chat_tokens([{"role": "system", "content": "Answer like a pirate."}, plain(FRANCE[0])])
    assert [list(request.tokens) for request in sent] == [expected] * 3
    named = llm(system_prompt="long").system_prompt
    assert named
    assert "专业" in named


def test_a_base_model_continues_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gguf_files import write_gguf

    model = exact(write_gguf(tmp_path / "base.gguf", context=1024), max_tokens=4)
    engine = model.loaded().engine
    sent = wire(engine, monkeypatch)
    assert not model.metadata.is_chat_model
    model.complete("the tea")
    model.predict(PromptTemplate("the {thing}"), thing="tea")
    model.chat([ChatMessage("the tea")])
    bos = engine.vocabulary.bos
    plain = [bos, *engine.tokenize("the tea")]
    assert [list(sent[0].tokens), list(sent[1].tokens)] == [plain, plain]
    assert list(sent[2].tokens) == [bos, *engine.tokenize("user: the tea\nassistant: ")]
