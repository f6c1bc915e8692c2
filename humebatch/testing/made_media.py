"""Small files of every kind that measurers read, made from nothing: whole ones, broken ones, and long ones."""

from __future__ import annotations

import array
import hashlib
import math
import struct
import wave
import zlib
from pathlib import Path
from typing import Final

import msgspec

from ..server.measure import FileType, Media

__all__ = ["damaged", "empty", "long_media", "made_media", "media_of"]

_RATE: Final = 16_000
_TEXTS: Final = (
    "I am so happy that you came today! What a wonderful surprise. Thank you, Maria, for the flowers from Berlin.\n",
    "I am angry and tired. Nobody told me that the train to London was late. It is sad, and I miss my old friend.\n",
)
_ENDINGS: Final[dict[FileType, str]] = {
    "text": ".txt", "image": ".png", "audio": ".wav", "video": ".mp4", "video_no_audio": ".mp4", "landmarks": ".json",
}  # fmt: skip
# What the kind of a file is known by, so that whoever opens it believes it at first.
_BEGINNINGS: Final[dict[FileType, bytes]] = {
    "text": b"Hello \xff\xfe\xfd\0 ",
    "image": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "audio": b"RIFF\xff\xff\xff\x7fWAVEfmt ",
    "video": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    "video_no_audio": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    "landmarks": b"[[[0.5, 0.5, ",
}
_LANDMARKS: Final = 478


def media_of(path: Path, kind: FileType) -> Media:
    """The file at `path`, which is of this kind, as something to measure."""
    return Media(
        path=str(path),
        name=path.name,
        file_type=kind,
        md5sum=hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(),
    )


def made_media(folder: Path, kind: FileType, variant: int = 0) -> Media:
    """A small, whole file of this kind. `variant` 0 and 1 are two different ones."""
    path = folder / f"made-{variant}{_ENDINGS[kind]}"
    match kind:
        case "text":
            path.write_text(_TEXTS[variant])
        case "image":
            path.write_bytes(_png(96, 96, variant))
        case "audio":
            _wav(path, _voice(4, variant), 1)
        case "landmarks":
            path.write_bytes(msgspec.json.encode([_mesh(variant)]))
        case _:
            _video(path, seconds=2, variant=variant)
    return media_of(path, kind)


def long_media(folder: Path, kind: FileType, length: int) -> Media:
    """A file whose decoded content grows with `length`: minutes of audio or video, 64 KiB of text."""
    path = folder / f"long-{length}{_ENDINGS[kind]}"
    if kind == "text":
        text = "".join(_TEXTS)
        path.write_text(text * (length * 65_536 // len(text)))
    elif kind == "audio":
        # Mostly quiet, as recordings are; but never for so long that a measurer may forget everything.
        _wav(path, _voice(2, 0) + array.array("h", bytes(2 * 8 * _RATE)), length * 6)
    else:
        _video(path, seconds=60 * length, variant=0)
    return media_of(path, kind)


def empty(folder: Path, kind: FileType) -> Media:
    """A file of no bytes that is taken for this kind."""
    path = folder / f"empty{_ENDINGS[kind]}"
    path.write_bytes(b"")
    return media_of(path, kind)


def damaged(folder: Path, kind: FileType) -> Media:
    """A file that begins like this kind and goes on as noise."""
    path = folder / f"damaged{_ENDINGS[kind]}"
    noise = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(128))
    path.write_bytes(_BEGINNINGS[kind] + noise)
    return media_of(path, kind)


def _voice(seconds: int, variant: int) -> array.array[int]:
    """Harmonics of a gliding tone in syllables: no speech, but what a voice detector may take for it."""
    samples = array.array("h")
    pitch = (110.0, 180.0)[variant]
    for number in range(seconds * _RATE):
        time = number / _RATE
        loudness = max(0.0, math.sin(2 * math.pi * 2.5 * time))
        phase = 2 * math.pi * (pitch * time + 8 * math.sin(2 * math.pi * 0.4 * time))
        wave_ = sum(math.sin(harmonic * phase) / harmonic for harmonic in range(1, 7))
        samples.append(int(8000 * loudness * wave_ / 2))
    return samples


def _wav(path: Path, samples: array.array[int], times: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        for _ in range(times):
            file.writeframes(samples.tobytes())


def _png(width: int, height: int, variant: int) -> bytes:
    rows = b"".join(
        b"\0" + bytes((x * 2 + y * (variant + 1)) % 256 for x in range(width) for _ in range(3)) for y in range(height)
    )

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _mesh(variant: int) -> list[list[float]]:
    # On an egg: no real face, but points of which none is far out.
    angles = [2.399963 * number for number in range(_LANDMARKS)]
    depths = [1 - 2 * (number + 0.5) / _LANDMARKS for number in range(_LANDMARKS)]
    return [
        [
            0.5 + 0.2 * math.cos(angle) * math.sqrt(1 - depth**2),
            0.5 + (0.25 + 0.02 * variant) * depth,
            0.1 * math.sin(angle) * math.sqrt(1 - depth**2),
        ]
        for angle, depth in zip(angles, depths, strict=True)
    ]


def _video(path: Path, *, seconds: int, variant: int) -> None:
    import av

    rate, width, height = 5, 160, 120
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame(width, height, "yuv420p")
        for number in range(seconds * rate):
            for plane, data in zip(frame.planes, (bytes(256), b"\x80" * 256, b"\x80" * 256), strict=True):
                shade = bytes([(data[0] + (number * (variant + 3)) % 64) % 256])
                plane.update(shade * plane.buffer_size)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
