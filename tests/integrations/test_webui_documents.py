"""Documents in the web UI: taking files in, passages in prompts, sources under replies, nothing of another user."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from webui_fakes import FakeHost, host, load_script, state_of

from hanpaca.integrations.webui import documents as documents_module
from hanpaca.integrations.webui import host as host_module
from hanpaca.integrations.webui import panels
from hanpaca.rag import Library
from hanpaca.rag.consulting import without_sources

__all__ = ["host"]
ENGLISH = "Llamas live in the Andes. A grown llama carries a load of thirty kilograms.\n"
CHINESE = "量化用更少的位数保存模型权重。自适应 NTK 把 4K 模型的上下文扩展到 12K，不需要任何训练。\n"
QUESTION = "How much does a grown llama carry?"


class Tokens:
    """A model that the user loaded in the host: all that is asked of it is a count."""

    def encode(self, text: str, **_: Any) -> list[str]:
        return text.split()


class LlamaServer(Tokens):
    """The host generates with a model of this name by a function of its own."""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "上传 文件"
    folder.mkdir()
    (folder / "llamas.md").write_text(ENGLISH, encoding="utf-8")
    (folder / "量化 说明.txt").write_bytes(CHINESE.encode("gb18030"))
    (folder / "empty.txt").write_bytes(b"")
    (folder / "picture.bin").write_bytes(b"\x00\x01")
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.fixture
def script(host: FakeHost, files: dict[str, str]) -> Any:
    """The extension with documents on and the host's own model loaded."""
    host.shared.model = host.shared.tokenizer = LlamaServer()
    host.shared.model_name = "mine.gguf"
    made = load_script(documents=True)
    list(made._extension.documents.upload("webui", [files["llamas.md"], files["量化 说明.txt"]]))
    return made


def prompt_of(script: Any, text: str, state: dict[str, Any], **kwargs: Any) -> Any:
    return script.custom_generate_chat_prompt(
        text, state, **({"history": state["history"], "_continue": False} | kwargs)
    )


def talk(internal: list[list[str]]) -> dict[str, Any]:
    return {"internal": internal, "visible": copy.deepcopy(internal), "metadata": {}}


def test_files_are_taken_in_and_each_says_how_it_went(host: FakeHost, files: dict[str, str]) -> None:
    documents = load_script(documents=True)._extension.documents
    steps = list(documents.upload("webui", list(files.values())))
    assert len(steps) > len(files)
    last = {row.name: row.state for row in steps[-1]}
    assert last["empty.txt"].startswith("not read:")
    assert "picture.bin" in last["picture.bin"]
    assert last["llamas.md"] == last["量化 说明.txt"] == "passages: 1"
    rows = documents.rows("webui")
    assert [row.name for row in rows] == ["llamas.md", "量化 说明.txt"]
    list(documents.upload("webui", [files["llamas.md"]]))
    assert len(documents.rows("webui")) == 2, "the same file again is no second one"
    documents.close()
    assert [row.name for row in documents.rows("webui")] == ["llamas.md", "量化 说明.txt"], "they are kept"
    assert documents.delete("webui", [rows[0].path]) == 1
    assert [row.name for row in documents.rows("webui")] == ["量化 说明.txt"]


@pytest.mark.parametrize("mode", ["instruct", "chat-instruct", "chat"])
def test_passages_enter_the_prompt_and_nothing_else(script: Any, host: FakeHost, mode: str) -> None:
    state = state_of(host, mode, history=talk([["Hello", "Hi!"]]), context="You are AI.")
    before = copy.deepcopy({key: value for key, value in state.items()})
    prompt = prompt_of(script, QUESTION, state)
    assert "thirty kilograms" in prompt
    assert prompt.index("Hi!") < prompt.index("thirty kilograms") < prompt.index(QUESTION)
    assert prompt.count(QUESTION) == 1
    record = state.pop("hanpaca")
    assert record.used
    assert state == before, "the history and the settings are the user's"


def test_regenerate_and_continue_get_the_same_passages(script: Any, host: FakeHost) -> None:
    state = state_of(host)
    first = prompt_of(script, QUESTION, state)
    assert prompt_of(script, QUESTION, state) == first
    state["history"] = talk([[QUESTION, "It carries"]])
    continued = prompt_of(script, "", state, _continue=True)
    assert continued == first + "It carries"
    assert state["history"] == talk([[QUESTION, "It carries"]])


def test_a_question_about_something_else_is_left_alone(script: Any, host: FakeHost) -> None:
    state = state_of(host)
    prompt = prompt_of(script, "Who wrote the symphony about Napoleon?", state)
    assert "source" not in prompt
    assert script._extension.documents.last[None].used == 0
    assert "Not used" in panels.looked_up(script._extension.documents.last[None])
    script._extension.set(always_use=True)
    assert "<source 1" in prompt_of(script, "Who wrote the symphony about Napoleon?", state)


def test_passages_that_have_no_room_are_left_out(script: Any, host: FakeHost) -> None:
    list(script._extension.documents.upload("webui", []))
    whole = prompt_of(script, QUESTION, state_of(host))
    words = len(whole.split())
    fits = state_of(host, truncation_length=words + 24)
    assert "thirty kilograms" in prompt_of(script, QUESTION, fits)
    long_talk = talk([["old " * 50, "older " * 50]])
    assert "thirty kilograms" in prompt_of(script, QUESTION, {**fits, "history": long_talk}), "the talk goes first"
    tight = state_of(host, truncation_length=40)
    assert "thirty" not in prompt_of(script, QUESTION, tight)
    assert script._extension.documents.last[None].reason == "No passage fits beside the question."


def test_sources_are_shown_once_and_escaped(script: Any, host: FakeHost, files: dict[str, str], tmp_path: Path) -> None:
    evil = tmp_path / "alpacas.txt"
    evil.write_text("An alpaca weighs <img src=x onerror=alert(1)> sixty kilograms.", encoding="utf-8")
    list(script._extension.documents.upload("webui", [str(evil)]))
    state = state_of(host)
    prompt = prompt_of(script, "How many kilograms does an alpaca weigh?", state)
    host.replies = ["Sixty", "Sixty kilograms [1", "Sixty kilograms [1]. [9]"]
    replies = list(script.custom_generate_reply(prompt, prompt, state, None, is_chat=True))
    assert replies[-1] == "Sixty kilograms[1]."
    visible = script.output_modifier("Sixty kilograms [1].", state, is_chat=True)
    assert visible.count("[1] alpacas.txt, line 1") == 1
    assert "<img" not in visible
    assert "&lt;img" in visible
    assert script.output_modifier("x", state, is_chat=False) == "x"
    assert "<img" not in panels.looked_up(script._extension.documents.last[None])


def test_a_source_brings_no_link_into_the_page(script: Any, host: FakeHost, tmp_path: Path) -> None:
    markdown = pytest.importorskip("markdown")
    evil = tmp_path / "[x](javascript:alert).txt"
    evil.write_text("An alpaca weighs ![p](http://evil.example/p.png) sixty kilograms.", encoding="utf-8")
    list(script._extension.documents.upload("webui", [str(evil)]))
    for written in (False, True):
        script._extension.set(write_sources=written)
        state = state_of(host)
        prompt = prompt_of(script, "How many kilograms does an alpaca weigh?", state)
        host.replies = ["Sixty kilograms [1]."]
        reply = list(script.custom_generate_reply(prompt, prompt, state, None, is_chat=True))[-1]
        page = markdown.markdown(script.output_modifier(reply, state, is_chat=True))  # as the host makes it
        assert "sixty kilograms" in page
        assert "<a " not in page
        assert "<img" not in page


def test_sources_become_a_part_of_the_reply_where_that_is_wanted(script: Any, host: FakeHost) -> None:
    script._extension.set(write_sources=True)
    state = state_of(host)
    prompt = prompt_of(script, QUESTION, state)
    host.replies = ["Thirty kilograms [1].", "Thirty kilograms [1].\nYou: and"]
    reply = list(script.custom_generate_reply(prompt, prompt, state, ["\nYou:", "[1] "], is_chat=True))[-1]
    assert reply.startswith("Thirty kilograms[1].\n\nSources:\n")
    assert "llamas.md, line 1: “A grown llama carries a load of thirty kilograms.”" in reply
    assert "You:" not in reply
    assert "[1] " not in reply, "a stop text in the sources would cut them off"
    assert script.output_modifier(reply, state, is_chat=True) == reply
    # In the next prompt the answer stands without them.
    plain = list(script.custom_generate_reply(prompt, prompt, state, [], is_chat=True))[-1]
    state["history"] = talk([[QUESTION, plain]])
    assert "Sources:" not in prompt_of(script, "Thanks!", state)


def test_sources_stand_under_the_reply_where_a_stop_text_would_cut_them(script: Any, host: FakeHost) -> None:
    script._extension.set(write_sources=True)
    state = state_of(host)
    prompt = prompt_of(script, QUESTION, state)
    for stop in ("\n", "1"):
        host.replies = ["Thirty kilograms."]
        reply = list(script.custom_generate_reply(prompt, prompt, state, [stop], is_chat=True))[-1]
        assert reply == "Thirty kilograms."
        assert "llamas.md, line 1" in script.output_modifier(reply, state, is_chat=True)


def test_a_continued_reply_goes_on_in_front_of_its_sources(script: Any, host: FakeHost) -> None:
    script._extension.set(write_sources=True)
    reply = "Thirty kilograms[1].\n\nSources:\n[1] llamas.md, line 1: “A grown llama.”"
    history = script.history_modifier(talk([["first", "one"], [QUESTION, reply]]))
    for kind in ("internal", "visible"):
        last = copy.deepcopy(history[kind][-1][1])
        assert last == reply
        assert last + " Or more." == "Thirty kilograms[1]. Or more."
    state = state_of(host)
    state["history"] = history
    prompt = prompt_of(script, "", state, _continue=True)
    assert "Sources:" not in prompt
    assert prompt.endswith("Thirty kilograms[1].")
    host.replies = [" Or more."]
    added = list(script.custom_generate_reply(prompt, prompt, state, [], is_chat=True))[-1]
    assert added.startswith(" Or more.\n\nSources:\n[1] llamas.md, line 1")
    assert script.history_modifier({"internal": [], "visible": []}) == {"internal": [], "visible": []}


def test_only_our_own_sources_leave_the_next_prompt() -> None:
    ours = "\n\nSources:\n[1] a.txt, line 1: “It is.”\n[2] b.txt, page 2: “So “it” is.”"
    assert without_sources(f"Yes [1].{ours}") == "Yes [1]."
    assert without_sources(f"Yes [1].{ours}\nAnd more.") == "Yes [1].\nAnd more."
    theirs = "My list.\n\nSources:\n[1] a book\n[2] another"
    assert without_sources(theirs) == theirs


def test_chinese_questions_get_chinese_instructions_and_sources(script: Any, host: FakeHost) -> None:
    state = state_of(host)
    prompt = prompt_of(script, "自适应 NTK 把上下文扩展到多少？", state)
    assert "问题：自适应 NTK" in prompt
    host.replies = ["扩展到 12K【1】。"]
    list(script.custom_generate_reply(prompt, prompt, state, None, is_chat=True))
    assert script.output_modifier("", state, is_chat=True).startswith("\n\n来源：\n[1] 量化 说明.txt, line 1")


def test_a_broken_library_does_not_take_the_chat_with_it(
    script: Any, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hanpaca.core.errors import LibraryMismatch

    def fail(*_: Any, **__: Any) -> Any:
        raise LibraryMismatch("Made with another embedder.", "Reindex it.")

    monkeypatch.setattr(Library, "find", fail)
    assert QUESTION in prompt_of(script, QUESTION, state_of(host))
    assert "Reindex it" in panels.looked_up(script._extension.documents.last[None])


def test_users_of_one_host_do_not_see_each_others_documents(
    host: FakeHost, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.shared.args.multi_user = True
    host.shared.model = host.shared.tokenizer = LlamaServer()
    host.shared.model_name = "mine.gguf"
    script = load_script()
    documents = script._extension.documents
    who: list[str | None] = ["session a"]
    monkeypatch.setattr(host_module, "user", lambda: who[0])
    list(documents.upload("webui", [files["llamas.md"]]))
    assert "thirty kilograms" in prompt_of(script, QUESTION, state_of(host))
    for other in ("session b", "user 李四", None):
        who[0] = other
        assert documents.rows("webui") == []
        assert "thirty kilograms" not in prompt_of(script, QUESTION, state_of(host))
        assert documents.last.get(documents.owner()) is None
    who[0] = "user 李四"
    list(documents.upload("webui", [files["量化 说明.txt"]]))
    who[0] = "session a"
    assert [row.name for row in documents.rows("webui")] == ["llamas.md"]
    assert documents.names() == []


def test_what_pages_left_behind_is_deleted(
    host: FakeHost, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.shared.args.multi_user = True
    documents = load_script()._extension.documents
    monkeypatch.setattr(documents_module, "MOST_SESSIONS", 2)
    who = [""]
    monkeypatch.setattr(host_module, "user", lambda: who[0])
    for who[0] in ("session a", "session b", "session a", "session c"):
        list(documents.upload("webui", [files["llamas.md"]]))
    (folder,) = {path.parent for path in documents._libraries}
    assert len(list(folder.iterdir())) == 2
    assert {who for who, _ in documents._seen.values()} == {"session a", "session c"}
    who[0] = "session b"
    assert documents.rows("webui") == [], "deleted, and may be made again"
    who[0] = "user 李四"
    list(documents.upload("webui", [files["llamas.md"]]))
    monkeypatch.setattr(documents_module, "IDLE_SECONDS", 0.0)
    assert len(documents.rows("webui")) == 1, "whoever logs in keeps what is theirs"
    assert list(folder.iterdir()) == []


def test_with_our_own_model_documents_answer_too(host: FakeHost, files: dict[str, str], smollm2: Path) -> None:
    script = load_script(backend=True, model="smollm2", documents=True)
    list(script._extension.documents.upload("webui", [files["llamas.md"]]))
    state = state_of(host, max_new_tokens=40)
    prompt = prompt_of(script, QUESTION, state)
    assert [part.role for part in prompt.parts if part.role] == ["system", "user"]
    reply = list(script.custom_generate_reply(prompt, prompt, state, None, is_chat=True))[-1]
    assert reply.strip()
    assert "llamas.md" in script.output_modifier(reply, state, is_chat=True)
