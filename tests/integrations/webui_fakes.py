"""A host of a few lines: the modules and names of text-generation-webui that the extension touches.

`generate_chat_prompt` renders as the host says it does, in Jinja with the same settings, and drops the oldest messages
until the prompt fits. The real host is driven in test_webui_host.py.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hanpaca.integrations.webui.template import FOLDER

JINJA = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
CHAT = "{% for m in messages %}{{ (name1 if m.role == 'user' else name2) + ': ' + m.content + '\n' }}{% endfor %}"
DEFAULT = "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"


class FakeHost:
    """The host's state, and the functions that the extension calls."""

    def __init__(self, folder: Path) -> None:
        self.shared: Any = ModuleType("modules.shared")
        self.shared.__dict__.update(
            model=None, tokenizer=None, model_name="None", stop_everything=False, bos_token="<s>", eos_token="</s>",
            is_multimodal=False, is_seq2seq=False, gradio={}, user_data_dir=folder,
            args=Namespace(loader=None, multi_user=False, model_dir=str(folder / "models")),
            settings={"truncation_length": 8192, "instruction_template_str": DEFAULT},
            default_settings={},
        )  # fmt: skip
        self.metadata_asked: list[str] = []
        self.replies: list[str] = []

    def modules(self) -> dict[str, Any]:
        chat, generation = ModuleType("modules.chat"), ModuleType("modules.text_generation")
        models_settings, utils = ModuleType("modules.models_settings"), ModuleType("modules.utils")
        chat.generate_chat_prompt = self.generate_chat_prompt  # type: ignore[attr-defined]
        generation.get_encoded_length = lambda text: len(text.split())  # type: ignore[attr-defined]
        generation.get_max_prompt_length = (  # type: ignore[attr-defined]
            lambda state: state["truncation_length"] - state["max_new_tokens"]
        )
        generation.apply_stopping_strings = cut  # type: ignore[attr-defined]
        generation.generate_reply_custom = self.generate_reply_custom  # type: ignore[attr-defined]
        models_settings.get_model_metadata = self.get_model_metadata  # type: ignore[attr-defined]
        utils.check_model_loaded = lambda: (self.shared.model is not None, "")  # type: ignore[attr-defined]
        package = ModuleType("modules")
        return {
            "modules": package, "modules.shared": self.shared, "modules.chat": chat, "modules.utils": utils,
            "modules.text_generation": generation, "modules.models_settings": models_settings,
        }  # fmt: skip

    def get_model_metadata(self, path: str) -> dict[str, Any]:
        from hanpaca.core.gguf_header import read

        self.metadata_asked.append(path)
        self.shared.bos_token, self.shared.eos_token = "<|im_start|>", "<|im_end|>"
        return {"instruction_template_str": read(path).chat_template}

    def generate_reply_custom(self, question: str, *_: Any, **__: Any) -> Iterator[str]:
        """The host's own model: it says what the test wrote down, a little at a time."""
        yield from self.replies

    def unload_model(self, keep_model_name: bool = False) -> None:
        """As the host does it for a llama.cpp model."""
        self.shared.model.stop()
        self.shared.model = self.shared.tokenizer = None
        if not keep_model_name:
            self.shared.model_name = "None"

    def generate_chat_prompt(self, user_input: str, state: dict[str, Any], **kwargs: Any) -> Any:
        messages = messages_of(user_input, state, kwargs)

        def render() -> str:
            rest = messages[:-1] if kwargs.get("_continue") else messages
            if state["mode"] == "chat":
                text = JINJA.from_string(CHAT).render(messages=rest, name1="You", name2="AI") + "AI:"
            else:
                template = JINJA.from_string(state["instruction_template_str"])
                text = template.render(
                    messages=rest, add_generation_prompt=True, bos_token=self.shared.bos_token, eos_token="</s>"
                )
            return text + (messages[-1]["content"] if kwargs.get("_continue") else "")

        text, room = render(), state["truncation_length"] - state["max_new_tokens"]
        while self.shared.tokenizer and len(self.shared.tokenizer.encode(text, add_bos_token=True)) > room:
            at = 1 if messages[0]["role"] == "system" else 0
            if len(messages) - at > 1:
                del messages[at]
            else:
                messages[-1]["content"] = messages[-1]["content"][: len(messages[-1]["content"]) * 4 // 5]
            text = render()
        return (text, [message["content"] for message in messages]) if kwargs.get("also_return_rows") else text


def messages_of(user_input: str, state: dict[str, Any], kwargs: dict[str, Any]) -> list[dict[str, str]]:
    history = kwargs.get("history", state["history"])
    system = state["context"] if state["mode"] == "chat" else state["custom_system_message"]
    found = [{"role": "system", "content": system}] if system.strip() else []
    for number, entry in enumerate(history["internal"]):
        attached = history.get("metadata", {}).get(f"user_{number}", {}).get("attachments", [])
        asked = entry[0].strip() + "".join(f"\n\n=====\n{one['content']}\n=====" for one in attached)
        found += [{"role": "user", "content": asked}] if entry[0].strip() else []
        found += [{"role": "assistant", "content": entry[1].strip()}] if entry[1].strip() else []
    if user_input.strip() and not kwargs.get("_continue"):
        found.append({"role": "user", "content": user_input.strip()})
    return found


def cut(reply: str, stops: list[str]) -> tuple[str, bool]:
    for stop in stops:
        if stop in reply:
            return reply[: reply.index(stop)], True
    return reply, False


def state_of(host: FakeHost, mode: str = "instruct", **changes: Any) -> dict[str, Any]:
    """What the host's page hands to a generation."""
    return {
        **copy.deepcopy(host.shared.settings),
        "mode": mode, "history": {"internal": [], "visible": [], "metadata": {}}, "custom_system_message": "",
        "context": "", "user_bio": "", "name1": "You", "name2": "AI", "max_new_tokens": 24, "do_sample": False,
        "auto_max_new_tokens": False, "stream": True, "add_bos_token": mode == "chat", "custom_stopping_strings": "",
        "custom_token_bans": "", "seed": -1, "temperature": 1, "top_p": 1, "top_k": 0, "repetition_penalty": 1,
        "grammar_string": "",
    } | changes  # fmt: skip


def load_script(name: str = "hanpaca", **params: Any) -> Any:
    """script.py as the host loads it from `user_data/extensions/NAME`."""
    spec = importlib.util.spec_from_file_location(f"user_ext_{name}", FOLDER / "script.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    script.params.update(params)  # as the host writes what settings.yaml has
    script.setup()
    return script


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    """The fake host, and an extension that knows nothing yet."""
    from hanpaca.integrations.webui import extension

    made = FakeHost(tmp_path)
    (tmp_path / "models").mkdir()
    for name, module in made.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in [name for name in sys.modules if name.startswith("user_ext_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("HANPACA_LIBRARIES", str(tmp_path / "资料库"))
    fresh = extension.Extension()
    monkeypatch.setattr(extension, "_extension", fresh)
    yield made
    fresh.backend.unload()
    fresh.documents.close()
    for thread in threading.enumerate():
        if thread.name == "hanpaca-webui":
            thread.join(5)
