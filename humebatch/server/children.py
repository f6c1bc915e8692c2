"""Child processes for what is hostile or heavy: they die with the server, by their time limit, or when cancelled.

`Children` are the measuring processes: they keep their models loaded and take one file after the other. `in_child`
calls a function in a process of a pool, for other work.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

import anyio
import anyio.to_process
import msgspec
from anyio.abc import ByteSendStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from .._wire.codec import encode
from ..config import API_KEY_VARIABLE
from .measure import Unmeasurable
from .measure.card import Catalogue, catalogue
from .measure.device import DEVICE_VARIABLE, THREADS_VARIABLE
from .measure.running import Describe, Described, Ended, Measure, Told
from .measure.selection import Selection
from .processes import guard_child

__all__ = ["ChildFailed", "Children", "in_child", "list_models"]

T = TypeVar("T")

_LONGEST_LINE: Final = 4 * 1024 * 1024
_IDLE_SECONDS: Final = 300.0
_DESCRIBE_SECONDS: Final = 120.0
_SECRETS: Final = (API_KEY_VARIABLE, "HUMEBATCH_CALLBACK_SECRET")

_told: Final = msgspec.json.Decoder(Told)


class ChildFailed(Exception):
    """A measuring process died, or did nothing for too long and was stopped. The text says which, without a name."""


class _DiedIdle(ChildFailed):
    """A process that had measured before was gone before it said anything about this file."""


class _Child:
    """A measuring process that runs, and its two pipes."""

    def __init__(self, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a process was started without the pipes that it was asked for")
        self.process = process
        self.stdin: ByteSendStream = process.stdin
        self.lines = BufferedByteReceiveStream(process.stdout)
        self.used = False
        self.retire: asyncio.TimerHandle | None = None


class Children:
    """At most `limit` measuring processes, started when they are needed and kept for the next file.

    `stall_seconds`: a process that says nothing for so long is stopped. Models and data are in the processes' memory,
    so one that has had nothing to do for five minutes ends. `device`: `auto`, `cpu` or `cuda`.
    """

    def __init__(self, limit: int, *, stall_seconds: float, device: str = "auto") -> None:
        self._limiter = anyio.CapacityLimiter(limit)
        self._stall_seconds = stall_seconds
        self._idle: list[_Child] = []
        # Processes times threads is the number of cores, so that none waits for another's.
        threads = max(1, (os.cpu_count() or 1) // max(1, limit))
        numeric = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        self._environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        self._environment |= numeric | {THREADS_VARIABLE: str(threads), DEVICE_VARIABLE: device}
        # Threads of the models' libraries would otherwise keep freed memory to themselves, each in an arena of its own.
        self._environment.setdefault("MALLOC_ARENA_MAX", "2")
        self._environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)

    async def measure(self, request: Measure, told: Callable[[Told], None]) -> None:
        """Measure a file; `told` is called with every step, `Ended` last.

        Raises `ChildFailed` when the process dies or stalls: what it had told before holds.
        """
        await self._ask(request, self._stall_seconds, told)

    async def describe(self, selection: Selection) -> Described:
        """The cards of all models. Raises `ChildFailed`."""
        steps: list[Told] = []
        await self._ask(Describe(selection=selection), _DESCRIBE_SECONDS, steps.append)
        return next((step for step in steps if isinstance(step, Described)), Described([], {}))

    async def aclose(self) -> None:
        """End the processes that wait for work."""
        while self._idle:
            await _end(self._idle.pop())

    async def _ask(self, request: Measure | Describe, seconds: float, told: Callable[[Told], None]) -> None:
        async with self._limiter:
            try:
                async with self._child(self._take_idle()) as child:
                    await _converse(child, request, seconds, told)
            except _DiedIdle:
                # It died while it waited for work: this file has nothing to do with that.
                async with self._child(None) as child:
                    await _converse(child, request, seconds, told)

    @asynccontextmanager
    async def _child(self, idle: _Child | None) -> AsyncIterator[_Child]:
        child = idle or await self._start()
        try:
            yield child
        except BaseException:
            # Also when it is cancelled: a process in the middle of a file is of no use for the next one.
            await _end(child)
            raise
        child.used = True
        self._idle.append(child)
        child.retire = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._retire, child)

    def _take_idle(self) -> _Child | None:
        while self._idle:
            child = self._idle.pop()
            if child.retire is not None:
                child.retire.cancel()
            if child.process.returncode is None:
                return child
        return None

    def _retire(self, child: _Child) -> None:
        if child in self._idle:
            self._idle.remove(child)
            with suppress(ProcessLookupError):
                child.process.kill()

    async def _start(self) -> _Child:
        process = await anyio.open_process(
            [sys.executable, "-c", f"from humebatch.server.measure.running import main; main({os.getpid()})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            env=self._environment,
        )
        return _Child(process)


async def _converse(child: _Child, request: Measure | Describe, seconds: float, told: Callable[[Told], None]) -> None:
    heard = False
    try:
        await child.stdin.send(encode(request) + b"\n")
        while True:
            with anyio.fail_after(seconds):
                step = _told.decode(await child.lines.receive_until(b"\n", _LONGEST_LINE))
            heard = True
            told(step)
            if isinstance(step, Ended):
                return
    except TimeoutError:
        raise ChildFailed(f"it made no progress for {seconds:g} s and was stopped") from None
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead):
        kind = _DiedIdle if child.used and not heard else ChildFailed
        raise kind("the worker crashed; the file may be damaged") from None
    except (anyio.DelimiterNotFound, msgspec.DecodeError, UnicodeDecodeError):
        raise ChildFailed("what the worker said of its progress cannot be read, and it was stopped") from None


async def _end(child: _Child) -> None:
    if child.retire is not None:
        child.retire.cancel()
    with suppress(ProcessLookupError):
        child.process.kill()
    with anyio.CancelScope(shield=True):
        await child.process.aclose()


async def list_models(selection: Selection, *, device: str = "auto") -> Catalogue:
    """What measures each model, told by a process of its own: those that measure may be busy for hours.

    Raises `ChildFailed`.
    """
    children = Children(1, stall_seconds=_DESCRIBE_SECONDS, device=device)
    try:
        described = await children.describe(selection)
    finally:
        await children.aclose()
    return catalogue(described.cards, described.missing, measure=str(selection), unmeasured=selection.unmeasured)


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
