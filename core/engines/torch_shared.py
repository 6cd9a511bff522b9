"""One set of PyTorch weights in this process: how it is loaded, and its pools of cells.

Knows how weights are run (`TransformersOptions`); not what the jobs over them do.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import BadInput
from ..rope import Choice, Rope, RopePlan, check_extension
from .batching import Scheduler
from .constraints import Tokens
from .local import check_alpha, check_whole_numbers
from .lookup import MOST_GUESSED
from .shared import Shared
from .torch_decoder import TorchDecoder
from .torch_hardware import DTYPES, free_memory
from .torch_model import QUANTIZATIONS, Loaded, load
from .torch_tokenizer import Tokenizer, open_tokenizer

MOST_CELLS = 16_384
"""Cells beyond one context's length; a pool grows only as it is used."""


@dataclass(frozen=True)
class TransformersOptions:
    """How a checkpoint is run. Every field is an option of `hanpaca.load`."""

    context: int | None = None
    """Longest prompt + answer in tokens; `extension` serves beyond the native window. None: the native window."""
    alpha: float | Literal["auto"] = "auto"
    """NTK alpha beyond the native window; "auto" computes it from each request's length."""
    extension: Choice = "auto"
    """What stretches the model beyond its native window: ntk (adaptive), yarn, or auto, which suits the model."""
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
    prompt_lookup: int = 0
    """Tokens to guess ahead in each step from what stands in the prompt and the answer; 3 is a good number, 0 none."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BadInput(f"dtype {self.dtype!r} is not known.", f"Valid: {', '.join(DTYPES)}.")
        if self.quantization not in QUANTIZATIONS:
            raise BadInput(f"quantization {self.quantization!r} is not known.", "Valid: 8bit, 4bit, or none.")
        check_alpha(self.alpha)
        check_extension(self.extension)
        check_whole_numbers(
            self,
            [
                ("context", 1, 2**24),
                ("threads", 1, 1024),
                ("cells", 1, 2**24),
                ("running", 1, 256),
                ("queue", 1, 10**6),
                ("prompt_lookup", 0, MOST_GUESSED),
            ],
        )


class SharedModel(Shared[RopePlan, TorchDecoder]):
    """A loaded checkpoint, with a pool of cells for each plan."""

    loaded: Loaded
    tokenizer: Tokenizer
    tokens: Tokens

    @classmethod
    def of(cls, path: Path, options: TransformersOptions, loras: tuple[Path, ...], rope: Rope | None) -> SharedModel:
        """The weights, loaded if they are not. Blocks while they load."""
        stamp = f"{path.resolve()} {_newest(path)} {[(str(lora.resolve()), _newest(lora)) for lora in loras]}"
        apart = dataclasses.replace(options, context=None, alpha="auto", extension="auto", queue=1, prompt_lookup=0)
        return cls.acquire((stamp, apart, rope), lambda: cls(stamp, path, options, loras, rope))

    def __init__(
        self, stamp: str, path: Path, options: TransformersOptions, loras: tuple[Path, ...], rope: Rope | None
    ) -> None:
        self.stamp, self._options = stamp, options
        self._path, self._adapters, self._rope = path, loras, rope
        super().__init__(f"hanpaca {path.name}")

    def _load(self) -> None:
        o = self._options
        self.loaded = load(
            self._path,
            device=o.device,
            dtype=o.dtype,
            quantization=o.quantization,
            loras=self._adapters,
            rope=self._rope,
        )
        if o.threads is not None:
            import torch

            torch.set_num_threads(o.threads)
        self.tokenizer = tokenizer = open_tokenizer(self.loaded.tokenizer, self.loaded.rows)
        ends = tokenizer.vocabulary.ends
        self.tokens = Tokens(
            self.loaded.rows, tokenizer.token_bytes, ends, lambda text: tokenizer.tokenize(text, special=True)
        )

    def _open(self, key: RopePlan) -> tuple[TorchDecoder, Scheduler]:
        running = self._options.running
        decoder = TorchDecoder(
            self.loaded.shell(key),
            cells=max(self._options.cells or self._choose_cells(key), key.context),
            sequences=2 * running,
            masked=self.loaded.attention != "flash_attention_2",
        )
        return decoder, Scheduler(decoder, running=running)

    def _choose_cells(self, chosen: RopePlan) -> int:
        affordable = int(free_memory(self.loaded.model.device) * 0.3 / self.loaded.cell_bytes)
        return max(chosen.context, min(4 * chosen.context, MOST_CELLS, affordable))

    def _free(self) -> None:
        del self.loaded


def _newest(path: Path) -> tuple[int, int]:
    """(bytes, last change) of a file, or of all files in a folder."""
    stats = [file.stat() for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file()]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)
