"""`submit_many`: pull submissions from an iterable, keep a bounded number in flight, yield an outcome per item.

An item is asked for only when a place is free for it, so ten million paths cost what ten cost. What ends the run
ends the pulling: what is in flight by then is sent to its end and told, because it may be a job. Leaving the block
early cancels what is in flight and closes everything; what was accepted by then exists on the server.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from typing import TYPE_CHECKING

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..errors import AuthError, ConfigError, HumebatchError, SourceError
from ..jobs import Submission
from .outcome import Outcome

if TYPE_CHECKING:
    from .batch import BatchClient, Job

__all__ = ["Submissions", "Submitted", "submit_many"]

Submissions = Iterable[Submission] | AsyncIterable[Submission]


class Submitted:
    """The outcomes of a run in order of completion, as `async for` takes them."""

    def __init__(self, run: _Run, receive: MemoryObjectReceiveStream[Outcome[Submission, Job]]) -> None:
        self._run = run
        self._receive = receive

    def __aiter__(self) -> AsyncIterator[Outcome[Submission, Job]]:
        return self

    async def __anext__(self) -> Outcome[Submission, Job]:
        try:
            return await self._receive.receive()
        except anyio.EndOfStream:
            pass
        except anyio.ClosedResourceError:
            raise ConfigError("this run is over: iterate inside its `async with` block") from None
        # Outside of the `except`, so that the caller's own exception keeps its own cause.
        if self._run.failure is not None:
            raise self._run.failure
        raise StopAsyncIteration


@contextlib.asynccontextmanager
async def submit_many(client: BatchClient, submissions: Submissions, *, at_once: int) -> AsyncIterator[Submitted]:
    """See `BatchClient.submit_many`."""
    items = aiter(submissions) if isinstance(submissions, AsyncIterable) else iter(submissions)
    # No buffer: an outcome that nobody takes holds back the next submission.
    send, receive = anyio.create_memory_object_stream[Outcome[Submission, "Job"]](0)
    run = _Run(client, send, at_once)
    raised: BaseException | None = None
    with receive:
        async with anyio.create_task_group() as group:
            group.start_soon(run.feed, items)
            try:
                yield Submitted(run, receive)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 - raised again below: a task group would wrap it
                raised = error
            group.cancel_scope.cancel()
    if raised is None:
        raised = run.unclosed
    if raised is not None:
        raise raised


class _Run:
    """What is in flight, and what ended the run: `failure`, for whoever iterates. `unclosed`: by its own end."""

    def __init__(
        self, client: BatchClient, send: MemoryObjectSendStream[Outcome[Submission, Job]], at_once: int
    ) -> None:
        self.failure: Exception | None = None
        self.unclosed: Exception | None = None
        self._client = client
        self._send = send
        self._places = anyio.Semaphore(at_once)
        self._pulling = anyio.CancelScope()

    async def feed(self, items: Iterator[Submission] | AsyncIterator[Submission]) -> None:
        """Submit what `items` yields until it ends, or something ends the run."""
        async with self._send, anyio.create_task_group() as group:
            try:
                with self._pulling:
                    async with contextlib.aclosing(_each(items)) as each:
                        while True:
                            await self._places.acquire()
                            group.start_soon(self._one, await anext(each))
            except StopAsyncIteration:
                pass
            except Exception as error:  # noqa: BLE001 - whatever the caller's iterable raises is the caller's
                self._stop(error)
            finally:
                # In the task that it ran in: a generator may have a timeout or a task group of its own open.
                await self._close(items)

    async def _one(self, submission: Submission) -> None:
        try:
            outcome = Outcome(item=submission, value=await self._client.submit(submission))
        except (AuthError, ConfigError) as error:
            # A wrong key or option is wrong for every item: the run ends, and says so once.
            self._stop(error)
            return
        except HumebatchError as error:
            outcome = Outcome(item=submission, error=error)
        except Exception as error:  # noqa: BLE001 - a stream of the caller's raises what it wants
            outcome = Outcome(item=submission, error=_broken(submission, error))
        # The place is kept until the outcome is taken: a slow reader slows the sending, not the memory.
        await self._send.send(outcome)
        self._places.release()

    async def _close(self, items: Iterator[Submission] | AsyncIterator[Submission]) -> None:
        """End a generator that has more to give, so that what it holds open is closed now."""
        try:
            if isinstance(items, Generator):
                items.close()
            elif isinstance(items, AsyncGenerator):
                # Shielded, or its `finally` could await nothing when the block was left.
                with anyio.CancelScope(shield=True):
                    await items.aclose()
        except Exception as error:  # noqa: BLE001 - the caller's again
            self.unclosed = error
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        self.failure = self.failure or error
        self._pulling.cancel()


def _broken(submission: Submission, error: Exception) -> SourceError:
    """What a source of the caller's raised, as the outcome of its item."""
    given = [file for file in submission.files if not isinstance(file, (str, os.PathLike))]
    names = ", ".join(str(getattr(file, "name", file)) for file in given)
    failed = SourceError(f"{names or 'files'}: {type(error).__name__}: {error}", path=names)
    failed.__cause__ = error
    return failed


async def _each(items: Iterator[Submission] | AsyncIterator[Submission]) -> AsyncGenerator[Submission]:
    if isinstance(items, AsyncIterator):
        async for submission in items:
            yield submission
    else:
        for submission in items:
            yield submission
