"""Answers as JSON, and refusals with the field that is wrong."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from .._wire.batch import KEY_HEADER
from .._wire.codec import encode
from .intake import Refused

__all__ = ["gone", "json_bytes", "json_reply", "refusal", "unauthorized"]


def unauthorized(detail: str) -> Refused:
    """The refusal of a request without a key, or with a wrong one."""
    # The message is the hosted service's, which old clients compare; the detail tells missing from wrong.
    return Refused(401, "Invalid ApiKey", KEY_HEADER, detail=detail)


def gone() -> Refused:
    """The refusal of results that were removed."""
    return Refused(404, "the results of this job are not on the server any more", "id")


def json_reply(value: Any, status: int = 200) -> web.Response:
    """A value as a JSON answer."""
    return json_bytes(encode(value), status)


def json_bytes(body: bytes, status: int = 200) -> web.Response:
    """JSON that is encoded already."""
    return web.Response(body=body, status=status, content_type="application/json")


def refusal(status: int, message: str, field: str | None = None, detail: str | None = None) -> web.Response:
    """The answer that says no, in the service's form: `message`, and `field` where the caller can change something."""
    # One line: some of these words are a library's, which breaks its lines.
    body: dict[str, Any] = {"message": " ".join(message.split())}
    if status < 500:
        body["field"] = field or "body"
    if detail is not None:
        body["detail"] = detail
    if status == 401:
        # The old gateway's words: the legacy client parses them.
        body["fault"] = {"faultstring": "Invalid ApiKey", "detail": {"errorcode": "oauth.v2.InvalidApiKey"}}
    return json_reply(body, status)
