"""A forward pass of a PyTorch model over cache cells: the scheduler's `Decoder`. Knows no text and no requests.

The keys and values of all sequences lie in one pool of cells for each layer; a sequence is a list of cells, and
sequences that begin alike share them. A pass computes tokens of many sequences as one row, with a mask that shows
each token its own sequence's earlier cells. FlashAttention takes no such mask: there each sequence runs by itself,
over its cells gathered in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineFailure
from .cells import Cells

if TYPE_CHECKING:
    import torch

BATCH = 512
"""Most tokens of one pass."""
_GROW = 1024
"""The pool grows by this many cells, up to its limit."""


class TorchDecoder:
    """One model (with one RoPE plan) and its pool of cells. For one thread only."""

    def __init__(self, model: Any, *, cells: int, sequences: int, masked: bool = True) -> None:
        import torch

        self._torch = torch
        self._model = model
        self._masked = masked
        self._pool = CellPool(cells)
        self._ledger = Cells(cells)
        self._cells: dict[int, list[int]] = {}
        self._logits: torch.Tensor | None = None
        self._rows: dict[int, int] = {}
        self.cells = cells
        self.batch = min(BATCH, cells)
        self.outputs = self.batch
        self.sequences = sequences
        self.tile, self.tile_depth = 1, cells

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], outputs: Sequence[bool]
    ) -> None:
        """One forward pass; afterwards `logits(row)` is there for the rows with an output."""
        taken = self._ledger.take(len(tokens), pin=False)
        for cell, sequence in zip(taken, sequences, strict=True):
            self._cells.setdefault(sequence, []).append(cell)
        runs = [range(len(tokens))] if self._masked else list(_runs(sequences))
        wanted, found = [row for row, output in enumerate(outputs) if output], []
        try:
            with self._torch.inference_mode():
                for run in runs:
                    found.append(self._forward(run, tokens, positions, sequences, outputs, taken))
                self._logits = self._torch.cat([part for part in found if part is not None]) if wanted else None
        except RuntimeError as error:
            raise EngineFailure(
                f"The forward pass failed: {str(error).splitlines()[0]}.",
                "If memory ran out, load the model with a shorter context or smaller weights.",
            ) from error
        self._rows = {row: index for index, row in enumerate(wanted)}

    def copy(self, source: int, target: int, length: int) -> None:
        shared = self._cells[source][:length]
        self._ledger.hold(shared, pin=False)
        self._cells[target] = list(shared)

    def trim(self, sequence: int, length: int) -> None:
        cells = self._cells.pop(sequence, [])
        self._ledger.drop(cells[length:], pinned=False)
        if length and cells:
            self._cells[sequence] = cells[:length]

    def saved_size(self, sequence: int) -> int:
        """Bytes that a copy of a whole sequence takes."""
        return len(self._cells.get(sequence, ())) * self._pool.cell_bytes

    def save(self, sequence: int, start: int, stop: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A copy of a part of a sequence's keys and values, layer by layer, on the CPU."""
        with self._torch.inference_mode():
            return self._pool.read(self._torch.tensor(self._cells[sequence][start:stop]))

    def restore(self, sequence: int, pieces: Sequence[list[tuple[torch.Tensor, torch.Tensor]]]) -> bool:
        """Put copies that follow each other into `sequence`, which is empty."""
        self._cells[sequence] = []
        for piece in pieces:
            cells = self._ledger.take(piece[0][0].shape[2], pin=False)
            with self._torch.inference_mode():
                self._pool.write(self._torch.tensor(cells), piece)
            self._cells[sequence] += cells
        return True

    def logits(self, row: int) -> NDArray[np.float32]:
        """The logits of a row of the last pass, (vocabulary,)."""
        if self._logits is None or row not in self._rows:
            raise EngineFailure(f"Row {row} of the last pass has no logits.")
        result: NDArray[np.float32] = self._logits[self._rows[row]].float().cpu().numpy()
        return result

    def _forward(
        self,
        run: range,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        outputs: Sequence[bool],
        taken: Sequence[int],
    ) -> torch.Tensor | None:
        torch = self._torch
        device = self._model.device
        here = slice(run.start, run.stop)
        if self._masked:
            mask, shown = self._mask(positions, sequences), None
        else:
            mask, shown = None, self._cells[sequences[run.start]][: positions[run.stop - 1] + 1]
        self._pool.begin(torch, taken[here], shown, None if mask is None else mask.shape[-1])
        keep = [row - run.start for row in run if outputs[row]]
        result = self._model(
            input_ids=torch.tensor([list(tokens[here])], device=device),
            position_ids=torch.tensor([list(positions[here])], device=device),
            attention_mask=None if mask is None else torch.from_numpy(mask).to(device),
            past_key_values=self._pool,
            use_cache=True,
            logits_to_keep=torch.tensor(keep or [0], device=device),
        )
        return result.logits[0] if keep else None

    def _mask(self, positions: Sequence[int], sequences: Sequence[int]) -> NDArray[np.bool_]:
        """(1, 1, tokens, cells): which cells each token may look at."""
        width = 1 + max(max(self._cells[sequence]) for sequence in set(sequences))
        mask = np.zeros((1, 1, len(positions), width), np.bool_)
        for run in _runs(sequences):
            cells = np.asarray(self._cells[sequences[run.start]], np.intp)
            start = positions[run.start]
            mask[0, 0, run.start : run.stop, cells[:start]] = True
            for row in run:
                mask[0, 0, row, cells[start : positions[row] + 1]] = True
        return mask


def _runs(sequences: Sequence[int]) -> list[range]:
    """The stretches of equal ids.

    >>> _runs([3, 3, 5])
    [range(0, 2), range(2, 3)]
    """
    edges = [0, *(i for i in range(1, len(sequences)) if sequences[i] != sequences[i - 1]), len(sequences)]
    return [range(a, b) for a, b in pairwise(edges)]


class CellPool:
    """Keys and values of every layer by cell, in the place where transformers expects a cache."""

    is_compileable = False

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._write: torch.Tensor
        self._shown: torch.Tensor | None
        self._width = 0
        self._fresh = 0

    def begin(self, torch: Any, write: Sequence[int], shown: Sequence[int] | None, width: int | None) -> None:
        """The next pass writes the cells `write`, and sees those in `shown`, in order, or the first `width`."""
        self._write = torch.tensor(list(write))
        self._shown = None if shown is None else torch.tensor(list(shown))
        self._width = len(shown) if shown is not None else int(width or 0)
        self._highest = 1 + max(max(write), max(shown or [0]))
        self._fresh = len(write)

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """transformers hands in a layer's new keys and values, (1, heads, tokens, dim), and gets all that count."""
        pools = self._room(keys, values, layer)
        write = self._write.to(keys.device)
        for pool, fresh in zip(pools, (keys, values), strict=True):
            pool.index_copy_(2, write, fresh)
        if self._shown is None:
            return tuple(pool[:, :, : self._width] for pool in pools)
        shown = self._shown.to(keys.device)
        return tuple(pool.index_select(2, shown) for pool in pools)

    @property
    def cell_bytes(self) -> int:
        """Bytes of one cell in all layers that exist so far."""
        pools = [pool for layer in self._layers.values() for pool in layer]
        return sum(pool.nbytes // pool.shape[2] for pool in pools)

    def read(self, cells: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Copies of the given cells, layer by layer, on the CPU."""
        found = []
        for keys, values in (self._layers[layer] for layer in sorted(self._layers)):
            there = cells.to(keys.device)
            found.append((keys.index_select(2, there).cpu(), values.index_select(2, there).cpu()))
        return found

    def write(self, cells: torch.Tensor, state: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Put copies that `read` made into the given cells."""
        self._highest = self._width = 1 + int(cells.max())
        for layer, copies in enumerate(state):
            keys, values = self._room(*copies, layer)
            for pool, copy in zip((keys, values), copies, strict=True):
                pool.index_copy_(2, cells.to(pool.device), copy.to(pool.device))

    def get_seq_length(self, layer: int = 0) -> int:
        """Positions before this pass, for those who ask."""
        return self._width - self._fresh

    def get_query_offset(self, layer: int = 0) -> int:
        """The same under another name."""
        return self.get_seq_length(layer)

    def get_mask_sizes(self, tokens: int, layer: int = 0) -> tuple[int, int]:
        """(cells, offset) of a mask that transformers would make itself."""
        return self._width, 0

    def _room(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's pool, grown if it must."""
        found = self._layers.get(layer)
        have = found[0].shape[2] if found else 0
        need = max(self._highest, self._width)
        if found is None or have < need:
            size = min(self._limit, max(need, have + have // 2, -(-need // _GROW) * _GROW))
            grown = []
            for index, fresh in enumerate((keys, values)):
                pool = fresh.new_zeros((1, fresh.shape[1], size, fresh.shape[3]))
                if found is not None:
                    pool[:, :, :have] = found[index]
                grown.append(pool)
            self._layers[layer] = found = (grown[0], grown[1])
        return found
