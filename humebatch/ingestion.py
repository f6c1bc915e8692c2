"""What an ingest says of its inputs: the state that each ends in, why, and the report over all of them."""

from __future__ import annotations

import enum

import msgspec

__all__ = ["IngestReport", "Ingested", "InputState", "Reason"]


class InputState(enum.StrEnum):
    """Where an input stands at the end of a run: each in exactly one."""

    DONE = "DONE"
    FAILED = "FAILED"
    PARKED = "PARKED"


class Reason(enum.StrEnum):
    """Why an input is FAILED or PARKED."""

    MISSING = "MISSING"
    """There is no such file, or it went away before it was read."""
    UNREADABLE = "UNREADABLE"
    """It may not be read, or reading it failed."""
    NOT_A_FILE = "NOT_A_FILE"
    """A FIFO, socket or device."""
    OUTSIDE = "OUTSIDE"
    """A symbolic link that leads out of the folder that was given."""
    EMPTY = "EMPTY"
    """It has no bytes; there is nothing to measure."""
    TOO_LARGE = "TOO_LARGE"
    """The server refuses it for its size."""
    CHANGED = "CHANGED"
    """It changed again and again while it was read or sent."""
    REFUSED = "REFUSED"
    """The server refuses it."""
    JOB_FAILED = "JOB_FAILED"
    """Its job ended as FAILED."""
    GONE = "GONE"
    """The server does not know its job any more."""
    NOT_MEASURED = "NOT_MEASURED"
    """The job's answer holds an error instead of results for it, or nothing at all."""
    BAD_RESULT = "BAD_RESULT"
    """The results cannot be read to their end."""
    NOT_SAVED = "NOT_SAVED"
    """The results cannot be written where they belong."""
    UNKNOWN = "UNKNOWN"
    """PARKED: it was sent, no answer came, and whether it is a job can be neither shown nor ruled out."""
    STALLED = "STALLED"
    """PARKED: its job has not ended within the deadline; the next run goes on watching it."""


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """An input that is DONE.

    `predictions`: where they were saved. `job_id`: the job that measured it, which may be that of an identical file.
    `errors`: how many of its parts (a model on a file) the server could not measure; the saved results name them.
    """

    predictions: str
    job_id: str
    errors: int


class IngestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a run, over everything in its journal.

    `inputs`: how many there are, `done`, `failed` and `parked` add up to it when the run has ended by itself; `open`
    is the rest. `identical`: inputs that were measured as part of another one with the same bytes. `failures`:
    `STATE(REASON)` to how many. `bytes`: of all inputs that were read, identical ones counted once. `sent`: body bytes
    of this run, repeats included. `jobs`: accepted over all runs. `attempts`: submissions begun over all runs,
    `resent`: those of them that were not the first of their group. `retries`: requests that this run sent again.
    `duplicates`: ids of jobs that the server has of ours beside the one that each group owns. `audited`: whether
    the job list was looked through for them, from the first submission on since the last run that did so, and for a day
    from those on that were given up. `saved`: bytes of predictions.
    """

    inputs: int
    done: int
    failed: int
    parked: int
    open: int
    identical: int
    failures: dict[str, int]
    bytes: int
    sent: int
    jobs: int
    attempts: int
    resent: int
    retries: int
    duplicates: list[str]
    audited: bool
    saved: int
