"""The command line: one module per group of commands. stdout is data, stderr is talk and progress.

Exit codes: 0 all done · 1 some items failed · 2 usage, or refused before any request · 3 a decision
is needed · 4 the API key · 75 temporary, run it again · 130 interrupted (143 by SIGTERM, 129 by SIGHUP).
"""

from __future__ import annotations

import sys

from .interrupt import Interrupted, interruptible

__all__ = ["main"]


def main() -> int:
    """Entry point of `humebatch`; returns the exit code."""
    try:
        with interruptible():
            return _main()
    except (Interrupted, KeyboardInterrupt) as error:
        print("humebatch: interrupted", file=sys.stderr)  # noqa: T201 - rich may not be there yet
        return error.code if isinstance(error, Interrupted) else 130


def _main() -> int:
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
