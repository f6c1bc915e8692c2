"""The command line: one module per group of commands. stdout is data, stderr is talk and progress.

Exit codes: 0 all done · 1 some items failed · 2 usage, or refused before any request · 3 a decision
is needed · 4 the API key · 75 temporary, run it again · 130 interrupted.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """Entry point of `humebatch`; returns the exit code."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(  # noqa: T201 - rich may be what is missing
            "humebatch: the command line needs its extra: pip install 'humebatch[cli]'", file=sys.stderr
        )
        return 2
    from .output import guarded

    return guarded(app)
