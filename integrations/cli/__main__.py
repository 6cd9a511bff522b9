"""`python -m hanpaca.integrations.cli`: the command where a launcher of several processes wants a module."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
