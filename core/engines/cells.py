"""Arithmetic of cache cells: which are used, shared and pinned. Knows no model; numbers only.

One cell holds the keys and values of one token. Sequences that begin alike share the cells of their common prefix;
a cell is free again when the last sequence that holds it lets go. Cells held by a running sequence are *pinned*:
they cannot be had back by dropping cached sequences.
"""

from __future__ import annotations

import numpy as np


class Cells:
    """A ledger of `capacity` cells.

    >>> cells = Cells(4)
    >>> first = cells.take(3, pin=True)
    >>> cells.hold(first[:2], pin=False)
    >>> cells.drop(first, pinned=True)
    >>> cells.used, cells.pinned
    (2, 0)
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self.pinned = 0
        self._free = list(range(capacity - 1, -1, -1))
        self._holders = np.zeros(capacity, dtype=np.int32)
        self._pins = np.zeros(capacity, dtype=np.int32)

    def take(self, count: int, *, pin: bool) -> list[int]:
        """`count` free cells, held once. The caller has made sure that they exist."""
        if count > len(self._free):
            raise AssertionError(f"{count} cells wanted, {len(self._free)} free")
        if count == 1:  # the common case, once for each running sequence and step
            cell = self._free.pop()
            self._holders[cell] = 1
            self._pins[cell] = pin
            taken = [cell]
        else:
            taken = self._free[len(self._free) - count :]
            del self._free[len(self._free) - count :]
            self._holders[taken] = 1
            self._pins[taken] = pin
        self.used += count
        self.pinned += count * pin
        return taken

    def hold(self, cells: list[int], *, pin: bool) -> None:
        """One more holder for cells that are in use."""
        self._holders[cells] += 1
        if pin:
            self.pin(cells)

    def drop(self, cells: list[int], *, pinned: bool) -> None:
        """One holder less; cells without holders become free."""
        if pinned:
            self.unpin(cells)
        held = np.asarray(cells, dtype=np.intp)
        self._holders[held] -= 1
        freed = held[self._holders[held] == 0].tolist()
        self._free.extend(freed)
        self.used -= len(freed)

    def pin(self, cells: list[int]) -> None:
        """Mark cells as held by one more running sequence."""
        self.pinned += self.unpinned(cells)
        self._pins[cells] += 1

    def unpin(self, cells: list[int]) -> None:
        """The opposite of `pin`."""
        held = np.asarray(cells, dtype=np.intp)
        self._pins[held] -= 1
        self.pinned -= int((self._pins[held] == 0).sum())

    def unpinned(self, cells: list[int]) -> int:
        """How many of these cells no running sequence holds."""
        return int((self._pins[np.asarray(cells, dtype=np.intp)] == 0).sum())
