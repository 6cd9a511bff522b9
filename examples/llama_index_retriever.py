"""LlamaIndex's query engine over a Hanpaca library: keywords and vectors together, with pages and lines."""

import tempfile
from pathlib import Path

from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from pydantic import BaseModel, Field

from hanpaca.integrations.llama_index import HanpacaLLM, HanpacaRetriever
from hanpaca.rag import Library

manual = Path(__file__).parents[1] / "docs" / "en"
llm = HanpacaLLM(model="smollm2", temperature=0, max_tokens=120)


class Fact(BaseModel):
    """One fact of a text."""

    subject: str = Field(max_length=40)
    statement: str = Field(max_length=120)


with tempfile.TemporaryDirectory() as folder, Library.open(folder) as library:
    library.sync([manual / "models.md"])
    engine = RetrieverQueryEngine.from_args(HanpacaRetriever(library, k=2), llm=llm)
    response = engine.query("Which organisation publishes the Chinese-Alpaca-2 models?")
    print(response)
    for node in response.source_nodes:
        print(f"   {Path(node.metadata['file']).name}, line {node.metadata['line']}")
    passage = response.source_nodes[0].text
    print(llm.structured_predict(Fact, PromptTemplate("Write one fact of this text.\n\n{text}"), text=passage))
