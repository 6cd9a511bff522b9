"""LangChain classes over Hanpaca: a chat model, a text model, embeddings, a retriever, a loader, and chains.

Needs `pip install "hanpaca[langchain]"`. Translates types and nothing else; building an object loads nothing.
"""

from .chat import ChatHanpaca
from .embeddings import HanpacaEmbeddings
from .llm import HanpacaLLM
from .loader import HanpacaLoader
from .qa import question_answering
from .retriever import HanpacaRetriever
from .summary import document_summary

__all__ = [
    "ChatHanpaca",
    "HanpacaEmbeddings",
    "HanpacaLLM",
    "HanpacaLoader",
    "HanpacaRetriever",
    "document_summary",
    "question_answering",
]
