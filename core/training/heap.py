"""Memory that a step frees stays for the next one.

glibc maps every block above 32 MiB by itself and gives it back when it is freed: a step's logits and gradients are new
pages every time, and each of their pages costs a fault, on virtual machines half of all time.
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of mallopt(3): no block is mapped by itself, and the heap is never cut."""


def keep_freed_memory() -> bool:
    """From now on, in this process; whether its C library can. The process holds what its largest step needed."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, -1))
