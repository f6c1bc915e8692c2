"""Child processes for what is hostile or heavy: they die with the server, by their time limit, or when cancelled.

`in_child` calls a function in a process of a pool; `guard_child` is what every child runs first. A
Ctrl-C reaches the children of a terminal too: they leave it to the server, which ends them in order.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_process

from .measure import Unmeasurable

__all__ = ["guard_child", "in_child", "limit_memory"]

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1


async def in_child(
    function: Callable[..., T], *arguments: object, what: str, limiter: anyio.CapacityLimiter, seconds: float
) -> T:
    """`function(*arguments)` in a child process. Raises `Unmeasurable` when it takes too long or its process dies.

    `what` says in these messages what it was doing. An `Exception` of the function comes back as it is.
    """
    # Waiting for a free process is not the file's fault: its time begins with the process.
    async with limiter:
        try:
            with anyio.fail_after(seconds):
                return await anyio.to_process.run_sync(
                    _guarded, os.getpid(), function, arguments, cancellable=True, limiter=anyio.CapacityLimiter(1)
                )
        except TimeoutError:
            raise Unmeasurable(f"{what} took longer than {seconds:g} s and was stopped") from None
        except (anyio.BrokenWorkerProcess, KeyboardInterrupt, SystemExit):
            # The last two when a signal found a child between its start and its guard: no business of this process.
            raise Unmeasurable(f"the process that was {what} died; is the file damaged?") from None


def _guarded(parent: int, function: Callable[..., T], arguments: tuple[object, ...]) -> T:
    guard_child(parent)
    try:
        return function(*arguments)
    except Exception:
        raise
    except BaseException as error:
        # SystemExit and their like would be raised in the server, and end it.
        raise Unmeasurable(f"it was broken off: {type(error).__name__}") from error


def guard_child(parent: int) -> None:
    """Leave SIGINT to the server (process `parent`), and end when it ends, even by SIGKILL in mid-work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before the line above; elsewhere than on Linux a child ends at its next look at its stdin.
    if os.getppid() != parent:
        os._exit(1)


def limit_memory(more: int) -> None:
    """From now on this process may grow by `more` bytes; beyond, allocations raise MemoryError."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    try:
        with open("/proc/self/statm", "rb") as file:
            present = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        present = 0
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = present + more
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
