"""JSON in and out: `DecodeError` with the place, and never another exception."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import humebatch as hb
from humebatch._wire import codec

DECODERS: list[Callable[[bytes], Any]] = [
    codec.decode_job,
    codec.decode_jobs,
    codec.decode_job_id,
    codec.decode_predictions,
]
ROWS = [
    {
        "text": f"word {number} é",
        "position": {"begin": number, "end": number + 1},
        "time": None,
        "confidence": None,
        "emotions": [{"name": "Joy", "score": 0.25}, {"name": "Awe", "score": 1e-7}],
    }
    for number in range(20)
]
PAYLOAD = json.dumps(
    [
        {
            "source": {"type": "text"},
            "results": {
                "predictions": [
                    {
                        "file": "1",
                        "models": {
                            "language": {"metadata": None, "grouped_predictions": [{"id": "a", "predictions": ROWS}]}
                        },
                    }
                ],
                "errors": [],
            },
        }
    ],
    ensure_ascii=False,
).encode()


def refused(decode: Callable[[bytes], Any], data: bytes) -> hb.DecodeError:
    with pytest.raises(hb.DecodeError) as caught:
        decode(data)
    error = caught.value
    assert error.path.startswith("$")
    assert len(error.near) <= 80
    assert len(str(error).splitlines()) == 1
    return error


def test_the_payload_is_good() -> None:
    (result,) = codec.decode_predictions(PAYLOAD)
    assert result.results is not None


@given(st.integers(0, len(PAYLOAD) - 1))
def test_a_cut_answer_is_a_decode_error_near_its_end(cut: int) -> None:
    error = refused(codec.decode_predictions, PAYLOAD[:cut])
    assert PAYLOAD[:cut].decode("utf-8", "replace").endswith(error.near.lstrip("\ufffd"))


@given(st.integers(0, len(PAYLOAD) - 1), st.integers(0, 255))
def test_a_damaged_byte_is_a_decode_error_or_another_value(place: int, byte: int) -> None:
    damaged = PAYLOAD[:place] + bytes([byte]) + PAYLOAD[place + 1 :]
    try:
        codec.decode_predictions(damaged)
    except hb.DecodeError as error:
        assert error.path.startswith("$")  # noqa: PT017 - most damage is refused, some makes another valid answer


@pytest.mark.parametrize("decode", DECODERS)
@given(
    st.binary(max_size=60) | st.text(max_size=40).map(str.encode) | st.text('[{"a:1,}] ', max_size=30).map(str.encode)
)
@example(b"")
@example(b"null")
@example(b"<html>502 Bad Gateway</html>")
@example(b"\xff\xfe")
@example(b'{"job_id": "\xed\xa0\x80"}')
@example(b'"\\ud800"')
@example(b"1e999")
def test_garbage_is_a_decode_error(decode: Callable[[bytes], Any], data: bytes) -> None:
    if decode is codec.decode_predictions and data.strip() == b"[]":
        return
    try:
        value = decode(data)
    except hb.DecodeError as error:
        assert str(error)  # noqa: PT017 - `[]` is a valid list of jobs
    else:
        assert value == []


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":', b'{"request":', b'[{"source":{"x":'])
def test_deep_nesting_is_a_decode_error(decode: Callable[[bytes], Any], opening: bytes) -> None:
    refused(decode, opening * 200_000)
    refused(decode, b'{"job_id":"x","more":' + b"[" * 100_000 + b"]" * 100_000 + b"")


@pytest.mark.parametrize(
    ("change", "path", "near"),
    [
        (('"begin": 3', '"begin": "three"'), "predictions[3].position.begin", "three"),
        (('"file": "1"', '"file": 1'), "$[0].results.predictions[0].file", "1"),
        (('"errors": []', '"errors": {"a": 1}'), "$[0].results.errors", '{"a": 1}'),
        (('"errors": []', '"oops": []'), "$[0].results", '{"predictions": [{"file"'),
        (('"type": "text"', '"type": null'), "$[0].source.type", "null"),
    ],
)
def test_the_error_names_the_path_and_shows_the_place(change: tuple[str, str], path: str, near: str) -> None:
    damaged = PAYLOAD.decode().replace(*change)
    error = refused(codec.decode_predictions, damaged.encode())
    assert error.path.endswith(path)
    assert near in error.near


def test_a_syntax_error_shows_the_text_around_it() -> None:
    error = refused(codec.decode_predictions, PAYLOAD.replace(b'"word 7', b'oops "word 7'))
    assert "oops" in error.near


@pytest.mark.parametrize("job_id", ["", "../x", "a/b", "a b", "a?b", "é", "a\n", "%2e"])
def test_an_id_that_cannot_be_one_is_a_decode_error(job_id: str) -> None:
    error = refused(codec.decode_job_id, json.dumps({"job_id": job_id}).encode())
    assert error.path == "$.job_id"


def test_an_id_is_taken_as_it_is() -> None:
    assert codec.decode_job_id(b'{"job_id":"11111111-2222-4333-8444-555555555555","more":1}').endswith("5555")


def test_a_megabyte_of_random_bytes_is_refused() -> None:
    refused(codec.decode_predictions, random.Random(7).randbytes(1_000_000))
