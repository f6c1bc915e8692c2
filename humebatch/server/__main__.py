"""`python -m humebatch.server`."""

from __future__ import annotations

import sys

# Measuring processes load this file again, by its path and under another name: they must not serve,
# and an import relative to the package would fail there.
if __name__ == "__main__":
    from humebatch.server.serving import main

    sys.exit(main(sys.argv[1:]))
