"""Documents and answers: libraries, search, and cited answers. Knows no framework and no terminal."""

from .answering import answer, stream_answer
from .answering_async import aanswer, astream_answer
from .answers import Answer, AnswerDelta
from .citations import Citation
from .contents import FileInfo, Stats
from .filters import Filters
from .hits import Hit
from .library import Library
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
