"""SIGINT, SIGTERM and SIGHUP end a command in good order: what it started is stopped, what it left lying is removed.

Imports nothing heavy: it must be in place while the rest of the command line is still being imported.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

__all__ = ["Interrupted", "in_thread", "interruptible", "run", "stopping"]

T = TypeVar("T")

# What the first signal calls instead of cancelling the command.
_orderly: list[Callable[[], None]] = []

_SIGNALS = tuple(
    signal.Signals(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Interrupted(BaseException):  # not a KeyboardInterrupt, which click would turn into "Aborted!" and exit code 1
    """A signal told the command to end. `code`: what it ends with, 128 + the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


def _interrupted(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within the block the signals raise `Interrupted`. One that is ignored stays ignored (nohup, background jobs)."""
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # only there may handlers be set
        before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in ours:
        signal.signal(number, _interrupted)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextlib.contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Within the block the first signal calls `stop`, and the command ends itself; the second is immediate."""
    _orderly.append(stop)
    try:
        yield
    finally:
        _orderly.remove(stop)


def run(function: Callable[[], Coroutine[Any, Any, int | None]]) -> int:
    """`asyncio.run`, in which the first signal cancels the coroutine, so that it can clean up, and the second insists.

    Raises `Interrupted` when that ended it.
    """
    import asyncio

    ours = [number for number in _SIGNALS if signal.getsignal(number) is _interrupted]
    received: list[int] = []

    async def main() -> int:
        task = asyncio.current_task()
        assert task is not None

        def stop(number: int) -> None:
            received.append(number)
            if len(received) > 1:
                raise KeyboardInterrupt  # the one exception, with SystemExit, that a callback may end a loop with
            if _orderly:
                _orderly[-1]()
            else:
                task.cancel()

        for number in ours:
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        return await function() or 0

    try:
        code = asyncio.run(main())
        if received:
            raise Interrupted(received[0])
        return code
    except BaseException:
        if received:  # whatever it was, it is how the command broke off
            raise Interrupted(received[0]) from None
        raise
    finally:
        for number in ours:  # the loop put back Python's own
            signal.signal(number, _interrupted)


class _Stopped(Exception):
    pass


async def in_thread(work: Callable[[Callable[[], None]], T]) -> T:
    """Run `work(check)` in a thread. `check()` raises there when the command is being ended, to be called often.

    A signal ends the waiting, not the thread; the process ends when the thread has removed what it began.
    """
    import anyio.to_thread

    stopped = threading.Event()

    def check() -> None:
        if stopped.is_set():
            raise _Stopped

    try:
        return await anyio.to_thread.run_sync(work, check)
    finally:
        stopped.set()
