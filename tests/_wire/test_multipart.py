"""The form: exact length, names as they were, and three readers that agree: aiohttp, the stdlib and our own."""

from __future__ import annotations

import email
import email.policy
from typing import Any

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol
from hypothesis import example, given
from hypothesis import strategies as st

from humebatch._wire.message import BodyPlan, FilePart
from humebatch._wire.multipart import FileUpload, form_data, quote_name, read_disposition

pytestmark = pytest.mark.anyio

# File names as an operating system can have them: anything but a slash and NUL.
NAMES = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=30)
PLAIN = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters='/"'), min_size=1)
CONTENTS = st.binary(min_size=1, max_size=200)
TYPES = st.sampled_from(["audio/x-wav", "application/octet-stream", "text/plain", "video/mp4"])
FORMS = st.lists(st.tuples(NAMES, TYPES, CONTENTS), max_size=4)
AWKWARD = [
    'a"b.wav',
    "a\r\nX: y.wav",
    "a;b=c.wav",
    "a\\b.wav",
    'a\\"b.wav',
    "héllo wörld.txt",
    "日本 🎉.mp4",
    "a%22b",
    "%",
    " ",
]


def uploads(files: list[tuple[str, str, bytes]]) -> list[FileUpload]:
    return [
        FileUpload(filename=name, content_type=kind, content=FilePart(path=str(number), size=len(content), mtime_ns=0))
        for number, (name, kind, content) in enumerate(files)
    ]


def written(plan: BodyPlan, files: list[tuple[str, str, bytes]]) -> bytes:
    body = b""
    for part in plan.parts:
        assert isinstance(part, (bytes, FilePart))
        body += part if isinstance(part, bytes) else files[int(part.path)][2]
    return body


async def read_by_aiohttp(content_type: str, body: bytes) -> list[tuple[str | None, str | None, bytes]]:
    import asyncio

    stream = aiohttp.StreamReader(BaseProtocol(asyncio.get_running_loop()), 2**16)
    stream.feed_data(body)
    stream.feed_eof()
    parts: list[tuple[str | None, str | None, bytes]] = []
    async for part in aiohttp.MultipartReader({"Content-Type": content_type}, stream):
        assert isinstance(part, aiohttp.BodyPartReader)
        names = read_disposition(part.headers["Content-Disposition"])
        assert names is not None
        parts.append((names["name"], names.get("filename"), bytes(await part.read())))
    return parts


def as_on_the_wire(name: str) -> str:
    return quote_name(name)


@given(json=st.none() | st.binary(max_size=100), files=FORMS)
def test_the_announced_length_is_the_length(json: bytes | None, files: list[tuple[str, str, bytes]]) -> None:
    plan = form_data(json, uploads(files))
    assert plan.length == len(written(plan, files))


# aiohttp's framing is the second opinion here; its reading of this header stumbles over semicolons in quotes.
@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionHeader")
@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionParam")
@given(json=st.none() | st.binary(max_size=100), files=FORMS)
async def test_aiohttp_reads_back_what_went_in(json: bytes | None, files: list[tuple[str, str, bytes]]) -> None:
    plan = form_data(json, uploads(files))
    expected: list[tuple[str | None, str | None, bytes]] = [] if json is None else [("json", None, json)]
    expected += [("file", as_on_the_wire(name), content) for name, _, content in files]
    assert await read_by_aiohttp(plan.content_type, written(plan, files)) == expected


@given(json=st.none() | st.text("abc{}:", max_size=20), files=st.lists(st.tuples(PLAIN, TYPES, CONTENTS), max_size=3))
def test_the_standard_library_reads_back_what_went_in(json: str | None, files: list[tuple[str, str, bytes]]) -> None:
    plan = form_data(None if json is None else json.encode(), uploads(files))
    if not plan.parts or (json is None and not files):
        return
    message = email.message_from_bytes(
        f"Content-Type: {plan.content_type}\r\n\r\n".encode() + written(plan, files), policy=email.policy.HTTP
    )
    found = []
    for part in message.iter_parts():
        raw = dict(part.raw_items())["Content-Disposition"]
        names = read_disposition(str(raw).encode("utf-8", "surrogateescape").decode())
        payload = part.get_payload(decode=True)
        assert names is not None
        assert isinstance(payload, bytes)
        found.append((names["name"], names.get("filename"), part.get_content_type(), payload))
    expected = [] if json is None else [("json", None, "text/plain", json.encode())]
    expected += [("file", name, kind, content) for name, kind, content in files]  # type: ignore[misc]
    assert found == expected
    assert message.defects == []


@given(NAMES)
@example("\ud800")
@example("\udcff.wav")
def test_a_quoted_name_cannot_break_its_header(name: str) -> None:
    quoted = quote_name(name)
    assert quoted.isprintable() or not any(ord(ch) < 32 or ch in '"\x7f' for ch in quoted)
    assert quoted.encode().decode() == quoted  # can be sent
    header = f'form-data; name="file"; filename="{quoted}"'
    assert read_disposition(header) == {"name": "file", "filename": quoted}


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"'), max_size=30))
def test_a_name_without_quotes_and_line_breaks_goes_as_it_is(name: str) -> None:
    assert quote_name(name) == name


def test_only_what_would_break_the_header_is_encoded() -> None:
    assert quote_name('a"b') == "a%22b"
    assert quote_name("a\r\nb\x00\x7f\t") == "a%0D%0Ab%00%7F%09"
    assert quote_name("a%22b;c\\d'é") == "a%22b;c\\d'é"


@pytest.mark.parametrize(
    ("name", "sent"), [("caf\udce9.wav", "caf\ufffd.wav"), ("\ud83d.wav", "\ufffd.wav"), ("a\udcc3\udca9", "aé")]
)
def test_names_that_are_not_unicode_keep_what_can_be_kept(name: str, sent: str) -> None:
    assert quote_name(name) == sent


@pytest.mark.parametrize("name", AWKWARD)
async def test_awkward_names_arrive(name: str) -> None:
    files = [(name, "audio/x-wav", b"x" * 10)]
    plan = form_data(b"{}", uploads(files))
    parts = await read_by_aiohttp(plan.content_type, written(plan, files))
    assert parts == [("json", None, b"{}"), ("file", quote_name(name), b"x" * 10)]


def test_the_bytes_of_a_form() -> None:
    files = [("a.wav", "audio/x-wav", b"RIFF"), ("ü.txt", "text/plain", b"hi")]
    plan = form_data(b'{"notify":true}', uploads(files), boundary="MARK")
    assert plan.content_type == "multipart/form-data; boundary=MARK"
    assert written(plan, files).decode() == (
        '--MARK\r\nContent-Disposition: form-data; name="json"\r\n\r\n{"notify":true}\r\n'
        '--MARK\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        "Content-Type: audio/x-wav\r\n\r\nRIFF\r\n"
        '--MARK\r\nContent-Disposition: form-data; name="file"; filename="ü.txt"\r\n'
        "Content-Type: text/plain\r\n\r\nhi\r\n--MARK--\r\n"
    )


def test_boundaries_are_random() -> None:
    assert len({form_data(b"", []).content_type for _ in range(20)}) == 20


# As captured from the vendor's clients, and what else servers meet.
HEADERS: list[tuple[str, dict[str, str] | None]] = [
    ('form-data; name="file"; filename="happy.txt"', {"name": "file", "filename": "happy.txt"}),
    ('form-data; name="file"; filename="héllo.txt"', {"name": "file", "filename": "héllo.txt"}),
    ('form-data; name="json"; filename="json"', {"name": "json", "filename": "json"}),
    ('form-data; name="json"; filename="upload"', {"name": "json", "filename": "upload"}),
    (
        'form-data; name="file"; filename="héllo wörld %22q%22.txt"',
        {"name": "file", "filename": "héllo wörld %22q%22.txt"},
    ),
    ('form-data; name="file"; filename="noct"', {"name": "file", "filename": "noct"}),
    ('form-data; name="json"', {"name": "json"}),
    ("form-data; name=json", {"name": "json"}),
    ('Form-Data;NAME="file" ; FileName="x"', {"name": "file", "filename": "x"}),
    ('form-data; name="file"; filename="a;b=c\\d.wav"', {"name": "file", "filename": "a;b=c\\d.wav"}),
    ("form-data; name=\"file\"; filename=\"x\"; filename*=UTF-8''%e2", {
        "name": "file", "filename": "x", "filename*": "UTF-8''%e2",
    }),
    ('form-data; name="a"; name="b"', {"name": "a"}),
    ('form-data; name=""', {"name": ""}),
    ("form-data", {}),
    ('attachment; name="file"', None),
    ("", None),
    ('form-data; name="file', None),
    ('form-data; name="a"b"', None),
    ('form-data; name="file"; rubbish', None),
]  # fmt: skip


@pytest.mark.parametrize(("header", "parameters"), HEADERS)
def test_disposition_headers_of_real_clients(header: str, parameters: dict[str, str] | None) -> None:
    assert read_disposition(header) == parameters


@given(st.text(max_size=60) | st.text('form-data; name="x\\=', max_size=80).map("form-data; ".__add__))
def test_no_header_is_too_odd_to_be_read_or_refused(header: str) -> None:
    found: Any = read_disposition(header)
    assert found is None or all(isinstance(one, str) for pair in found.items() for one in pair)
