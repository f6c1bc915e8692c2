"""The md5 of a file, and every way in which a file can spoil it."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from humebatch._client.ingest.hashing import Unusable, hash_file
from humebatch.ingestion import Reason

MB = 1 << 20


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.wav"
    path.write_bytes(os.urandom(2 * MB + 7))
    return path


def refused(path: Path | bytes) -> tuple[Reason, str]:
    with pytest.raises(Unusable) as raised:
        hash_file(os.fsencode(path))
    return raised.value.reason, raised.value.detail


def while_reading(monkeypatch: pytest.MonkeyPatch, *changes: Callable[[], object]) -> None:
    """Run each of `changes` after the first piece of one reading of the file."""
    true, left = os.readv, list(changes)
    fresh: set[int] = set()
    opened = os.open

    def open_(*given: Any) -> int:
        descriptor = opened(*given)
        fresh.add(descriptor)
        return descriptor

    def readv(descriptor: int, buffers: Any) -> int:
        count = true(descriptor, buffers)
        if descriptor in fresh:
            fresh.remove(descriptor)
            if left:
                left.pop(0)()
        return count

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "readv", readv)


@pytest.mark.parametrize("size", [1, MB - 1, MB, MB + 1, 3 * MB])
def test_md5_and_facts(tmp_path: Path, size: int) -> None:
    path = tmp_path / os.fsdecode(b"\xff.wav")
    content = os.urandom(size)
    path.write_bytes(content)
    hashed = hash_file(os.fsencode(path))
    status = path.stat()
    assert hashed.md5 == hashlib.md5(content).hexdigest()
    assert hashed.size == size
    assert (hashed.mtime_ns, hashed.dev, hashed.ino) == (status.st_mtime_ns, status.st_dev, status.st_ino)


def test_a_link_is_the_file_it_leads_to(tmp_path: Path, clip: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(clip)
    assert hash_file(os.fsencode(link)) == hash_file(os.fsencode(clip))


def test_what_is_no_file(tmp_path: Path) -> None:
    fifo, bound, empty = tmp_path / "fifo", tmp_path / "socket", tmp_path / "empty"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bound))
    empty.touch()
    assert refused(fifo)[0] is Reason.NOT_A_FILE
    assert refused(bound)[0] is Reason.NOT_A_FILE
    assert refused(tmp_path)[0] is Reason.NOT_A_FILE
    assert refused(Path("/dev/null"))[0] is Reason.NOT_A_FILE
    assert refused(empty) == (Reason.EMPTY, "an empty file")
    assert refused(tmp_path / "none")[0] is Reason.MISSING
    assert refused(empty / "none")[0] is Reason.MISSING
    assert refused(b"nul\0")[0] is Reason.MISSING
    assert refused(tmp_path / ("n" * 300)) == (Reason.UNREADABLE, os.strerror(errno.ENAMETOOLONG))


@pytest.mark.parametrize("call", ["open", "readv"])
@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.EACCES, "not allowed to read it"), (errno.EIO, os.strerror(errno.EIO))],
)
def test_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch, clip: Path, call: str, code: int, words: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    assert refused(clip) == (Reason.UNREADABLE, words)


def test_no_file_is_blamed_when_this_process_may_open_no_more(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        hash_file(os.fsencode(clip))


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def rewritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"same size")
    # File systems keep time by the tick; two writes can be within one.
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))


def replaced(path: Path) -> None:
    status = path.stat()
    new = path.with_name("new")
    new.write_bytes(os.urandom(status.st_size))
    os.utime(new, ns=(0, status.st_mtime_ns))
    new.rename(path)


CHANGES = [appended, truncated, rewritten, replaced]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_is_read_again(
    monkeypatch: pytest.MonkeyPatch, clip: Path, change: Callable[[Path], None]
) -> None:
    while_reading(monkeypatch, lambda: change(clip))
    hashed = hash_file(os.fsencode(clip))
    assert hashed.md5 == hashlib.md5(clip.read_bytes()).hexdigest()
    status = clip.stat()
    assert (hashed.size, hashed.mtime_ns, hashed.ino) == (status.st_size, status.st_mtime_ns, status.st_ino)


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_again_is_given_up(
    monkeypatch: pytest.MonkeyPatch, clip: Path, change: Callable[[Path], None]
) -> None:
    while_reading(monkeypatch, lambda: change(clip), lambda: change(clip))
    assert refused(clip)[0] is Reason.CHANGED


def test_a_file_that_grows_for_ever_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    true, read = os.readv, 0

    def readv(descriptor: int, buffers: Any) -> int:
        nonlocal read
        with clip.open("ab") as file:
            file.write(bytes(2 * MB))
        count = true(descriptor, buffers)
        read += count
        return count

    monkeypatch.setattr(os, "readv", readv)
    assert refused(clip)[0] is Reason.CHANGED
    assert read < 20 * MB


def test_a_file_that_ends_before_its_size_is_not_taken(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    true, calls = os.readv, 0

    def readv(descriptor: int, buffers: Any) -> int:
        nonlocal calls
        calls += 1
        return 0 if calls % 2 == 0 else true(descriptor, buffers)

    monkeypatch.setattr(os, "readv", readv)
    assert refused(clip)[0] is Reason.CHANGED


def test_what_takes_its_place_while_it_is_read(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    def fifo() -> None:
        clip.unlink()
        os.mkfifo(clip)

    while_reading(monkeypatch, fifo)
    assert refused(clip)[0] is Reason.NOT_A_FILE


def test_a_file_that_is_deleted_while_it_is_read_is_missing(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    while_reading(monkeypatch, clip.unlink)
    assert refused(clip)[0] is Reason.MISSING


def test_a_file_that_is_emptied_while_it_is_read_is_empty(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    while_reading(monkeypatch, lambda: os.truncate(clip, 0))
    assert refused(clip)[0] is Reason.EMPTY


@pytest.mark.parametrize("call", [None, "readv", "stat"])
def test_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch, clip: Path, call: str | None) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = len(os.listdir("/proc/self/fd"))
    if call is None:
        hash_file(os.fsencode(clip))
    else:
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            assert refused(clip)[0] is Reason.UNREADABLE
    assert len(os.listdir("/proc/self/fd")) == before
