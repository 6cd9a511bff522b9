"""LlamaIndex classes over Hanpaca: a language model, an embedding model, a retriever, and a reader of documents.

Needs `pip install "hanpaca[llama-index]"`. Translates types and nothing else; building an object loads nothing.
"""

from .embedding import HanpacaEmbedding
from .llm import HanpacaLLM
from .reader import HanpacaReader
from .retriever import HanpacaRetriever

__all__ = ["HanpacaEmbedding", "HanpacaLLM", "HanpacaReader", "HanpacaRetriever"]
