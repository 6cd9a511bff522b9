"""One server for OpenAI's clients, a team's scripts and documents: FastAPI over one resident model and its libraries.

    app.py          puts the parts together; `create_app`
    running.py      uvicorn: sockets, signals, an orderly end
    settings.py     every setting, documented where it stands
    security.py     Host, Origin, token, size and rate, before any route
    openai_*.py     OpenAI's API: types, settings of a request, answers, routes
    documents_*.py  uploads, progress, search, pages
    page_api.py     the page at /, whose files are in static/: app.js puts them together
    streaming.py    server-sent events, and work that ends when its client goes away

Knows no engine: `hanpaca.Model` queues and batches, so there is no lock around requests.
"""

from .app import create_app
from .settings import ServerSettings

__all__ = ["ServerSettings", "create_app"]
