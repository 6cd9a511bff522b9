"""LlamaIndex's reader over files that are not on this machine."""

from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from llama_index.core import SimpleDirectoryReader
from loops import two_slides

from hanpaca.core.errors import BadInput
from hanpaca.integrations.llama_index import HanpacaReader


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """A file system in memory with a presentation and a text."""
    memory = MemoryFileSystem()
    memory.store.clear()
    memory.pipe("/papers/llamas.pptx", two_slides(tmp_path / "llamas.pptx").read_bytes())
    memory.pipe("/papers/羊驼.txt", "羊驼住在安第斯山。".encode("gb18030"))
    return memory


def test_a_directory_reader_over_another_file_system(files: Any) -> None:
    extractors: Any = {".pptx": HanpacaReader(), ".txt": HanpacaReader()}
    reader = SimpleDirectoryReader("/papers", fs=files, file_extractor=extractors, raise_on_error=True)
    documents = reader.load_data()
    assert [(one.metadata["file"], one.metadata["page"]) for one in documents] == [
        ("/papers/llamas.pptx", "1"),
        ("/papers/llamas.pptx", "2"),
        ("/papers/羊驼.txt", None),
    ]
    assert "Alpacas give wool." in documents[1].text and documents[2].text == "羊驼住在安第斯山。"
    assert [one.id_ for one in documents] == [one.id_ for one in reader.load_data()]


def test_a_file_that_is_not_there_is_named(files: Any) -> None:
    for path in ("/papers/none.txt", "/papers"):
        with pytest.raises(BadInput, match=f"no file {path} in this file system"):
            HanpacaReader().load_data(path, fs=files)
