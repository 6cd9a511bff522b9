"""GGUF → smaller GGUF, and how large every type would be, by llama.cpp itself.

Knows llama.cpp's types and how to run its quantizer in a child process. Sizes come from the quantizer's dry run, so
no rule of it is repeated here.
"""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import BadInput, BadModelFile, EngineFailure, ModelNotFound
from ..gguf_header import GGUFInfo, read
from ..rope import Rope
from .convert import hollow_out, write_hollow
from .files import Progress, need_space, new_file, only_replaces
from .gguf_file import Entry, entry_type, tensor_bytes, write_head
from .imatrix import HINT, read_imatrix
from .llama import Shape, gguf_name

TYPES: dict[str, int] = {
    "F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_K_S": 16, "Q5_1": 9, "Q5_0": 8,
    "Q4_K_M": 15, "Q4_K_S": 14, "Q4_1": 3, "Q4_0": 2, "IQ4_NL": 25, "IQ4_XS": 30, "Q3_K_L": 13, "Q3_K_M": 12,
    "Q3_K_S": 11, "IQ3_M": 27, "IQ3_S": 26, "IQ3_XS": 22, "IQ3_XXS": 23, "Q2_K": 10, "Q2_K_S": 21, "IQ2_M": 29,
    "IQ2_S": 28, "IQ2_XS": 20, "IQ2_XXS": 19, "IQ1_M": 31, "IQ1_S": 24, "TQ2_0": 37, "TQ1_0": 36, "Q2_0": 41,
    "Q1_0": 40, "MXFP4_MOE": 38,
}  # fmt: skip
"""Every type that llama.cpp quantizes to, and its `llama_ftype`."""

ALIASES = {"Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M", "MXFP4": "MXFP4_MOE"}
"""Names of published files, and llama.cpp's."""

OUTPUT_TYPES: dict[str, int] = {"F32": 0, "F16": 1, "BF16": 30, "Q8_0": 8}
"""What may follow a type after a +, as the type of the output matrix, and its `ggml_type`."""

_BEGUN = re.compile(r"\[\s*\d+/\s*\d+\]\s+(\S+)\s+- \[")
_PLANNED = re.compile(r"^\[\s*\d+/\s*\d+\]\s+(\S+)\s+- \[.*?size =[^\n(]*(?:\((\w+)\))?$", re.MULTILINE)
_REASON = re.compile(r"failed to quantize: (.*)")
_WANTS_IMATRIX = "will require an imatrix"


def type_name(text: str) -> str:
    """llama.cpp's spelling of a type, from any case and from published names (`q4_k`). Raises `BadInput`.

    `Q4_0+BF16` is Q4_0 with the output matrix in BF16.
    """
    name, plus, output = text.strip().upper().partition("+")
    if plus and output not in OUTPUT_TYPES:
        raise BadInput(f"{text!r} names no type for the output matrix.", f"After the +: {', '.join(OUTPUT_TYPES)}.")
    name = ALIASES.get(name, name)
    if name not in TYPES:
        near = difflib.get_close_matches(name, TYPES, n=1)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise BadInput(f"{text!r} is no quantization type.{guess}", "Known: " + ", ".join(TYPES) + ".")
    return name + plus + output


def _job(name: str, dst: Path, dry: str | None) -> dict[str, Any]:
    """What the child is to do; `name` is `type_name`'s."""
    kind, _, output = name.partition("+")
    return {"ftype": TYPES[kind], "output": OUTPUT_TYPES.get(output), "dst": str(dst), "dry": dry}


def check_threads(threads: int | None) -> None:
    """Raise `BadInput` for a number of threads that llama.cpp would take for another one, or die of."""
    if threads is not None and not 1 <= threads <= 1024:
        raise BadInput(f"threads must be 1 to 1024, not {threads}.", "Leave it out for one for each core.")


def quantize(
    src: Path,
    dst: Path,
    type: str,
    on_progress: Progress | None = None,
    threads: int | None = None,
    imatrix: Path | None = None,
) -> Path:
    """Write `src` to `dst` in another type (see `type_name`). Quantized files can be quantized again, with a loss.

    `imatrix` is an importance matrix (`core.evaluation.importance` makes one), which the smallest types need and with
    which all of four bits and fewer lose less. Runs in a child process that an exception in
    `on_progress` or Ctrl+C ends; `dst` appears only when complete. Raises `BadInput` for an unknown type, a missing
    importance matrix or too little disk, `BadModelFile` for a broken source, `EngineFailure` with llama.cpp's reason.
    """
    name, src, dst = type_name(type), Path(src), Path(dst)
    imatrix = None if imatrix is None else Path(imatrix)
    check_threads(threads)
    info = _source(src)
    if dst.exists() and dst.samefile(src):
        raise BadInput("The output is the input.", "Name another file.")
    only_replaces(dst, b"GGUF", "GGUF file")
    if imatrix is not None and imatrix.is_file():
        read_imatrix(imatrix)  # to say now what is wrong with it
    with new_file(dst) as partial:
        trial = "weighted" if imatrix else "plain"
        jobs = [_job(name, partial, dry) for dry in (trial, None)]
        with _child(src, jobs, threads, imatrix) as messages:
            log = _until_done(messages, 0)
            if _WANTS_IMATRIX in log and imatrix is None:
                raise BadInput(
                    f"{name} needs an importance matrix.",
                    f"{HINT} Then give it with --imatrix. Or take a larger type.",
                )
            need_space(dst.parent, _size(info, log) + (1 << 20))
            _until_done(messages, 1, _Progress(info, on_progress))
        if not partial.is_file():
            raise EngineFailure("llama.cpp wrote no file.", "Check the source with `hanpaca verify`.")
    return dst


def plan(model: Path | Shape, types: Sequence[str] = tuple(TYPES)) -> list[tuple[str, int]]:
    """(type, bytes) of the file that each type would give, without any weights being read.

    `model` is a GGUF file, a checkpoint folder, or a shape (then the file's size lacks a tokenizer, a megabyte or
    two). A type that needs an importance matrix is planned as if there were one; one that llama.cpp cannot make of this
    model (Q1_0 where 128 does not divide its rows) is left out. Takes a second or two. Raises `EngineFailure` with
    llama.cpp's reason where no type is left.
    """
    names = [type_name(type) for type in types]
    with tempfile.TemporaryDirectory() as folder:
        source = _hollow(model, Path(folder))
        info = _source(source)
        never = Path(folder) / "never"
        jobs = [_job(name, never, dry) for name in names for dry in ("plain", "weighted")]
        with _child(source, jobs, None, None) as messages:
            ends = [_end(messages, job) for job in range(len(jobs))]
    sizes = []
    for name, plain, weighted in zip(names, ends[::2], ends[1::2], strict=True):
        end = weighted if _WANTS_IMATRIX in plain.log else plain
        if not end.failed:
            sizes.append((name, _size(info, end.log)))
    if not sizes and ends:
        raise _failure(ends[0].log)
    return sizes


def needs_imatrix(model: Path | Shape, type: str) -> bool:
    """Whether llama.cpp quantizes this model to `type` only with an importance matrix. Reads no weights."""
    with tempfile.TemporaryDirectory() as folder:
        source = _hollow(model, Path(folder))
        jobs = [_job(type_name(type), Path(folder) / "never", "plain")]
        with _child(source, jobs, None, None) as messages:
            return _WANTS_IMATRIX in _until_done(messages, 0)


def _source(path: Path) -> GGUFInfo:
    if not path.is_file():
        raise ModelNotFound(f"There is no file {path}.", "Give a GGUF file; convert checkpoints first.")
    info = read(path)
    if not info.tensors:
        raise BadModelFile(f"{path} holds no tensors.", "Give a GGUF file with a model.")
    return info


def _hollow(model: Path | Shape, folder: Path) -> Path:
    """A GGUF file with the model's table of tensors."""
    if isinstance(model, Shape):
        return _shape_only(model, folder / "shape.gguf")
    model = Path(model)
    if model.is_dir():
        write_hollow(model, folder / "hollow.gguf")
        return folder / "hollow.gguf"
    return model


def _shape_only(shape: Shape, path: Path) -> Path:
    entries = []
    for name, size in shape.weights().items():
        found = gguf_name(name)
        assert found is not None
        entries.append(Entry(found, size, entry_type(size, "f16")))
    rope = Rope(dim=shape.head_dim)
    writer = write_head(
        path, name="plan", type="f16", shape=shape, rope=rope, epsilon=1e-5, vocabulary=None, entries=entries
    )
    hollow_out(writer, entries)
    return path


def _size(info: GGUFInfo, log: str) -> int:
    """Bytes of the file that a dry run described: the head, then each tensor, filled up to the alignment."""
    align = info.metadata.get("general.alignment", 32)
    types = dict(_PLANNED.findall(log))
    if set(types) != {tensor.name for tensor in info.tensors}:
        raise EngineFailure(
            "llama.cpp's log does not name every tensor.", "Is this version of llama.cpp a supported one?"
        )
    size = min(tensor.offset for tensor in info.tensors)
    for tensor in info.tensors:
        nbytes = tensor_bytes(tuple(reversed(tensor.shape)), types[tensor.name] or tensor.type)
        size += nbytes + -nbytes % align
    return size


class _Progress:
    """Bytes of the source that are done when llama.cpp begins a tensor."""

    def __init__(self, info: GGUFInfo, listener: Progress | None) -> None:
        self._sizes = {tensor.name: tensor.size for tensor in info.tensors}
        self._listener = listener
        self._done = self._current = 0

    def hear(self, text: str) -> None:
        if self._listener and (begun := _BEGUN.search(text)):
            self._done += self._current
            self._current = self._sizes.get(begun[1], 0)
            self._listener(self._done, sum(self._sizes.values()))

    def finish(self) -> None:
        if self._listener:
            self._listener(sum(self._sizes.values()), sum(self._sizes.values()))


@contextmanager
def _child(
    src: Path, jobs: Sequence[dict[str, Any]], threads: int | None, imatrix: Path | None
) -> Iterator[Iterator[dict[str, Any]]]:
    """The messages of a child that does `jobs`. It is killed when the block ends early."""
    if imatrix is not None and not imatrix.is_file():
        raise ModelNotFound(f"There is no importance matrix {imatrix}.", "Check the path.")
    task = {"src": str(src), "jobs": jobs, "threads": threads or 0, "imatrix": str(imatrix) if imatrix else None}
    command = [sys.executable, "-m", f"{__package__}.quantize_child"]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as child,
    ):
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(json.dumps(task).encode() + b"\n")
            child.stdin.flush()
            yield _messages(child.stdout, errors)
        finally:
            child.kill()


def _messages(stream: IO[bytes], errors: IO[bytes]) -> Iterator[dict[str, Any]]:
    for line in stream:
        if line.startswith(b"{"):
            yield json.loads(line)
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    raise EngineFailure(
        f"The process that quantizes ended early: {lines[-1] if lines else 'it gave no reason'}.",
        "It may have run out of memory.",
    )


@dataclass(frozen=True)
class _End:
    """What a job said until it was over."""

    log: str
    failed: bool


def _end(messages: Iterator[dict[str, Any]], job: int, progress: _Progress | None = None) -> _End:
    """Wait for the end of a job. Raises `EngineFailure` where the child ends first."""
    log: list[str] = []
    for message in messages:
        if message["job"] != job:
            continue
        if "result" in message:
            return _End("".join(log), message["result"] != 0)
        log.append(message["log"])
        if progress:
            progress.hear(message["log"])
    raise AssertionError("the child's messages end with an error")


def _until_done(messages: Iterator[dict[str, Any]], job: int, progress: _Progress | None = None) -> str:
    """Wait for the end of a job and give its log. Raises `EngineFailure` with llama.cpp's own reason."""
    end = _end(messages, job, progress)
    if end.failed:
        raise _failure(end.log)
    if progress:
        progress.finish()
    return end.log


def _failure(log: str) -> EngineFailure:
    reason = _REASON.search(log)
    why = reason[1].strip() if reason else "no reason given"
    hint = "Is it this model's importance matrix?" if "imatrix" in why else ""
    return EngineFailure(f"llama.cpp cannot quantize this: {why}.", hint)
