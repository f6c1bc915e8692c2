"""Signing callbacks, and checking signatures: the Standard Webhooks convention, for both sides of the wire.

    webhook-id: msg_2f6c…                   the same for every repeat of one callback
    webhook-timestamp: 1735689600           Unix seconds at which this try was sent
    webhook-signature: v1,<base64>          HMAC-SHA256 of "<id>.<timestamp>.<body>"

Secrets look like `whsec_` and the base64 of 24 to 64 bytes. Source of all of this: the specification at
https://www.standardwebhooks.com. The hosted service signed nothing; this is what the field uses today.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from ..errors import ConfigError

__all__ = ["ID_HEADER", "SECRET_PREFIX", "SIGNATURE_HEADER", "TIMESTAMP_HEADER", "Signer", "key_from", "signed_by"]

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"
SECRET_PREFIX = "whsec_"  # noqa: S105 - what a secret begins with, not one
_VERSION = "v1"
_SHORTEST, _LONGEST = 24, 64


def key_from(secret: str) -> bytes:
    """The key inside a secret; the `whsec_` in front may be missing, as the convention's own libraries allow.

    Raises `ConfigError`, which does not quote the secret.
    """
    try:
        key = base64.b64decode(secret.strip().removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError, AttributeError):
        key = b""
    if not _SHORTEST <= len(key) <= _LONGEST:
        raise ConfigError(
            f"callback secret: must be {SECRET_PREFIX} and the base64 of {_SHORTEST} to {_LONGEST} bytes",
            field="callback_secret",
        )
    return key


class Signer:
    """The signature of one body that arrives in pieces: `update` with each, then `signature()`."""

    __slots__ = ("_mac",)

    def __init__(self, key: bytes, *, message_id: str, timestamp: str) -> None:
        """`timestamp`: Unix seconds, exactly as the header spells them."""
        self._mac = hmac.new(key, f"{message_id}.{timestamp}.".encode(), hashlib.sha256)

    def update(self, piece: bytes) -> None:
        """The next bytes of the body."""
        self._mac.update(piece)

    def signature(self) -> str:
        """The value of `webhook-signature`."""
        return f"{_VERSION},{base64.b64encode(self._mac.digest()).decode()}"


def signed_by(keys: Sequence[bytes], *, message_id: str, timestamp: str, signatures: str, body: bytes) -> bool:
    """Whether one of `signatures` (the header: separated by spaces, several while a secret is exchanged) fits a key.

    Every pair is compared, each in constant time, so the duration does not tell which one failed where.
    Signatures of other versions (`v1a` is the asymmetric one) are passed over.
    """
    if not (message_id + timestamp + signatures).isascii():
        return False
    given = [one.encode() for one in signatures.split(" ") if one.startswith(f"{_VERSION},")]
    found = False
    for key in keys:
        signer = Signer(key, message_id=message_id, timestamp=timestamp)
        signer.update(body)
        wanted = signer.signature().encode()
        for one in given:
            found |= hmac.compare_digest(wanted, one)
    return found
