"""JSON encoders and decoders of the batch API, built once."""

from __future__ import annotations

import re

import msgspec

from .._decoding import decode, near
from ..errors import DecodeError
from ..jobs import JobDetails, JobId
from ..predictions import decode as decode_predictions

__all__ = ["decode", "decode_job", "decode_job_id", "decode_jobs", "decode_predictions", "encode", "is_job_id"]

_encoder = msgspec.json.Encoder()
_job = msgspec.json.Decoder(JobDetails)
_jobs = msgspec.json.Decoder(list[JobDetails])
_job_id = msgspec.json.Decoder(JobId)

# The hosted API's ids are UUIDs; what matters is that one cannot be more than one part of a path.
_ID = re.compile(r"[A-Za-z0-9_-]+")


def encode(value: object) -> bytes:
    """A struct as JSON; UNSET fields are left out."""
    return _encoder.encode(value)


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
        raise DecodeError(f"answer to the submission: not a job id: {job_id!r}", path="$.job_id", near=near(data, 0))
    return job_id
