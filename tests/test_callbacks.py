"""The receiver's side: reading, verifying, and what a forged or repeated callback can do."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

import humebatch as hb
from humebatch import callbacks
from humebatch._wire.signature import Signer, key_from
from humebatch.config import Secret
from humebatch.testing import running_server

JOB = "11111111-2222-4333-8444-555555555555"
SECRET = callbacks.new_secret()
NOW = 1_735_689_600.0
RESULT: dict[str, Any] = {
    "source": {"type": "text"},
    "results": {
        "predictions": [
            {
                "file": "1",
                "models": {
                    "language": {
                        "metadata": None,
                        "grouped_predictions": [
                            {
                                "id": "unknown",
                                "predictions": [
                                    {
                                        "text": "Test!",
                                        "position": {"begin": 0, "end": 5},
                                        "time": None,
                                        "confidence": None,
                                        "speaker_confidence": None,
                                        "emotions": [{"name": "Joy", "score": 0.5}],
                                        "sentiment": None,
                                        "toxicity": None,
                                    }
                                ],
                            }
                        ],
                    }
                },
            }
        ],
        "errors": [],
    },
}


def body(**changes: Any) -> bytes:
    return msgspec.json.encode({"job_id": JOB, "status": "COMPLETED", "predictions": [RESULT]} | changes)


def signed(data: bytes, *, secret: str = SECRET, at: float = NOW, message_id: str = "msg_1") -> dict[str, str]:
    signer = Signer(key_from(secret), message_id=message_id, timestamp=str(int(at)))
    signer.update(data)
    return {
        "Webhook-Id": message_id,
        "Webhook-Timestamp": str(int(at)),
        "Webhook-Signature": signer.signature(),
        "Content-Type": "application/json",
    }


class Watcher:
    def __init__(self) -> None:
        self.hints: list[str] = []

    def hint(self, job_id: str) -> None:
        self.hints.append(job_id)


# ---- reading ------------------------------------------------------------------------------------


def test_completed() -> None:
    done = callbacks.parse(body())
    assert (done.job_id, done.status, done.message) == (JOB, "COMPLETED", None)
    assert done.predictions == msgspec.convert([RESULT], list[hb.predictions.SourceResult])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictions": [], "message": "why"}, "why"),  # our server
        ({"predictions": None, "message": "why"}, "why"),
        ({"predictions": "why"}, "why"),  # "predictions or the error message", taken at its word
        ({"predictions": []}, None),
        ({"predictions": [], "something": ["new"]}, None),
    ],
)
def test_failed(changes: dict[str, Any], message: str | None) -> None:
    failed = callbacks.parse(body(status="FAILED", **changes))
    assert (failed.status, failed.predictions, failed.message) == ("FAILED", [], message)


def test_a_status_of_the_future() -> None:
    assert callbacks.parse(body(status="PAUSED", predictions=None)).status == "PAUSED"


BROKEN = {
    "nothing": b"",
    "text": b"job_id=1",
    "array": b"[]",
    "cut": body()[:-10],
    "no id": b'{"status": "COMPLETED", "predictions": []}',
    "no status": b'{"job_id": "a", "predictions": []}',
    "id is a number": body(job_id=1),
    "id is a path": body(job_id="../admin"),
    "id is empty": body(job_id=""),
    "id is another URL": body(job_id="a?b=c"),
    "predictions are a number": body(predictions=1),
    "not UTF-8": body()[:-1] + b', "message": "\xff"}',
    "deep": b'{"job_id": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken_bodies(data: bytes) -> None:
    with pytest.raises(hb.DecodeError, match="callback"):
        callbacks.parse(data)


@given(data=st.binary(max_size=60) | st.recursive(st.none() | st.text(max_size=5), st.lists).map(msgspec.json.encode))
def test_any_body(data: bytes) -> None:
    with pytest.raises(hb.DecodeError):
        callbacks.parse(data)
    watcher = Watcher()
    with pytest.raises(hb.DecodeError):
        callbacks.feed(watcher, data)
    assert watcher.hints == []


# ---- verifying ----------------------------------------------------------------------------------


def test_genuine() -> None:
    data = body()
    callbacks.verify(signed(data), data, secret=SECRET, now=NOW)
    callbacks.verify(signed(data), data, secret=Secret(SECRET), now=NOW)
    callbacks.verify({name.lower(): value for name, value in signed(data).items()}, data, secret=SECRET, now=NOW)
    callbacks.verify(signed(data, at=time.time()), data, secret=SECRET)


def test_rotation() -> None:
    """Two secrets here, or two signatures there: either lets one be exchanged without a gap."""
    data, new = body(), callbacks.new_secret()
    assert new != SECRET
    for sender in (SECRET, new):
        callbacks.verify(signed(data, secret=sender), data, secret=[Secret(SECRET), new], now=NOW)
    both = signed(data)
    both["Webhook-Signature"] = f"v1a,x {signed(data, secret=new)['Webhook-Signature']} {both['Webhook-Signature']}"
    for secret in (SECRET, new):
        callbacks.verify(both, data, secret=secret, now=NOW)
    with pytest.raises(hb.CallbackRejected):
        callbacks.verify(both, data, secret=callbacks.new_secret(), now=NOW)


@pytest.mark.parametrize("name", ["Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"])
@pytest.mark.parametrize("value", [None, "", "1", "v1,", "-1", "1e9", "١٧", "9" * 400, "\udcff", "é"])
def test_headers_that_are_missing_or_strange(name: str, value: str | None) -> None:
    headers = signed(body())
    headers.pop(name)
    if value is not None:
        headers[name] = value
    with pytest.raises(hb.CallbackRejected):
        callbacks.verify(headers, body(), secret=SECRET, now=NOW)


@pytest.mark.parametrize("age", [-300, -299, 0, 1, 300])
def test_in_time(age: int) -> None:
    callbacks.verify(signed(body(), at=NOW - age), body(), secret=SECRET, now=NOW)


@pytest.mark.parametrize("age", [-(10**9), -301, 301, 10**9])
def test_replayed(age: int) -> None:
    with pytest.raises(hb.CallbackRejected, match="300 s"):
        callbacks.verify(signed(body(), at=NOW - age), body(), secret=SECRET, now=NOW)
    callbacks.verify(signed(body(), at=NOW - age), body(), secret=SECRET, now=NOW, tolerance=math.inf)


@given(data=st.binary(max_size=100), other=st.binary(max_size=100))
def test_only_the_body_that_was_signed(data: bytes, other: bytes) -> None:
    if data == other:
        callbacks.verify(signed(data), other, secret=SECRET, now=NOW)
    else:
        with pytest.raises(hb.CallbackRejected):
            callbacks.verify(signed(data), other, secret=SECRET, now=NOW)


@pytest.mark.parametrize("secret", ["", "whsec_", "my password", []])
def test_secrets_that_are_none(secret: Any) -> None:
    with pytest.raises(hb.ConfigError, match="callback secret"):
        callbacks.verify(signed(body()), body(), secret=secret, now=NOW)


def test_rejections_do_not_tell_what_would_fit() -> None:
    forged = signed(body()) | {"Webhook-Signature": "v1,AAAA"}
    with pytest.raises(hb.CallbackRejected) as rejected:
        callbacks.verify(forged, body(), secret=SECRET, now=NOW)
    assert SECRET not in repr(rejected.value.__dict__) + str(rejected.value)
    assert signed(body())["Webhook-Signature"] not in repr(rejected.value.__dict__)
    # Not to be taken for a server's refusal of our own key.
    assert not isinstance(rejected.value, hb.ApiError)


# ---- a watcher ----------------------------------------------------------------------------------


def test_hints() -> None:
    watcher = Watcher()
    assert callbacks.feed(watcher, body()) == JOB
    # Only the id is read: results in an unsigned body are anybody's.
    assert callbacks.feed(watcher, body(predictions="lies", status=1)) == JOB
    assert callbacks.feed(watcher, body(), signed(body()), secret=SECRET, now=NOW) == JOB
    assert watcher.hints == [JOB] * 3


def test_forged_hints() -> None:
    watcher = Watcher()
    for headers in (None, {}, signed(body(), secret=callbacks.new_secret()), signed(body(), at=NOW - 1000)):
        with pytest.raises(hb.CallbackRejected):
            callbacks.feed(watcher, body(), headers, secret=SECRET, now=NOW)
    for data in BROKEN.values():
        with pytest.raises(hb.CallbackRejected):
            callbacks.feed(watcher, data, {}, secret=SECRET, now=NOW)
    with pytest.raises(hb.DecodeError):
        callbacks.feed(watcher, body(job_id="../.."))
    assert watcher.hints == []


@pytest.mark.anyio
async def test_callbacks_make_polls_needless() -> None:
    """A watch that would sweep every twenty minutes ends as soon as the server has called back."""
    secret, jobs = callbacks.new_secret(), 20
    hinted: list[str] = []
    followed: set[str] = set()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(running_server(callback_secret=secret))
        client = await stack.enter_async_context(hb.BatchClient(base_url=server.base_url, api_key=server.api_key))
        finished: Any = None

        async def callback(request: web.Request) -> web.Response:
            body = await request.read()
            # A callback may be faster than the answer to its submission; a hint would come too early then.
            while callbacks.parse(body).job_id not in followed:
                await anyio.sleep(0.001)
            with pytest.raises(hb.CallbackRejected):
                callbacks.feed(finished, body + b" ", request.headers, secret=secret)
            # Repeats cost nothing.
            hinted.extend(callbacks.feed(finished, body, request.headers, secret=secret) for _ in range(3))
            assert callbacks.feed(finished, body.replace(hinted[-1].encode(), JOB.encode())) == JOB
            return web.Response()

        app = web.Application()
        app.router.add_post("/callback", callback)
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/callback?tenant=1"

        async def submissions() -> AsyncIterator[hb.Job]:
            while finished is None:
                await anyio.sleep(0.001)
            for number in range(jobs):
                text, models = [f"Text {number}."] * 50, hb.Models(language=hb.Language())
                job = await client.submit(hb.Submission(text=text, models=models, callback_url=url))
                yield job
                followed.add(job.id)

        seldom = hb.config.WatchPolicy(quickest=1200.0, slowest=1200.0)
        with anyio.fail_after(60):
            async with client.watch(submissions(), policy=seldom) as finished:
                done = [outcome.item async for outcome in finished if outcome.error is None]
    assert len(set(done)) == jobs
    assert set(hinted) <= set(done)
    # One submission and one look for each job, and very few sweeps.
    assert client.stats.requests <= 2 * jobs + 5


def test_new_secrets() -> None:
    made = {callbacks.new_secret() for _ in range(50)}
    assert len(made) == 50
    assert {len(key_from(secret)) for secret in made} == {32}
    assert all(secret.startswith("whsec_") for secret in made)
