"""LangChain classes over Hanpaca: a chat model, a text model, embeddings, a retriever, and question answering.

Needs `pip install "hanpaca[langchain]"`. Translates types and nothing else; building an object loads nothing.
"""

from .chat import ChatHanpaca
from .embeddings import HanpacaEmbeddings
from .llm import HanpacaLLM
from .qa import question_answering
from .retriever import HanpacaRetriever

__all__ = ["ChatHanpaca", "HanpacaEmbeddings", "HanpacaLLM", "HanpacaRetriever", "question_answering"]
