"""JSON encoders and decoders, built once, and the one place where a decoding failure becomes `DecodeError`."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from ..errors import DecodeError
from ..jobs import JobDetails, JobId
from ..predictions import SourceResult

__all__ = ["decode", "decode_job", "decode_job_id", "decode_jobs", "decode_predictions", "encode", "is_job_id"]

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_job = msgspec.json.Decoder(JobDetails)
_jobs = msgspec.json.Decoder(list[JobDetails])
_job_id = msgspec.json.Decoder(JobId)
_predictions = msgspec.json.Decoder(list[SourceResult])

# msgspec ends its messages with the place: " - at `$[0].state`" or "(byte 20)".
_AT = re.compile(r" - at `(?P<path>[^`]+)`$")
_BYTE = re.compile(r" \(byte (?P<offset>\d+)\)$")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_NEAR = 40
# The hosted API's ids are UUIDs; what matters is that one cannot be more than one part of a path.
_ID = re.compile(r"[A-Za-z0-9_-]+")


def encode(value: object) -> bytes:
    """A struct as JSON; UNSET fields are left out."""
    return _encoder.encode(value)


def decode(decoder: msgspec.json.Decoder[T], data: bytes, what: str) -> T:
    """`data` by `decoder`. Raises `DecodeError` with the JSON path or the text near the place."""
    try:
        return decoder.decode(data)
    except RecursionError:
        raise DecodeError(f"{what}: nested too deeply", near=_near(data, 0)) from None
    except ValueError as error:  # msgspec's own errors and UnicodeDecodeError
        text = str(error)
        path, near = "$", ""
        if at := _AT.search(text):
            path = at["path"]
            near = _near(_value_at(data, path), 0)
        elif byte := _BYTE.search(text):
            near = _near(data, int(byte["offset"]))
        else:
            near = _near(data, len(data))
        raise DecodeError(f"{what}: {text}; near {near!r}", path=path, near=near) from error


def _near(data: bytes, offset: int) -> str:
    return data[max(0, offset - _NEAR) : offset + _NEAR].decode("utf-8", "replace")


def _value_at(data: bytes, path: str) -> bytes:
    """The JSON of the value at `path`, or of the last value on the way there that can be reached."""
    found = data
    try:
        for name, index in _STEP.findall(path):
            if name:
                found = bytes(msgspec.json.decode(found, type=dict[str, msgspec.Raw])[name])
            else:
                found = bytes(msgspec.json.decode(found, type=list[msgspec.Raw])[int(index)])
    except (ValueError, LookupError, RecursionError):
        pass
    return found


def is_job_id(text: str) -> bool:
    """Whether `text` can be an id: letters, digits, hyphens and underscores."""
    return _ID.fullmatch(text) is not None


def decode_job(data: bytes) -> JobDetails:
    """The answer to a details request."""
    return decode(_job, data, "job details")


def decode_jobs(data: bytes) -> list[JobDetails]:
    """The answer to a list request."""
    return decode(_jobs, data, "job list")


def decode_job_id(data: bytes) -> str:
    """The id in the answer to a submission."""
    job_id = decode(_job_id, data, "answer to the submission").job_id
    if not is_job_id(job_id):
        raise DecodeError(f"answer to the submission: not a job id: {job_id!r}", path="$.job_id", near=_near(data, 0))
    return job_id


def decode_predictions(data: bytes) -> list[SourceResult]:
    """The answer to a predictions request."""
    return decode(_predictions, data, "predictions")
