"""Documents and answers: libraries, search, and cited answers. Knows no framework and no terminal."""

from .filters import Filters
from .library import FileInfo, Library, Stats
from .retrieval import Hit
from .sync import Progress, SyncReport

__all__ = ["FileInfo", "Filters", "Hit", "Library", "Progress", "Stats", "SyncReport"]
