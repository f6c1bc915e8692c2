"""`submit_many`: pull submissions from an iterable, keep a bounded number in flight, yield an outcome per item.

An item is asked for only when a place is free for it, so ten million paths cost what ten cost. Leaving the block
early cancels what is in flight and closes everything; what was accepted by then exists on the server.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from typing import TYPE_CHECKING

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..errors import AuthError, ConfigError, HumebatchError
from ..jobs import Submission
from .outcome import Outcome

if TYPE_CHECKING:
    from .batch import BatchClient, Job

__all__ = ["Submissions", "submit_many"]

Submissions = Iterable[Submission] | AsyncIterable[Submission]


@contextlib.asynccontextmanager
async def submit_many(
    client: BatchClient, submissions: Submissions, *, at_once: int
) -> AsyncIterator[AsyncIterator[Outcome[Submission, Job]]]:
    """See `BatchClient.submit_many`."""
    # No buffer: an outcome that nobody takes holds back the next submission.
    send, receive = anyio.create_memory_object_stream[Outcome[Submission, "Job"]](0)
    fatal: list[Exception] = []
    raised: BaseException | None = None
    with receive:
        async with anyio.create_task_group() as group:
            group.start_soon(_feed, client, submissions, at_once, send, fatal)
            try:
                yield _outcomes(receive, fatal)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 - raised again below: a task group would wrap it
                raised = error
            group.cancel_scope.cancel()
    if raised is not None:
        raise raised


async def _outcomes(
    receive: MemoryObjectReceiveStream[Outcome[Submission, Job]], fatal: list[Exception]
) -> AsyncIterator[Outcome[Submission, Job]]:
    async for outcome in receive:
        yield outcome
    if fatal:
        raise fatal[0]


async def _feed(
    client: BatchClient,
    submissions: Submissions,
    at_once: int,
    send: MemoryObjectSendStream[Outcome[Submission, Job]],
    fatal: list[Exception],
) -> None:
    places = anyio.Semaphore(at_once)
    async with send, anyio.create_task_group() as group:

        async def one(submission: Submission) -> None:
            try:
                outcome = Outcome(item=submission, value=await client.submit(submission))
            except (AuthError, ConfigError) as error:
                # A wrong key or option is wrong for every item: the run ends, and says so once.
                if not fatal:
                    fatal.append(error)
                    group.cancel_scope.cancel()
                return
            except HumebatchError as error:
                outcome = Outcome(item=submission, error=error)
            # The place is kept until the outcome is taken: a slow reader slows the sending, not the memory.
            await send.send(outcome)
            places.release()

        items = _each(submissions)
        async with contextlib.aclosing(items):
            while True:
                await places.acquire()
                try:
                    submission = await anext(items)
                except StopAsyncIteration:
                    break
                except Exception as error:  # noqa: BLE001 - whatever the caller's iterable raises is the caller's
                    fatal.append(error)
                    group.cancel_scope.cancel()
                    break
                group.start_soon(one, submission)


async def _each(submissions: Submissions) -> AsyncGenerator[Submission]:
    if isinstance(submissions, AsyncIterable):
        async for submission in submissions:
            yield submission
    else:
        for submission in submissions:
            yield submission
