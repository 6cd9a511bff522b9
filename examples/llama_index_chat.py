"""A chat engine that keeps a conversation and looks things up for each question."""

from pathlib import Path

from llama_index.core import VectorStoreIndex
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import SentenceSplitter

from hanpaca.integrations.llama_index import HanpacaEmbedding, HanpacaLLM, HanpacaReader

llm = HanpacaLLM(model="smollm2", temperature=0, max_tokens=80)
count = llm.loaded().engine.tokenize

documents = HanpacaReader().load_data(Path(__file__).parents[1] / "docs" / "en" / "models.md")
index = VectorStoreIndex.from_documents(
    documents,
    embed_model=HanpacaEmbedding(),
    transformations=[SentenceSplitter(chunk_size=256, chunk_overlap=32, tokenizer=count)],
)
engine = index.as_chat_engine(
    chat_mode="context",
    llm=llm,
    similarity_top_k=2,
    memory=ChatMemoryBuffer.from_defaults(token_limit=2000, tokenizer_fn=count),
)

for question in ("Which organisation publishes the Chinese-Alpaca-2 models?", "How large is the smallest one?"):
    print("user:", question)
    print("assistant: ", end="")
    for piece in engine.stream_chat(question).response_gen:
        print(piece, end="", flush=True)
    print()
