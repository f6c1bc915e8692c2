"""A process that makes ingests to be killed: `crashes` starts it with the crash points of `crash_points.c` preloaded.

It has loaded everything once, and forks for each command, a line of JSON on stdin; what became of it is a line on
stdout.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

import aiohttp  # noqa: F401 - so that no fork has to
import anyio
import msgspec

import humebatch as hb
from humebatch._client.ingest import run  # noqa: F401 - the same

__all__ = ["FILES_PER_JOB", "Command", "Ended", "Ran"]

FILES_PER_JOB = 3
# A fork that hangs ends after so many seconds.
_PATIENCE = 60
# Clients wait so many times shorter: the server's jobs take milliseconds.
_SPEED = 100.0


class Command(msgspec.Struct, kw_only=True):
    """An ingest of `folder`/in to `folder`/out with the journal `folder`/run.db.

    `crash`: the crash point to die at, 0: at none, but tell of all; None: without any. `power`: the power fails there.
    `kill_after`: seconds until it is killed, None: never. `runs`: so many in one process, one after the other.
    """

    folder: str
    base_url: str
    crash: int | None = None
    power: bool = False
    kill_after: float | None = None
    runs: int = 1


class Ran(msgspec.Struct):
    """A run that ended by itself: state by input, bytes of submissions, and the error that ended it."""

    outcomes: list[tuple[str, str]]
    sent: int
    error: str = ""


class Ended(msgspec.Struct):
    """`signal`: that ended it, or 0. `points`: those that were told, the last one is where it died."""

    signal: int
    points: list[str]
    runs: list[Ran]
    seconds: float


class _Hurried:
    """The machine's clock, but faster."""

    def now(self) -> float:
        return time.monotonic() * _SPEED

    async def sleep(self, seconds: float, /) -> None:
        await anyio.sleep(seconds / _SPEED)


async def _ingest(command: Command) -> Ran:
    folder = Path(command.folder)
    outcomes: list[tuple[str, str]] = []
    async with hb.BatchClient(base_url=command.base_url, api_key="test-key", clock=_Hurried()) as client:
        try:
            async with client.ingest(
                [folder / "in"],
                journal=folder / "run.db",
                out=folder / "out",
                files_per_job=FILES_PER_JOB,
                policy=hb.IngestPolicy(grace=0.0),
            ) as ingest:
                async for outcome in ingest:
                    ended = outcome.error
                    assert ended is None or isinstance(ended, hb.InputFailed)
                    outcomes.append((outcome.item, "DONE" if ended is None else f"{ended.state}({ended.reason})"))
        except hb.HumebatchError as error:
            return Ran(outcomes, client.stats.bytes_sent, f"{type(error).__name__}: {error}")
        return Ran(outcomes, client.stats.bytes_sent)


def _crash_at(point: int, pipe: int, power: str) -> None:
    ctypes.CDLL(None).crash_at(ctypes.c_long(point), pipe, os.fsencode(power))


def _child(command: Command, pipe: int) -> None:
    signal.alarm(_PATIENCE)
    if command.crash is not None:
        _crash_at(command.crash, pipe, command.folder if command.power else "")
    for _ in range(command.runs):
        ran = asyncio.run(_ingest(command))
        if command.crash is not None:
            _crash_at(-1, pipe, "")
        os.write(pipe, msgspec.json.encode(ran) + b"\n")


def _played(command: Command) -> Ended:
    began = time.monotonic()
    theirs, ours = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        try:
            _child(command, ours)
        except BaseException as error:  # noqa: BLE001 - a fork must not come back from here
            sys.excepthook(type(error), error, error.__traceback__)
            os._exit(1)
        os._exit(0)
    os.close(ours)
    said = b""
    while True:
        left = None if command.kill_after is None else command.kill_after - (time.monotonic() - began)
        if left is not None and not select.select([theirs], [], [], max(0.0, left))[0]:
            os.kill(child, signal.SIGKILL)
            command.kill_after = None
        if not (data := os.read(theirs, 65536)):
            break
        said += data
    os.close(theirs)
    _, status = os.waitpid(child, 0)
    lines = said.decode(errors="surrogateescape").splitlines()
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("a run failed in a way that it must not: see above")
    return Ended(
        signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        points=[line for line in lines if not line.startswith("{")],
        runs=[msgspec.json.decode(line, type=Ran) for line in lines if line.startswith("{")],
        seconds=time.monotonic() - began,
    )


def _main() -> None:
    for line in sys.stdin.buffer:
        ended = _played(msgspec.json.decode(line, type=Command))
        sys.stdout.buffer.write(msgspec.json.encode(ended) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
