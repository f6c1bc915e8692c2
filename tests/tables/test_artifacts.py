"""Saved artifact ZIPs: the same tables as from JSON, and nothing that a hostile ZIP can do."""

from __future__ import annotations

import csv
import json
import random
import stat
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from humebatch import tables, vocabulary
from humebatch._wire.artifact_csv import HEADERS
from humebatch._wire.codec import encode
from humebatch.errors import SourceError

from . import answers

RECORDED: dict[str, list[str]] = json.loads((Path(__file__).parent.parent / "server/csv_headers.json").read_bytes())
NAME = "file-0-clip.mp4/csv/clip.mp4/prosody.csv"


def prosody(*rows: str, header: str = ",".join(HEADERS["prosody"])) -> str:
    return "".join(f"{row}\r\n" for row in (header, *rows))


ROW = "spk_0,hello,0.5,1,0.25,," + ",".join(f"0.{number:02}" for number in range(48))


def packed(folder: Path, *entries: tuple[str | zipfile.ZipInfo, str | bytes], compress: int = 0) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w", compress) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return folder / "a.zip"


def same(one: pa.Table, other: pa.Table) -> None:
    """But for what a CSV does not carry."""
    less = ["file_type", "other_scores"]
    assert one.schema.equals(other.schema)
    assert one.drop_columns(less).equals(other.drop_columns(less))


def test_round_trip(tmp_path: Path) -> None:
    answer = answers.whole()
    found = tables.read_artifacts(answers.zipped(tmp_path, answer))
    wanted = tables.by_model(encode(answer))
    assert set(found) == set(wanted) == set(tables.MODELS)
    for model, table in wanted.items():
        same(found[model], table)
    assert found["face"]["file_type"].null_count == found["face"].num_rows


@pytest.mark.parametrize(("seed", "rows"), [(1, 3000), (2, 1)])
def test_round_trip_of_many_rows(tmp_path: Path, seed: int, rows: int) -> None:
    chance = random.Random(seed)
    answer = [
        answers.source(f"{number}.mp4", answers.file("a", chance.randint(0, rows), "prosody", "facemesh"))
        for number in range(3)
    ]
    found = tables.read_artifacts(answers.zipped(tmp_path, answer))
    for model in ("prosody", "facemesh"):
        same(found[model], getattr(tables, model)(encode(answer)))


def test_a_model_that_found_nothing_has_an_empty_table(tmp_path: Path) -> None:
    path = answers.zipped(tmp_path, [answers.source("a.mp4", answers.file("a.mp4", 0, "face"))])
    found = tables.read_artifacts(path)
    assert {model: table.num_rows for model, table in found.items()} == {"face": 0}
    assert found["face"].schema.equals(tables.schema("face"))


@pytest.mark.parametrize("name", ["face.csv", "prosody.csv", "language.csv"])
def test_headers_of_the_hosted_service(tmp_path: Path, name: str) -> None:
    # The score columns count up: Confusion and Contemplation, Desire and Satisfaction stand elsewhere than in JSON.
    header = RECORDED[name]
    cells = [str(number) if column in vocabulary.LANGUAGE_EMOTIONS else "" for number, column in enumerate(header)]
    text = prosody(",".join(cells), header=",".join(header))
    path = packed(tmp_path, (f"file-0-bad_interview.mp4/csv/bad_interview.mp4/{name}", text))
    (table,) = tables.read_artifacts(path).values()
    (row,) = table.to_pylist()
    for column in set(header) & set(vocabulary.LANGUAGE_EMOTIONS):
        assert row[column] == header.index(column)
    assert (row["source"], row["source_index"], row["file"]) == ("bad_interview.mp4", 0, "bad_interview.mp4")


def test_places(tmp_path: Path) -> None:
    path = packed(
        tmp_path,
        ("file-10-b.zip/csv/faces/1.jpg/prosody.csv", prosody(ROW)),
        ("file-2-a-b.mp4/csv/a-b.mp4/prosody.csv", prosody(ROW, ROW)),
        ("url-3-c.mp4/csv/c.mp4/prosody.csv", prosody(ROW)),
        ("text-4/csv/1/prosody.csv", prosody(ROW)),
        ("file-2-a-b.mp4/images/face_0.png", b"no table"),
        ("file-2-a-b.mp4/csv/a-b.mp4/unheard_of.csv", b"no table"),
        ("prosody.csv", b"no place"),
        ("__MACOSX/file-2-a-b.mp4/csv/a-b.mp4/._prosody.csv", b"\0"),
    )
    table = tables.read_artifacts(path)["prosody"]
    assert list(zip(*(table[name].to_pylist() for name in ("source_index", "source", "file")), strict=True)) == [
        (2, "a-b.mp4", "a-b.mp4"),
        (2, "a-b.mp4", "a-b.mp4"),
        (3, "c.mp4", "c.mp4"),
        (4, "text", "1"),
        (10, "b.zip", "faces/1.jpg"),
    ]
    row = table.to_pylist()[0]
    assert [row[name] for name in ("id", "text", "begin", "end", "confidence", "speaker_confidence")] == [
        *("spk_0", "hello", 0.5, 1.0, 0.25, None)
    ]


def test_what_people_did_to_their_zips(tmp_path: Path) -> None:
    # Unpacked into a folder and deflated; saved by a spreadsheet with a mark in front, and columns moved or gone.
    text = "\ufeff" + prosody("", '0.5,"a ""b"", c\nd",x,', header="Joy,Text,Id,Mine")
    path = packed(tmp_path, (f"run-7/{NAME}", text), compress=zipfile.ZIP_DEFLATED)
    (row,) = tables.read_artifacts(path)["prosody"].to_pylist()
    assert (row["Joy"], row["text"], row["id"], row["Anger"]) == (0.5, 'a "b", c\nd', "x", None)


def test_texts_that_look_like_null_or_numbers(tmp_path: Path) -> None:
    rows = [f"{name},{name},1,2,," + "," * 48 for name in ("null", "NA", "nan", "12", "True", "")]
    table = tables.read_artifacts(packed(tmp_path, (NAME, prosody(*rows))))["prosody"]
    assert table["id"].to_pylist() == ["null", "NA", "nan", "12", "True", ""]
    assert table["text"].to_pylist() == ["null", "NA", "nan", "12", "True", None]


def test_a_long_text(tmp_path: Path) -> None:
    text = "word " * 200_000  # a field of the csv module has 131,072 characters, if nobody says otherwise
    row = f'spk_0,"{text}",0,1,,' + "," * 48
    table = tables.read_artifacts(packed(tmp_path, (NAME, prosody(row, row))))["prosody"]
    assert table["text"].to_pylist() == [text, text]


@pytest.fixture
def field_limit() -> Iterator[Callable[[int], int]]:
    before = csv.field_size_limit()
    yield csv.field_size_limit
    csv.field_size_limit(before)


def test_long_texts_in_several_threads(tmp_path: Path, field_limit: Callable[[int], int]) -> None:
    # The limit of the csv module is the process's.
    path = packed(tmp_path, (NAME, prosody(*[f'spk_0,"{"word " * 400}",0,1,,' + "," * 48] * 50)))
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(20):
                field_limit(1000)
                found = list(pool.map(lambda _: tables.read_artifacts(path)["prosody"].num_rows, range(4)))
                assert found == [50] * 4
    finally:
        sys.setswitchinterval(switching)


def test_a_high_limit_of_fields_stays(tmp_path: Path, field_limit: Callable[[int], int]) -> None:
    field_limit(2**30)
    tables.read_artifacts(packed(tmp_path, (NAME, prosody(ROW))))
    assert csv.field_size_limit() == 2**30


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-inf", "Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize(("model", "column"), [("prosody", "Joy"), ("prosody", "BeginTime"), ("face", "Frame")])
def test_numbers_that_are_none(tmp_path: Path, model: str, column: str, value: str) -> None:
    # JSON has none of them either. The text before has two lines.
    name = f"file-0-a/csv/a/{model}.csv"
    path = packed(tmp_path, (name, f'Id,Text,{column}\r\na,"b\nc",1\r\na,"d\ne",\r\na,"f\ng",{value}\r\na,h,1\r\n'))
    with pytest.raises(SourceError) as caught:
        tables.read_artifacts(path)
    assert f"{name}: line 7: {value!r} in the column {column} is no number" in str(caught.value)


def test_names_with_backslashes(tmp_path: Path) -> None:
    path = packed(
        tmp_path,
        ("mine\\file-0-a.zip\\csv\\faces\\1.wav\\prosody.csv", prosody(ROW)),
        ("file-1-b\\c.wav/csv/b\\c.wav/prosody.csv", prosody(ROW)),
        ("file-2-d.wav\\images\\face_0.png", b"no table"),
    )
    table = tables.read_artifacts(path)["prosody"]
    assert table["source"].to_pylist() == ["a.zip", "b\\c.wav"]
    assert table["file"].to_pylist() == ["faces/1.wav", "b\\c.wav"]


def encrypted(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for magic, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(magic) + place] |= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"hello")] ^= 1
    path.write_bytes(data)


def no_zip(path: Path) -> None:
    path.write_bytes(b"PK, but no more")


def count_of_a_billion(path: Path) -> None:
    # "The list of entries has 2 GB."
    data = bytearray(path.read_bytes())
    end = data.index(b"PK\5\6")
    data[end + 12 : end + 16] = struct.pack("<L", 2**31 - 1)
    path.write_bytes(data.ljust(end + 22, b"\0"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (encrypted, f"{NAME}: it is encrypted"),
        (cut, "not a zip file"),
        (flipped, f"{NAME}: Bad CRC-32"),
        (no_zip, "not a zip file"),
        (count_of_a_billion, "a.zip"),
        (Path.unlink, "No such file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_zips(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    path = packed(tmp_path, (NAME, prosody(ROW)), ("file-1-x/csv/x/prosody.csv", prosody(ROW)))
    damage(path)
    with pytest.raises(SourceError) as caught:
        tables.read_artifacts(path)
    assert said in str(caught.value)
    assert caught.value.path == str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column Id"),
        ("\0\1\2", "no column Id"),
        ("Text,Joy\r\na,1\r\n", "no column Id"),
        ("Id,Joy,Joy\r\na,1,1\r\n", "one name"),
        ("Id,Joy\r\na,1\r\nb\r\n", "line 3 has 1 cells and not 2"),
        ("Id,Joy\r\na,1\r\nb,1,2\r\n", "line 3 has 3 cells"),
        ("Id,Joy\r\na,happy\r\n", "line 2: 'happy' in the column Joy is no number"),
        ('Id,Text\r\na,"b\r\n', "unexpected end of data"),
        ('Id,Text\r\na,"b"c\r\n', "expected after"),
        ("Id,Text\r\na," + "b" * 9_000_000, "longer than"),
    ],
)
def test_wrong_csvs(tmp_path: Path, text: str, said: str) -> None:
    path = packed(tmp_path, ("file-0-a/csv/a/prosody.csv", prosody(ROW)), (NAME, text))
    with pytest.raises(SourceError) as caught:
        tables.read_artifacts(path)
    assert f"{NAME}: " in str(caught.value)
    assert said in str(caught.value)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = packed(tmp_path, (NAME, prosody(ROW).encode().replace(b"hello", b"\xff\xfe")))
    with pytest.raises(SourceError, match="it is not UTF-8"):
        tables.read_artifacts(path)


def test_a_frame_that_is_no_whole_number(tmp_path: Path) -> None:
    for frame, wanted in (("30.0", 30), ("2.5", None)):
        path = packed(tmp_path, ("file-0-a/csv/a/face.csv", f"Id,Frame\r\nunknown,{frame}\r\n"))
        if wanted is not None:
            assert tables.read_artifacts(path)["face"]["frame"].to_pylist() == [wanted]
        else:
            with pytest.raises(SourceError, match=r"'2.5' in the column Frame is no number"):
                tables.read_artifacts(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="it is there twice"):
        tables.read_artifacts(packed(tmp_path, (NAME, prosody(ROW)), (NAME, prosody(ROW, ROW))))
    with pytest.raises(SourceError, match="it is there twice"):
        tables.read_artifacts(packed(tmp_path, (NAME, prosody(ROW)), (f"again/{NAME}", prosody(ROW))))


def test_links(tmp_path: Path) -> None:
    link = zipfile.ZipInfo(NAME)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(SourceError, match="it is a link"):
        tables.read_artifacts(packed(tmp_path, (link, "/etc/passwd")))


@pytest.mark.parametrize("kind", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_compression_that_inflates_without_bounds(tmp_path: Path, kind: int) -> None:
    with pytest.raises(SourceError, match="neither stored nor deflated"):
        tables.read_artifacts(packed(tmp_path, (NAME, prosody(ROW)), compress=kind))


@pytest.mark.parametrize(
    "name",
    [
        "file-0-x/csv/../../../../etc/prosody.csv",
        "file-0-x/csv/./prosody.csv",
        "file-0-x/csv//prosody.csv",
        "/file-0-x/csv/a/prosody.csv",
        "../file-0-x/csv/a/prosody.csv",
        "..\\file-0-x\\csv\\a\\prosody.csv",
        "\\\\server\\file-0-x\\csv\\a\\prosody.csv",
        "file-0-x\\csv\\..\\..\\prosody.csv",
    ],
)
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="its name leads elsewhere"):
        tables.read_artifacts(packed(tmp_path, (name, prosody(ROW))))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    for number, entries in enumerate([[], [("photos/1.jpg", b"x")], [("file-0-x/notes.txt", b"x")]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(SourceError, match="no artifacts ZIP"):
            tables.read_artifacts(packed(folder, *entries))


def held(path: Path, said: str) -> int:
    """The most memory that Python objects took until the ZIP was refused."""
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=said):
            tables.read_artifacts(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BLOWN = "x," + "a" * 1_000_000 + "," * 52


def test_a_bomb(tmp_path: Path) -> None:
    path = packed(tmp_path, (NAME, prosody(*[BLOWN] * 400)), compress=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 500_000
    assert held(path, f"{NAME}: it inflates to more than") < 80_000_000
    path = packed(tmp_path, (NAME, "x" * 100_000_000), compress=zipfile.ZIP_DEFLATED)
    assert held(path, f"{NAME}: a line of it is longer") < 80_000_000


def test_many_small_bombs(tmp_path: Path) -> None:
    # None of them comes to what any entry may have, all of them together do.
    entries = [(f"file-{number}-x/csv/x/prosody.csv", prosody(*[BLOWN] * 5)) for number in range(50)]
    path = packed(tmp_path, *entries, compress=zipfile.ZIP_DEFLATED)
    assert held(path, "the ZIP inflates to more than") < 80_000_000


def test_a_list_of_entries_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)  # takes no room on disk
        file.seek(0, 2)
        size = 3 * 2**30 - 1
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, size, 0, 0))
    assert held(path, "list of entries is too long") < 1_000_000


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_source_error(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(packed(tmp_path, (NAME, prosody(ROW)), (f"{NAME[:-11]}face.csv", "Id\r\nx\r\n")).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "b.zip"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw))) or None])
    try:
        found = tables.read_artifacts(path)
    except SourceError as error:
        found, said = {}, str(error)
    else:
        said = str(path)
    assert said.startswith(str(path))
    assert set(found) <= set(tables.MODELS)
