"""Documents and answers: libraries, search, and cited answers. Knows no framework and no terminal."""

from .answering import Answer, AnswerDelta, aanswer, answer, astream_answer, stream_answer
from .citations import Citation
from .filters import Filters
from .library import FileInfo, Library, Stats
from .retrieval import Hit
from .sync import Progress, SyncReport

__all__ = [
    "Answer",
    "AnswerDelta",
    "Citation",
    "FileInfo",
    "Filters",
    "Hit",
    "Library",
    "Progress",
    "Stats",
    "SyncReport",
    "aanswer",
    "answer",
    "astream_answer",
    "stream_answer",
]
