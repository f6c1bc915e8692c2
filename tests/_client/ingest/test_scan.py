"""What is found below the given paths: every file once, everything else with its reason, nothing of ours."""

from __future__ import annotations

import errno
import os
import socket
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humebatch._client.ingest.scan import Found, scan
from humebatch.errors import ConfigError
from humebatch.ingestion import Reason


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in; `out` lies beside it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def make(*paths: str | bytes) -> None:
    for path in map(os.fsencode, paths):
        os.makedirs(os.path.dirname(path) or b".", exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"sound")


def found(*paths: Any, out: str = "../out", **filters: Any) -> list[Found]:
    return list(scan(paths, out=out, **filters))


def names(*paths: Any, **filters: Any) -> list[bytes]:
    seen = found(*paths, **filters)
    assert [one for one in seen if one.reason] == []
    return [one.path for one in seen]


def reasons(*paths: Any, **filters: Any) -> dict[bytes, Reason | None]:
    return {one.path: one.reason for one in found(*paths, **filters)}


def test_files_below_a_folder_come_in_order_of_name_with_their_facts(here: Path) -> None:
    make("clips/b.mp4", "clips/a/z.wav", "clips/c.mp4")
    seen = found("clips")
    assert [one.path for one in seen] == [b"clips/a/z.wav", b"clips/b.mp4", b"clips/c.mp4"]
    for one in seen:
        status = os.stat(one.path)
        facts = (status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino)
        assert (one.size, one.mtime_ns, one.dev, one.ino) == facts
        assert (one.reason, one.detail) == (None, "")


@pytest.mark.parametrize(
    ("given", "path", "place"),
    [
        ("clips", b"clips/a/x.wav", b"clips/a/x.wav"),
        ("./clips/", b"clips/a/x.wav", b"clips/a/x.wav"),
        ("clips//./a", b"clips/a/x.wav", b"clips/a/x.wav"),
        ("clips/a/x.wav", b"clips/a/x.wav", b"clips/a/x.wav"),
        (".", b"clips/a/x.wav", b"clips/a/x.wav"),
        (Path("clips"), b"clips/a/x.wav", b"clips/a/x.wav"),
        (b"clips", b"clips/a/x.wav", b"clips/a/x.wav"),
        ("../here/clips", b"../here/clips/a/x.wav", b"clips/a/x.wav"),
        ("clips/../clips/a", b"clips/../clips/a/x.wav", b"a/x.wav"),
        ("clips/..", b"clips/../clips/a/x.wav", b"here/clips/a/x.wav"),
        ("../here/clips/a/x.wav", b"../here/clips/a/x.wav", b"x.wav"),
    ],
)
def test_a_path_is_the_same_however_it_is_given(here: Path, given: Any, path: bytes, place: bytes) -> None:
    make("clips/a/x.wav")
    assert [(one.path, one.place) for one in found(given)] == [(path, place)]


def test_below_an_absolute_path_places_begin_with_its_last_step(here: Path) -> None:
    make("clips/a/x.wav")
    clips = os.fsencode(here / "clips")
    assert [(one.path, one.place) for one in found(here / "clips")] == [(clips + b"/a/x.wav", b"clips/a/x.wav")]
    assert found(f"/{here}//clips/a/x.wav")[0].place == b"x.wav"


def test_one_path_need_not_be_in_a_list_and_an_iterator_is_read_as_it_goes(here: Path) -> None:
    make("a.wav", "b.wav")
    assert [one.path for one in scan("a.wav", out="../out")] == [b"a.wav"]
    assert [one.path for one in scan(Path("a.wav"), out="../out")] == [b"a.wav"]

    def endless() -> Iterator[str]:
        while True:
            yield "a.wav"

    assert next(scan(endless(), out="../out")).path == b"a.wav"


def test_what_is_no_path_is_refused(here: Path) -> None:
    wrong: Any = [3]
    with pytest.raises(ConfigError) as raised:
        scan(wrong, out="../out")
    assert raised.value.field == "paths"


def test_hidden_files_are_passed_over_unless_they_are_given(here: Path) -> None:
    make(".hidden.wav", ".git/a.wav", "a.wav")
    assert names(".") == [b"a.wav"]
    assert names(".hidden.wav", ".git") == [b".hidden.wav", b".git/a.wav"]


def test_names_that_are_not_utf8_stay_as_they_are(here: Path) -> None:
    odd = [b"\xff\xfe.wav", b"a\nb.wav", b'q"uote.wav', b"\xe9/x.wav", b"-rf", b" "]
    make(*(b"in/" + name for name in odd))
    assert names("in") == sorted(b"in/" + name for name in odd)
    assert names(os.fsdecode(b"in/\xff\xfe.wav")) == [b"in/\xff\xfe.wav"]
    assert names("in", include=["*.wav"], exclude=["\udce9"]) == sorted(b"in/" + name for name in odd[:3])


# The folder for the results, and what else is ours.


def test_the_folder_for_the_results_is_passed_over(here: Path) -> None:
    make("a.wav", "results/a.wav/predictions.json", "in/results/b.wav")
    os.symlink("results/a.wav/predictions.json", "link.json")
    os.symlink("results", "results2")
    assert names(".", out="results") == [b"a.wav", b"in/results/b.wav"]
    assert names(".", out="results2") == [b"a.wav", b"in/results/b.wav"], "by its real path"


@pytest.mark.parametrize("given", ["results", "./results/", "results/a.wav", "results/none.wav", "link", "link/a.wav"])
def test_what_lies_in_the_folder_for_the_results_is_refused(here: Path, given: str) -> None:
    make("results/a.wav", "b.wav")
    os.symlink("results", "link")
    with pytest.raises(ConfigError) as raised:
        scan(["b.wav", given], out="results")  # before the first is asked for
    assert raised.value.field == "out"
    seen = scan(iter(["b.wav", given]), out="results")
    assert next(seen).path == b"b.wav"
    with pytest.raises(ConfigError):
        next(seen)


def test_a_folder_whose_name_begins_alike_is_another(here: Path) -> None:
    make("results2/a.wav")
    assert names("results2", ".", out="results") == [b"results2/a.wav"] * 2


def test_files_beside_are_passed_over_wherever_they_turn_up(here: Path) -> None:
    make("in/run.db", "in/run.db-wal", "in/a.wav", "run.db")
    os.symlink("run.db", "in/link")
    ours = {os.path.realpath("in/run.db"), os.path.realpath("in/run.db-wal")}
    assert names("in", "in/run.db", "run.db", beside=ours) == [b"in/a.wav", b"run.db"]


# What cannot be measured.


def test_links(here: Path) -> None:
    make("in/real/a.wav", "away/b.wav")
    os.symlink("real/a.wav", "in/file")
    os.symlink("real", "in/folder")
    os.symlink("..", "in/real/loop")
    os.symlink("self", "in/self")
    os.symlink("../away/b.wav", "in/out-file")
    os.symlink("../away", "in/out-folder")
    os.symlink("../in2", "in/dangling")
    assert reasons("in") == {
        b"in/real/a.wav": None,
        b"in/file": None,
        b"in/self": Reason.UNREADABLE,
        b"in/out-file": Reason.OUTSIDE,
        b"in/out-folder": Reason.OUTSIDE,
        b"in/dangling": Reason.MISSING,
    }
    assert found("in", include=["file"])[0].size == 5, "of the file, not of the link"


def test_links_that_are_given_may_lead_anywhere(here: Path) -> None:
    make("away/b.wav", "away/c/d.wav")
    os.symlink("c/d.wav", "away/within")
    os.symlink("away", "folder")
    os.symlink("away/b.wav", "file")
    assert reasons("folder", "file") == dict.fromkeys([b"folder/b.wav", b"folder/c/d.wav", b"folder/within", b"file"])


def test_what_is_no_file_is_never_opened(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir("in")
    os.mkfifo("in/fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("in/socket")
    os.symlink("fifo", "in/link")
    Path("in/empty.wav").touch()
    monkeypatch.setattr(os, "open", None)
    assert reasons("in", "/dev/null", "in/fifo") == {
        b"in/fifo": Reason.NOT_A_FILE,
        b"in/socket": Reason.NOT_A_FILE,
        b"in/link": Reason.NOT_A_FILE,
        b"in/empty.wav": Reason.EMPTY,
        b"/dev/null": Reason.NOT_A_FILE,
    }


@pytest.mark.parametrize(
    ("given", "path", "reason"),
    [
        ("none.wav", b"none.wav", Reason.MISSING),
        ("a.wav/b", b"a.wav/b", Reason.MISSING),
        ("", b"", Reason.MISSING),
        ("nul\0.wav", b"nul\0.wav", Reason.MISSING),
        ("\ud800", b"\xed\xa0\x80\0", Reason.MISSING),
        ("n" * 300, b"n" * 300, Reason.UNREADABLE),
    ],
)
def test_paths_that_lead_nowhere(here: Path, given: str, path: bytes, reason: Reason) -> None:
    make("a.wav")
    (seen,) = found(given)
    assert (seen.path, seen.reason) == (path, reason)
    assert seen.detail
    assert (seen.size, seen.mtime_ns, seen.dev, seen.ino) == (0, 0, 0, 0)


class Listing:
    """A folder whose listing breaks after some entries."""

    def __init__(self, listing: Any, count: int, error: OSError) -> None:
        self.listing, self.count, self.error = listing, count, error

    def __iter__(self) -> Listing:
        return self

    def __next__(self) -> Any:
        if self.count == 0:
            raise self.error
        self.count -= 1
        return next(self.listing)

    def close(self) -> None:
        self.listing.close()


def breaking(path: bytes, code: int, *, after: int | None = None) -> Callable[[bytes], Any]:
    true = os.scandir

    def scandir(folder: bytes) -> Any:
        if folder != path:
            return true(folder)
        error = OSError(code, os.strerror(code))
        if after is None:
            raise error
        return Listing(true(folder), after, error)

    return scandir


def test_a_folder_that_cannot_be_listed_is_found_and_the_rest_goes_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("in/a.wav", "in/closed/b.wav", "in/z.wav")
    monkeypatch.setattr(os, "scandir", breaking(b"in/closed", errno.EACCES))
    seen = found("in")
    assert [(one.path, one.reason) for one in seen] == [
        (b"in/a.wav", None),
        (b"in/closed", Reason.UNREADABLE),
        (b"in/z.wav", None),
    ]
    assert seen[1].detail == "not allowed to read it"
    assert seen[1].place == b"in/closed"


def test_a_listing_that_breaks_off_loses_nothing_that_it_gave(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("in/bad/a.wav", "in/bad/b.wav", "in/z.wav")
    monkeypatch.setattr(os, "scandir", breaking(b"in/bad", errno.EIO, after=1))
    seen = found("in")
    assert [one.reason for one in seen] == [Reason.UNREADABLE, None, None]
    assert (seen[0].path, seen[0].place) == (b"in/bad", b"in/bad")
    assert seen[0].detail == os.strerror(errno.EIO)
    assert seen[1].path in (b"in/bad/a.wav", b"in/bad/b.wav")


def test_no_file_is_blamed_when_this_process_may_open_no_more(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("in/a.wav", "in/b/c.wav")
    monkeypatch.setattr(os, "scandir", breaking(b"in/b", errno.EMFILE))
    seen = scan("in", out="../out")
    assert next(seen).path == b"in/a.wav"
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        next(seen)


def test_a_file_that_goes_away_while_it_is_looked_for_is_missing(here: Path) -> None:
    make("in/a.wav", "in/b.wav")
    seen = scan("in", out="../out")
    assert next(seen).path == b"in/a.wav"
    os.unlink("in/b.wav")
    assert [(one.path, one.reason) for one in seen] == [(b"in/b.wav", Reason.MISSING)]


# Patterns.

TREE = ["a.wav", "B.WAV", "old/a.wav", "takes/a.wav", "takes/b.mp4", "takes/old/c.wav", "takes/old/deep/d.wav", "tmp"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*.mp4"], [], ["takes/b.mp4"]),
        (["*.wav"], ["old"], ["a.wav", "takes/a.wav"]),
        ([], ["*.wav", "*.WAV", "tmp"], ["takes/b.mp4"]),
        ([], ["tmp/", "takes/", "*.WAV"], ["a.wav", "old/a.wav", "tmp"]),
        (["/*.wav"], [], ["a.wav"]),
        (["takes/*.wav"], [], ["takes/a.wav"]),
        (["takes/**"], [], TREE[3:7]),
        (["takes/**/*.wav"], [], ["takes/a.wav", *TREE[5:7]]),
        (["**/old/**"], [], ["old/a.wav", *TREE[5:7]]),
        (["**"], ["takes/old"], ["B.WAV", "a.wav", *TREE[2:5], "tmp"]),
        ([], ["takes/old/", "/old/", "/tmp/"], ["B.WAV", "a.wav", *TREE[3:5], "tmp"]),
        (["[ab].wav"], ["/a.wav"], ["old/a.wav", "takes/a.wav"]),
        (["[!a].*"], [], ["B.WAV", "takes/b.mp4", *TREE[5:7]]),
        (["old"], [], []),
        ("?.wav", "takes", ["a.wav", "old/a.wav"]),
    ],
)
def test_patterns(here: Path, include: Sequence[str], exclude: Sequence[str], expected: list[str]) -> None:
    make(*(f"in/{path}" for path in TREE))
    assert names("in", include=include, exclude=exclude) == sorted(b"in/" + path.encode() for path in expected)


def test_what_is_given_by_name_is_taken_unless_its_name_is_excluded(here: Path) -> None:
    make("old/a.wav", "old/old/b.wav", "draft.wav")
    assert names("old", "draft.wav", include=["a.*"]) == [b"old/a.wav", b"draft.wav"]
    assert names("old", "draft.wav", exclude=["old", "draft*"]) == [b"old/a.wav"]


def test_excluded_folders_are_not_listed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("in/old/a.wav", "in/b.wav")
    monkeypatch.setattr(os, "scandir", breaking(b"in/old", errno.EIO))
    assert names("in", exclude=["old"]) == [b"in/b.wav"]


def test_links_are_reported_only_where_they_would_be_taken(here: Path) -> None:
    make("in/a.wav", "away/b.txt")
    os.symlink("../away/b.txt", "in/b.txt")
    os.symlink("none", "in/c.txt")
    os.symlink("../away", "in/away")
    assert reasons("in", include=["*.wav"]) == {b"in/a.wav": None, b"in/away": Reason.OUTSIDE}
    assert reasons("in", exclude=["away/", "*.txt"]) == {b"in/a.wav": None}


@pytest.mark.parametrize("pattern", ["", "/", "a//b", "./a", "../a", "a/.", "a/.."])
@pytest.mark.parametrize("field", ["include", "exclude"])
def test_a_pattern_that_can_match_nothing_is_refused(field: str, pattern: str) -> None:
    filters: dict[str, Any] = {field: [pattern]}
    with pytest.raises(ConfigError) as raised:
        found(".", **filters)
    assert raised.value.field == field


def test_a_folder_is_not_included_as_such() -> None:
    with pytest.raises(ConfigError, match=r"tmp/\*\*") as raised:
        found(".", include=["tmp/"])
    assert raised.value.field == "include"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of awkward names in every folder, three deep."""
    root = tmp_path_factory.mktemp("tree")
    folders = [root]
    for _ in range(2):
        folders += [folder / name for folder in folders for name in ("a", "b[", "ab")]
    for folder in set(folders):
        folder.mkdir(exist_ok=True, parents=True)
        for name in ("a.x", "b.x", "[a]", "a!", "A", "]"):
            (folder / name).write_bytes(b"sound")
    return root


NAME_PATTERN = st.text("ab[]!-*?.xA", min_size=1, max_size=5).filter(
    lambda text: "**" not in text and text not in (".", "..")
)


@given(pattern=NAME_PATTERN)
@settings(deadline=None, max_examples=60)
def test_patterns_for_names_are_those_of_pathlib(tree: Path, pattern: str) -> None:
    expected = {os.fsencode(path) for path in tree.rglob(pattern) if path.is_file()}
    assert set(names(tree, include=[pattern])) == expected
    excluded = {os.fsencode(path) for path in tree.rglob(pattern)}
    everything = {os.fsencode(path) for path in tree.rglob("*") if path.is_file()}
    left = {path for path in everything if not any(path == one or path.startswith(one + b"/") for one in excluded)}
    assert set(names(tree, exclude=[pattern])) == left


@given(steps=st.lists(st.just("**") | NAME_PATTERN, max_size=5), last=NAME_PATTERN)
@settings(deadline=None, max_examples=100)
def test_patterns_for_paths_are_those_of_pathlib(tree: Path, steps: list[str], last: str) -> None:
    pattern = "/".join([*steps, last])
    expected = {os.fsencode(path) for path in tree.glob(pattern) if path.is_file()}
    assert set(names(tree, include=["/" + pattern])) == expected


# Millions of files.


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_wide_folder_is_streamed_and_closed(here: Path) -> None:
    os.mkdir("in")
    for number in range(50_000):
        os.close(os.open(f"in/{number:05}.wav", os.O_CREAT | os.O_WRONLY))
    before = open_files()
    tracemalloc.start()
    try:
        count = sum(1 for _ in scan("in", out="../out"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 50_000
    assert peak < 5_000_000, "10,000 entries at a time, whatever there is"
    seen = scan("in", out="../out")
    next(seen)
    assert open_files() == before + 1
    seen.close()
    assert open_files() == before


def test_a_deep_tree_holds_no_folder_open(here: Path) -> None:
    deep = "in" + "/d" * 200
    make(f"{deep}/a.wav", "in/z.wav")
    before = open_files()
    seen = scan("in", out="../out")
    assert next(seen).path == f"{deep}/a.wav".encode()
    assert open_files() == before
    assert next(seen).path == b"in/z.wav"
