"""A process of its own that syncs a library, for tests that kill it. Arguments: library, documents, delay[, search]."""

import ctypes
import json
import sys

from test_library_durability import HashedEmbedder

from hanpaca.core.errors import HanpacaError
from hanpaca.rag import Library


def obey_permissions() -> None:
    """Give up root's right to write where nobody may."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, held) == 0
    held[0] &= ~0b1110
    held[1] &= ~0b1110
    assert libc.capset(header, held) == 0


def main() -> int:
    folder, documents, delay, *then = sys.argv[1:]
    if then:
        obey_permissions()
    with Library.open(folder, HashedEmbedder(float(delay))) as library:
        print("start", flush=True)
        said = ""
        try:
            library.sync([documents])
        except HanpacaError as error:
            said = str(error)
        if not then:
            print(said)
            return 3 if said else 0
        print(json.dumps({"found": len(library.search("山水风云", k=5)), "sync": said}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
