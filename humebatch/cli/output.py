"""What all commands share: the console for talk, data on stdout, errors as one line and an exit code."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
import typer
from rich.console import Console

from .. import errors
from . import interrupt

__all__ = ["command", "counted", "emit", "exit_code", "guarded", "plain", "printable", "say", "talk", "worst"]

# emoji: names are shown as they are, ":smile:.txt" too.
talk = Console(stderr=True, highlight=False, emoji=False)
"""Progress, tables for people and error messages go here."""

_TEMPORARY = (
    errors.TransportError,
    errors.RateLimited,
    errors.ServerError,
    errors.StorageFull,
    errors.WaitTimeout,
    errors.DiskError,
)


def say(sentence: str) -> None:
    """A sentence for people, as it stands: no markup in it, and never broken at the 80 columns of no terminal."""
    talk.print("\n".join(map(plain, printable(sentence).split("\n"))), markup=False, soft_wrap=True)


def counted(count: int, thing: str) -> str:
    """A number and what it counts: 1 file, 2,000 files."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def plain(text: str) -> str:
    """Text that cannot break a line or write to a terminal: names are whatever somebody called a file."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def printable(text: str | os.PathLike[str]) -> str:
    """Text as valid Unicode: a file name may hold bytes that are none, which JSON and terminals refuse."""
    return os.fspath(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


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
        raise typer.Exit(interrupt.run(lambda: function(*args, **kwargs)))

    return run


class _Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(f"humebatch: {record.getMessage()}")


def _show_retries() -> None:
    # A client that waits and tries again logs that and nothing else at this level; without it a command is
    # silent for as long as its server is away.
    log = logging.getLogger("humebatch.transport")
    log.handlers, log.propagate = [_Said()], False
    log.setLevel(logging.INFO)


def guarded(app: typer.Typer) -> int:
    """Run the application; every error of ours is one line on stderr and an exit code, never a traceback."""
    _show_retries()
    try:
        app()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except Exception as caught:
        known = [error for error in _leaves(caught) if isinstance(error, (errors.HumebatchError, OSError))]
        if not known:
            raise
        error = known[0]
        if isinstance(error, BrokenPipeError):
            # The reader of our stdout went away; Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            say(f"humebatch: {error}")
        return exit_code(error)
    return 0


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """What a task group wrapped, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
