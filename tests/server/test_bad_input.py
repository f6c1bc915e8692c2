"""What nobody should send: each is a 4xx that says what is wrong, and nothing of it stays on the server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import sqlite3
import string
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import humebatch as hb
from humebatch.server import IntakeLimits, RunnerLimits
from humebatch.testing import RunningServer, running_server
from tests.server.raw import (
    BOUNDARY,
    UNKNOWN,
    Reply,
    connection,
    eventually,
    form,
    form_request,
    left_behind,
    part,
    path_of_input,
    read_reply,
    request,
    rows,
    talk,
)

pytestmark = pytest.mark.anyio

WAV = b"RIFF\x24\0\0\0WAVEfmt " + bytes(28)
GOOD_JSON = b'{"models": {"language": {}}, "text": ["Test!"]}'
GOOD_FORM = form(part("json", b"{}"), part("file", WAV, "Content-Type: audio/wav", filename="a.wav"))
DEEP = 100_000


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


def check_clean(server: RunningServer) -> None:
    assert rows(server) == []
    assert left_behind(server) == []


async def refused(server: RunningServer, data: bytes, status: int = 400) -> dict[str, Any]:
    """The refusal's body, after checking that it is one and that nothing is left of the request."""
    reply = await talk(server, data)
    assert reply.status == status, reply
    body = reply.json
    assert isinstance(body, dict)
    assert isinstance(body["message"], str)
    assert body["message"]
    check_clean(server)
    return body


# ---- the JSON of a submission -------------------------------------------------------------------

BAD_JSON: dict[str, tuple[bytes, str]] = {
    # what is sent: the field that the answer must name
    "not JSON": (b"urls=https://x.example/a.wav", "json"),
    "truncated": (GOOD_JSON[:-2], "json"),
    "more than one value": (GOOD_JSON + b"{}", "json"),
    "null": (b"null", "json"),
    "list": (b"[]", "json"),
    "string": (b'"text"', "json"),
    "deep list": (b"[" * DEEP, "json"),
    "deep unknown member": (b'{"text": ["a"], "x": ' + b"[" * DEEP + b"]" * DEEP + b"}", "json"),
    "deep facs": (b'{"text": ["a"], "models": {"face": {"facs": ' + b'{"a":' * DEEP, "json"),
    "UTF-8 broken in a field": (b'{"text": ["\xff\xfe"]}', "json"),
    "UTF-8 broken in an unknown member": (b'{"text": ["a"], "x": "\xff"}', "json"),
    "UTF-16": (GOOD_JSON.decode().encode("utf-16"), "json"),
    "lone surrogate in text": (rb'{"text": ["ok", "\ud800"]}', "json"),
    "lone surrogate in urls": (rb'{"urls": ["https://x.example/\udfff"]}', "json"),
    "lone surrogate in callback_url": (rb'{"text": ["a"], "callback_url": "https://x.example/\ud800"}', "json"),
    "lone surrogate in facs": (rb'{"text": ["a"], "models": {"face": {"facs": {"\ud800": 1}}}}', "json"),
    "NaN": (b'{"text": ["a"], "models": {"face": {"fps_pred": NaN}}}', "json"),
    "Infinity": (b'{"text": ["a"], "models": {"face": {"fps_pred": Infinity}}}', "json"),
    "-Infinity": (b'{"text": ["a"], "models": {"face": {"fps_pred": -Infinity}}}', "json"),
    "a number past every float": (b'{"text": ["a"], "models": {"face": {"fps_pred": 1e999}}}', "models.face.fps_pred"),
    "nothing to measure": (b'{"models": {"face": {}}}', "files"),
    "empty lists": (b'{"urls": [], "text": []}', "files"),
    "nulls": (b'{"urls": null, "text": null}', "files"),
    "blank": (b"  \r\n ", "body"),
    "empty": (b"", "body"),
    "model at top level": (b'{"text": ["a"], "language": {}}', "language"),
    "unknown model": (b'{"text": ["a"], "models": {"smell": {}}}', "models.smell"),
}


@pytest.mark.parametrize("name", BAD_JSON)
async def test_bad_json(server: RunningServer, name: str) -> None:
    data, field = BAD_JSON[name]
    body = await refused(server, request(body=data))
    assert body["field"].split("[")[0] == field or body["field"].startswith(field + "."), body
    assert field in body["message"] or field == "files"


# With a file next to it there is something to measure, and no JSON at all is fine.
FINE_IN_A_FORM = {"blank", "empty", "nothing to measure", "empty lists", "nulls"}


@pytest.mark.parametrize("name", [name for name in BAD_JSON if name not in FINE_IN_A_FORM])
async def test_bad_json_as_a_part_of_a_form(server: RunningServer, name: str) -> None:
    """The file has been stored by the time that the `json` part after it turns out to be bad."""
    data, field = BAD_JSON[name]
    body = await refused(server, form_request(form(part("file", WAV, filename="a.wav"), part("json", data))))
    assert body["field"].split("[")[0] == field or body["field"].startswith(field + "."), body


WRONG_TYPES: list[tuple[str, Any]] = [
    ("models", []),
    ("models", "all"),
    ("models.face", []),
    ("models.face", True),
    ("models.face.fps_pred", "3"),
    ("models.face.prob_threshold", [0.5]),
    ("models.face.identify_faces", 1),
    ("models.face.min_face_size", "60"),
    ("models.face.facs", True),
    ("models.face.descriptions", []),
    ("models.face.save_faces", "yes"),
    ("models.burst", "on"),
    ("models.prosody.granularity", 1),
    ("models.prosody.identify_speakers", "no"),
    ("models.prosody.window", 4),
    ("models.prosody.window.length", "4"),
    ("models.prosody.window.step", {}),
    ("models.language.granularity", ["word"]),
    ("models.language.sentiment", True),
    ("models.language.toxicity", 1),
    ("models.language.identify_speakers", {}),
    ("models.ner", 0),
    ("models.ner.identify_speakers", "true"),
    ("models.facemesh", []),
    ("transcription", False),
    ("transcription.language", 7),
    ("transcription.identify_speakers", 0),
    ("transcription.confidence_threshold", "0.5"),
    ("urls", "https://x.example/a.wav"),
    ("urls", [1]),
    ("urls", [None]),
    ("text", "Test!"),
    ("text", [["a"]]),
    ("callback_url", 1),
    ("notify", "true"),
    # right type, wrong value
    ("models.face.fps_pred", -1),
    ("models.face.prob_threshold", 1.0001),
    ("models.face.prob_threshold", -0.5),
    ("models.face.min_face_size", -1),
    ("models.face.min_face_size", 0.5),
    ("models.face.min_face_size", 10**30),
    ("models.prosody.granularity", "Word"),
    ("models.prosody.window.length", 0.49),
    ("models.prosody.window.step", 0),
    ("models.language.granularity", "paragraph"),
    ("transcription.language", "en_US"),
    ("transcription.confidence_threshold", 2),
    ("urls", ["ftp://x.example/a.wav"]),
    ("urls", ["x"] * 3),
    ("urls", ["https://x.example/a.wav"] * 101),
    ("text", ["a"] * 101),
    ("callback_url", "localhost:9"),
    ("callback_url", ""),
]


@pytest.mark.parametrize(("field", "value"), WRONG_TYPES, ids=lambda value: str(value)[:40])
async def test_a_wrong_value_is_named(server: RunningServer, field: str, value: Any) -> None:
    body: dict[str, Any] = {"text": ["a"]}
    *owners, last = field.split(".")
    inner = body
    for owner in owners:
        inner = inner.setdefault(owner, {})
    inner[last] = value
    answer = await refused(server, request(body=json.dumps(body).encode()))
    assert answer["field"].split("[")[0] == field, answer
    assert field in answer["message"]


async def test_explicit_nulls_are_taken_as_left_out(server: RunningServer, client: hb.BatchClient) -> None:
    """Third parties fill in every field; what a null stands for is the default."""
    sent = {
        "urls": None,
        "text": ["Test!"],
        "callback_url": None,
        "notify": None,
        "transcription": {"language": None, "identify_speakers": None, "confidence_threshold": None},
        "models": {
            "face": None,
            "burst": None,
            "facemesh": None,
            "ner": {"identify_speakers": None},
            "prosody": {"granularity": None, "identify_speakers": None, "window": {"length": None, "step": None}},
            "language": dict.fromkeys(("granularity", "identify_speakers", "sentiment", "toxicity")),
        },
    }
    reply = await talk(server, request(body=json.dumps(sent).encode()))
    assert reply.status == 200
    details = await talk(server, request(f"/v0/batch/jobs/{reply.json['job_id']}"))
    assert details.json["request"] == {
        "files": [],
        "urls": [],
        "text": ["Test!"],
        "callback_url": None,
        "notify": False,
        "transcription": {"language": None, "identify_speakers": False, "confidence_threshold": 0.5},
        "models": {
            "face": None,
            "burst": None,
            "facemesh": None,
            "ner": {"identify_speakers": False},
            "prosody": {
                "granularity": "utterance",
                "identify_speakers": False,
                "window": {"length": 4.0, "step": 1.0},
            },
            "language": {"granularity": "word", "identify_speakers": False, "sentiment": None, "toxicity": None},
        },
    }
    done = await client.job(reply.json["job_id"]).wait(timeout=30)
    assert done.state.num_predictions == 2  # one word, one entity


# ---- keys, routes and methods -------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("X-Hume-Api-Key: wrong",),
        ("X-Hume-Api-Key: ",),
        ("X-Hume-Api-Key: test-key-and-more",),
        ("X-Hume-Api-Key: tést-key",),
        ("Authorization: Bearer wrong",),
        ("Authorization: Basic dGVzdC1rZXk=",),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v0/batch/jobs", GOOD_JSON),
        ("/v0/batch/jobs", None),
        (f"/v0/batch/jobs/{UNKNOWN}", None),
        (f"/v0/batch/jobs/{UNKNOWN}/predictions", None),
        (f"/v0/batch/jobs/{UNKNOWN}/artifacts", None),
        ("/v0/elsewhere", None),
    ],
)
async def test_without_the_key(
    server: RunningServer, target: str, body: bytes | None, headers: tuple[str, ...]
) -> None:
    answer = await refused(server, request(target, body, key=None, headers=headers), 401)
    assert answer["field"] == "X-Hume-Api-Key"
    assert answer["fault"]["faultstring"] == "Invalid ApiKey"
    assert answer["fault"]["detail"]["errorcode"] == "oauth.v2.InvalidApiKey"


async def test_the_key_as_a_bearer_token(server: RunningServer) -> None:
    reply = await talk(server, request(key=None, headers=["Authorization: bearer test-key"]))
    assert (reply.status, reply.json) == (200, [])


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/v0/batch", 404),
        ("GET", "/v0/batch/jobs/", 404),
        ("GET", f"/v0/batch/jobs/{UNKNOWN}/result", 404),
        ("GET", "/v0/batch/jobs/../../etc/passwd", 404),
        ("DELETE", "/v0/batch/jobs", 405),
        ("PUT", "/v0/batch/jobs", 405),
        ("DELETE", f"/v0/batch/jobs/{UNKNOWN}", 405),
        ("POST", f"/v0/batch/jobs/{UNKNOWN}/predictions", 405),
    ],
)
async def test_unknown_routes_and_methods(server: RunningServer, method: str, target: str, status: int) -> None:
    answer = await refused(server, request(target, method=method), status)
    assert answer["message"].startswith(f"{method} /v0/")


async def test_a_405_says_what_is_allowed(server: RunningServer) -> None:
    reply = await talk(server, request(method="PATCH"))
    assert reply.status == 405
    assert {"GET", "POST"} <= set(reply.headers["allow"].split(","))


@pytest.mark.parametrize("suffix", ["", "/predictions", "/artifacts"])
async def test_job_ids(server: RunningServer, suffix: str) -> None:
    assert await refused(server, request(f"/v0/batch/jobs/{UNKNOWN}{suffix}"), 404) == {
        "message": "job not found",
        "field": "id",
    }
    for malformed in ("1", "x" * 36, "%00", "%2e%2e%2fjobs.db", "%F0%9F%98%80", "'%20or%201=1", "a" * 4000):
        answer = await refused(server, request(f"/v0/batch/jobs/{malformed}{suffix}"))
        assert answer["field"] == "id"


BAD_QUERIES: list[tuple[str, str]] = [
    ("limit", "0"),
    ("limit", "-1"),
    ("limit", "ten"),
    ("limit", ""),
    ("limit", "1.5"),
    ("limit", "9" * 30),
    ("limit", "%D9%A3"),
    ("status", "completed"),
    ("status", "QUEUED,FAILED"),
    ("status", ""),
    ("status", "COMPLETED&status=x"),
    ("when", "before"),
    ("when", ""),
    ("timestamp_ms", "now"),
    ("timestamp_ms", "1e3"),
    ("timestamp_ms", "--1"),
    ("timestamp_ms", "9" * 19),
    ("sort_by", "id"),
    ("sort_by", "created_ms%3BDROP%20TABLE%20job"),
    ("direction", "up"),
    ("direction", "DESC"),
    ("status%5B%5D", "QUEUED"),
    ("offset", "10"),
]


@pytest.mark.parametrize(("name", "value"), BAD_QUERIES)
async def test_bad_list_parameters(server: RunningServer, name: str, value: str) -> None:
    answer = await refused(server, request(f"/v0/batch/jobs?{name}={value}"))
    field = name.replace("%5B%5D", "[]")
    assert answer["field"] == field
    assert field in answer["message"]


@pytest.mark.parametrize("value", ["limit=999999999999999999", "timestamp_ms=-5", "limit=1&limit=2", "status=FAILED"])
async def test_unusual_list_parameters_that_are_fine(server: RunningServer, value: str) -> None:
    reply = await talk(server, request(f"/v0/batch/jobs?{value}"))
    assert (reply.status, reply.json) == (200, [])


# ---- forms --------------------------------------------------------------------------------------

FILE = part("file", WAV, filename="a.wav")
BAD_FORMS: dict[str, tuple[bytes, str]] = {
    # what is sent: a word that the answer must have
    "no part": (form(), "nothing to measure"),
    "no boundary at all": (b"just text", "malformed"),
    "another boundary": (form(FILE).replace(BOUNDARY.encode(), b"other"), "malformed"),
    "only the json part": (form(part("json", b"{}")), "nothing to measure"),
    "two json parts": (form(part("json", b"{}"), FILE, part("json", b"{}")), "json"),
    "no final boundary": (FILE, "malformed"),
    "no end of the last file": (form(FILE)[:-60], "malformed"),
    "ends after the json part": (part("json", b"{}"), "malformed"),
    "ends in a header": (FILE + b"--" + BOUNDARY.encode() + b"\r\nContent-Dis", "malformed"),
    "final boundary cut": (form(FILE)[:-4], "Content-Disposition"),
    "ends inside a disposition": (form(FILE)[:60], "Content-Disposition"),
    "wrong part name": (form(FILE, part("files", WAV, filename="b.wav")), "files"),
    "empty part name": (form(part("", WAV, filename="b.wav")), "Content-Disposition"),
    "no disposition": (form(b"--" + BOUNDARY.encode() + b"\r\nContent-Type: a/b\r\n\r\nx\r\n"), "Content-Disposition"),
    "no headers": (form(b"--" + BOUNDARY.encode() + b"\r\n\r\nx\r\n"), "Content-Disposition"),
    "attachment": (form(FILE.replace(b"form-data", b"attachment")), "Content-Disposition"),
    "two dispositions": (form(part("file", WAV, "Content-Disposition: form-data; name=json")), "Content-Disposition"),
    "broken disposition": (form(FILE.replace(b'; name="file"', b'; name="fi')), "Content-Disposition"),
    "header without a colon": (form(FILE.replace(b"\r\n\r\n", b"\r\nnonsense\r\n\r\n", 1)), "malformed"),
    "header with a zero byte": (form(FILE.replace(b"a.wav", b"a\0.wav")), "malformed"),
    "header too long": (form(part("file", WAV, filename="a" * 10_000)), "malformed"),
    "too many headers": (form(part("file", WAV, *[f"X-{n}: y" for n in range(200)], filename="a")), "malformed"),
    "empty file": (form(FILE, part("file", b"", filename="b.wav")), "b.wav"),
    "nested form": (
        form(FILE, part("file", form(FILE), f"Content-Type: multipart/mixed; boundary={BOUNDARY}")),
        "file",
    ),
    "nested form without boundary": (form(part("file", b"x", "Content-Type: multipart/mixed")), "boundary"),
    "101 files": (form(*[FILE] * 101), "101"),
    "charset field": (form(part("_charset_", b"x" * 100), FILE), "_charset_"),
    "short charset field": (form(part("_charset_", b"utf-8"), FILE), "_charset_"),
}


@pytest.mark.parametrize("name", BAD_FORMS)
async def test_bad_forms(server: RunningServer, name: str) -> None:
    data, word = BAD_FORMS[name]
    answer = await refused(server, form_request(data))
    assert word in answer["message"], answer


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="',
        f"multipart/form-data; boundary={'b' * 71}",
        "multipart/form-data; boundary=ü",
        "multipart/",
    ],
)
async def test_bad_boundaries(server: RunningServer, content_type: str) -> None:
    answer = await refused(server, request(body=form(FILE), content_type=content_type))
    assert "malformed" in answer["message"]


async def test_names_that_are_not_unicode(server: RunningServer, client: hb.BatchClient) -> None:
    """They are echoed as far as they can be: JSON must stay JSON."""
    body = form(FILE.replace(b"a.wav", b"a\xff.wav").replace(b"\r\n\r\n", b"\r\nContent-Type: text/\xfe\r\n\r\n", 1))
    reply = await talk(server, form_request(body))
    assert reply.status == 200
    details = await client.job(reply.json["job_id"]).wait(timeout=30)
    (file,) = details.request.files
    assert (file.filename, file.content_type) == ("a\N{REPLACEMENT CHARACTER}.wav", "text/\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/passwd", "..", "C:\\x.wav", "a;b=c.wav", "nul\\", "a" * 1000, "\N{PILE OF POO}", ""]
)
async def test_names_are_labels_only(server: RunningServer, client: hb.BatchClient, name: str) -> None:
    reply = await talk(server, form_request(form(part("file", WAV, filename=name))))
    assert reply.status == 200
    details = await client.job(reply.json["job_id"]).wait(timeout=30)
    assert [file.filename for file in details.request.files] == [name]
    assert all("evil" not in path and "passwd" not in path for path in left_behind(server))


async def test_part_headers_do_not_mislead(server: RunningServer, client: hb.BatchClient) -> None:
    """A part's own Content-Length and encodings count for nothing in a form (RFC 7578, 4.7 and 4.8)."""
    lines = ("Content-Length: 3", "Content-Transfer-Encoding: base64", "Content-Encoding: gzip", "content-type: a/b")
    reply = await talk(server, form_request(form(part("file", b"no base64 and no gzip", *lines, filename="a.txt"))))
    assert reply.status == 200
    details = await client.job(reply.json["job_id"]).wait(timeout=30)
    (file,) = details.request.files
    assert file.md5sum == hashlib.md5(b"no base64 and no gzip", usedforsecurity=False).hexdigest()


# ---- sizes, transfer and time -------------------------------------------------------------------


@contextlib.asynccontextmanager
async def small_server(**limits: Any) -> AsyncIterator[RunningServer]:
    async with running_server(intake=IntakeLimits(**limits)) as running:
        yield running


async def test_too_large_a_file() -> None:
    async with small_server(file_bytes=1000) as server:
        body = form(part("file", b"x" * 1000, filename="fits"), part("file", b"x" * 1001, filename="big"))
        answer = await refused(server, form_request(body), 413)
        assert answer["message"].startswith("big: ")
        assert "1000" in answer["message"]
        assert answer["field"] == "file"


@pytest.mark.parametrize("body", [b'{"text": ["' + b"a" * 1000 + b'"]}', form(part("json", b" " * 1000))])
async def test_too_large_a_json(body: bytes) -> None:
    async with small_server(json_bytes=500) as server:
        send = form_request if body.startswith(b"--") else request
        answer = await refused(server, send(body=body), 413)
        assert "500" in answer["message"]


async def test_too_large_a_request() -> None:
    async with small_server(request_bytes=1000) as server:
        answer = await refused(server, form_request(form(part("file", b"x" * 1000, filename="a"))), 413)
        assert "1000" in answer["message"]


async def test_too_large_a_request_that_does_not_announce_its_size() -> None:
    async with small_server(request_bytes=1000) as server:
        files = [part("file", b"x" * 300, filename=str(number)) for number in range(5)]
        head = request(
            method="POST",
            headers=[f"Content-Type: multipart/form-data; boundary={BOUNDARY}", "Transfer-Encoding: chunked"],
        )
        answer = await refused(server, head + chunked(form(*files)), 413)
        assert "1000" in answer["message"]


async def test_too_many_parts() -> None:
    async with small_server(parts=3) as server:
        answer = await refused(server, form_request(form(*[FILE] * 4)), 413)
        assert "3" in answer["message"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "x"])
async def test_compressed_bodies(server: RunningServer, encoding: str) -> None:
    answer = await refused(server, request(body=GOOD_JSON, headers=[f"Content-Encoding: {encoding}"]), 415)
    assert "Content-Encoding" in answer["message"]


def chunked(body: bytes) -> bytes:
    pieces = [body[start : start + 100] for start in range(0, len(body), 100)]
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("application/json", GOOD_JSON), (f"multipart/form-data; boundary={BOUNDARY}", GOOD_FORM)],
)
async def test_chunked_transfer_is_fine(
    server: RunningServer, client: hb.BatchClient, content_type: str, body: bytes
) -> None:
    head = request(method="POST", headers=[f"Content-Type: {content_type}", "Transfer-Encoding: chunked"])
    reply = await talk(server, head + chunked(body))
    assert reply.status == 200
    await client.job(reply.json["job_id"]).wait(timeout=30)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("application/json", GOOD_JSON), (f"multipart/form-data; boundary={BOUNDARY}", GOOD_FORM)],
)
async def test_broken_chunks(content_type: str, body: bytes) -> None:
    """aiohttp's parser tells nobody that a body under way went wrong: to the service it stalls."""
    headers = [f"Content-Type: {content_type}", "Transfer-Encoding: chunked", "Expect: 100-continue"]
    async with small_server(stall=0.2) as server, connection(server) as (reader, writer):
        writer.write(request(method="POST", headers=headers))
        # From here on the request is being handled, not only parsed.
        assert (await read_reply(reader)).status == 100
        writer.write(chunked(body[:-20])[: -len("0\r\n\r\n")] + b"zz\r\nrest")
        reply = await read_reply(reader)
        assert reply.status == 408
        assert "0.2 s" in reply.json["message"]
        check_clean(server)


@pytest.mark.parametrize(
    "data",
    [
        request(headers=["X-Huge: " + "x" * 100_000]),
        request(headers=[f"X-{number}: y" for number in range(1000)]),
        request("/v0/batch/jobs?" + "x" * 100_000),
        request(headers=["X-Broken"]),
        request(headers=["X-Zero: a\0b"]),
        request(body=GOOD_JSON, length=-1),
        request(body=GOOD_JSON, headers=["Content-Length: 7"]),
        request(body=GOOD_JSON, headers=["Transfer-Encoding: chunked"]),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n\r\nnonsense\r\n\r\n",
    ],
    ids=range(11),
)
async def test_broken_http(server: RunningServer, data: bytes) -> None:
    """Refused by the HTTP parser, before there is a request to answer in JSON; it says what is wrong in plain text."""
    reply = await talk(server, data)
    assert 400 <= reply.status < 500
    assert reply.body
    check_clean(server)
    # The server goes on serving.
    assert (await talk(server, request())).json == []


@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=" + BOUNDARY, "application/json"])
async def test_an_upload_that_is_cut(
    server: RunningServer, content_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = FILE + part("file", b"x" * 2_000_000, filename="b") if "form" in content_type else GOOD_JSON
    data = request(body=body, content_type=content_type, length=len(body) + 10)
    async with connection(server) as (_, writer):
        writer.write(data)
        await writer.drain()
        if "form" in content_type:
            # Until the first file lies there, the test would prove nothing.
            await eventually(lambda: path_of_input(server.data) is not None)
    await eventually(lambda: left_behind(server) == [])
    assert rows(server) == []
    assert (await talk(server, request())).json == []
    # A client that goes away is no error of the server's.
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("sent", [FILE + FILE[:-5], b""])
async def test_an_upload_that_stalls(sent: bytes) -> None:
    async with small_server(stall=0.2) as server:
        answer = await refused(server, form_request(sent, length=len(sent) + 100), 408)
        assert "0.2 s" in answer["message"]


async def test_a_json_body_that_stalls() -> None:
    async with small_server(stall=0.2) as server:
        await refused(server, request(body=GOOD_JSON, length=len(GOOD_JSON) + 1), 408)


async def test_an_early_refusal_does_not_wait_for_the_upload() -> None:
    """A client that only starts to send its gigabytes is told at once."""
    async with small_server(request_bytes=1000) as server, connection(server) as (reader, writer):
        writer.write(form_request(b"", length=2**40))
        assert (await read_reply(reader)).status == 413
        check_clean(server)


async def test_two_submissions_on_one_connection(server: RunningServer, client: hb.BatchClient) -> None:
    async with connection(server) as (reader, writer):
        writer.write(request(body=GOOD_JSON) + form_request(GOOD_FORM) + request(body=b"{"))
        first, second, third = [await read_reply(reader) for _ in range(3)]
    assert (first.status, second.status, third.status) == (200, 200, 400)
    for reply in (first, second):
        await client.job(reply.json["job_id"]).wait(timeout=30)
    assert len(rows(server)) == 2


async def test_a_job_that_cannot_be_recorded(server: RunningServer, client: hb.BatchClient) -> None:
    """The one fault that is the server's own: it says so, accepts nothing and keeps nothing."""

    def database(statement: str) -> None:
        with contextlib.closing(sqlite3.connect(server.data / "jobs.db")) as opened:
            opened.execute(statement)

    database("CREATE TRIGGER broken BEFORE INSERT ON job BEGIN SELECT RAISE(ABORT, 'no room'); END")
    answer = await refused(server, form_request(GOOD_FORM), 500)
    assert "no room" not in answer["message"]
    database("DROP TRIGGER broken")
    reply = await talk(server, form_request(GOOD_FORM))
    await client.job(reply.json["job_id"]).wait(timeout=30)


# ---- jobs that have no results, and jobs of others ----------------------------------------------


async def test_results_of_an_unfinished_job(tmp_path: Path) -> None:
    async with running_server(data=tmp_path) as server:
        reply = await talk(server, request(body=GOOD_JSON))
        job_id = reply.json["job_id"]
        async with hb.BatchClient(
            base_url=server.base_url, api_key=server.api_key, poll=hb.PollPolicy(first=0.02)
        ) as client:
            await client.job(job_id).wait(timeout=30)
    # The states in between pass in no time; a stopped server keeps still.
    for status, columns in (
        ("QUEUED", "started_ms = NULL, ended_ms = NULL, num_predictions = NULL"),
        ("FAILED", "message = 'the disk burnt'"),
    ):
        await anyio.to_thread.run_sync(_set_state, tmp_path, status, columns)
        async with running_server(data=tmp_path, running=RunnerLimits(workers=0)) as server:
            for suffix in ("predictions", "artifacts"):
                reply = await talk(server, request(f"/v0/batch/jobs/{job_id}/{suffix}"))
                assert reply.status == 400
                word = "the disk burnt" if status == "FAILED" else status
                assert word in reply.json["message"]


def _set_state(data: Path, status: str, columns: str) -> None:
    with contextlib.closing(sqlite3.connect(data / "jobs.db")) as database:
        database.execute(f"UPDATE job SET status = ?, {columns}", (status,))
        database.commit()


async def test_a_job_of_another_key(tmp_path: Path) -> None:
    async with running_server(data=tmp_path, api_key="first") as server:
        reply = await talk(server, request(body=GOOD_JSON, key="first"))
        job_id = reply.json["job_id"]
    async with running_server(data=tmp_path, api_key="second") as server:
        for suffix in ("", "/predictions", "/artifacts"):
            answer = await talk(server, request(f"/v0/batch/jobs/{job_id}{suffix}", key="second"))
            assert (answer.status, answer.json) == (404, {"message": "job not found", "field": "id"})
        assert (await talk(server, request(key="second"))).json == []
        assert [job_id] == [row[0] for row in rows(server)]


# ---- anything at all ----------------------------------------------------------------------------

FUZZ = settings(
    max_examples=300,
    deadline=None,
    # The server is the same for all examples: what one leaves behind, the next would find.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HEADS = [
    f"multipart/form-data; boundary={BOUNDARY}",
    "application/json",
    f"multipart/mixed; boundary={BOUNDARY}",
]


@pytest.mark.parametrize("name", sorted(FINE_IN_A_FORM))
async def test_json_that_is_fine_next_to_a_file(server: RunningServer, client: hb.BatchClient, name: str) -> None:
    reply = await talk(server, form_request(form(part("file", WAV, filename="a.wav"), part("json", BAD_JSON[name][0]))))
    assert reply.status == 200
    await client.job(reply.json["job_id"]).wait(timeout=30)


def check_answer(reply: Reply) -> None:
    if reply.status == 200:
        uuid.UUID(reply.json["job_id"])
    else:
        assert 400 <= reply.status < 500, reply
        assert reply.json["message"], reply


def fuzz(server: RunningServer, data: bytes) -> Reply:
    """One request from a thread without a loop: Hypothesis is not asynchronous."""
    return asyncio.run(talk(server, data))


@pytest.fixture
def threaded_server() -> Iterator[RunningServer]:
    """A server in a loop of its own, for tests that have none."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running_server(intake=IntakeLimits(stall=2.0))) as server,
    ):
        yield server


@FUZZ
@given(body=st.binary(max_size=300), content_type=st.sampled_from(HEADS))
@example(body=b"", content_type=HEADS[0])
@example(body=b"--" + BOUNDARY.encode() + b"--", content_type=HEADS[0])
@example(body=b"--" + BOUNDARY.encode() + b"\r\n", content_type=HEADS[2])
def test_random_bytes(threaded_server: RunningServer, body: bytes, content_type: str) -> None:
    check_answer(fuzz(threaded_server, request(body=body, content_type=content_type)))


TEMPLATE = form(
    part("file", b"Hello there.", "Content-Type: text/plain", filename="h\u00e9.txt"),
    part("json", GOOD_JSON, filename="json"),
    part("file", WAV, "Content-Type: audio/wav", filename='a "b".wav'.replace('"', "%22")),
)
PIECES = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"--",
        b"\0",
        b"\xff",
        b'"',
        b";",
        b":",
        b"=",
        b" ",
        b"\\",
        b"_charset_",
        b"json",
        b"file",
    ),
    *(BOUNDARY.encode(), b"--" + BOUNDARY.encode(), b"Content-Length: 5\r\n", b"Content-Transfer-Encoding: base64\r\n"),
    *(b"Content-Type: multipart/mixed\r\n", b"filename*=utf-8''x", b'"urls": null, ', b"[" * 50, b"\\ud800"),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The template with some stretches cut out, doubled, swapped for others, or with pieces put in."""
    data = TEMPLATE
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        new = draw(
            st.one_of(st.just(b""), st.sampled_from(PIECES), st.binary(max_size=6), st.just(data[start:end] * 2))
        )
        data = data[:start] + new + data[end:]
    return data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))]


@FUZZ
@given(body=mutated(), content_type=st.sampled_from([HEADS[0], HEADS[0], HEADS[2]]))
def test_mutated_forms(threaded_server: RunningServer, body: bytes, content_type: str) -> None:
    check_answer(fuzz(threaded_server, request(body=body, content_type=content_type)))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(string.printable, max_size=8)
    | st.sampled_from(["word", "en", "https://x.example/a", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "models",
                        "face",
                        "burst",
                        "prosody",
                        "language",
                        "ner",
                        "facemesh",
                        "transcription",
                        "urls",
                        "text",
                    ),
                    *("callback_url", "notify", "fps_pred", "min_face_size", "granularity", "window", "length", "facs"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@FUZZ
@given(
    value=st.fixed_dictionaries(
        {},
        optional={
            "models": st.fixed_dictionaries(
                {}, optional=dict.fromkeys(("face", "burst", "prosody", "language", "ner"), JSON_VALUES)
            ),
            "transcription": JSON_VALUES,
            "urls": st.lists(JSON_VALUES, max_size=3),
            "text": st.just(["a"]) | JSON_VALUES,
            "callback_url": JSON_VALUES,
            "notify": JSON_VALUES,
        },
    )
)
def test_random_json(threaded_server: RunningServer, value: Any) -> None:
    check_answer(fuzz(threaded_server, request(body=json.dumps(value).encode())))
