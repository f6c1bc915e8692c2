"""What all commands share: the console for talk, data on stdout, errors as one line and an exit code."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import typer
from rich.console import Console

from .. import errors

__all__ = ["command", "emit", "exit_code", "guarded", "talk", "worst"]

talk = Console(stderr=True, highlight=False)
"""Progress, tables for people and error messages go here."""

INTERRUPTED = 130
_TEMPORARY = (
    errors.TransportError,
    errors.RateLimited,
    errors.ServerError,
    errors.StorageFull,
    errors.WaitTimeout,
)


def exit_code(error: BaseException) -> int:
    """What a command ends with when `error` stops it (see the package's docstring)."""
    if isinstance(error, errors.SubmissionUnknown):
        return 3
    if isinstance(error, errors.AuthError):
        return 4
    if isinstance(error, _TEMPORARY):
        return 75
    if isinstance(error, (errors.ConfigError, errors.SourceError)):
        return 2
    return 1


def worst(codes: list[int]) -> int:
    """One exit code for many items: a wrong key or an open decision outweighs a failure, a failure a pause."""
    for code in (4, 3, 1, 75, 2):
        if code in codes:
            return code
    return 0


def emit(value: Any) -> None:
    """One line of JSON on stdout."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def command(function: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., None]:
    """A coroutine as a typer command; what it returns is the exit code."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            code = asyncio.run(function(*args, **kwargs))
        except KeyboardInterrupt:
            talk.print("interrupted")
            code = INTERRUPTED
        raise typer.Exit(code or 0)

    return run


def guarded(app: typer.Typer) -> int:
    """Run the application; every error of ours is one line on stderr and an exit code, never a traceback."""
    try:
        app()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except errors.HumebatchError as error:
        talk.print(f"humebatch: {error}", markup=False, soft_wrap=True)
        return exit_code(error)
    except BrokenPipeError:
        # The reader of our stdout went away; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        talk.print(f"humebatch: {error}", markup=False, soft_wrap=True)
        return 1
    return 0
