"""LangChain's own standard test suites, on SmolLM2 and the bundled embedder.

Skips are what a model without tools, pictures and sounds cannot be asked.
"""

from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from langchain_tests.integration_tests import (
    ChatModelIntegrationTests,
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
)
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

from hanpaca.integrations.langchain import ChatHanpaca, HanpacaEmbeddings, HanpacaRetriever
from hanpaca.rag import Library


@pytest.mark.usefixtures("smollm2")
class TestChatUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[ChatHanpaca]:
        return ChatHanpaca

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "smollm2", "load_options": {"threads": 1}}

    @property
    def has_tool_calling(self) -> bool:
        return False


@pytest.mark.usefixtures("smollm2")
class TestChatIntegration(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[ChatHanpaca]:
        return ChatHanpaca

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "smollm2", "temperature": 0, "max_tokens": 100, "load_options": {"threads": 1}}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "smollm2:Q4_1"


class TestChatUnitOnTransformers(TestChatUnit):
    """The unit suite for a checkpoint folder, which the PyTorch engine runs. Nothing of it is read."""

    folder: Path

    @pytest.fixture(scope="class", autouse=True)
    def checkpoint(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        type(self).folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint"))

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": str(self.folder)}

    @property
    def has_structured_output(self) -> bool:
        return False


@pytest.mark.slow
class TestChatOnTransformers(TestChatIntegration):
    """The same suite on the PyTorch engine, over a checkpoint written from SmolLM2's GGUF file.

    Without structured output: that engine refuses schemas, since it cannot hold an answer to one.
    """

    folder: Path

    @pytest.fixture(scope="class", autouse=True)
    def checkpoint(self, tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> None:
        type(self).folder = write_smollm2(tmp_path_factory.mktemp("checkpoint"), smollm2)

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": str(self.folder), "temperature": 0, "max_tokens": 100}

    @property
    def model_override_value(self) -> str:
        return f"{self.folder}/"

    @property
    def has_structured_output(self) -> bool:
        return False

    @property
    def supports_json_mode(self) -> bool:
        return False


def write_smollm2(folder: Path, gguf: Path) -> Path:
    """SmolLM2 as a Hugging Face checkpoint in F32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    dequantized = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=dequantized
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    return folder


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[HanpacaEmbeddings]:
        return HanpacaEmbeddings


class TestEmbeddingsIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[HanpacaEmbeddings]:
        return HanpacaEmbeddings


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(scope="class", autouse=True)
    def folder(self, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> None:
        request.cls.library = tmp_path_factory.mktemp("library")
        with Library.open(request.cls.library) as library:
            for number, text in enumerate(
                ("Llamas live in the Andes.", "Alpacas give wool.", "羊驼是一种动物。", "Cats purr.")
            ):
                library.add_text(text, f"{number}.txt")

    library: Path

    @property
    def retriever_constructor(self) -> type[HanpacaRetriever]:
        return HanpacaRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"library": self.library}

    @property
    def retriever_query_example(self) -> str:
        return "Where do llamas live?"
