"""What comes back for a job: results that are cut, are none, or are hostile. Only a whole answer becomes a file."""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import humebatch as hb
from humebatch.testing import Answer

from .scene import Handler, Scene, scene

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

PAGE = b"<html><body>Welcome to our Wi-Fi</body></html>"
NO_RESULTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "BAD_RESULT"),
    "a page": (PAGE, "BAD_RESULT"),
    "null": (b"null", "BAD_RESULT"),
    "an object": (b"{}", "BAD_RESULT"),
    "a string": (b'"[]"', "BAD_RESULT"),
    "half": (b'[{"source":{"type":"file","filename":"0', "BAD_RESULT"),
    "no sources": (b"[]", "NOT_MEASURED"),
    "null for a source": (b"[null]", "BAD_RESULT"),
    "a number for a source": (b"[1]", "BAD_RESULT"),
    "no Unicode": (b'[{"source":{"type":"file","filename":"\xff\xfe"}}]', "BAD_RESULT"),
    "UTF-16": ("[]".encode("utf-16"), "BAD_RESULT"),
    "a mark in front": (b"\xef\xbb\xbf[]", "BAD_RESULT"),
    "NaN": (b"[NaN]", "BAD_RESULT"),
    "Infinity": (b'[{"source":Infinity}]', "BAD_RESULT"),
    "a number without bounds": (b"[" + b"9" * 5000 + b"]", "BAD_RESULT"),
    "deep": (b"[" * 100_000, "BAD_RESULT"),
    "deep and whole": (b"[" * 50_000 + b"]" * 50_000, "BAD_RESULT"),
    "more after it": (b"[][]", "BAD_RESULT"),
    "zeros": (bytes(100_000), "BAD_RESULT"),
}


async def predictions(it: Scene, client: hb.BatchClient) -> bytes:
    """What the service itself says of its only job."""
    (job,) = await it.jobs()
    async with client:
        target = it.journal.with_name("own.json")
        await client.job(job.job_id).save_predictions(target)
    return target.read_bytes()


# ── for a while


@pytest.mark.parametrize(
    "faults",
    [
        ["cut"], ["reset"], ["reset", "cut", 500, 502, 503, 504, 408, 429], [Answer(200, body=PAGE)],
        [Answer(200, body=b"null"), Answer(200, body=b"{}")], [Answer(200, body=b"[{")] * 3, [404] * 5,
        [Answer(404, body=PAGE), 503, 404, "cut", 404], [Answer(202)], [Answer(204, body=b"")],
        [Answer(400, body=b'{"message":"the job has not completed yet"}')] * 3,
        [Answer(429, headers={"Retry-After": "100"})], [503] * 40,
    ],
    ids=str,
)  # fmt: skip
async def test_results_that_come_in_the_end(faults: list[Any], tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two", "three four")
        it.trouble.answers("GET", "/predictions", *faults)
        told = await it.run()
        assert (told.error, it.trouble.left) == (None, 0)
        await it.settled(jobs=2)


@pytest.mark.parametrize("answer", [*NO_RESULTS.values()], ids=NO_RESULTS)
async def test_results_that_are_none(answer: tuple[bytes, str], tmp_path: Path) -> None:
    """Asked for a few times more; then it is said, and the job is not made again. Others are not harmed."""
    body, reason = answer
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two", "three four")

        async def odd(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path.endswith(f"{it.trouble.accepted[0]}/predictions" if it.trouble.accepted else "-"):
                return web.Response(body=body, content_type="application/json")
            return await handler(request)

        it.trouble.odd = odd
        told = await it.run()
        assert told.error is None
        assert sorted(told.states.values()) == ["DONE", f"FAILED({reason})"]
        assert it.trouble.requests["GET /predictions"] <= 6
        await it.check()
        again = await it.run()
        assert (again.error, again.bytes_sent) == (None, 0)
        assert again.states == told.states


# ── in another dress


def dressed(body: bytes, how: str) -> web.Response:
    """An answer that says how its bytes are to be read, truthfully or not."""
    headers = {"Content-Type": "application/json"}
    if how == "gzip":
        body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
    elif how == "deflate":
        body, headers["Content-Encoding"] = zlib.compress(body), "deflate"
    elif how == "no gzip":
        headers["Content-Encoding"] = "gzip"
    elif how == "half of a gzip":
        body, headers["Content-Encoding"] = gzip.compress(body)[:-20], "gzip"
    elif how == "text":
        headers["Content-Type"] = "text/html"
    elif how == "no type":
        headers["Content-Type"] = "nonsense"
    elif how == "spaces":
        body = b" \r\n\t" * 10_000 + body + b"\n" * 10_000
    elif how == "more fields":
        value = json.loads(body)
        value[0].update(since_2031=[1, {"a": None}], results={**value[0]["results"], "also": 1})
        body = json.dumps(value).encode()
    return web.Response(body=body, headers=headers)


@pytest.mark.parametrize("how", ["gzip", "deflate", "text", "no type", "spaces", "more fields"])
async def test_results_in_another_dress(how: str, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two")
        await it.run()
        own = await predictions(it, hb.BatchClient(base_url=it.url, api_key=it.server.api_key))
        (it.out / "in" / "0.txt" / "predictions.json").unlink()

        async def odd(request: web.Request, handler: Handler) -> web.StreamResponse:
            return dressed(own, how) if request.path.endswith("/predictions") else await handler(request)

        it.trouble.odd = odd
        told = await it.run()
        assert (told.error, told.states) == (None, {"0.txt": "DONE"})
        it.trouble.odd = None
        await it.settled(jobs=1)


@pytest.mark.parametrize("how", ["no gzip", "half of a gzip"])
async def test_results_that_are_not_what_they_say(how: str, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two")

        async def odd(request: web.Request, handler: Handler) -> web.StreamResponse:
            asked = it.trouble.requests["GET /predictions"]
            return (
                dressed(b"[]", how) if request.path.endswith("/predictions") and asked < 3 else await handler(request)
            )

        it.trouble.odd = odd
        told = await it.run()
        assert told.error is None and it.trouble.requests["GET /predictions"] == 3
        await it.settled(jobs=1)


# ── artifacts


@pytest.mark.parametrize(
    "faults",
    [["cut"], ["reset", 503, 404], [Answer(200, body=PAGE)], [Answer(200, body=b""), Answer(200, body=b"PK\x03\x04")]],
    ids=str,
)
async def test_artifacts_that_come_in_the_end(faults: list[Any], tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two")
        it.trouble.answers("GET", "/artifacts", *faults)
        told = await it.run(artifacts=True)
        assert (told.error, it.trouble.left) == (None, 0)
        (saved,) = (it.out / "artifacts").iterdir()
        assert saved.name == f"{it.trouble.accepted[0]}.zip" and zipfile.is_zipfile(saved)
        await it.settled(jobs=1)


async def test_artifacts_that_are_none(tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two")
        it.trouble.answers("GET", "/artifacts", *[Answer(200, body=b"PK\x03\x04" + bytes(1000))] * 100)
        told = await it.run(artifacts=True)
        assert (told.error, told.states) == (None, {"0.txt": "FAILED(BAD_RESULT)"})
        assert not list(it.out.rglob("*.zip"))
        await it.check()
