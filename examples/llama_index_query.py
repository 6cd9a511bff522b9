"""A query engine over a VectorStoreIndex in Chroma, all of it on this machine."""

from pathlib import Path

import chromadb
from llama_index.core import Settings, StorageContext, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.vector_stores.chroma import ChromaVectorStore

from hanpaca.integrations.llama_index import HanpacaEmbedding, HanpacaLLM, HanpacaReader

Settings.llm = HanpacaLLM(model="smollm2", temperature=0, max_tokens=80)
Settings.embed_model = HanpacaEmbedding()
Settings.tokenizer = Settings.llm.loaded().engine.tokenize

manual = Path(__file__).parents[1] / "docs" / "en"
documents = HanpacaReader().load_data([manual / "models.md", manual / "quantization.md"])
store = ChromaVectorStore(chroma_collection=chromadb.EphemeralClient().create_collection("manual"))
index = VectorStoreIndex.from_documents(
    documents,
    storage_context=StorageContext.from_defaults(vector_store=store),
    transformations=[SentenceSplitter(chunk_size=256, chunk_overlap=32)],
)

response = index.as_query_engine(similarity_top_k=2, streaming=True).query(
    "Which organisation publishes the Chinese-Alpaca-2 models?"
)
response.print_response_stream()
print()
for node in response.source_nodes:
    print(f"{node.score:.3f} {Path(node.metadata['file']).name}")
