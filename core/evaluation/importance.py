"""Importance: how much each column of a model's matrices matters, measured on text, so that a quantizer rounds those
that matter least.

A rounding error in a column counts as often as something flows into it: the importance of a column is the mean square
of its input over the tokens of a text. That is llama.cpp's importance matrix (`llama-imatrix`), and `quantize` weighs
its errors by it. Which text hardly matters (tests/benchmarks/LOG.md), and a few thousand tokens are enough.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..engines.llama_context import NativeContext
from ..engines.llama_native import NativeWeights
from ..engines.llama_watch import Watch
from ..errors import BadInput, BadModelFile
from ..gguf_header import MAGIC, GGUFInfo, read
from ..weights.files import new_file, only_replaces
from ..weights.imatrix import Importance, write_imatrix
from ..weights.quantize import check_threads

TOKENS = 4096
"""More tokens of the same texts give the same quality, within what one text differs from another."""
CHUNK = 512
"""Tokens that are read in one go, each go from the beginning, as in llama-imatrix."""
LEAST = 32
_PASS = 128

READERS = {
    "attn_norm": ("attn_q", "attn_k", "attn_v"),
    "kqv_out": ("attn_output",),
    "ffn_norm": ("ffn_gate", "ffn_up"),
    "ffn_swiglu": ("ffn_down",),
    "result_norm": ("output",),
}
"""llama.cpp's name of a tensor → the matrices that it flows into."""

Progress = Callable[[int, int], None]
"""Called with (tokens read, tokens in all)."""
Found = dict[str, Importance]


def write_importance(
    model: Path,
    out: Path,
    texts: Sequence[str] = (),
    *,
    tokens: int = TOKENS,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Write the importance matrix of a GGUF model of the LLaMA kind as llama.cpp's GGUF file.

    It is measured on `tokens` tokens, in equal parts of each text; default: Hanpaca's manual, in English and Chinese.
    Takes as long as a prompt of that length. `out` appears only when complete. Raises `BadInput` for too little text
    and for a model with other matrices.
    """
    if tokens < LEAST:
        raise BadInput(f"An importance matrix needs at least {LEAST} tokens, not {tokens}.", f"{TOKENS} are enough.")
    check_threads(threads)
    info = read(model)
    readers = _readers(info)
    _only_replaces_its_kind(out)
    with new_file(out) as unfinished:
        work = partial(_measure, model, readers, texts or manual(), tokens, threads)
        found = _in_thread(work, on_progress)
        write_imatrix(unfinished, found, dataset="text" if texts else "manual", chunk=CHUNK)
    return out


def _only_replaces_its_kind(out: Path) -> None:
    """Raise `BadInput` where `out` is another file than an importance matrix, such as a model."""
    only_replaces(out, MAGIC, "importance matrix")
    if not out.is_file() or not out.stat().st_size:
        return
    try:
        kind = read(out).metadata.get("general.type")
    except BadModelFile:  # cut short: of what, nobody can tell
        kind = None
    if kind != "imatrix":
        raise BadInput(f"{out} exists and is no importance matrix.", "Name another file to write, or remove it first.")


def manual() -> list[str]:
    """Hanpaca's own pages, English and Chinese."""
    folder = Path(__file__).parents[2] / "docs"
    return ["\n\n".join(page.read_text(encoding="utf-8") for page in sorted((folder / language).glob("*.md")))
            for language in ("en", "zh")]  # fmt: skip


def _readers(info: GGUFInfo) -> dict[str, list[str]]:
    """Name of a watched tensor → the names of the model's matrices it flows into. Raises `BadInput`."""
    matrices = {tensor.name for tensor in info.tensors if len(tensor.shape) > 1 and tensor.name.endswith(".weight")}
    readers: dict[str, list[str]] = {}
    for kind, names in READERS.items():
        for layer in range(_layers(info)) if kind != "result_norm" else [None]:
            place = "" if layer is None else f"blk.{layer}."
            watched = kind if layer is None else f"{kind}-{layer}"
            readers[watched] = [f"{place}{name}.weight" for name in names]
    if "output.weight" not in matrices:
        readers["result_norm"] = ["token_embd.weight"]
    covered = {name for names in readers.values() for name in names}
    other = (matrices | {"token_embd.weight"}) ^ (covered | {"token_embd.weight"})
    other |= {
        tensor.name for tensor in info.tensors if "sub_norm" in tensor.name
    }  # between what is watched and a matrix
    if not matrices:
        raise BadInput(f"{info.path} holds no model.", "Give the GGUF file of a model.")
    if other:
        raise _other_kind(info.path, min(other))
    return readers


def _other_kind(path: Path, name: str) -> BadInput:
    return BadInput(
        f"{path} is not computed as a LLaMA is: see {name}.",
        "Make its importance matrix with llama.cpp's llama-imatrix.",
    )


def _layers(info: GGUFInfo) -> int:
    return int(info.metadata.get(f"{info.metadata.get('general.architecture')}.block_count", 0))


def _in_thread(work: Callable[[Progress], Found], on_progress: Progress | None) -> Found:
    """Do it in a thread of its own: Ctrl+C would be raised in what llama.cpp calls, and be lost there."""
    stop = threading.Event()

    def tell(done: int, total: int) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        if on_progress:
            on_progress(done, total)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, tell)
        try:
            return future.result()
        except BaseException:
            stop.set()
            raise


def _measure(
    model: Path,
    readers: Mapping[str, Sequence[str]],
    texts: Sequence[str],
    tokens: int,
    threads: int | None,
    tell: Progress,
) -> Found:
    sums: dict[str, NDArray[np.float64]] = {}
    heard: set[str] = set()
    rows = done = 0

    def hear(name: str, values: NDArray[np.float32]) -> None:
        squares = np.square(values.reshape(rows, -1), dtype=np.float64).sum(axis=0)
        sums[name] = sums.get(name, 0.0) + squares
        heard.add(name)

    watch = Watch(READERS, hear)
    with ExitStack() as stack:
        weights = NativeWeights(model)
        stack.callback(weights.free)
        chunks = list(_chunks(weights, texts, tokens))
        total = sum(map(len, chunks))
        context = NativeContext(
            weights, cells=CHUNK, rope={}, sequences=1, batch=_PASS, threads=threads, watch=watch.callback
        )
        stack.callback(context.close)
        for part, start in _passes(chunks):
            if start == 0:
                context.trim(0, 0)
            rows = len(part)
            heard.clear()
            # an output for every token: the last layer leaves out those without
            context.decode(part, range(start, start + rows), [0] * rows, [True] * rows)
            if watch.error is not None:
                raise watch.error
            if missing := sorted(readers.keys() - heard):
                raise _other_kind(model, missing[0])
            done += rows
            tell(done, total)
    return {
        matrix: Importance(sums[watched].astype(np.float32), total)
        for watched, matrices in readers.items()
        for matrix in matrices
    }


def _passes(chunks: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], int]]:
    for chunk in chunks:
        for start in range(0, len(chunk), _PASS):
            yield chunk[start : start + _PASS], start


def _chunks(weights: NativeWeights, texts: Sequence[str], tokens: int) -> Iterator[list[int]]:
    """Pieces of at most `CHUNK` tokens, spread evenly over each text. Raises `BadInput` for too little text."""
    begin = [weights.vocabulary.bos] if weights.vocabulary.add_bos and weights.vocabulary.bos is not None else []
    step = CHUNK - len(begin)
    share = -(-tokens // len(texts))
    found = 0
    for text in texts:
        ids = weights.tokenize(text, special=False)
        count = min(-(-share // step), -(-len(ids) // step))
        for index in range(count):
            start = index * max(len(ids) - step, 0) // max(count - 1, 1)
            length = min(step, share - index * step, len(ids))
            found += length
            yield [*begin, *ids[start : start + length]]
    if found < LEAST:
        raise BadInput(
            f"An importance matrix of {found} tokens is worse than none.", f"Read at least {LEAST}, best {TOKENS}."
        )
