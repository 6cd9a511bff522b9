"""The public names are frozen: adding or removing one is a decision, and belongs in CHANGELOG.md."""

import importlib

import pytest

PUBLIC = {
    "hanpaca": ["Completion", "Delta", "HanpacaError", "Message", "Model", "Sampling", "Usage", "load"],
    "hanpaca.rag": [
        "Answer", "AnswerDelta", "Citation", "Hit", "Library", "aanswer", "answer", "astream_answer", "stream_answer",
    ],
    "hanpaca.integrations.langchain": [
        "ChatHanpaca", "HanpacaEmbeddings", "HanpacaLLM", "HanpacaLoader", "HanpacaRetriever", "document_summary",
        "question_answering",
    ],
    "hanpaca.integrations.server": ["ServerSettings", "create_app"],
    "hanpaca.integrations.llama_index": ["HanpacaEmbedding", "HanpacaLLM", "HanpacaReader", "HanpacaRetriever"],
}  # fmt: skip


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_public_names_are_these(module: str) -> None:
    found = importlib.import_module(module)
    assert set(PUBLIC[module]) <= set(found.__all__)
    assert not [name for name in found.__all__ if not hasattr(found, name)]


def test_the_face_of_the_package_is_exactly_this() -> None:
    import hanpaca

    assert sorted(hanpaca.__all__) == PUBLIC["hanpaca"]
