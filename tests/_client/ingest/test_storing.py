"""Answers into results: whose part is whose, what is written of it, and what a full or broken disk leaves behind."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import stat
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import humebatch as hb
from humebatch._client.ingest.storing import NotStored, Stored, Target, check_zip, store, sweep_parts
from humebatch.ingestion import Reason

MD5 = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32
WIRE = "clip~hb7q2mx4kd.wav"
SILENT = "the answer says nothing about it"


def source(
    filename: str | None = WIRE,
    md5sum: str | None = MD5,
    *,
    files: tuple[str, ...] | None = None,
    failed: tuple[str, ...] = (),
    **more: Any,
) -> dict[str, Any]:
    """As a server writes it, with members that this version does not know."""
    said = {"type": "file", "filename": filename, "content_type": "audio/wav", "md5sum": md5sum}
    return {
        "source": {name: value for name, value in said.items() if value is not None},
        "results": {
            "predictions": [
                {"file": file, "file_type": "audio", "models": {"burst": {"grouped_predictions": []}}, "new": [1e2]}
                for file in (files if files is not None else (filename or "x",))
            ],
            "errors": [{"message": "no speech", "model": "prosody", "file": file, "code": 7} for file in failed],
            "later": {"file": filename},
        },
        "error": None,
        **more,
    }


class Place:
    """A folder with an answer in it, and targets whose results go below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answer = folder / "answer"

    def target(self, number: int = 1, name: str = "clip.wav", wire: str = WIRE, md5: str = MD5) -> Target:
        return Target(file=number, name=name, wire=wire, md5=md5, folder=os.fsencode(self.folder / f"out/{number}"))

    def store(self, answer: Any, *targets: Target, bundle: bool = False) -> list[Stored | NotStored]:
        self.answer.write_bytes(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
        return store(str(self.answer), targets, bundle=bundle, stop=None)

    def saved(self, number: int = 1) -> bytes:
        return (self.folder / f"out/{number}/predictions.json").read_bytes()

    def written(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path != self.answer)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def why(findings: list[Stored | NotStored]) -> list[tuple[Reason, str] | None]:
    return [(one.reason, one.detail) if isinstance(one, NotStored) else None for one in findings]


def test_a_source_is_saved_byte_for_byte_but_for_the_names(place: Place) -> None:
    text = (
        b' [ {"results" : {"errors":[ {"file":"%b","message":"\\u0041"} ],\t"predictions":[{"models":{"face":'
        b'{"x":["%b"], "file":"%b"}},"file" :"%b"},{"file":"else","models":{}}]},\n"source":{"md5sum":"%b",'
        b'"type":"file","filename":"cl\\u0069p~hb7q2mx4kd.wav"}, "more":1.50} ]\n'
    ) % (WIRE.encode(), WIRE.encode(), WIRE.encode(), WIRE.encode(), MD5.encode())
    [found] = place.store(text, place.target(name="Ö.wav"))
    saved = place.saved()
    assert saved == (
        b'[{"results" : {"errors":[ {"file":"\xc3\x96.wav","message":"\\u0041"} ],\t"predictions":[{"models":{"face":'
        b'{"x":["%b"], "file":"%b"}},"file" :"\xc3\x96.wav"},{"file":"else","models":{}}]},\n"source":{"md5sum":"%b",'
        b'"type":"file","filename":"\xc3\x96.wav"}, "more":1.50}]'
    ) % (WIRE.encode(), WIRE.encode(), MD5.encode())
    path = os.fsencode(place.folder / "out/1/predictions.json")
    assert found == Stored(1, path, len(saved), hashlib.sha256(saved).hexdigest(), errors=1)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert place.written() == ["out", "out/1", "out/1/predictions.json"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=20)


@st.composite
def sources(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    wire = draw(NAMES)
    file = st.sampled_from([wire, wire, "else"]) | NAMES
    more = st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=13), JSON, max_size=2)
    made: dict[str, Any] = {
        "source": {"type": "file", "filename": wire, "md5sum": MD5, **draw(more)},
        "results": {
            "predictions": [
                {"file": draw(file), "models": draw(more), **draw(more)} for _ in range(draw(st.integers(0, 3)))
            ],
            "errors": [{"file": draw(file), "message": wire, **draw(more)} for _ in range(draw(st.integers(0, 3)))],
            **draw(more),
        },
        **draw(more),
    }
    return made, wire


def renamed(made: dict[str, Any], wire: str, name: str) -> dict[str, Any]:
    """The plain way to do it: all in memory."""
    copy: dict[str, Any] = json.loads(json.dumps(made))
    copy["source"]["filename"] = name
    for entry in copy["results"]["predictions"] + copy["results"]["errors"]:
        if entry["file"] == wire:
            entry["file"] = name
    return copy


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sources(), NAMES, st.booleans(), st.sampled_from([None, 1]), st.randoms(use_true_random=False))
def test_the_saved_json_differs_only_in_the_names(
    place: Place,
    made: tuple[dict[str, Any], str],
    name: str,
    ascii_only: bool,
    indent: int | None,
    chance: random.Random,
) -> None:
    what, wire = made
    for part in (what, what["source"], what["results"]):
        items = list(part.items())
        chance.shuffle(items)
        part.clear()
        part.update(items)
    others = [source("other.wav", OTHER)]
    answer = json.dumps([*others, what], ensure_ascii=ascii_only, indent=indent).encode()
    [found] = place.store(answer, place.target(name=name, wire=wire))
    assert isinstance(found, Stored)
    assert json.loads(place.saved()) == [renamed(what, wire, name)]
    assert found.errors == len(what["results"]["errors"])
    if name == wire:
        assert place.saved()[1:-1] in answer


def test_an_answer_that_is_cut_anywhere_is_never_taken_for_whole(place: Place) -> None:
    answer = json.dumps([source(), source("b.wav", OTHER, failed=("b.wav",))]).encode() + b"\n"
    targets = [place.target(), place.target(2, wire="b.wav", md5=OTHER)]
    whole = place.store(answer, *targets)
    saved = place.saved(), place.saved(2)
    for size in range(len(answer)):
        for number in (1, 2):
            (place.folder / f"out/{number}/predictions.json").unlink(missing_ok=True)
        if size == len(answer) - 1:  # only the line's end is missing
            assert place.store(answer[:size], *targets) == whole
            assert (place.saved(), place.saved(2)) == saved
        else:
            with pytest.raises(hb.DecodeError) as caught:
                place.store(answer[:size], *targets)
            assert caught.value.file == str(place.answer) and caught.value.data is None
            assert place.written() == ["out", "out/1", "out/2"]


@pytest.mark.parametrize(
    "answer",
    [b"", b"null", b"{}", b"[1", b'["\\ud800"]', b"[]x", b"\xef\xbb\xbf[]", b"[NaN]", b"[" * 100_000, b"\0" * 9],
)
def test_what_is_no_answer_is_refused_whole(place: Place, answer: bytes) -> None:
    with pytest.raises(hb.DecodeError) as caught:
        place.store(answer, place.target())
    assert caught.value.file == str(place.answer)
    assert place.written() == []


def test_an_empty_answer_says_nothing_about_anyone(place: Place) -> None:
    targets = [place.target(), place.target(2)]
    assert place.store([], *targets) == [NotStored(n, Reason.NOT_MEASURED, SILENT) for n in (1, 2)]
    assert place.store([], *targets, bundle=True) == [NotStored(n, Reason.NOT_MEASURED, SILENT) for n in (1, 2)]
    assert place.written() == []


def test_sources_are_told_apart_by_name_and_content(place: Place) -> None:
    twins = [place.target(1, "a.wav", "a.wav"), place.target(2, "b.wav", "b.wav")]
    assert why(place.store([source("b.wav"), source("a.wav")], *twins)) == [None, None]
    assert json.loads(place.saved(1))[0]["source"]["filename"] == "a.wav"
    assert json.loads(place.saved(2))[0]["source"]["filename"] == "b.wav"


def test_a_name_may_come_back_encoded(place: Place) -> None:
    target = place.target(name='say "hi".wav', wire='say "hi".wav')
    assert why(place.store([source("say %22hi%22.wav"), source("x", OTHER)], target)) == [None]
    assert json.loads(place.saved())[0] == source('say "hi".wav') | {
        "results": source('say "hi".wav')["results"] | {"later": {"file": "say %22hi%22.wav"}}
    }


def test_the_content_alone_tells_when_there_is_only_one_such(place: Place) -> None:
    one = place.target(1, "a.wav", "a.wav")
    assert why(place.store([source("x.wav", OTHER), source("file", MD5.upper())], one)) == [None]
    assert json.loads(place.saved())[0]["source"]["filename"] == "a.wav"
    assert json.loads(place.saved())[0]["results"]["predictions"][0]["file"] == "a.wav"
    assert why(place.store([source(None)], one)) == [None]
    unclear = [(Reason.NOT_MEASURED, SILENT)]
    assert why(place.store([source("x.wav"), source("y.wav")], one)) == unclear
    assert why(place.store([source("x.wav")], one, place.target(2, "b.wav", "b.wav"))) == unclear * 2


def test_the_name_alone_tells_only_where_no_content_is_said(place: Place) -> None:
    one = place.target(1, "a.wav", "a.wav")
    assert why(place.store([source("b.wav", None), source("a.wav", None)], one)) == [None]
    unclear = [(Reason.NOT_MEASURED, SILENT)]
    assert why(place.store([source("a.wav", OTHER)], one)) == unclear
    assert why(place.store([source("a.wav", None), source("a.wav", None)], one)) == unclear
    assert why(place.store([source(None, None)], one)) == unclear
    assert why(place.store([source("b.wav", None)], one)) == unclear


def test_inputs_that_were_sent_as_one_share_their_part(place: Place) -> None:
    twins = [place.target(1, "a.wav"), place.target(2, "b.wav")]
    assert why(place.store([source()], *twins)) == [None, None]
    assert [json.loads(place.saved(n))[0]["source"]["filename"] for n in (1, 2)] == ["a.wav", "b.wav"]
    assert why(place.store([source("bundle.zip", files=(WIRE,))], *twins, bundle=True)) == [None, None]
    assert [json.loads(place.saved(n))[0]["source"]["filename"] for n in (1, 2)] == ["a.wav", "b.wav"]


def test_a_source_is_given_to_one_of_what_was_sent(place: Place) -> None:
    others = [place.target(1, wire="a.wav"), place.target(2, wire="b.wav")]
    assert why(place.store([source("b.wav")], *others)) == [(Reason.NOT_MEASURED, SILENT), None]


def test_an_error_instead_of_results_is_what_it_says(place: Place) -> None:
    broken = source(results=None, error="cannot be read")
    assert why(place.store([broken], place.target())) == [(Reason.NOT_MEASURED, "cannot be read")]
    assert why(place.store([source(results=None)], place.target())) == [(Reason.NOT_MEASURED, SILENT)]
    assert why(place.store([source(error="in part")], place.target())) == [None]
    empty: dict[str, Any] = {"predictions": [], "errors": []}
    assert why(place.store([source(results=empty)], place.target())) == [None]


@pytest.mark.parametrize(
    ("bad", "at"),
    [
        ({"results": 5}, "$[1].results"),
        ({"results": {"predictions": {}, "errors": []}}, "$[1].results.predictions"),
        ({"results": {"predictions": [{"file": 1, "models": {}}], "errors": []}}, "$[1].results.predictions[0].file"),
        ({"results": {"predictions": [], "errors": [{"file": "x"}]}}, "$[1].results.errors[0]"),
        ({"error": 5}, "$[1].error"),
    ],
)
def test_a_broken_source_harms_nobody_else(place: Place, bad: dict[str, Any], at: str) -> None:
    targets = [place.target(1, wire="b.wav", md5=OTHER), place.target(2)]
    first, second = place.store([source("b.wav", OTHER), source(**bad)], *targets)
    assert isinstance(first, Stored)
    assert isinstance(second, NotStored)
    assert second.reason is Reason.BAD_RESULT
    assert f" at {at} " in second.detail and str(place.answer) not in second.detail
    assert place.written() == ["out", "out/1", "out/1/predictions.json"]


@pytest.mark.parametrize("bad", [5, {}, {"source": None}, {"source": {"type": "file", "md5sum": 5}}])
def test_a_source_that_cannot_be_told_is_not_silence(place: Place, bad: Any) -> None:
    targets = [place.target(1, wire="b.wav", md5=OTHER), place.target(2)]
    first, second = why(place.store([source("b.wav", OTHER), bad], *targets))
    assert first is None
    assert second is not None and second[0] is Reason.BAD_RESULT and "$[1]" in second[1]


@pytest.mark.parametrize(
    "text",
    [
        b'[{"source":{"type":"file","filename":"%b","filename":"%b","md5sum":"%b"},"results":EMPTY}]',
        b'[{"source":{"type":"file","filename":"%b","md5sum":"%b"},"results":EMPTY,"results":EMPTY}]',
        b'[{"source":{"type":"","filename":"%b","md5sum":"%b"},"results":{"predictions":[TWICE],"errors":[]}}]',
    ],
)
def test_keys_that_come_twice_are_not_guessed_at(place: Place, text: bytes) -> None:
    names = [WIRE.encode()] * (text.count(b"%b") - 1)
    answer = text % (*names, MD5.encode())
    answer = answer.replace(b"EMPTY", b'{"predictions":[],"errors":[]}')
    answer = answer.replace(b"TWICE", b'{"file":"x","models":{},"file":"y"}')
    [found] = place.store(answer, place.target())
    assert isinstance(found, NotStored) and found.reason is Reason.BAD_RESULT
    # Where no name has to be replaced there is nothing to guess.
    assert why(place.store(answer, place.target(name=WIRE))) == [None]
    assert place.saved() == answer


def bundled(place: Place, number: int, name: str) -> Target:
    return place.target(number, name, f"{number}/{name}", str(number) * 32)


def test_a_file_of_a_bundle_becomes_a_source_of_its_own(place: Place) -> None:
    targets = [bundled(place, 1, "a.wav"), bundled(place, 2, "a.wav"), bundled(place, 3, "c.wav")]
    answer = source("bundle~x.zip", files=("2/a.wav", "3/c.wav", "1/a.wav"), failed=("2/a.wav", "1/a.wav", "2/a.wav"))
    found = place.store([answer], *targets, bundle=True)
    assert [one.errors for one in found if isinstance(one, Stored)] == [1, 2, 0]
    for number, name, errors in ((1, "a.wav", 1), (2, "a.wav", 2), (3, "c.wav", 0)):
        assert json.loads(place.saved(number)) == [
            {
                "source": {"type": "file", "filename": name, "md5sum": str(number) * 32},
                "results": {
                    "predictions": [answer["results"]["predictions"][0] | {"file": name}],
                    "errors": [answer["results"]["errors"][0] | {"file": name}] * errors,
                },
            }
        ]
        [loaded] = hb.predictions.decode(place.saved(number))
        assert loaded.results is not None and loaded.results.predictions[0].file == name


def test_files_of_a_bundle_that_are_not_in_its_answer(place: Place) -> None:
    targets = [bundled(place, 1, "a.wav"), bundled(place, 2, "b.wav")]
    only_errors = source("bundle.zip", files=(), failed=("2/b.wav",))
    first, second = place.store([only_errors], *targets, bundle=True)
    assert first == NotStored(1, Reason.NOT_MEASURED, SILENT)
    assert isinstance(second, Stored) and second.errors == 1
    of_the_whole = source("bundle.zip", files=(), failed=("bundle.zip",))
    assert why(place.store([of_the_whole], targets[0], bundle=True)) == [
        (Reason.NOT_MEASURED, f"{SILENT}; it says of bundle.zip: no speech")
    ]
    failed = source("bundle.zip", results=None, error="damaged")
    assert why(place.store([failed], *targets, bundle=True)) == [(Reason.NOT_MEASURED, "damaged")] * 2
    for bad in ([only_errors] * 2, [source("bundle.zip", results=7)], [5]):
        assert [reason for reason, _ in filter(None, why(place.store(bad, *targets, bundle=True)))] == [
            Reason.BAD_RESULT
        ] * 2
    partly = source("bundle.zip", files=("1/a.wav", "2/b.wav"))
    partly["results"]["predictions"][1]["models"] = None
    first, second = place.store([partly], *targets, bundle=True)
    assert isinstance(first, Stored)
    assert isinstance(second, NotStored) and second.reason is Reason.BAD_RESULT
    assert "$[0].results.predictions[1].models" in second.detail


def failing(monkeypatch: pytest.MonkeyPatch, name: str, code: int, *, after: int = 0) -> None:
    real: Callable[..., Any] = getattr(os, name)
    calls = 0

    def call(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(code, os.strerror(code))
        return real(*args, **more)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["mkdir", "write", "fsync", "replace"])
def test_a_full_or_broken_disk_ends_it_and_leaves_no_half_file(
    place: Place, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    answer = [source(), source("b.wav", OTHER)]
    targets = [place.target(), place.target(2, wire="b.wav", md5=OTHER)]
    before = {"mkdir": 2, "fsync": 4, "write": 7, "replace": 1}[call]  # the first target's
    with monkeypatch.context() as patch:
        failing(patch, call, code, after=before)
        with pytest.raises(hb.DiskError) as caught:
            place.store(answer, *targets)
    assert caught.value.path == str(place.folder / "out/2/predictions.json")
    assert os.strerror(code) in str(caught.value)
    left = [name for name in place.written() if name.endswith((".json", ".part"))]
    assert left == ["out/1/predictions.json"]
    assert why(place.store(answer, *targets)) == [None, None]


def test_a_disk_may_take_less_at_once_than_it_is_given(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    [found] = place.store([source()], place.target(name=WIRE))
    assert json.loads(place.saved()) == [source()]
    assert isinstance(found, Stored) and found.size == len(place.saved())


def test_a_folder_that_cannot_be_made_durable_is_not_a_success(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.folder / "out/1").mkdir(parents=True)
    failing(monkeypatch, "fsync", errno.EIO, after=1)  # the file's own
    with pytest.raises(hb.DiskError):
        place.store([source()], place.target())


def test_names_of_new_folders_are_made_durable(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    place.store([source()], place.target())
    top, draft = str(place.folder), synced[2]
    assert synced == [top, f"{top}/out", draft, f"{top}/out/1"]
    assert draft.startswith(f"{top}/out/1/.humebatch-") and draft.endswith(".part")


def test_what_is_no_file_is_never_replaced(place: Place) -> None:
    there = place.folder / "out/1/predictions.json"
    there.parent.mkdir(parents=True)
    makers: list[Callable[[], None]] = [
        there.mkdir,
        lambda: there.symlink_to(place.folder / "mine"),
        lambda: os.mkfifo(there),
    ]
    for make in makers:
        make()
        [found] = place.store([source()], place.target())
        assert isinstance(found, NotStored) and found.reason is Reason.NOT_SAVED
        assert found.detail == f"{there} is there and is not a file"
        there.rmdir() if there.is_dir() else there.unlink()
    there.write_bytes(b"of an earlier run")
    assert why(place.store([source()], place.target())) == [None]
    assert place.saved() != b"of an earlier run"


def test_a_folder_that_cannot_be_made_harms_nobody_else(place: Place) -> None:
    (place.folder / "out").mkdir()
    (place.folder / "out/1").write_bytes(b"")
    long = Target(2, "b.wav", "b.wav", OTHER, os.fsencode(place.folder / ("x" * 300)))
    third = place.target(3, wire="c.wav", md5="3" * 32)
    answer = [source(), source("b.wav", OTHER), source("c.wav", "3" * 32)]
    first, second, last = why(place.store(answer, place.target(), long, third))
    assert first is not None and first[0] is Reason.NOT_SAVED and "exists" in first[1]
    assert second is not None and second[0] is Reason.NOT_SAVED and "too long" in second[1]
    assert last is None


def test_names_that_are_not_unicode_are_places_too(place: Place) -> None:
    target = Target(1, "\ufffd.wav", WIRE, MD5, os.fsencode(place.folder) + b"/\xff/a")
    [found] = place.store([source()], target)
    assert isinstance(found, Stored) and os.path.getsize(found.path) == found.size


def test_it_stops_between_targets(place: Place) -> None:
    class Stop(Exception):
        pass

    asked: list[int] = []

    def stop() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise Stop

    place.answer.write_text(json.dumps([source(), source("b.wav", OTHER)]))
    targets = [place.target(), place.target(2, wire="b.wav", md5=OTHER)]
    with pytest.raises(Stop):
        store(str(place.answer), targets, stop=stop)
    assert place.written() == ["out", "out/1", "out/1/predictions.json"]


@pytest.mark.parametrize("bundle", [False, True])
def test_memory_does_not_grow_with_the_answer(place: Place, bundle: bool) -> None:
    row = b'{"time":{"begin":0,"end":1},"emotions":[{"name":"Joy","score":0.5}]}'
    prediction = b'{"file":"%b","models":{"burst":{"grouped_predictions":[{"id":"unknown","predictions":[%b]}]}}}'
    prediction %= (WIRE.encode(), b",".join([row] * 450_000))
    head = json.dumps(source()["source"]).encode()
    place.answer.write_bytes(b'[{"source":%b,"results":{"predictions":[%b],"errors":[]}}]' % (head, prediction))
    size = place.answer.stat().st_size
    assert size > 30_000_000
    del prediction
    tracemalloc.start()
    try:
        [found] = store(str(place.answer), [place.target()], bundle=bundle, stop=None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(found, Stored) and found.size > 30_000_000
    assert peak < 3_000_000


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    for name in (".humebatch-00ff.part", ".humebatch-x.part", "predictions.json", ".humebatch-x", "a.part"):
        (tmp_path / name).touch()
    (tmp_path / ".humebatch-folder.part").mkdir()
    (tmp_path / ".humebatch-link.part").symlink_to(tmp_path / "a.part")
    (tmp_path / "below").mkdir()
    (tmp_path / "below/.humebatch-1.part").touch()
    assert sweep_parts(os.fsencode(tmp_path)) == 2
    assert sweep_parts(os.fsencode(tmp_path)) == 0
    assert len(list(tmp_path.iterdir())) == 6
    assert (tmp_path / "below/.humebatch-1.part").exists()
    assert sweep_parts(os.fsencode(tmp_path / "none")) == sweep_parts(os.fsencode(tmp_path / "a.part")) == 0


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return out.getvalue()


GOOD = zipped(("file-0-a.wav/csv/a.wav/burst.csv", b"Id,BeginTime\r\n" * 20), ("b.csv", b"x" * 100))


def checked(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "artifacts.zip"
    path.write_bytes(content)
    check_zip(str(path))


def test_zips_that_are_whole(tmp_path: Path) -> None:
    checked(tmp_path, GOOD)
    checked(tmp_path, zipped())
    checked(tmp_path, zipped(("a.csv", b"a,b\r\n" * 1000), method=zipfile.ZIP_DEFLATED))
    checked(tmp_path, zipped(("../../up.csv", b"1"), ("/etc/passwd", b"2"), ("C:\\x", b"3"), ("folder/", b"")))
    assert [path.name for path in tmp_path.iterdir()] == ["artifacts.zip"]
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped(("a.csv", b"1"), ("a.csv", b"22"))
    checked(tmp_path, twice)


def test_a_zip_that_is_cut_anywhere(tmp_path: Path) -> None:
    for size in range(len(GOOD)):
        with pytest.raises(hb.DecodeError):
            checked(tmp_path, GOOD[:size])


def flagged(bit: int) -> bytes:
    """Both headers of the first entry with a flag."""
    content = bytearray(GOOD)
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + place] |= bit
    return bytes(content)


def long_list() -> bytes:
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 17 * 2**20, 0, 0)
    return b"\0" * (17 * 2**20) + end


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ""),
        (b"<html>502</html>", "not a zip"),
        (GOOD.replace(b"x" * 100, b"x" * 99 + b"y"), "CRC"),
        (flagged(1), "encrypted"),
        (zipped(("a", b"0" * 50_000_000), method=zipfile.ZIP_DEFLATED), "inflates to more than"),
        (zipped(("a", b"0" * 100), method=zipfile.ZIP_LZMA), "neither stored nor deflated"),
        (zipped(("a", b"0" * 100), method=zipfile.ZIP_BZIP2), "neither stored nor deflated"),
        (long_list(), "list of entries is too long"),
    ],
    ids=["empty", "html", "crc", "encrypted", "bomb", "lzma", "bzip2", "list"],
)
def test_zips_that_are_not(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(hb.DecodeError) as caught:
        checked(tmp_path, content)
    assert caught.value.file == str(tmp_path / "artifacts.zip")
    assert str(caught.value).startswith(f"{caught.value.file}: artifacts: ")
    assert says in str(caught.value)


def test_a_zip_of_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humebatch._client.ingest.storing._ENTRIES", 1)
    with pytest.raises(hb.DecodeError, match="more than 1 entries"):
        checked(tmp_path, GOOD)


def test_entries_that_share_their_bytes_are_counted_each(tmp_path: Path) -> None:
    """A bomb that is flat: every entry inflates from the same bytes."""
    packed = zipped(("a", zlib.compress(b"")), ("b" * 1, b"0" * 100_000), method=zipfile.ZIP_DEFLATED)
    start = packed.index(b"PK\1\2")
    entry = packed[packed.rindex(b"PK\1\2") : packed.rindex(b"PK\5\6")]
    count = 3000
    listed = entry * count
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(listed), start, 0)
    with pytest.raises(hb.DecodeError):
        checked(tmp_path, packed[:start] + listed + end)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_zip_is_refused_or_whole(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for where, value in changes:
        content[where] = value
    try:
        checked(tmp_path, bytes(content))
    except hb.DecodeError:
        return
    with zipfile.ZipFile(tmp_path / "artifacts.zip") as archive:
        assert archive.testzip() is None


def test_a_zip_that_is_not_there_is_no_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_zip(str(tmp_path / "none.zip"))
