"""Signatures: the published vectors, and what must break one."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import humebatch as hb
from humebatch._wire.signature import Signer, key_from, signed_by

# From the Standard Webhooks specification and the test of its reference libraries.
VECTORS = [
    (
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "1614265330",
        b'{"test": 2432232314}',
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ),
    (
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        "1649367553",
        b'{"email":"test@example.com","username":"test_user"}',
        "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
    ),
]
KEYS = st.binary(min_size=24, max_size=64)
IDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
TIMES = st.integers(0, 10**11).map(str)
BODIES = st.binary(max_size=300)


def sign(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    signer = Signer(key, message_id=message_id, timestamp=timestamp)
    signer.update(body)
    return signer.signature()


@pytest.mark.parametrize(("secret", "message_id", "timestamp", "body", "wanted"), VECTORS)
def test_published_vectors(secret: str, message_id: str, timestamp: str, body: bytes, wanted: str) -> None:
    assert sign(key_from(secret), message_id, timestamp, body) == wanted
    assert sign(key_from(secret.removeprefix("whsec_")), message_id, timestamp, body) == wanted
    assert signed_by([key_from(secret)], message_id=message_id, timestamp=timestamp, signatures=wanted, body=body)


@given(key=KEYS, message_id=IDS, timestamp=TIMES, pieces=st.lists(BODIES, max_size=5))
def test_pieces_sign_like_the_whole(key: bytes, message_id: str, timestamp: str, pieces: list[bytes]) -> None:
    signer = Signer(key, message_id=message_id, timestamp=timestamp)
    for piece in pieces:
        signer.update(piece)
    signed = f"{message_id}.{timestamp}.".encode() + b"".join(pieces)
    wanted = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert signer.signature() == f"v1,{wanted}"


@given(data=st.data(), key=KEYS, message_id=IDS, timestamp=TIMES, body=BODIES)
def test_anything_else_does_not_fit(
    data: st.DataObject, key: bytes, message_id: str, timestamp: str, body: bytes
) -> None:
    right = sign(key, message_id, timestamp, body)
    fits: dict[str, Any] = {"message_id": message_id, "timestamp": timestamp, "signatures": right, "body": body}
    assert signed_by([key], **fits)
    # The key is compared as HMAC sees it: filled up with zeros to the block of SHA-256.
    others = KEYS.filter(lambda other: other.rstrip(b"\0") != key.rstrip(b"\0"))
    assert not signed_by([data.draw(others)], **fits)
    strange = st.text(max_size=80) | st.sampled_from(["v1,", right[:-1], right.replace("v1,", ""), right.lower()])
    changes: dict[str, st.SearchStrategy[Any]] = {
        "message_id": IDS,
        "timestamp": TIMES,
        "body": BODIES,
        "signatures": strange,
    }
    for name, other in changes.items():
        value = data.draw(other)
        # The dot is the separator, and ids have none: with one, an id and a time could be cut in two ways.
        if value != fits[name] and "." not in message_id:
            assert not signed_by([key], **{**fits, name: value}), name


@given(keys=st.lists(KEYS, min_size=1, max_size=3), noise=st.lists(st.sampled_from(["v1,AAAA", "v1a,x", "", "v2,y"])))
def test_one_of_several(keys: list[bytes], noise: list[str]) -> None:
    for key in keys:
        signatures = " ".join([*noise, sign(key, "id", "1", b"body"), *noise])
        assert signed_by(keys, message_id="id", timestamp="1", signatures=signatures, body=b"body")
        assert not signed_by([], message_id="id", timestamp="1", signatures=signatures, body=b"body")
    assert not signed_by(keys, message_id="id", timestamp="1", signatures=" ".join(noise), body=b"body")


@given(key=KEYS)
def test_secrets(key: bytes) -> None:
    text = base64.b64encode(key).decode()
    assert key_from(f"whsec_{text}") == key_from(text) == key_from(f" whsec_{text}\n") == key


BAD = ["", "whsec_", "whsec_not base64 at all, sorry!", "whsec_c2hvcnQ=", "ÿ" * 40]
BAD += ["whsec_" + base64.b64encode(b"x" * size).decode() for size in (1, 23, 65, 1000)]


@pytest.mark.parametrize("secret", BAD)
def test_secrets_that_are_none(secret: str) -> None:
    with pytest.raises(hb.ConfigError) as refusal:
        key_from(secret)
    assert refusal.value.field == "callback_secret"
    text = secret.removeprefix("whsec_")
    assert not text or text not in str(refusal.value)
