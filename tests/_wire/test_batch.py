"""What goes on the wire for each operation, and how refusals read."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import humebatch as hb
from humebatch import errors
from humebatch._wire.batch import (
    BatchService,
    artifacts_request,
    details_request,
    list_request,
    predictions_request,
    submit_request,
)
from humebatch._wire.message import FilePart, WireReply, WireRequest
from humebatch._wire.multipart import FileUpload
from humebatch.config import Secret

JOB = "11111111-2222-4333-8444-555555555555"
EVERYTHING: dict[str, Any] = {
    "limit": 5,
    "status": ["QUEUED", hb.Status.FAILED],
    "when": "created_before",
    "timestamp_ms": 1893456000000,
    "sort_by": "created",
    "direction": "desc",
}


def test_paths() -> None:
    assert details_request(JOB).path == f"/v0/batch/jobs/{JOB}"
    assert predictions_request(JOB).path == f"/v0/batch/jobs/{JOB}/predictions"
    assert artifacts_request(JOB).path == f"/v0/batch/jobs/{JOB}/artifacts"
    assert list_request().path == "/v0/batch/jobs"
    assert {one(JOB).method for one in (details_request, predictions_request, artifacts_request)} == {"GET"}
    assert not details_request(JOB).creates


def test_the_query_has_the_order_of_the_vendors_clients() -> None:
    shuffled = list(EVERYTHING.items())
    random.Random(3).shuffle(shuffled)
    assert list(list_request(**dict(shuffled)).query) == [
        ("limit", "5"),
        ("status", "QUEUED"),
        ("status", "FAILED"),
        ("when", "created_before"),
        ("timestamp_ms", "1893456000000"),
        ("sort_by", "created"),
        ("direction", "desc"),
    ]


@given(st.sets(st.sampled_from(sorted(EVERYTHING))))
def test_what_is_not_given_is_not_sent_and_the_order_stays(names: set[str]) -> None:
    order = list(dict.fromkeys(name for name, _ in list_request(**{name: EVERYTHING[name] for name in names}).query))
    assert order == [name for name in EVERYTHING if name in names]


def test_one_status_is_a_status() -> None:
    assert list(list_request(status="COMPLETED").query) == [("status", "COMPLETED")]
    assert list(list_request(status=hb.Status.FAILED).query) == [("status", "FAILED")]
    assert list(list_request(status=()).query) == []
    # A status that a newer server has must be askable.
    assert list(list_request(status=iter(["PAUSED"])).query) == [("status", "PAUSED")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", 0), ("limit", -1), ("limit", True), ("limit", 1.5), ("limit", "5"),
        ("timestamp_ms", "now"), ("timestamp_ms", 1.5), ("timestamp_ms", True),
        ("when", "before"), ("when", ""), ("sort_by", "status"), ("direction", "DESC"), ("direction", "up"),
    ],
)  # fmt: skip
def test_list_arguments_are_checked(name: str, value: Any) -> None:
    with pytest.raises(hb.ConfigError) as caught:
        list_request(**{name: value})
    assert caught.value.field == name


BAD_IDS: list[Any] = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "a\\b",
    "a?b",
    "a#b",
    "a%2fb",
    "a b",
    "a\r\nb",
    "a\0",
    "é",
    "١",
    None,
    7,
]


@pytest.mark.parametrize("job_id", BAD_IDS)
@pytest.mark.parametrize("make", [details_request, predictions_request, artifacts_request])
def test_a_job_id_cannot_walk_elsewhere(job_id: Any, make: Any) -> None:
    with pytest.raises(hb.ConfigError) as caught:
        make(job_id)
    assert caught.value.field == "job_id"


@given(st.text())
def test_an_id_is_one_part_of_a_path_or_refused(job_id: str) -> None:
    try:
        path = details_request(job_id).path
    except hb.ConfigError:
        return
    assert path.rpartition("/") == ("/v0/batch/jobs", "/", job_id)
    assert path.isascii()


def upload(name: str) -> FileUpload:
    return FileUpload(
        filename=name, content_type="audio/x-wav", content=FilePart(path=f"/x/{name}", size=3, mtime_ns=1)
    )


def test_a_submission_without_files_is_json() -> None:
    request = submit_request(
        hb.Submission(urls=["https://a.example/b.wav"], notify=True, callback_url="https://c.example")
    )
    assert request.body is not None
    assert request.body.content_type == "application/json"
    (part,) = request.body.parts
    assert isinstance(part, bytes)
    assert json.loads(part) == {
        "urls": ["https://a.example/b.wav"],
        "callback_url": "https://c.example",
        "notify": True,
    }
    assert (request.method, request.path, request.creates, request.filenames) == ("POST", "/v0/batch/jobs", True, ())


def test_a_submission_with_files_is_a_form_with_the_json_in_front() -> None:
    submission = hb.Submission(files=["/x/a.wav", "/x/b.wav"], models=hb.Models(prosody=hb.Prosody()))
    request = submit_request(submission, [upload("a.wav"), upload("b.wav")])
    assert request.body is not None
    assert request.body.content_type.startswith("multipart/form-data; boundary=")
    first, *_ = request.body.parts
    assert isinstance(first, bytes)
    assert b'name="json"\r\n\r\n{"models":{"prosody":{}}}' in first
    assert request.filenames == ("a.wav", "b.wav")
    assert request.creates


def test_files_alone_need_no_json() -> None:
    request = submit_request(hb.Submission(files=["/x/a.wav"]), [upload("a.wav")])
    assert request.body is not None
    assert not any(b'name="json"' in part for part in request.body.parts if isinstance(part, bytes))


def test_the_key_goes_in_its_header() -> None:
    service = BatchService()
    assert dict(service.sign(list_request(), Secret("k"))) == {"X-Hume-Api-Key": "k"}
    assert dict(service.sign(list_request(), None)) == {}


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────

ASKED = WireRequest(method="GET", path=f"/v0/batch/jobs/{JOB}")


def refusal(status: int, body: bytes | Any, **headers: str) -> hb.ApiError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return BatchService().refusal(ASKED, WireReply(status=status, headers=names, body=raw, received=1000.0))


@pytest.mark.parametrize(
    ("status", "body", "said", "code"),
    [
        (404, {"message": "job not found"}, "job not found", None),
        (400, {"message": "bad", "code": "E0100"}, "bad", "E0100"),
        (400, {"message": "bad", "code": 12}, "bad", "12"),
        (
            401,
            {"fault": {"faultstring": "Invalid ApiKey", "detail": {"errorcode": "oauth.v2.InvalidApiKey"}}},
            "Invalid ApiKey",
            "oauth.v2.InvalidApiKey",
        ),
        (403, {"fault": {"faultstring": "No", "detail": None}}, "No", None),
        (500, {"fault": "short"}, "short", None),
        (422, {"detail": [{"loc": ["body", "urls"], "msg": "field required"}]}, "field required", None),
        (502, {"detail": "bad gateway"}, "bad gateway", None),
        (400, {"error": "from a proxy"}, "from a proxy", None),
        (400, {"message": "", "detail": "second"}, "second", None),
        (400, {"message": "two\nlines"}, "two lines", None),
        (502, b"<html>\n<h1>502 Bad Gateway</h1>\n</html>", "<html> <h1>502 Bad Gateway</h1> </html>", None),
        (500, b"", "no explanation given", None),
        (500, b"  \r\n", "no explanation given", None),
        (500, b"\xff\xfe", "\ufffd", None),
        (500, b"[" * 100_000, "[[[", None),
        (400, {}, "{}", None),
        (400, ["a"], '["a"]', None),
        (400, b"null", "null", None),
    ],
)
def test_refusals_are_worded_by_the_server(status: int, body: Any, said: str, code: str | None) -> None:
    error = refusal(status, body)
    assert type(error) is errors.error_class(status)
    assert str(error).startswith(f"GET /v0/batch/jobs/{JOB}: {status}: ")
    assert said in str(error)
    assert len(str(error)) < 800
    assert len(str(error).splitlines()) == 1
    assert (error.status, error.code, error.method, error.path) == (status, code, "GET", ASKED.path)


def test_the_body_is_kept_up_to_a_bound() -> None:
    error = refusal(500, b"x" * 1_000_000)
    assert error.body == "x" * 2000
    assert len(refusal(400, {"message": "m" * 1_000_000}).message) < 800


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_says_what_to_check(status: int) -> None:
    assert "API key" in str(refusal(status, {"message": "no"}))


@given(st.integers(300, 599), st.binary(max_size=50))
def test_every_refusal_is_an_api_error_of_its_status(status: int, body: bytes) -> None:
    error = refusal(status, body)
    assert type(error) is errors.error_class(status)
    assert error.status == status
    assert len(str(error).splitlines()) == 1


def test_the_wait_is_on_the_error() -> None:
    limited = refusal(429, {"message": "slow down"}, retry_after="30")
    assert isinstance(limited, hb.RateLimited)
    assert limited.retry_after == 30
    failed = refusal(503, b"", retry_after="Thu, 01 Jan 1970 00:17:10 GMT")
    assert isinstance(failed, hb.ServerError)
    assert failed.retry_after == 30
    unsaid = refusal(429, b"")
    assert isinstance(unsaid, hb.RateLimited)
    assert unsaid.retry_after is None
