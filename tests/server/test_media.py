"""What kind of file a file is: by its content first, by its name where the content does not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from humebatch.server.measure import FileType
from humebatch.server.media import file_type, is_archive

KINDS: list[tuple[str, bytes, FileType]] = [
    # the content decides, whatever the name says
    ("x", b"\x89PNG\r\n\x1a\n", "image"),
    ("voice.wav", b"\xff\xd8\xff\xe0\0\x10JFIF", "image"),
    ("x", b"GIF89a\1\0\1\0", "image"),
    ("x", b"BM\x9a\0\0\0\0\0\0\0\x36\0\0\0", "image"),
    ("x", b"II*\0\x08\0\0\0", "image"),
    ("x", b"MM\0*\0\0\0\x08", "image"),
    ("x", b"RIFF\x24\0\0\0WEBPVP8 ", "image"),
    ("upload", b"RIFF\x24\0\0\0WAVEfmt ", "audio"),
    ("x", b"ID3\x03\0\0\0\0\0\0", "audio"),
    ("x", b"fLaC\0\0\0\x22", "audio"),
    ("x", b"OggS\0\2\0\0", "audio"),
    ("x", b"\0\0\0\x20ftypM4A \0\0\0\0", "audio"),
    ("x.txt", b"\0\0\0\x20ftypisom\0\0\2\0", "video"),
    ("x", b"\0\0\0\x14ftypqt  ", "video"),
    ("x", b"\x1aE\xdf\xa3\x9fB\x86\x81\1", "video"),
    ("x", b"RIFF\x24\0\0\0AVI LIST", "video"),
    # content that says nothing: the name
    ("song.mp3", b"\xff\xfb\x90\x44\0\0", "audio"),
    ("film.mp4", b"\0\1\2\3", "video"),
    ("picture.png", b"\0\1\2\3", "image"),
    ("NOTES.TXT", b"anything\0", "text"),
    ("notes.md", b"# Notes", "text"),
    ("mesh.json", b'[{"x": 1}]', "landmarks"),
    ("mesh.JSON", b'\n {"x": 1}', "landmarks"),
    ("odd.json", b"hello", "text"),
    # neither: does it read as text?
    ("upload", "Gr\u00fc\u00dfe".encode(), "text"),
    ("upload", b"a" + "\u00e9".encode() * 4000, "text"),
    ("upload", b"\xff\xfe\x00", "unknown"),
    ("upload", b"zero\0byte", "unknown"),
    ("data.bin", b"\x80\x81\x82", "unknown"),
    ("", b"", "text"),
    # words that look like the start of something
    ("cars.txt", b"BMW is a maker of cars.", "text"),
    ("upload", b"BMI and blood pressure", "text"),
    ("music.txt", b"ID3 tags carry the title.", "text"),
    ("upload", b"RIFF: the WAVE of the AVI ", "text"),
    ("upload", b"The ftyp box comes first.", "text"),
    ("upload", b"GIF8 is no word", "text"),
]


@pytest.mark.parametrize(("name", "head", "kind"), KINDS)
def test_kinds(tmp_path: Path, name: str, head: bytes, kind: FileType) -> None:
    path = tmp_path / "0"
    path.write_bytes(head)
    assert file_type(path, name) == kind


@pytest.mark.parametrize("cut", range(4090, 4097))
def test_a_sample_that_ends_inside_a_character(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "0"
    path.write_bytes(b"a" * cut + "\N{PILE OF POO}\u00e9".encode() * 10)
    assert file_type(path, "upload") == "text"


EMPTY_ZIP = b"PK\x05\x06" + bytes(18)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("faces.zip", b"no zip at all", True),
        ("FACES.ZIP", EMPTY_ZIP, True),
        ("a.tar.gz", b"", True),
        ("a.tgz", b"", True),
        ("a.tar.bz2", b"", True),
        ("a.tar.xz", b"", True),
        ("upload", EMPTY_ZIP, True),
        ("upload", b"text", False),
        ("report.docx", EMPTY_ZIP, False),
        ("zip.txt", EMPTY_ZIP, False),
        ("a.wav", b"RIFF", False),
    ],
)
def test_archives(tmp_path: Path, name: str, content: bytes, expected: bool) -> None:
    path = tmp_path / "0"
    path.write_bytes(content)
    assert is_archive(path, name) is expected
