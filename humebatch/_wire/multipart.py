"""multipart/form-data as the real clients of this API write it: framing, boundary and exact Content-Length.

Names go as raw UTF-8 inside `filename="…"`, with only what would break the header percent-encoded
(`"` as %22, CR as %0D, LF as %0A, other control characters alike), the way the vendor's clients do
(WHATWG form-data encoding).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

import msgspec

from .message import BodyPart, BodyPlan

__all__ = ["FileUpload", "form_data", "quote_name", "read_disposition"]


class FileUpload(msgspec.Struct, frozen=True):
    """A file to put into a form: the name and content type that go on the wire, and where its bytes come from."""

    filename: str
    content_type: str
    content: BodyPart


# A quote would end the parameter, a line break the header; servers refuse other control characters in one.
_BREAKING = re.compile('["\\x00-\\x1f\\x7f]')
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def quote_name(name: str) -> str:
    """A file name for a `filename="…"` parameter. Names that are not valid Unicode keep what can be kept."""
    # Bytes of a file name that are not UTF-8 come as surrogates from U+DC80 on; others stand for nothing.
    text = _NO_BYTE.sub("\N{REPLACEMENT CHARACTER}", name)
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _BREAKING.sub(lambda found: f"%{ord(found[0]):02X}", text)


def form_data(json: bytes | None, files: Sequence[FileUpload], *, boundary: str | None = None) -> BodyPlan:
    """A form with repeated `file` parts and, unless None, one `json` part.

    The `json` part is a plain field in front, so that a server can refuse a request before it has
    taken the files. `boundary` is random unless a test fixes it.
    """
    mark = boundary or secrets.token_hex(16)
    parts: list[BodyPart] = []
    text = b""
    if json is not None:
        text += f'--{mark}\r\nContent-Disposition: form-data; name="json"\r\n\r\n'.encode() + json + b"\r\n"
    for file in files:
        text += (
            f"--{mark}\r\n"
            f'Content-Disposition: form-data; name="file"; filename="{quote_name(file.filename)}"\r\n'
            f"Content-Type: {file.content_type}\r\n\r\n"
        ).encode()
        parts += [text, file.content]
        text = b"\r\n"
    parts.append(text + f"--{mark}--\r\n".encode())
    return BodyPlan(content_type=f"multipart/form-data; boundary={mark}", parts=tuple(parts))


# A parameter is a token or a quoted string. Inside the quotes everything but a quote is meant as it
# stands, backslashes and semicolons included: the clients of this API escape nothing but with %22.
_PARAMETER = re.compile(r';[ \t]*([A-Za-z0-9!#$%&\x27*+.^_`|~-]+)[ \t]*=[ \t]*(?:"([^"]*)"|([^;"\s]*))[ \t]*')


def read_disposition(header: str, wanted: str | None = "form-data") -> dict[str, str] | None:
    """The parameters of a Content-Disposition, as sent; None if its kind is not `wanted` (None: any kind will do).

    Values are not percent-decoded: the server echoes names as it got them. `filename*` (RFC 5987) is
    forbidden in forms (RFC 7578, 4.2) and no client of this API sends it; it is kept under its own name.
    """
    kind, _, _ = header.partition(";")
    if wanted is not None and kind.strip().lower() != wanted:
        return None
    parameters: dict[str, str] = {}
    position = len(kind)
    while match := _PARAMETER.match(header, position):
        quoted, bare = match[2], match[3]
        parameters.setdefault(match[1].lower(), bare if quoted is None else quoted)
        position = match.end()
    return parameters if position >= len(header.rstrip()) else None
