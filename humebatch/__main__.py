"""`python -m humebatch`: the command line."""

from __future__ import annotations

import sys

# Measuring processes import the main module again under another name; they must not start over.
if __name__ == "__main__":
    from humebatch.cli import main

    sys.exit(main())
