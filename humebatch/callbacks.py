"""Receiving callbacks: read the body, check the signature, tell a watcher. For any web framework: bytes and headers in.

    @app.post("/callback")
    async def callback(request: Request) -> None:
        body = await request.body()
        callbacks.verify(request.headers, body, secret=SECRET)   # CallbackRejected: answer 401
        done = callbacks.parse(body)                             # done.job_id, done.predictions

Servers of `humebatch serve` sign their callbacks when they have a secret (the Standard Webhooks convention,
https://www.standardwebhooks.com). The hosted service signed nothing: without a signature anybody who knows the
address can send anything, so nothing but the job's id should be used, as `feed` does.

A callback may come more than once, and before the answer to the submission is read. A server of ours sends one
per job, with the same `webhook-id` each time.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from ._wire.codec import decode, is_job_id
from ._wire.signature import ID_HEADER, SECRET_PREFIX, SIGNATURE_HEADER, TIMESTAMP_HEADER, key_from, signed_by
from .config import Secret
from .errors import CallbackRejected, ConfigError, DecodeError
from .predictions import SourceResult

__all__ = ["Callback", "Hinted", "feed", "new_secret", "parse", "verify"]


class Callback(msgspec.Struct):
    """What a server says when a job has ended.

    `status`: `COMPLETED` or `FAILED`, as a plain string like `State.status`. `predictions`: the same as
    `Job.predictions()`, empty for a failed job. `message`: why it failed; the API reference promises "the error
    message on failure" without naming the field, our server calls it `message`.
    """

    job_id: str
    status: str
    predictions: list[SourceResult] = []
    message: str | None = None


class Hinted(Protocol):
    """What `feed` needs of a watcher."""

    def hint(self, job_id: str, /) -> object:
        """This job may have ended: ask the server. Unknown ids are ignored."""
        ...


class _Received(msgspec.Struct):
    job_id: str
    status: str
    # "or the error message on failure", says the reference: in the place of the array, or elsewhere.
    predictions: list[SourceResult] | str | None = None
    message: str | None = None


class _JobOnly(msgspec.Struct):
    job_id: str


_decoder = msgspec.json.Decoder(_Received)
_job_only = msgspec.json.Decoder(_JobOnly)


def parse(body: bytes) -> Callback:
    """The body of a callback as a value. Raises `DecodeError`.

    Reading proves nothing about who sent it: `verify` first, or use the job's id only.
    """
    found = decode(_decoder, body, "callback")
    message, predictions = found.message, found.predictions
    if isinstance(predictions, str):
        message, predictions = message or predictions, []
    return Callback(job_id=_checked(found.job_id), status=found.status, predictions=predictions or [], message=message)


def verify(
    headers: Mapping[str, str],
    body: bytes,
    *,
    secret: str | Secret | Sequence[str | Secret],
    tolerance: float = 300.0,
    now: float | None = None,
) -> None:
    """Return if `body`, exactly as received, was signed with `secret`; raise `CallbackRejected` if not.

    `secret`: the server's `--callback-secret`, or several while one takes the place of another. `headers`: names
    in any case. `tolerance`: seconds that the signature may be older, or newer, than `now` (Unix time; default
    this machine's clock), so that a callback that somebody recorded is of no use for long.
    Raises `ConfigError` for a secret that is none. Takes the same time whatever part of a signature is wrong.
    """
    keys = _keys(secret)
    given = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, timestamp, signatures = (given[name] for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER))
    except KeyError as missing:
        raise CallbackRejected(f"callback: not signed: the header {missing.args[0]} is missing") from None
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 15):
        raise CallbackRejected(f"callback: the header {TIMESTAMP_HEADER} is not a Unix time in seconds")
    # The signature first: what it does not cover is not worth a word about its age.
    if not signed_by(keys, message_id=message_id, timestamp=timestamp, signatures=signatures, body=body):
        raise CallbackRejected(
            "callback: the signature is wrong: another secret, or a body that was changed on its way"
        )
    age = (time.time() if now is None else now) - int(timestamp)
    if not abs(age) <= tolerance:
        when = f"{age:.0f} s ago" if age > 0 else f"{-age:.0f} s ahead of this machine's clock"
        raise CallbackRejected(f"callback: signed {when}; at most {tolerance:g} s are accepted")


def feed(
    watcher: Hinted,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    *,
    secret: str | Secret | Sequence[str | Secret] | None = None,
    tolerance: float = 300.0,
    now: float | None = None,
) -> str:
    """Tell a watcher (`client.watch`) that a job may have ended; returns the job's id.

    Nothing else of the body is read, so a forged or repeated callback costs at most one GET. With `secret` it is
    verified before that, and `headers` are needed: `CallbackRejected` if it is not genuine. Raises `DecodeError` if
    there is no job's id in it.
    """
    if secret is not None:
        verify(headers or {}, body, secret=secret, tolerance=tolerance, now=now)
    job_id = _checked(decode(_job_only, body, "callback").job_id)
    watcher.hint(job_id)
    return job_id


def new_secret() -> str:
    """A new random secret for `humebatch serve --callback-secret` and `verify`."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def _keys(secret: str | Secret | Sequence[str | Secret]) -> list[bytes]:
    several = [secret] if isinstance(secret, (str, Secret)) else secret
    keys = [key_from(one.reveal() if isinstance(one, Secret) else one) for one in several]
    if not keys:
        raise ConfigError("callback secret: none given", field="callback_secret")
    return keys


def _checked(job_id: str) -> str:
    # It becomes a part of a path.
    if not is_job_id(job_id):
        raise DecodeError(f"callback: not a job id: {job_id!r}", path="$.job_id", near=job_id[:80])
    return job_id
