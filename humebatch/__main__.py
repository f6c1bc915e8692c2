"""`python -m humebatch`: the command line."""

from __future__ import annotations

import sys

# Measuring processes import the main module again under another name; they must not start over.
if __name__ == "__main__":
    try:
        from humebatch.cli import main
    except KeyboardInterrupt:
        print("humebatch: interrupted", file=sys.stderr)  # noqa: T201 - there is nothing else yet
        sys.exit(130)
    sys.exit(main())
