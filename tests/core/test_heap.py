"""Memory of one step serves the next."""

import platform
import resource
import subprocess
import sys

import pytest

ROUNDS = """
import resource, sys
import numpy as np
from hanpaca.core.training.heap import keep_freed_memory

def step():
    blocks = [np.ones(10_000_000, np.float32) for _ in range(4)]  # 160 MB
    return len(blocks)

if sys.argv[1] == "keep":
    assert keep_freed_memory()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_blocks_that_were_freed_are_used_again() -> None:
    def faults(how: str) -> int:
        asked = [sys.executable, "-c", ROUNDS, how]
        return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)

    pages = 5 * 160_000_000 // resource.getpagesize()
    assert faults("keep") < pages / 20
    assert faults("keep") < faults("leave") / 4
