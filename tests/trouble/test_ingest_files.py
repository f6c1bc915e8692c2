"""Files that change, vanish, have impossible names or come in numbers, and what the server has made of them.

Rows C50 to C64 and C78 of the README beside this file.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import humebatch as hb
from humebatch._client.ingest import fetching, hashing, run, storing
from humebatch._transport.reading import OpenPart
from humebatch.config import IngestPolicy
from humebatch.errors import ConfigError
from humebatch.testing import Before, FakeClock, RunningServer, Trouble, running_server
from tests._client.ingest.runs import KEY, Work, clip, contents_of, md5_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

# Larger than what is read of a file at a time: it goes out in several pieces.
SIZE = 40_000
PIECES = {"limits": hb.Limits(chunk=4096)}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


@pytest.fixture
async def trouble() -> Trouble:
    return Trouble()


@pytest.fixture(params=[True, False], ids=["keyed", "plain"])
async def server(request: pytest.FixtureRequest, trouble: Trouble) -> AsyncIterator[RunningServer]:
    """Both kinds: one that honours idempotency keys, and one like the hosted service."""
    async with running_server(api_key=KEY, idempotency=request.param, trouble=trouble) as running:
        yield running


# ── changed (C50 to C52)

OLD, NEW = clip("old", SIZE), clip("new", SIZE)


def rewrite(path: Path) -> None:
    path.write_bytes(NEW[:-1] + b"!!")


def rewrite_unseen(path: Path) -> None:
    """Other bytes in the same file, and neither its size nor its date tells."""
    facts = path.stat()
    with path.open("r+b") as file:
        file.write(NEW)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def truncate(path: Path) -> None:
    os.truncate(path, 8192)


def replace(path: Path) -> None:
    other = path.with_name(".other")
    other.write_bytes(NEW)
    facts = path.stat()
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.replace(path)


CHANGES = [rewrite, rewrite_unseen, append, truncate, replace]


def after_hashing(monkeypatch: pytest.MonkeyPatch, path: Path, act: Callable[[Path], None]) -> None:
    """Do it as soon as the file was hashed for the first time."""
    left = [act]

    def hashed(given: bytes, **more: Any) -> hashing.Hashed:
        result = hashing.hash_file(given, **more)
        if given == os.fsencode(path) and left:
            left.pop()(path)
        return result

    monkeypatch.setattr(run, "hash_file", hashed)


def while_sending(
    monkeypatch: pytest.MonkeyPatch, path: Path, act: Callable[[Path], None], *, times: int = 1, after: int = 0
) -> None:
    """Do it when so many bytes of the file have been read to be sent."""
    read, left = OpenPart.read, [act] * times

    async def acting(self: OpenPart, most: int) -> bytes | bytearray:
        data = await read(self, most)
        if self.part.path == str(path) and left and self.offset > after:
            await asyncio.to_thread(left.pop(), path)
        return data

    monkeypatch.setattr(OpenPart, "read", acting)


@pytest.mark.parametrize("change", CHANGES)
async def test_changed_between_being_found_and_being_hashed(
    server: RunningServer, work: Work, change: Callable[[Path], None]
) -> None:
    a, b = work.make({"a.wav": clip("a", SIZE), "b.wav": OLD})

    def paths() -> Iterator[Path]:
        yield a
        yield b
        change(b)

    ran = await work.run(server, paths(), client=PIECES)
    assert set(ran.reasons) == {None}
    assert await contents_of(server) == sorted([md5_of(a.read_bytes()), md5_of(b.read_bytes())])
    await work.check(server)


@pytest.mark.parametrize("size", [SIZE, 100], ids=["large", "small"])
@pytest.mark.parametrize("change", CHANGES)
async def test_changed_between_being_hashed_and_being_sent(
    server: RunningServer, work: Work, change: Callable[[Path], None], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if size < SIZE:
        monkeypatch.setattr(sys.modules[__name__], "NEW", clip("new", size))
    a, b = work.make({"a.wav": clip("a", size), "b.wav": clip("old", size)})
    after_hashing(monkeypatch, b, change)
    ran = await work.run(server, client=PIECES)
    assert set(ran.reasons) == {None}
    # The other one is measured without it, before it is looked at again or after.
    assert await contents_of(server) == sorted([md5_of(a.read_bytes()), md5_of(b.read_bytes())])
    assert work.result("in/b.wav")["source"]["md5sum"] == md5_of(b.read_bytes()) != md5_of(OLD)
    await work.check(server)


@pytest.mark.parametrize("after", [0, SIZE - 8192], ids=["early", "late"])
@pytest.mark.parametrize("change", [one for one in CHANGES if one is not replace])
async def test_changed_while_it_is_sent(
    server: RunningServer,
    work: Work,
    change: Callable[[Path], None],
    after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = work.make({"a.wav": clip("a", SIZE), "b.wav": OLD})
    while_sending(monkeypatch, b, change, after=after)
    ran = await work.run(server, client=PIECES)
    assert set(ran.reasons) == {None}
    # No job of what it was, none of a mixture: the last bytes of such a request are never sent.
    assert await contents_of(server) == sorted([md5_of(a.read_bytes()), md5_of(b.read_bytes())])
    assert ran.report.jobs == len(await asyncio.to_thread(server.jobs))
    assert [state for (state,) in work.query("SELECT state FROM attempt WHERE state <> 'ACCEPTED'")] == ["NOT_SENT"]
    await work.check(server)


@pytest.mark.parametrize("change", [replace, Path.unlink])
async def test_what_is_put_in_its_place_is_not_mixed_with_it(
    server: RunningServer, work: Work, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = work.make({"a.wav": clip("a", SIZE), "b.wav": OLD})
    while_sending(monkeypatch, b, change)
    ran = await work.run(server, client=PIECES)
    # The open file is what it was, and whole.
    assert set(ran.reasons) == {None}
    assert await contents_of(server) == sorted([md5_of(a.read_bytes()), md5_of(OLD)])
    assert work.result("in/b.wav")["source"]["md5sum"] == md5_of(OLD)
    await work.check(server)

    again = await work.run(server, client=PIECES)
    if b.exists():  # the next run sees that it is another file
        assert again.report.jobs == 2
        assert work.result("in/b.wav")["source"]["md5sum"] == md5_of(NEW)
    else:
        assert again.report.jobs == 1
        assert again.report.done == 2
    await work.check(server)


async def test_deleted_before_it_is_sent(server: RunningServer, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = work.make({"a.wav": clip("a"), "b.wav": clip("b")})
    after_hashing(monkeypatch, b, Path.unlink)
    ran = await work.run(server)
    assert (ran.reason(a), ran.reason(b)) == (None, "MISSING")
    assert await contents_of(server) == [md5_of(clip("a"))]
    await work.check(server)
    # Somebody puts it back.
    b.write_bytes(clip("b"))
    assert set((await work.run(server)).reasons) == {None}
    await work.check(server)


async def test_deleted_before_it_is_hashed(server: RunningServer, work: Work) -> None:
    a, b = work.make({"a.wav": clip("a"), "b.wav": clip("b")})

    def paths() -> Iterator[Path]:
        yield from (a, b)
        b.unlink()

    ran = await work.run(server, paths())
    assert (ran.reason(a), ran.reason(b)) == (None, "MISSING")
    await work.check(server)


@pytest.mark.parametrize("files_per_job", [1, 100])
async def test_a_file_that_changes_for_ever_is_given_up(
    server: RunningServer, work: Work, files_per_job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = work.make({"a.wav": clip("a", SIZE), "b.wav": OLD})
    rounds = iter(range(1000))

    def change(path: Path) -> None:
        path.write_bytes(clip(next(rounds), SIZE))

    while_sending(monkeypatch, b, change, times=1000)
    ran = await work.run(server, client=PIECES, files_per_job=files_per_job)
    assert (ran.reason(a), ran.reason(b)) == (None, "CHANGED")
    assert await contents_of(server) == [md5_of(clip("a", SIZE))]
    assert ran.report.attempts <= 6  # it is not tried for ever
    await work.check(server)
    # When it has come to rest, it is measured.
    monkeypatch.undo()
    assert set((await work.run(server, client=PIECES, retry_failed=True)).reasons) == {None}
    await work.check(server)


async def test_changed_while_an_earlier_try_may_be_a_job(server: RunningServer, work: Work, trouble: Trouble) -> None:
    """The same request cannot be made again; the list finds the job of what the file was."""
    (a,) = work.make({"a.wav": OLD})
    trouble.submissions("drop")

    class Changing(FakeClock):
        async def sleep(self, seconds: float, /) -> None:
            if trouble.accepted and await asyncio.to_thread(a.read_bytes) == OLD:
                await asyncio.to_thread(rewrite, a)
            await super().sleep(seconds)

    ran = await work.run(server, client=PIECES, clock=Changing())
    assert set(ran.reasons) == {None}
    assert await contents_of(server) == [md5_of(OLD)]
    await work.check(server)
    again = await work.run(server, client=PIECES)
    assert set(again.reasons) == {None}
    assert sorted(await contents_of(server)) == sorted([md5_of(OLD), md5_of(a.read_bytes())])
    assert work.result("in/a.wav")["source"]["md5sum"] == md5_of(a.read_bytes())
    await work.check(server)


# ── bundles


async def test_a_bundle_is_one_job_and_each_input_has_results_of_its_own(server: RunningServer, work: Work) -> None:
    contents = {f"{n % 7}/clip.wav": b"" for n in range(7)} | {f"{n:03}.wav": clip(n) for n in range(150)}
    contents = {name: content or clip(name) for name, content in contents.items()}
    work.make(contents)
    ran = await work.run(server, files_per_job=1000)
    assert set(ran.reasons) == {None}
    (job,) = await asyncio.to_thread(server.jobs)
    assert len(job.request.files) == 1
    for name, content in contents.items():
        source = work.result(f"in/{name}")
        assert source["source"]["filename"] == os.path.basename(name)
        assert source["source"]["md5sum"] == md5_of(content)
        (prediction,) = source["results"]["predictions"]
        assert prediction["file"] == os.path.basename(name)
    # Made-up scores depend on the bytes: nobody has those of another.
    scores = Counter(str(work.result(f"in/{name}")["results"]["predictions"][0]["models"]) for name in contents)
    assert set(scores.values()) == {1}
    await work.check(server)
    assert (await work.run(server, files_per_job=1000)).report.attempts == 1


@pytest.mark.parametrize("change", [rewrite, rewrite_unseen, truncate])
async def test_changed_before_its_bundle_is_sent(
    server: RunningServer, work: Work, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = work.make({"a.wav": clip("a", SIZE), "b.wav": OLD})
    after_hashing(monkeypatch, b, change)
    ran = await work.run(server, client=PIECES, files_per_job=101)
    assert set(ran.reasons) == {None}
    for path in (a, b):
        assert work.result(f"in/{path.name}")["source"]["md5sum"] == md5_of(path.read_bytes())
    rows = dict(work.query("SELECT path, md5 FROM file"))
    assert rows == {os.fsencode(path): md5_of(path.read_bytes()) for path in (a, b)}
    await work.check(server)


@pytest.mark.parametrize("change", [rewrite, rewrite_unseen, truncate, Path.unlink])
async def test_changed_while_its_bundle_is_sent(
    server: RunningServer, work: Work, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from humebatch._transport import planning

    a, b = work.make({"a.wav": clip("a", SIZE), "b.wav": OLD})
    pieces, rounds = planning._archive_pieces, []

    def acting(*arguments: Any) -> Iterator[bytes]:
        # The first time it is read for its md5, the second time for the line.
        rounds.append(1)
        for number, piece in enumerate(pieces(*arguments)):
            if len(rounds) == 2 and number == 0:
                change(b)
            yield piece

    monkeypatch.setattr(planning, "_archive_pieces", acting)
    ran = await work.run(server, client=PIECES, files_per_job=101)
    assert ran.reason(a) is None
    assert ran.reason(b) == (None if b.exists() else "MISSING")
    assert len(await asyncio.to_thread(server.jobs)) == ran.report.jobs
    for path in (a, b):
        if path.exists():
            assert work.result(f"in/{path.name}")["source"]["md5sum"] == md5_of(path.read_bytes())
    await work.check(server)


# ── what is no file (C53 to C56, C63)


async def test_what_cannot_be_measured_is_told_and_the_rest_goes_on(server: RunningServer, work: Work) -> None:
    (good,) = work.make({"good.wav": clip("good")})
    outside = work.folder / "outside.wav"
    outside.write_bytes(clip("outside"))
    made = work.inputs
    (made / "empty.wav").touch()
    os.mkfifo(made / "fifo.wav")
    (made / "inside.wav").symlink_to(good)
    (made / "outside.wav").symlink_to(outside)
    (made / "dangling.wav").symlink_to(made / "nothing.wav")
    (made / "loop.wav").symlink_to(made / "loop.wav")
    (made / "folder").mkdir()
    (made / "folder" / "up").symlink_to(made)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(made / "socket.wav"))
        ran = await work.run(server, [made, made / "missing.wav", "/proc/self/mem/nothing"])
    assert {Path(path).name: ran.reason(path) for path in ran.outcomes} == {
        "good.wav": None,
        "inside.wav": None,
        "empty.wav": "EMPTY",
        "fifo.wav": "NOT_A_FILE",
        "socket.wav": "NOT_A_FILE",
        "outside.wav": "OUTSIDE",
        "dangling.wav": "MISSING",
        "loop.wav": "UNREADABLE",
        "missing.wav": "MISSING",
        "nothing": "MISSING",
    }
    assert await contents_of(server) == [md5_of(clip("good"))]
    await work.check(server)


async def test_a_file_that_cannot_be_read(server: RunningServer, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = work.make({"good.wav": clip("good"), "bad.wav": clip("bad")})
    opened = os.open

    def refusing(path: Any, *arguments: Any, **more: Any) -> int:
        if path == os.fsencode(bad):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refusing)
        ran = await work.run(server)
    assert (ran.reason(good), ran.reason(bad)) == (None, "UNREADABLE")
    await work.check(server)


async def test_a_disk_that_fails_while_a_file_is_sent(
    server: RunningServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = work.make({"good.wav": clip("good", SIZE), "bad.wav": clip("bad", SIZE)})

    read = OpenPart._read_in_thread

    async def failing(self: OpenPart, size: int) -> bytes:
        if self.part.path == str(bad) and self.offset > 8192:
            raise OSError(5, "Input/output error")
        return await read(self, size)

    monkeypatch.setattr(OpenPart, "_try_read", lambda *_: None)
    monkeypatch.setattr(OpenPart, "_read_in_thread", failing)
    ran = await work.run(server, client=PIECES)
    # It can be hashed each time, and never be sent.
    assert ran.reason(good) is None
    assert ran.reason(bad) == "CHANGED"
    assert await contents_of(server) == [md5_of(clip("good", SIZE))]
    await work.check(server)


async def test_results_below_the_inputs_are_no_inputs(server: RunningServer, work: Work) -> None:
    work.make({"a.wav": clip("a"), "b.wav": clip("b")})
    inside: dict[str, Any] = {"out": work.inputs / "results", "journal": work.inputs / "run.db"}
    first = await work.run(server, **inside)
    again = await work.run(server, **inside)
    assert first.outcomes.keys() == again.outcomes.keys()
    assert {Path(path).name for path in again.outcomes} == {"a.wav", "b.wav"}
    assert again.report.attempts == 1


async def test_results_are_not_ingested(server: RunningServer, work: Work) -> None:
    work.make({"a.wav": clip("a")})
    await work.run(server)
    for given in (work.out, work.out / "in", [work.inputs, work.out / "in/a.wav/predictions.json"]):
        with pytest.raises(ConfigError, match="results"):
            await work.run(server, given)
    with pytest.raises(ConfigError, match="results"):
        await work.run(server, out=work.inputs)


# ── names (C57, C58)

NAMES = [
    b"\xff\xfe.wav",
    b'quo"te.wav',
    b"line\r\nX-Evil: 1.wav",
    b"semi;colon.wav",
    b"back\\slash.wav",
    b"per%22cent.wav",
    b"-dash.wav",
    b" space .wav",
    "e\u0301.wav".encode(),
    "\u00e9.wav".encode(),
    "\u202eright-to-left.wav".encode(),
    "\U0001f600.wav".encode(),
    b"l" * 251 + b".wav",
    "\u00e9".encode() * 125 + b".wav",
    b"UPPER.wav",
    b"upper.wav",
    b"no ending",
    b"bundle.zip.wav",
    b"\x1b[31mred.wav",
]


@pytest.mark.parametrize("files_per_job", [100, 1000], ids=["files", "bundle"])
async def test_any_name_finds_its_results(server: RunningServer, work: Work, files_per_job: int) -> None:
    contents = {os.path.join(os.fsencode(work.inputs), name): clip(number) for number, name in enumerate(NAMES)}
    for path, content in contents.items():
        with open(path, "wb") as file:
            file.write(content)
    ran = await work.run(server, files_per_job=files_per_job)
    assert {os.fsencode(path) for path in ran.outcomes} == set(contents)
    assert set(ran.reasons) == {None}
    for path, content in contents.items():
        source = work.result(b"in/" + os.path.basename(path))["source"]
        assert source["md5sum"] == md5_of(content)
        assert source["filename"] == os.path.basename(path).decode("utf-8", "replace")
    assert len(await asyncio.to_thread(server.jobs)) == 1
    await work.check(server)
    assert (await work.run(server, files_per_job=files_per_job)).report.attempts == 1


@pytest.mark.parametrize("seed", range(4))
async def test_made_up_names_find_their_results(server: RunningServer, work: Work, seed: int) -> None:
    rng = random.Random(seed)
    alphabet = [byte for byte in range(1, 256) if byte != ord("/")]
    names = {bytes(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(60)}
    contents = {name: clip(name.hex()) for name in names if not name.startswith(b".")}
    for name, content in contents.items():
        with open(os.path.join(os.fsencode(work.inputs), name), "wb") as file:
            file.write(content)
    ran = await work.run(server, files_per_job=25)
    assert set(ran.reasons) == {None}
    for name, content in contents.items():
        assert work.result(b"in/" + name)["source"]["md5sum"] == md5_of(content)
    await work.check(server)


async def test_many_files_of_one_name(server: RunningServer, work: Work) -> None:
    contents = {f"{n}/clip.wav": clip(n) for n in range(12)} | {"12/clip~2.wav": clip("a name that is taken")}
    work.make(contents)
    ran = await work.run(server)
    assert set(ran.reasons) == {None}
    (job,) = await asyncio.to_thread(server.jobs)
    assert len({file.filename for file in job.request.files}) == len(contents)
    for name, content in contents.items():
        source = work.result(f"in/{name}")["source"]
        assert (source["filename"], source["md5sum"]) == (os.path.basename(name), md5_of(content))
    await work.check(server)


async def test_two_folders_that_lead_to_one_place(server: RunningServer, work: Work) -> None:
    work.make({"a/x/clip.wav": clip("a"), "b/x/clip.wav": clip("b"), "x/index.jsonl": clip("c")})
    given = [work.inputs / "a/x", work.inputs / "b/x", work.inputs / "x/index.jsonl"]
    ran = await work.run(server, given)
    places = {path: one.value.predictions for path, one in ran.outcomes.items() if one.value}
    assert len(set(places.values())) == 3
    assert (work.out / "index.jsonl").is_file()
    again = await work.run(server, given[::-1])
    assert {path: one.value.predictions for path, one in again.outcomes.items() if one.value} == places
    await work.check(server)


async def test_results_whose_path_would_be_too_long(server: RunningServer, work: Work) -> None:
    deep = "/".join(["d" * 200] * 3)
    good, far = work.make({"good.wav": clip("good"), f"{deep}/far.wav": clip("far")})
    out = work.folder
    while len(str(out)) + 201 < 4096 - 400:
        out /= "o" * 200
    ran = await work.run(server, out=out)
    assert (ran.reason(good), ran.reason(far)) == (None, "NOT_SAVED")
    assert ran.report.failures == {"FAILED(NOT_SAVED)": 1}


# ── identical files (C59)


async def test_identical_files_are_measured_once(server: RunningServer, work: Work) -> None:
    work.make({f"{n}/clip{n}.wav": clip("same") for n in range(5)} | {"other.wav": clip("other")})
    ran = await work.run(server, files_per_job=2)
    assert set(ran.reasons) == {None}
    assert await contents_of(server) == sorted([md5_of(clip("same")), md5_of(clip("other"))])
    for n in range(5):
        source = work.result(f"in/{n}/clip{n}.wav")["source"]
        assert (source["filename"], source["md5sum"]) == (f"clip{n}.wav", md5_of(clip("same")))
    assert ran.report.identical == 4
    assert len({one.value.job_id for one in ran.outcomes.values() if one.value}) <= 2
    await work.check(server)


async def test_an_identical_file_of_a_later_run_costs_nothing(server: RunningServer, work: Work) -> None:
    work.make({"first.wav": clip("same")})
    await work.run(server)
    work.make({"later.wav": clip("same")})
    ran = await work.run(server)
    assert set(ran.reasons) == {None}
    assert ran.report.attempts == 1 and ran.requests == 1
    assert work.result("in/later.wav")["source"]["filename"] == "later.wav"
    await work.check(server)


@pytest.mark.parametrize("gone", [False, True], ids=["kept", "removed"])
async def test_the_first_of_identical_files_is_changed_later(server: RunningServer, work: Work, gone: bool) -> None:
    first, *_ = work.make({"1.wav": clip("same"), "2.wav": clip("same"), "3.wav": clip("same")})
    await work.run(server)
    first.write_bytes(clip("another now"))
    if gone:  # and the results of one that was the same are wanted again
        (work.out / "in/2.wav/predictions.json").unlink()
    ran = await work.run(server)
    assert set(ran.reasons) == {None}
    assert await contents_of(server) == sorted([md5_of(clip("same")), md5_of(clip("another now"))])
    for number, content in ((1, "another now"), (2, "same"), (3, "same")):
        source = work.result(f"in/{number}.wav")["source"]
        assert (source["filename"], source["md5sum"]) == (f"{number}.wav", md5_of(clip(content)))
    await work.check(server)
    assert (await work.run(server)).report.attempts == 2


async def test_the_first_of_identical_files_vanishes_before_it_is_sent(
    server: RunningServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = work.make({f"{n}.wav": clip("same") for n in range(3)})
    after_hashing(monkeypatch, first, Path.unlink)
    ran = await work.run(server)
    assert ran.reason(first) == "MISSING"
    assert ran.reasons == {"MISSING": 1, None: 2}
    assert await contents_of(server) == [md5_of(clip("same"))]
    await work.check(server)


async def test_identical_files_share_a_refusal(server: RunningServer, work: Work, trouble: Trouble) -> None:
    work.make({f"{n}.wav": clip("same") for n in range(3)} | {"other.wav": clip("other")})
    trouble.submissions(Before(413), Before(413))
    ran = await work.run(server)
    assert ran.reasons in ({"TOO_LARGE": 3, None: 1}, {"TOO_LARGE": 1, None: 3})
    await work.check(server)


# ── many (C60, C64)


@pytest.mark.parametrize(("count", "per_job", "jobs"), [(101, 100, 2), (1000, 100, 10), (7, 3, 3), (100, 100, 1)])
async def test_as_many_to_a_job_as_asked_for(
    server: RunningServer, work: Work, count: int, per_job: int, jobs: int
) -> None:
    work.make({f"{n:04}.wav": clip(n) for n in range(count)})
    ran = await work.run(server, files_per_job=per_job)
    assert ran.report.done == count
    sizes = [len(job.request.files) for job in await asyncio.to_thread(server.jobs)]
    assert len(sizes) == jobs and max(sizes) <= per_job and sum(sizes) == count
    await work.check(server)


async def test_as_many_bytes_to_a_job_as_asked_for(server: RunningServer, work: Work) -> None:
    sizes = [100, 100, 100, 5000, 100, 900, 200]
    paths = work.make({f"{n}.wav": clip(n, size) for n, size in enumerate(sizes)})
    await work.run(server, policy=IngestPolicy(group_bytes=1000))
    by_md5 = {md5_of(path.read_bytes()): path.stat().st_size for path in paths}
    jobs = await asyncio.to_thread(server.jobs)
    packed = sorted([by_md5[file.md5sum] for file in job.request.files] for job in jobs)
    assert packed == sorted([[100, 100, 100], [5000], [100, 900], [200]])
    await work.check(server)


CLIENT = """
import asyncio, resource, sys
import humebatch as hb
from humebatch.testing import FakeClock

async def main():
    url, key, folder = sys.argv[1:]
    async with hb.BatchClient(base_url=url, api_key=key, clock=FakeClock()) as client:
        # A model that is not for sound: short answers.
        asked = {"models": hb.Models(face=hb.Face()), "journal": folder + "/journal.db", "out": folder + "/out"}
        async with client.ingest(folder + "/in", **asked) as outcomes:
            done = 0
            async for outcome in outcomes:
                assert outcome.error is None, outcome.error
                done += 1
    print(done, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

asyncio.run(main())
"""


async def in_a_process(script: str, *arguments: str, **more: Any) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, **more
    )
    try:
        out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(), errors.decode()


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder where two flushes for each result take no time, if there is one."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.slow
async def test_memory_does_not_grow_with_the_number_of_files(in_memory: Path) -> None:
    """Of 20,000 small files as of 2,000."""
    peaks: dict[int, int] = {}
    for count in (2_000, 20_000):
        folder = in_memory / str(count)

        def prepare() -> None:
            for n in range(count):  # noqa: B023 - called at once
                if n % 500 == 0:
                    (folder / f"in/{n}").mkdir(parents=True)  # noqa: B023
                (folder / f"in/{n - n % 500}/{n}.wav").write_bytes(clip(n))  # noqa: B023

        await asyncio.to_thread(prepare)
        async with running_server(api_key=KEY, data=folder / "server") as server:
            status, said, errors = await in_a_process(CLIENT, server.base_url, KEY, str(folder))
            assert status == 0, errors
            jobs = await asyncio.to_thread(server.jobs)
        done, peak = map(int, said.split())
        assert done == count and len(jobs) == count // 100
        peaks[count] = peak
    # KiB; what was not used at 2,000 files is allowed for, a kilobyte for each file is not.
    assert peaks[20_000] - peaks[2_000] < 12_000, peaks


# ── after it was done (C78)


async def test_touched_and_not_changed_is_not_measured_again(server: RunningServer, work: Work) -> None:
    a, b = work.make({"a.wav": clip("a"), "b.wav": clip("b")})
    await work.run(server)
    os.utime(a, (1, 1))
    replace_by_a_copy = b.with_name(".copy")
    replace_by_a_copy.write_bytes(b.read_bytes())
    replace_by_a_copy.replace(b)
    ran = await work.run(server)
    assert set(ran.reasons) == {None}
    assert ran.report.attempts == 1 and ran.requests == 1
    await work.check(server)


async def test_touched_and_without_its_results(server: RunningServer, work: Work) -> None:
    a, _ = work.make({"a.wav": clip("a"), "b.wav": clip("b")})
    await work.run(server)
    os.utime(a, (1, 1))
    (work.out / "in/a.wav/predictions.json").unlink()
    ran = await work.run(server)
    assert set(ran.reasons) == {None}
    assert ran.report.attempts == 1
    await work.check(server)


async def test_changed_after_it_was_done_is_measured_again(server: RunningServer, work: Work) -> None:
    a, b = work.make({"a.wav": clip("a"), "b.wav": clip("b")})
    await work.run(server)
    a.write_bytes(clip("a second take"))
    ran = await work.run(server)
    assert set(ran.reasons) == {None}
    assert await contents_of(server) == sorted(map(md5_of, [clip("a"), clip("b"), clip("a second take")]))
    assert work.result("in/a.wav")["source"]["md5sum"] == md5_of(clip("a second take"))
    await work.check(server)
    # And back to what it was: that content is not looked for among what was.
    b.unlink()
    assert (await work.run(server)).report.done == 2


@pytest.mark.parametrize("how", ["removed", "cut", "whole folder"])
async def test_results_that_are_gone_are_fetched_again(server: RunningServer, work: Work, how: str) -> None:
    work.make({f"{n}.wav": clip(n) for n in range(4)} | {"same.wav": clip(0)})
    await work.run(server, files_per_job=2)
    before = await asyncio.to_thread(work.query, "SELECT sha256 FROM file ORDER BY id")
    results = sorted(work.out.rglob("predictions.json"))
    for path in results[:3]:
        if how == "cut":
            os.truncate(path, 10)
        else:
            path.unlink()
        if how == "whole folder":
            path.parent.rmdir()
    ran = await work.run(server, files_per_job=2)
    assert set(ran.reasons) == {None}
    assert ran.report.attempts == 2
    assert await asyncio.to_thread(work.query, "SELECT sha256 FROM file ORDER BY id") == before
    await work.check(server)


async def test_a_copy_is_not_made_of_results_that_are_damaged(server: RunningServer, work: Work) -> None:
    work.make({"first.wav": clip("same")})
    await work.run(server)
    saved = work.out / "in/first.wav/predictions.json"
    saved.write_bytes(b"[" + b" " * (saved.stat().st_size - 1))
    work.make({"later.wav": clip("same")})
    ran = await work.run(server)
    assert set(ran.reasons) == {None}
    assert ran.report.attempts == 1
    await work.check(server)


async def test_results_that_are_gone_and_their_job_too(server: RunningServer, work: Work, trouble: Trouble) -> None:
    paths = work.make({f"{n}.wav": clip(n) for n in range(3)})
    await work.run(server)

    def remove(number: int) -> None:
        (work.out / f"in/{number}.wav/predictions.json").unlink()

    remove(0)
    trouble.answers("GET", "/predictions", *[404] * 6)
    ran = await work.run(server)
    assert [ran.reason(path) for path in paths] == ["GONE", None, None]
    assert ran.clock.now() > 500  # it was not given up at once
    await work.check(server)

    # Another one of the same job.
    remove(1)
    trouble.answers("GET", "/predictions", *[404] * 6)
    ran = await work.run(server)
    assert [ran.reason(path) for path in paths] == ["GONE", "GONE", None]
    assert ran.report.attempts == 1
    await work.check(server)

    # Nothing is submitted again unasked.
    os.utime(paths[2], (1, 1))
    retried = await work.run(server, retry_failed=True)
    assert set(retried.reasons) == {None}
    assert retried.report.attempts == 2
    (_, again) = await asyncio.to_thread(server.jobs)
    assert sorted(file.md5sum for file in again.request.files) == sorted(md5_of(clip(n)) for n in range(2))
    # Two jobs have measured two of them: that was asked for.
    for n in range(3):
        assert work.result(f"in/{n}.wav")["source"]["md5sum"] == md5_of(clip(n))


async def test_results_that_are_missed_while_others_of_their_job_are_fetched(
    server: RunningServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = work.make({"a.wav": clip("a"), "b.wav": clip("b")})
    await work.run(server)
    for path in work.out.rglob("predictions.json"):
        path.unlink()
    fetched, found = threading.Event(), threading.Event()

    def slowly(*arguments: Any, **more: Any) -> Any:
        fetched.set()
        found.wait(10)
        return storing.store(*arguments, **more)

    def paths() -> Iterator[Path]:
        yield a
        fetched.wait(10)
        yield b
        # Asked for more: what came before has been written down.
        found.set()

    monkeypatch.setattr(fetching, "store", slowly)
    monkeypatch.setattr(run, "_SCANNED", 1)
    ran = await work.run(server, paths())
    assert set(ran.reasons) == {None} and len(ran.outcomes) == 2
    assert ran.report.attempts == 1
    await work.check(server)
