"""Answers that are cut or wrong say where, whichever way they are read; what came is kept; memory stays bounded."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import gzip
import io
import json
import os
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web
from hypothesis import example, given, settings
from hypothesis import strategies as st

import humebatch as hb
from humebatch import predictions
from tests._client.scripted import JOB, serving
from tests.predictions.payloads import MODELS, STYLES, Slot, dumps, patient, payload, row, slots, strange

pytestmark = pytest.mark.anyio

TEXT = dumps(payload(2))
DATA = TEXT.encode()
STYLED = [dumps(payload(1), style) for style in STYLES]


def read_all(reader: predictions.PredictionsReader) -> list[predictions.SourceResult]:
    """Everything, row by row, as `decode` gives it."""
    found: list[predictions.SourceResult] = []
    for source in reader:
        files: list[predictions.Prediction] = []
        for file in source:
            models: dict[str, Any] = {}
            for model in file.present:
                groups: dict[int, predictions.GroupedPredictions[Any]] = {}
                for number, (name, rows) in enumerate(file.runs(model)):
                    groups[number] = predictions.GroupedPredictions(name, list(rows))
                flat = [(group.id, row) for group in groups.values() for row in group.predictions]
                assert list(file.rows(model)) == flat
                whole = getattr(file.models, model)
                models[model] = predictions.ModelPredictions(list(groups.values()), whole.metadata)
            files.append(predictions.Prediction(file.file, predictions.ModelsPredictions(**models), file.file_type))
        results = predictions.Results(files, source.errors) if source.results is not None else None
        found.append(predictions.SourceResult(source.source, results, source.error))
        assert source.load() == found[-1]
    return found


def same(one: list[predictions.SourceResult], other: list[predictions.SourceResult]) -> bool:
    """Null models are gone from what was read row by row."""
    for source in [*one, *other]:
        for file in source.results.predictions if source.results else ():
            for model in MODELS:
                if getattr(file.models, model) is None:
                    setattr(file.models, model, msgspec.UNSET)
    return one == other


def refused(act: Callable[[], object]) -> hb.DecodeError:
    with pytest.raises(hb.DecodeError) as caught:
        act()
    error = caught.value
    assert len(str(error).splitlines()) == 1
    assert error.path in str(error)
    assert len(error.near) <= 80
    return error


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[bytes], Path]:
    def save(data: bytes) -> Path:
        path = tmp_path / "predictions.json"
        path.write_bytes(data)
        return path

    return save


# ── good answers ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", STYLED, ids=range(len(STYLED)))
def test_reading_is_decoding(text: str, saved: Callable[[bytes], Path]) -> None:
    data = text.encode()
    path = saved(data)
    decoded = predictions.decode(data)
    assert predictions.decode(bytearray(data)) == predictions.decode(memoryview(data)) == decoded
    with predictions.read(path) as reader:
        assert len(reader) == 3
        assert same(read_all(reader), decoded)
        assert same(read_all(reader), decoded), "a second time"
        assert reader[-1].source == decoded[-1].source
        with pytest.raises(IndexError):
            reader[3]
    assert not reader.broken
    packed = path.with_suffix(".json.gz")
    packed.write_bytes(gzip.compress(data[:100]) + gzip.compress(data[100:]))
    assert same(read_all(predictions.read(str(packed))), decoded)


@patient
@given(strange())
def test_reading_of_strange_answers_is_decoding(saved: Callable[[bytes], Path], text: str) -> None:
    assert same(read_all(predictions.read(saved(text.encode()))), predictions.decode(text.encode()))


def test_a_file_says_which_models_are_there(saved: Callable[[bytes], Path]) -> None:
    first = predictions.read(saved(DATA))[0]
    video, audio, old = first
    assert video.present == MODELS and audio.present == ("prosody",) and old.present == ()
    assert list(audio.rows("face")) == [] == audio.groups("ner")
    assert (video.file, video.file_type, old.file_type) == ("x/a.mp4", "video", None)
    assert [file.file for file in first.predictions] == ["x/a.mp4", "b.wav", "old.wav"]
    assert "x/a.mp4" in repr(video) and "a.zip" in repr(first)
    for wrong in ("faces", "", "__class__"):
        with pytest.raises(hb.ConfigError, match="model"):
            video.rows(wrong)


def test_what_was_read_outlives_the_reader(saved: Callable[[bytes], Path]) -> None:
    path = saved(DATA)
    with predictions.read(path) as reader:
        first = reader[0]
    path.unlink()
    assert first.load() == predictions.read(saved(DATA))[0].load()


def test_a_closed_reader_says_so(saved: Callable[[bytes], Path]) -> None:
    with predictions.read(saved(DATA)) as reader:
        begun = iter(reader)
        next(begun)
    acts: list[Callable[[], object]] = [
        lambda: len(reader), lambda: reader[0], lambda: reader[:1], lambda: list(reader), lambda: next(begun),
    ]  # fmt: skip
    for act in acts:
        with pytest.raises(hb.ConfigError, match="this reader is closed"):
            act()


def test_several_sources_of_a_reader(saved: Callable[[bytes], Path]) -> None:
    reader = predictions.read(saved(DATA))
    decoded = predictions.decode(DATA)
    for chosen in (slice(0, 1), slice(None, None, -1), slice(7, 9), slice(-2, None)):
        assert [source.source for source in reader[chosen]] == [source.source for source in decoded[chosen]]


def test_the_file_may_be_cut_while_it_is_read(saved: Callable[[bytes], Path]) -> None:
    path = saved(DATA)
    reader = predictions.read(path)
    os.truncate(path, 10)
    assert same(read_all(reader), predictions.decode(DATA))


def test_no_temporary_file_stays(
    saved: Callable[[bytes], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    path = saved(DATA)
    for _ in predictions.read(path):
        assert list(spool.iterdir()) == []
    refused(lambda: predictions.read(saved(DATA[:-3])))
    assert list(spool.iterdir()) == []


# ── cuts ─────────────────────────────────────────────────────────────────────────────────────────


def around(places: list[Slot], cut: int) -> Slot:
    """The innermost place that a cut is in."""
    return [slot for slot in places if slot.begin <= cut <= slot.end][-1]


@pytest.mark.parametrize("text", [TEXT, *STYLED], ids=range(len(STYLED) + 1))
def test_every_cut_is_found(text: str, saved: Callable[[bytes], Path]) -> None:
    # In characters: what is cut inside a character is below.
    places = list(slots(text))
    for cut in range(0, len(text), 7 if len(text) > 5000 else 1):
        data = text[:cut].encode()
        error = refused(partial(predictions.decode, data))
        assert error.data is data and error.file is None
        assert len(data) - 1 <= error.offset <= len(data)
        assert error.path == around(places, cut).path, text[max(0, cut - 30) : cut]
        assert (error.near and data.decode().endswith(error.near.lstrip("\ufffd"))) or not data


@settings(patient, max_examples=200)
@given(st.integers(0, len(DATA) - 1))
@example(0)
@example(len(DATA) - 1)
def test_a_cut_file_is_found(saved: Callable[[bytes], Path], cut: int) -> None:
    data = DATA[:cut]
    path = saved(data)
    error = refused(lambda: predictions.read(path))
    plain = refused(lambda: predictions.decode(data))
    assert (error.path, error.offset, error.near) == (plain.path, plain.offset, plain.near)
    assert (error.file, error.data) == (str(path), None)
    assert str(error) == f"{path}: {plain}"
    packed = path.with_suffix(".json.gz")
    packed.write_bytes(gzip.compress(data))
    error = refused(lambda: predictions.read(packed))
    assert (error.path, error.offset, error.file) == (plain.path, plain.offset, str(packed))


@patient
@given(strange(), st.data())
def test_strange_answers_cut_anywhere(text: str, data: st.DataObject) -> None:
    encoded = text.strip().encode()
    cut = data.draw(st.integers(0, len(encoded) - 1))
    error = refused(lambda: predictions.decode(encoded[:cut]))
    assert cut - 12 <= error.offset <= cut


def test_a_cut_inside_of_a_character() -> None:
    text = dumps(payload(1), STYLES[3])
    data = text.encode()
    places = [number for number, byte in enumerate(data) if byte >= 0x80]
    assert len(places) > 5
    for place in places:
        error = refused(partial(predictions.decode, data[:place]))
        assert place - 4 <= error.offset <= place
        assert error.path.endswith((".text", ".entity"))


def test_a_cut_far_in_is_found_too() -> None:
    data = dumps(payload(1500)).encode()
    assert len(data) > 20_000_000
    cut = data.rindex(b'"facemesh"') + 5_000
    error = refused(lambda: predictions.decode(data[:cut]))
    assert error.offset == cut
    assert error.path.startswith("$[0].results.predictions[0].models.facemesh.grouped_predictions[0].predictions[")


def test_a_cut_that_is_too_far_in_to_say_where() -> None:
    error = refused(lambda: predictions.decode(b'[{"source":{"type":"' + b"x" * 2**26))
    assert (error.path, error.offset) == ("$", 20 + 2**26)
    assert f"at $ (byte {error.offset}, the path is not looked for beyond 64 MiB)" in str(error)
    assert "looked for" not in str(refused(lambda: predictions.decode(b"[")))


# ── wrong values ─────────────────────────────────────────────────────────────────────────────────

PLACES = [slot for slot in slots(TEXT) if slot.found is not None or slot.begin != slot.end]


def spoilt(slot: Slot, text: str = TEXT) -> tuple[str, str]:
    """The text with a value of a wrong type there, and the value."""
    wrong = "17" if isinstance(slot.found, (dict, list)) else '{"wrong":[1,"x"]}'
    return text[: slot.value] + wrong + text[slot.end :], wrong


def read_rows(path: Path) -> None:
    for source in predictions.read(path):
        for file in source:
            for model in file.present:
                for _ in file.rows(model):
                    pass


@settings(patient, max_examples=300)
@given(st.integers(0, len(PLACES) - 1))
def test_a_value_of_a_wrong_type_is_found(saved: Callable[[bytes], Path], place: int) -> None:
    slot = PLACES[place]
    data = spoilt(slot)[0].encode()
    offset = len(TEXT[: slot.value].encode())
    path = saved(data)
    for error in (refused(lambda: predictions.decode(data)), refused(lambda: read_rows(path))):
        assert (error.path, error.offset) == (slot.path, offset)
        assert error.near in data.decode()
        assert (error.data == data) == (error.file is None)
        assert error.file in (None, str(path))


@settings(patient, max_examples=150)
@given(strange(), st.data())
def test_wrong_types_in_strange_answers(saved: Callable[[bytes], Path], text: str, data: st.DataObject) -> None:
    places = [slot for slot in slots(text) if slot.value < slot.end]
    chosen = places[data.draw(st.integers(0, len(places) - 1))]
    damaged = spoilt(chosen, text)[0].encode()
    path = saved(damaged)
    found: list[tuple[str, int] | None] = []
    for act in (lambda: predictions.decode(damaged), lambda: read_rows(path)):
        try:
            act()
            found.append(None)  # what nobody looks at
        except hb.DecodeError as error:
            found.append((error.path, error.offset))
    assert found[0] == found[1]


@settings(patient, max_examples=300)
@given(st.integers(0, len(DATA) - 1), st.integers(0, 255))
def test_a_damaged_byte_is_a_decode_error_or_another_value(
    saved: Callable[[bytes], Path], place: int, byte: int
) -> None:
    data = DATA[:place] + bytes([byte]) + DATA[place + 1 :]
    path = saved(data)
    for act in (lambda: predictions.decode(data), lambda: read_rows(path)):
        with contextlib.suppress(hb.DecodeError):
            act()


def test_text_that_is_not_utf_8(saved: Callable[[bytes], Path]) -> None:
    for marker in (b'"a.zip"', b'"x/a.mp4"', b'"a_1"', b'"Joy"', b'"unable to'):
        place = DATA.rindex(marker) + 1
        data = DATA[:place] + b"\xff" + DATA[place + 1 :]
        path = saved(data)
        for act in (partial(predictions.decode, data), partial(read_rows, path)):
            error = refused(act)
            assert error.offset == place
            assert error.path != "$"


def test_a_key_that_comes_twice_confuses_nobody(saved: Callable[[bytes], Path]) -> None:
    text = TEXT.replace('"source":{', '"more":[1],"error":null,"more":{"x":[2,3]},"source":{', 1)
    data = text.replace('"file":"b.wav"', '"file":7', 1).encode()
    for error in (refused(lambda: predictions.decode(data)), refused(lambda: read_rows(saved(data)))):
        assert error.path == "$[0].results.predictions[1].file"


@pytest.mark.parametrize("opening", [b"[", b'[{"a":', b'[{"source":{"x":'])
def test_deep_nesting(opening: bytes, saved: Callable[[bytes], Path]) -> None:
    data = opening * 200_000
    refused(lambda: predictions.decode(data))
    refused(lambda: read_rows(saved(data)))


def test_a_long_string_that_does_not_end() -> None:
    for data in (b'[{"source":{"type":"' + b"x" * 5_000_000, b'[{"source":{"type":"' + b'\\"' * 2_000_000):
        error = refused(partial(predictions.decode, data))
        assert (error.path, error.offset) == ("$[0].source.type", len(data))


def test_errors_say_the_same_after_the_reader_is_closed(saved: Callable[[bytes], Path]) -> None:
    slot = next(slot for slot in PLACES if slot.path.endswith("models.ner.grouped_predictions[1].predictions[0].uri"))
    data = spoilt(slot)[0].encode()
    with predictions.read(saved(data)) as reader:
        first = reader[0]
    error = refused(first.load)
    assert (error.path, error.offset) == (slot.path, len(TEXT[: slot.value].encode()))


# ── files that cannot be read ────────────────────────────────────────────────────────────────────


def test_files_that_cannot_be_read(tmp_path: Path, saved: Callable[[bytes], Path]) -> None:
    for path in (tmp_path, tmp_path / "missing.json", tmp_path / "a" / "b", str(tmp_path / "missing.json")):
        with pytest.raises(hb.SourceError) as caught:
            predictions.read(path)
        assert caught.value.path == str(path)
    error = refused(lambda: predictions.read(saved(b"")))
    assert (error.path, error.offset, error.file) == ("$", 0, str(tmp_path / "predictions.json"))


@pytest.mark.parametrize("damage", ["cut", "no crc", "header only", "two bytes", "garbage behind", "damaged"])
def test_damaged_gzip_files(damage: str, saved: Callable[[bytes], Path]) -> None:
    whole = gzip.compress(DATA)
    data = {
        "cut": whole[: len(whole) // 2],
        "no crc": whole[:-8],
        "header only": whole[:10],
        "two bytes": whole[:2],
        "garbage behind": whole + b"garbage",
        "damaged": whole[:100] + b"\xff\xff\xff\xff" + whole[104:],
    }[damage]
    path = saved(data)
    with pytest.raises(hb.SourceError) as caught:
        predictions.read(path)
    assert caught.value.path == str(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("data", [b"null", b"{}", b"7", b"not json", b"[] []", b" "])
def test_files_that_hold_something_else(data: bytes, saved: Callable[[bytes], Path]) -> None:
    error = refused(lambda: predictions.read(saved(data)))
    assert error.path in ("$", "$[0]")
    assert "callback" not in str(error)


def of_zip(text: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("predictions.json", text)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (of_zip(TEXT), "it is a ZIP .* humebatch.tables.read_artifacts"),
        (TEXT.encode("utf-16"), "it is UTF-16"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "it is UTF-16"),
        (TEXT.encode("utf-16-le"), "it is UTF-16"),
        (TEXT.encode("utf-16-be"), "it is UTF-16"),
    ],
    ids=range(5),
)
def test_files_that_are_no_json(data: bytes, said: str, saved: Callable[[bytes], Path]) -> None:
    for written in (data, gzip.compress(data)):
        with pytest.raises(hb.SourceError, match=f"predictions.json: {said}"):
            predictions.read(saved(written))


def test_the_body_of_a_callback(saved: Callable[[bytes], Path]) -> None:
    for found in (TEXT, "[]", "null"):
        data = f'{{"job_id":"{JOB}","status":"COMPLETED","predictions":{found}}}'.encode()
        for act in (lambda: predictions.decode(data), lambda: predictions.read(saved(data))):  # noqa: B023
            assert "it is the body of a callback, which humebatch.callbacks.parse decodes" in str(refused(act))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_mark_of_utf_8_is_passed_over(pack: Callable[[bytes], bytes], saved: Callable[[bytes], Path]) -> None:
    marked = codecs.BOM_UTF8 + DATA
    assert same(read_all(predictions.read(saved(pack(marked)))), predictions.decode(DATA))
    slot = PLACES[-1]
    offset = len(TEXT[: slot.value].encode()) + 3
    error = refused(lambda: read_rows(saved(pack(codecs.BOM_UTF8 + spoilt(slot)[0].encode()))))
    assert (error.path, error.offset) == (slot.path, offset)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_pipe(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = pack(DATA)

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            for start, end in ((0, 1), (1, 3), (3, None)):
                file.write(data[start:end])

    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(write)
        assert same(read_all(predictions.read(pipe)), predictions.decode(DATA))
        written.result()


def test_a_gzip_bomb(saved: Callable[[bytes], Path], spool: Path) -> None:
    bomb = gzip.compress(b'["' + b"x" * 100_000_000)
    with pytest.raises(hb.SourceError, match=r"predictions.json: it inflates to more than [\d,]+ bytes, from [\d,]+$"):
        predictions.read(saved(bomb))
    # What is free may come out of anything; and predictions shrink well, but not so well.
    blank = b"[" + b" " * 16_000_000 + b"]"
    assert len(predictions.read(saved(gzip.compress(blank)))) == 0
    data = dumps(payload(1500)).encode()
    assert len(data) > 17_000_000
    assert len(predictions.read(saved(gzip.compress(data)))) == 3
    assert list(spool.iterdir()) == []


# ── from the socket ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@contextlib.asynccontextmanager
async def answering(data: bytes) -> AsyncIterator[hb.Job]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=data, content_type="application/json")

    async with serving(answer) as url, hb.BatchClient(base_url=url) as client:
        yield client.job(JOB)


async def rows_of(job: hb.Job) -> None:
    async with job.open_predictions() as found:
        async for source in found:
            for file in source:
                for model in file.present:
                    for _ in file.rows(model):
                        pass


async def test_predictions_of_a_real_job(client: hb.BatchClient, tmp_path: Path, spool: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF" + bytes(200))
    job = await client.submit(hb.Submission(files=[path], text=["one", "two"]))
    await job.wait()
    async with job.open_predictions() as found:
        sources = [source.load() async for source in found]
    assert same(sources, await job.predictions())
    assert len(sources) == 2
    assert list(spool.iterdir()) == []


async def test_predictions_are_read_and_the_file_is_gone(spool: Path) -> None:
    async with answering(DATA) as job:
        async with job.open_predictions() as found:
            (file,) = spool.iterdir()
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert file.read_bytes() == DATA
            sources = [source async for source in found]
        assert list(spool.iterdir()) == []
        assert same([source.load() for source in sources], predictions.decode(DATA)), "after the block"
        async with job.open_predictions() as found:
            async for _ in found:
                break
        async with job.open_predictions():
            pass
        with pytest.raises(KeyError):
            async with job.open_predictions():
                raise KeyError
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"[", DATA[:5000], DATA[:-1], b"\x00" * 100, gzip.compress(DATA)], ids=range(7)
)
async def test_an_answer_that_is_no_json_is_kept(data: bytes, spool: Path) -> None:
    async with answering(data) as job:
        with pytest.raises(hb.DecodeError) as caught:
            await rows_of(job)
        with pytest.raises(hb.DecodeError) as plain:
            await job.predictions()
    error = caught.value
    assert (error.path, error.offset, error.near) == (plain.value.path, plain.value.offset, plain.value.near)
    assert plain.value.data == data
    (file,) = spool.iterdir()
    assert error.file == str(file)
    assert file.read_bytes() == data
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("ending", [".source.type", ".results.errors[0].file", ".predictions[0].time", "[0].score"])
@pytest.mark.parametrize("caught_inside", [False, True])
async def test_a_wrong_value_is_kept(ending: str, caught_inside: bool, spool: Path) -> None:
    slot = next(slot for slot in PLACES if slot.path.endswith(ending))
    data = spoilt(slot)[0].encode()
    error: hb.DecodeError | None = None
    async with answering(data) as job:
        try:
            if caught_inside:
                async with job.open_predictions() as found:
                    with pytest.raises(hb.DecodeError) as caught:
                        async for source in found:
                            source.load()
                    error = caught.value
            else:
                await rows_of(job)
        except hb.DecodeError as raised:
            error = raised
    assert error is not None
    assert (error.path, error.offset) == (slot.path, len(TEXT[: slot.value].encode()))
    (file,) = spool.iterdir()
    assert (error.file, file.read_bytes(), error.data) == (str(file), data, None)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_decode_error_of_somebody_else_keeps_nothing(spool: Path) -> None:
    async with answering(DATA) as job:
        with pytest.raises(hb.DecodeError):
            async with job.open_predictions():
                predictions.decode(b"[")
    assert list(spool.iterdir()) == []


async def test_a_refusal_leaves_nothing(spool: Path) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"message": "no such job"}, status=404)

    async with serving(answer) as url, hb.BatchClient(base_url=url) as client:
        with pytest.raises(hb.NotFound):
            await rows_of(client.job(JOB))
    assert list(spool.iterdir()) == []


async def test_cancelled_while_the_answer_comes(spool: Path) -> None:
    half = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA) + DATA[:3000])
        await writer.drain()
        half.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with hb.BatchClient(base_url=url) as client:
            task = asyncio.create_task(rows_of(client.job(JOB)))
            await half.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert list(spool.iterdir()) == []


async def test_cancelled_while_it_is_read(spool: Path) -> None:
    async with answering(DATA) as job:
        with anyio.CancelScope() as scope:
            async with job.open_predictions() as found:
                async for _ in found:
                    scope.cancel()
                    await anyio.sleep(0)
        assert scope.cancelled_caught
    assert list(spool.iterdir()) == []


async def test_cancelled_at_once(spool: Path) -> None:
    async with answering(DATA) as job:
        for turns in range(12):
            task = asyncio.create_task(rows_of(job))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert list(spool.iterdir()) == [], turns


# ── memory ───────────────────────────────────────────────────────────────────────────────────────

MEASURED = """
import json, sys
from pathlib import Path
from humebatch import predictions

path, how = Path(sys.argv[1]), sys.argv[2]

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

predictions.decode(b"[]")
if how == "decode":
    data = path.read_bytes()
    before = anonymous()
    found = predictions.decode(data)
    most = anonymous()
else:
    before = most = anonymous()
    rows = 0
    for source in predictions.read(path):
        for file in source:
            for model in file.present:
                for _, row in file.rows(model):
                    rows += 1
                    if rows % 500 == 0:
                        most = max(most, anonymous())
    assert rows == int(sys.argv[3])
print(json.dumps((most - before) / path.stat().st_size))
"""


def rss_anon() -> bool:
    with contextlib.suppress(OSError):
        return "RssAnon" in Path("/proc/self/status").read_text()
    return False


@pytest.mark.slow
@pytest.mark.skipif(not rss_anon(), reason="the kernel does not tell anonymous memory apart")
@pytest.mark.parametrize(("how", "most"), [("rows", 0.35), ("decode", 3.0)])
def test_memory_is_bounded(how: str, most: float, tmp_path: Path) -> None:
    face = dumps(row("face"))
    count = 50_000_000 // len(face)
    path = tmp_path / "predictions.json"
    head = '[{"source":{"type":"text"},"results":{"predictions":[{"file":"a","models":{"face":{"grouped_predictions":['
    path.write_text(f'{head}{{"id":"face_0","predictions":[{",".join([face] * count)}]}}]}}}}}}],"errors":[]}}}}]')
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path), how, str(count)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) < most
