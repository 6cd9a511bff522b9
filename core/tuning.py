"""Which weight type is fastest on this machine, at what cost: decided once, kept in the cache, used from then on.

The type decides more about speed than any code: on CPUs with VNNI a Q4_0 file, which llama.cpp repacks, decodes and
prefills several times faster than the Q4_1 it was made from. Knows how to make, measure and remember; the choice is
the user's (`hanpaca tune`), but for models that a pip package carries, which get a loss-free type by themselves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .catalog import ModelSource
from .errors import BadInput, HanpacaError
from .gguf_header import read
from .memory import RESERVE, WORKING, available
from .weights.files import gib, new_file

CANDIDATES = ("Q4_0", "Q4_0+BF16", "IQ4_NL", "Q4_K_M", "Q5_K_M", "Q8_0", "F16", "BF16")
"""Fast ones where CPUs have kernels for them. The published 7B loses 3.8 % in Q4_0, 1.2 % in Q4_K_M, .4 % in Q5_K_M."""
LOSS_FREE = "Q8_0"
"""What a packaged model becomes by itself: its output differs from the original's by rounding only.

Not F16, which some processors compute faster for many at once: a seed gave another text once its prompt was cached.
"""
FULL = frozenset({"F32", "F16", "BF16", "Q8_0"})
"""Types that an importance matrix does nothing for."""
LOSS = 0.02
"""Most that a chosen type may lose by default: perplexity 2 % above the original's."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One type, measured here."""

    type: str
    size: int
    """Bytes of the file."""
    prefill: float
    """Prompt tokens per second."""
    decode: dict[int, float]
    """Requests at the same time → tokens per second together."""
    perplexity: float
    """On the sample text; compare with the original's only."""

    @property
    def rate(self) -> float:
        """One figure for speed: the geometric mean of prefill and of decoding 1, 4 and 16 at once: a gain of
        a tenth in any of them counts the same."""
        figures = [self.prefill, *self.decode.values()]
        return math.exp(sum(map(math.log, figures)) / len(figures))


def tuned(source: ModelSource) -> ModelSource:
    """The source with the file that was chosen for it on this machine, or as it is. Reads one small file."""
    if source.engine != "llama_cpp" or source.path is None:
        return source
    record = _read(source.path)
    if record is None or record["file"] is None:
        return source
    path = Path(record["file"])
    if not path.is_file():
        return source
    _log.info("%s: using %s, tuned for this machine (%s)", source.name, record["type"], path)
    return dataclasses.replace(source, path=path)


def prepare(source: ModelSource) -> ModelSource:
    """`tuned`, and for a packaged model that was never tuned, its loss-free type, made now (seconds, once)."""
    if source.path is None or source.entry is None or source.entry.package is None or _read(source.path) is not None:
        return tuned(source)
    try:
        path = make(source.path, LOSS_FREE)
    except (HanpacaError, OSError) as error:
        _log.info("%s stays as it was packaged: %s", source.name, error)
        return source
    remember(source.path, LOSS_FREE, path, {"why": "packaged model, loss-free type"})
    return tuned(source)


def tune(
    source: ModelSource,
    types: Sequence[str] = CANDIDATES,
    *,
    loss: float = LOSS,
    on_progress: Callable[[str], None] | None = None,
) -> tuple[list[Trial], Trial]:
    """Make and measure each type, keep the fastest whose perplexity is within `loss` (a share) of the original's.

    Types of few bits are made with an importance matrix of the model, where it is of the LLaMA kind: SmolLM2's Q4_0
    loses a third then of what it loses without. The file's own type, and what does not fit in memory, is left out.
    Returns all trials, the original first, and the one chosen. Files of the others are deleted, each as soon as it has
    lost. Takes a minute for a small model, some forty for 7B; needs disk for the two largest types, besides
    the one in use. Raises `BadInput` for sources that are not GGUF files, and where no type is left to try.
    """
    from .weights.quantize import type_name

    tell = on_progress or (lambda _: None)
    if source.engine != "llama_cpp" or source.path is None:
        raise BadInput(f"{source.name} is not a GGUF file.", "Convert it first: hanpaca convert.")
    if not 0 <= loss < math.inf:
        raise BadInput(f"loss must be a share of at least 0, not {loss!r}.", "Such as 0.02 for 2 %.")
    types = _worth_trying(source.path, [type_name(name) for name in types], tell)
    trials = [trial(source, source.path, "as it is", tell)]
    chosen, file = choose(trials, loss), None
    try:
        imatrix = None if FULL.issuperset(types) else _importance(source.path, tell)
        for name in types:
            tell(f"making {name}")
            trials.append(trial(source, make(source.path, name, imatrix), name, tell))
            chosen = choose(trials, loss)
            file = None if chosen is trials[0] else _file(source.path, chosen.type)
            _remove_others(source.path, file, imatrix)
        remember(source.path, chosen.type, file, {"trials": [dataclasses.asdict(t) for t in trials]})
    finally:
        _remove_others(source.path)
    return trials, chosen


def choose(trials: Sequence[Trial], loss: float) -> Trial:
    """The fastest whose perplexity is within `loss` of the first one's. Raises `BadInput` if that is no number."""
    limit = trials[0].perplexity * (1 + loss)
    if not math.isfinite(limit):
        raise BadInput("The model's perplexity is no number.", "Check the file with `hanpaca verify`.")
    return max((t for t in trials if t.perplexity <= limit), key=lambda t: t.rate)


def _worth_trying(original: Path, types: Sequence[str], tell: Callable[[str], None]) -> list[str]:
    """The types but for the file's own, and for those too large for the free memory. Raises `BadInput` for none."""
    from .weights.quantize import TYPES, plan, type_name

    own, room = read(original).metadata.get("general.file_type"), available() * RESERVE - WORKING
    why: dict[str, str] = {}
    sizes = dict(plan(original, types))
    for name in dict.fromkeys(map(type_name, types)):
        if (size := sizes.get(name)) is None:
            why[name] = "llama.cpp cannot make it of this model"
        elif TYPES.get(name, -1) == own:  # neither is known of a file without it, nor of Q4_0+BF16
            why[name] = "the file has it"
        elif size > room:
            why[name] = f"it takes {gib(size)} of memory and {gib(max(room, 0))} may be used"
        else:
            why[name] = ""
    left_out = [f"{name} is left out: {reason}" for name, reason in why.items() if reason]
    if len(left_out) == len(why):
        raise BadInput(f"There is no type to try. {'; '.join(left_out)}.", "Name others with --types.")
    for line in left_out:
        tell(line)
    return [name for name, reason in why.items() if not reason]


def _remove_others(original: Path, *besides: Path | None) -> None:
    """Delete the files of all types but the one in use, and the importance matrix; not these besides."""
    record = _read(original)
    in_use = Path(record["file"]) if record and record["file"] else None
    for path in _folder(original).glob("*.gguf"):
        if path not in (in_use, *besides):
            path.unlink(missing_ok=True)


def trial(source: ModelSource, path: Path, name: str, tell: Callable[[str], None]) -> Trial:
    """Measure one file."""
    from .engines import open_engine
    from .evaluation.speed import measure

    engine = open_engine(dataclasses.replace(source, path=path), {"context": 2048})
    try:
        speed = measure(engine, on_progress=lambda what: tell(f"{name}: {what}"))
        tokens = engine.tokenize(sample_text())[: engine.context // 2]
        scores = engine.score(tokens[:1], [tokens[1:]])[0]
    finally:
        engine.close()
    perplexity = math.exp(-sum(scores) / len(scores))
    return Trial(name, path.stat().st_size, speed.prefill, speed.decode, perplexity)


def forget(source: ModelSource) -> bool:
    """Delete what was chosen for a source; whether there was anything."""
    if source.path is None or _read(source.path) is None:
        return False
    import shutil

    shutil.rmtree(_folder(source.path))
    return True


def make(original: Path, type: str, imatrix: Path | None = None) -> Path:
    """The original in another type, in the cache; made if it is not there."""
    from .weights.quantize import quantize

    path = _file(original, type)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        quantize(original, path, type, imatrix=None if type in FULL else imatrix)
    return path


def _importance(original: Path, tell: Callable[[str], None]) -> Path | None:
    """The original's importance matrix, in the cache, or None where it has none."""
    from .evaluation.importance import write_importance

    tell("measuring its importance matrix")
    try:
        return write_importance(original, _folder(original) / "imatrix.gguf")
    except HanpacaError as error:
        tell(f"without an importance matrix: {error}")
        return None


def remember(original: Path, type: str, file: Path | None, why: dict[str, Any]) -> None:
    """Write the choice down, in one step."""
    folder = _folder(original)
    record = {"original": str(original), "type": type, "file": None if file is None else str(file), **why}
    with new_file(folder / "tuned.json") as partial:
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")


def sample_text() -> str:
    """A page of English and Chinese prose, to compare types on."""
    return (Path(__file__).parent / "evaluation" / "sample.txt").read_text(encoding="utf-8")


def _read(original: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads((_folder(original) / "tuned.json").read_text(encoding="utf-8"))
        return record if record.keys() >= {"type", "file"} else None
    except (OSError, ValueError, AttributeError):
        return None


def _file(original: Path, type: str) -> Path:
    return _folder(original) / f"{original.stem}.{type}.gguf"


def _folder(original: Path) -> Path:
    """Named by the file and the machine: another CPU, or a changed file, is another choice."""
    from .cache import cache_folder

    stat = original.stat()
    key = f"{original.resolve()} {stat.st_size} {stat.st_mtime_ns} {_cpu()}"
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    return cache_folder() / "tuned" / name


@lru_cache(maxsize=1)
def _cpu() -> str:
    """What tells this kind of CPU from others."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        told = dict(line.split(":", 1) for line in lines if ":" in line)
        return " ".join(v.strip() for k, v in sorted(told.items()) if k.strip() in ("model name", "flags", "Features"))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
