"""What the tab shows, as text and HTML; everything that comes from documents or files is escaped. Knows no gradio."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path, PurePath

from ...core.catalog import entries, rope_for
from ...core.errors import HanpacaError
from ...core.rope import context_sizes, plan
from ...rag.consulting import Consulted
from ...rag.uploads import document_name
from . import host
from .backend import Backend
from .documents import Row

EXCERPT = 300
"""Characters of a passage in the panel."""


def model_choices() -> list[str]:
    """The models that are here: of the catalog, and files in the host's models folder."""
    from ...core.cache import find_gguf

    found = []
    for known in entries():
        if known.package is not None or (known.gguf and find_gguf(known.gguf)):
            found.append(known.name)
    folder = Path(host.shared().args.model_dir)
    return found + sorted(str(path) for path in folder.rglob("*.gguf") if not path.name.lower().startswith("mmproj"))


def backend_status(backend: Backend) -> str:
    """Which model answers, in a sentence or two."""
    if backend.active:
        what = f"**{_md(backend.shown)}** answers"
        what += (
            f", {backend.model.context_length:,} tokens." if backend.is_loaded else "; it loads at the next message."
        )
        if backend.ignored:
            what += f" Not available here, and not applied: {_md(', '.join(backend.ignored))}."
        return what
    shared = host.shared()
    if shared.model is not None:
        name = _md(str(shared.model_name))
        return f"The web UI's own model answers: **{name}**. Unload it in the Model tab to use another."
    return "No model is loaded. / 没有加载模型。"


def rope_table(name: str, context: int) -> str:
    """How the model serves each context length: alpha and base, and the same for the host's own loader."""
    if not name.strip():
        return ""
    try:
        rope = rope_for(name.strip())
        longest = context or rope.native_context
        plans = [plan(rope, size) for size in context_sizes(rope, longest)]
    except HanpacaError as error:
        return _md(str(error))
    lines = ["| context | NTK alpha | RoPE base |", "|---|---|---|"]
    lines += [f"| {chosen.context:,} | {chosen.alpha:.4g} | {chosen.base:,.0f} |" for chosen in plans]
    flags = plans[-1].llama_server()
    at = flags.index("--ctx-size")
    size, rest = flags[at + 1], [*flags[:at], *flags[at + 2 :]]
    own = f'--ctx-size {size} --extra-flags "{" ".join(rest)}"'
    return "\n".join([*lines, "", "The same with the web UI's own llama.cpp loader:", "", f"`{own}`"])


def file_table(rows: Sequence[Row]) -> str:
    """The library's files."""
    if not rows:
        return "<p>No documents yet. / 还没有文档。</p>"
    cells = "".join(f"<tr><td>{_text(row.name)}</td><td>{_text(row.state)}</td></tr>" for row in rows)
    return f"<table><thead><tr><th>file</th><th>state</th></tr></thead><tbody>{cells}</tbody></table>"


def looked_up(record: Consulted | None) -> str:
    """What was found for the last question, and whether it was used."""
    if record is None:
        return "<p>Nothing was looked up yet. / 还没有检索。</p>"
    said = f"{record.used} of {len(record.hits)} passages used." if record.used else "Not used."
    head = f"<p><b>{_text(record.question)}</b><br>{said} {_text(record.reason)}</p>"
    cited = {citation.number for citation in record.citations()}
    rows = []
    for number, hit in enumerate(record.hits, 1):
        state = "cited" if number in cited else "in the prompt" if number <= record.used else "left out"
        place = f"{PurePath(document_name(hit.file)).name}, {hit.place}"
        rows.append(
            f"<tr><td>{number}</td><td>{_text(place)}</td><td>{state}</td><td>{_text(hit.text[:EXCERPT])}</td></tr>"
        )
    heads = "<tr><th>no.</th><th>where</th><th>use</th><th>passage</th></tr>"
    return head + f"<table><thead>{heads}</thead><tbody>{''.join(rows)}</tbody></table>" if rows else head


def _text(text: str) -> str:
    return html.escape(" ".join(str(text).split()))


def _md(text: str) -> str:
    """Text that stays text in Markdown."""
    return html.escape(text).replace("*", r"\*").replace("_", r"\_").replace("`", r"\`")
