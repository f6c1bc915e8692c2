"""Names on the wire: whatever the files are called, unique, safe and with the ending that tells what they are."""

from __future__ import annotations

import os
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from humebatch._client.ingest.naming import bundle_name, new_tag, own_name, wire_names
from humebatch._wire.multipart import quote_name

TAG = "hb7q2mx4kd"
# Any bytes that a path may end with, and texts that are prone to be the same in some sense.
ANY = st.binary(min_size=1, max_size=300).map(lambda name: name.replace(b"\0", b"0").strip(b"/") or b"x")
ALIKE = st.text("aA\u00e9\u0301eß.~2 sſ\u212a\u1e9ek", min_size=1, max_size=5).map(str.encode)
NAMES = st.lists(ANY | ALIKE, max_size=20)


def kept(name: str) -> str:
    """As the most forgetful server keeps it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


@given(names=NAMES, tag=st.just(TAG) | st.none())
@example(names=[b"a.mp4", b"a~2.mp4", b"a.mp4", b"A.MP4", b"x/a.mp4"], tag=None)
@example(names=["\u00e9.wav".encode(), "e\u0301.wav".encode()], tag=TAG)
@example(names=[b"x" * 254 + b" y"], tag=None)
@example(names=[b"x" * 255, b"x" * 254, b"\xff" * 255, b"x" * 250 + b" .y"], tag=TAG)
def test_names_are_unique_and_safe(names: list[bytes], tag: str | None) -> None:
    chosen = wire_names(names, tag)
    assert len(chosen) == len(names)
    assert len({kept(name) for name in chosen}) == len(chosen)
    assert chosen == wire_names(names, tag)
    for name in chosen:
        assert 1 <= len(name.encode()) <= 255  # encodes: no lone surrogates
        assert quote_name(name) == name
        assert unicodedata.is_normalized("NFC", name)
        assert not re.search(r'[/\\";%]', name)
        assert not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name)
        assert name == name.strip()
        assert name.strip(".") == name
        if tag is not None:
            assert re.search(rf"~{tag}(\..*)?\Z", name)


ENDING = st.sampled_from([".mp4", ".WAV", ".tar.gz", ".tar.bz2", ".Tar.XZ", ".tgz", ".é"])


@given(stem=ANY, ending=ENDING, tag=st.just(TAG) | st.none(), count=st.integers(1, 12))
def test_endings_are_kept(stem: bytes, ending: str, tag: str | None, count: int) -> None:
    # What comes before is cut: a name may be too long for the tag.
    suffix = "" if tag is None else f"~{tag}"
    chosen = wire_names([b"x" + stem + ending.encode()] * count, tag)
    assert chosen[0].endswith(suffix + ending)
    assert [name.endswith(f"~{number}{suffix}{ending}") for number, name in enumerate(chosen, 1)][1:] == [True] * (
        count - 1
    )


@pytest.mark.parametrize(
    ("path", "plain", "tagged"),
    [
        (b"clip.mp4", "clip.mp4", "clip~hb7q2mx4kd.mp4"),
        (b"/in/2024.05/clip", "clip", "clip~hb7q2mx4kd"),
        (b"a.b.tar.gz", "a.b.tar.gz", "a.b~hb7q2mx4kd.tar.gz"),
        (b".tar.gz", "_tar.gz", "_tar~hb7q2mx4kd.gz"),
        (b".mp4", "_mp4", "_mp4~hb7q2mx4kd"),
        (b"...", "file", "file~hb7q2mx4kd"),
        (b" ", "file", "file~hb7q2mx4kd"),
        (b" a.mp4. ", "a.mp4", "a~hb7q2mx4kd.mp4"),
        (b'a"b\\c;d%20\r\n.mp4', "a_b_c_d_20__.mp4", "a_b_c_d_20__~hb7q2mx4kd.mp4"),
        (b"\xff\xfe.mp4", "\ufffd\ufffd.mp4", "\ufffd\ufffd~hb7q2mx4kd.mp4"),
        ("e\u0301.mp4".encode(), "\u00e9.mp4", "\u00e9~hb7q2mx4kd.mp4"),
        (b"no. " + b"x" * 40, "no. " + "x" * 40, "no. " + "x" * 40 + "~hb7q2mx4kd"),
    ],
)
def test_names_read_like_those_of_the_files(path: bytes, plain: str, tagged: str) -> None:
    assert wire_names([path], None) == [plain]
    assert wire_names([path], TAG) == [tagged]


def test_the_second_of_a_name_gets_a_number() -> None:
    names = [b"a/x.mp4", b"b/x.mp4", b"c/X.MP4", b"x~2.mp4", b"d/x.mp4"]
    assert wire_names(names, None) == ["x.mp4", "x~2.mp4", "X~3.MP4", "x~2~2.mp4", "x~4.mp4"]
    assert wire_names(names[:2], TAG) == [f"x~{TAG}.mp4", f"x~2~{TAG}.mp4"]


def test_thousands_of_one_name() -> None:
    assert wire_names([b"x.mp4"] * 20_000, None)[-1] == "x~20000.mp4"


@given(path=ANY)
def test_own_names_are_valid_unicode(path: bytes) -> None:
    name = own_name(b"in/" + path)
    assert name.encode()
    assert "/" not in name
    last = os.path.basename(path)
    if "\ufffd" not in name:
        assert name.encode() == last


def test_bundles() -> None:
    assert bundle_name(None) == "bundle.zip"
    assert bundle_name(TAG) == f"bundle~{TAG}.zip"


def test_tags() -> None:
    tags = {new_tag() for _ in range(1000)}
    assert len(tags) == 1000
    assert all(re.fullmatch("[a-z2-7]{10}", tag) for tag in tags)
