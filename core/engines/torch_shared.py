"""One set of PyTorch weights in this process: its worker thread, its pools of cells, and who uses it.

Knows how weights are run (`TransformersOptions`); not what the jobs over them do.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..errors import BadInput, Closed, HanpacaError
from ..rope import Rope, RopePlan
from .batching import Scheduler
from .jobs import Job
from .torch_decoder import TorchDecoder
from .torch_hardware import DTYPES, free_memory
from .torch_model import QUANTIZATIONS, Loaded, load
from .torch_tokenizer import Tokenizer, open_tokenizer
from .worker import Worker, closed

MOST_CELLS = 16_384
"""Cells beyond one context's length; a pool grows only as it is used."""


@dataclass(frozen=True)
class TransformersOptions:
    """How a checkpoint is run. Every field is an option of `hanpaca.load`."""

    context: int | None = None
    """Longest prompt + answer in tokens. Beyond the native window adaptive NTK serves. None: the native window."""
    alpha: float | Literal["auto"] = "auto"
    """NTK alpha beyond the native window; "auto" computes it from each request's length."""
    dtype: str = "auto"
    """Number format: float32, bfloat16, float16, or auto, which the hardware decides."""
    quantization: str | None = None
    """8bit or 4bit: bitsandbytes makes the weights smaller while they load."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto."""
    threads: int | None = None
    """CPU threads of PyTorch, which has one setting for the whole process; None leaves it alone."""
    cells: int | None = None
    """Cache cells shared by all requests of a context; None: up to four times the context, as memory allows."""
    running: int = 16
    """Most requests that run at the same time."""
    queue: int = 1024
    """Most requests that wait; more are refused with `Busy`."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BadInput(f"dtype {self.dtype!r} is not known.", f"Valid: {', '.join(DTYPES)}.")
        if self.quantization not in QUANTIZATIONS:
            raise BadInput(f"quantization {self.quantization!r} is not known.", "Valid: 8bit, 4bit, or none.")
        for name in ("context", "threads", "cells", "running", "queue"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise BadInput(f"{name} must be a whole number of at least 1, not {value!r}.")


class SharedModel:
    """Weights with their worker thread and a pool of cells per plan. `acquire` and `release` count the engines."""

    _registry: ClassVar[dict[Any, SharedModel]] = {}
    _registry_lock: ClassVar[Any] = threading.RLock()

    @classmethod
    def acquire(
        cls, path: Path, options: TransformersOptions, loras: tuple[Path, ...], rope: Rope | None
    ) -> SharedModel:
        """The weights, loaded if they are not. Blocks while they load."""
        stamp = f"{path.resolve()} {_newest(path)} {[(str(lora.resolve()), _newest(lora)) for lora in loras]}"
        apart = dataclasses.replace(options, context=None, alpha="auto", queue=1)
        key = (os.getpid(), stamp, apart, rope)
        with cls._registry_lock:
            shared = cls._registry.get(key)
            if shared is None:
                shared = cls._registry[key] = cls(key, stamp, path, options, loras, rope)
            shared._engines += 1
            return shared

    def __init__(
        self,
        key: Any,
        stamp: str,
        path: Path,
        options: TransformersOptions,
        loras: tuple[Path, ...],
        rope: Rope | None,
    ) -> None:
        self._key, self.stamp, self._options = key, stamp, options
        self._engines = 0
        self._lock = threading.Lock()
        self._contexts: dict[RopePlan, tuple[TorchDecoder, Scheduler]] = {}
        self._arriving = 0
        self._worker = Worker(f"hanpaca {path.name}")
        try:
            self.loaded: Loaded = self._worker.call(
                lambda: self._load(path, loras, rope),
            )
            self.tokenizer: Tokenizer = open_tokenizer(self.loaded.tokenizer, self.loaded.rows)
        except BaseException:
            self._worker.stop()
            raise

    def _load(self, path: Path, loras: tuple[Path, ...], rope: Rope | None) -> Loaded:
        o = self._options
        loaded = load(path, device=o.device, dtype=o.dtype, quantization=o.quantization, loras=loras, rope=rope)
        if o.threads is not None:
            import torch

            torch.set_num_threads(o.threads)
        return loaded

    @property
    def waiting(self) -> int:
        """Jobs not admitted yet, in all contexts."""
        return self._arriving + sum(scheduler.waiting for _, scheduler in list(self._contexts.values()))

    def submit(self, chosen: RopePlan, job: Job) -> None:
        """Queue a job; the pool of its plan is made on the worker thread if it is not there."""
        with self._lock:
            self._arriving += 1
        try:
            self._worker.post(lambda: self._start(chosen, job))
        except Closed:
            job.released()
            raise

    def _start(self, chosen: RopePlan, job: Job) -> None:
        with self._lock:
            self._arriving -= 1
        try:
            decoder, scheduler = self._contexts.get(chosen) or self._open(chosen)
            job.decoder = decoder
            scheduler.submit(job)
        except HanpacaError as error:
            job.fail(error)
            job.released()

    def _open(self, chosen: RopePlan) -> tuple[TorchDecoder, Scheduler]:
        running = self._options.running
        decoder = TorchDecoder(
            self.loaded.shell(chosen),
            cells=max(self._options.cells or self._choose_cells(chosen), chosen.context),
            sequences=2 * running,
            masked=self.loaded.attention != "flash_attention_2",
        )
        scheduler = Scheduler(decoder, running=running)
        self._contexts[chosen] = decoder, scheduler
        self._worker.add(scheduler)
        return decoder, scheduler

    def _choose_cells(self, chosen: RopePlan) -> int:
        affordable = int(free_memory(self.loaded.model.device) * 0.3 / self.loaded.cell_bytes)
        return max(chosen.context, min(4 * chosen.context, MOST_CELLS, affordable))

    def release(self, owner: object) -> None:
        """One engine less: its jobs end with `Closed`, and the last one frees the weights."""
        with self._registry_lock:
            self._engines -= 1
            last = self._engines == 0
            if last:
                self._registry.pop(self._key, None)
        if last:
            self._worker.stop(self._free)
        else:
            self._worker.post(lambda: self._abandon(owner))

    def _abandon(self, owner: object) -> None:
        for _, scheduler in self._contexts.values():
            scheduler.abandon(closed(), owner)

    def _free(self) -> None:
        self._contexts.clear()
        del self.loaded


def _newest(path: Path) -> tuple[int, int]:
    """(bytes, last change) of a file, or of all files in a folder."""
    stats = [file.stat() for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file()]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)
