"""Pictures out of images and videos: which frames, when, upright, and what is said of damaged files."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from humebatch.server.measure import FileType, Media, Unmeasurable
from humebatch.server.measure.device import THREADS_VARIABLE
from humebatch.server.measure.frames import Frame, Wanted, frames


def read(path: Path, fps: float = 3.0, file_type: FileType = "video") -> list[Frame]:
    return list(frames(Media(path=str(path), name=path.name, file_type=file_type, md5sum="0" * 32), fps))


def gray(frame: Frame) -> int:
    return round(float(np.asarray(frame.picture.image).mean()))


def video(
    path: Path,
    times: list[float],
    size: tuple[int, int] = (64, 48),
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    aspect: Fraction | None = None,
) -> Path:
    """A video whose frame n is gray 4 n + 20 all over, shown at `times[n]` seconds."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.bit_rate = 4_000_000
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for number, time in enumerate(times):
            picture = np.full((size[1], size[0], 3), min(4 * number + 20, 235), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_an_image_is_one_frame(photos: Mapping[str, Path]) -> None:
    (frame,) = read(photos["astronaut.png"], 0, "image")
    assert (frame.number, frame.time) == (0, 0.0)
    assert (frame.picture.width, frame.picture.height) == (512, 512)


def test_three_frames_a_second_of_a_video_of_thirty_are_every_tenth(videos: Mapping[str, Path]) -> None:
    found = read(videos["single_face.mp4"])
    assert [frame.number for frame in found] == [0, 10, 20, 30, 40, 50, 60, 70]
    assert [frame.time for frame in found] == pytest.approx([frame.number / 30 for frame in found])


def test_zero_is_every_frame_and_more_than_there_are_is_every_frame_once(videos: Mapping[str, Path]) -> None:
    every = read(videos["single_face.mp4"], 0)
    assert [frame.number for frame in every] == list(range(72))
    assert [frame.number for frame in read(videos["single_face.mp4"], 1000)] == list(range(72))


@pytest.mark.parametrize("threads", ["1", "2"])
def test_skipping_what_nobody_asked_for_changes_no_picture(
    videos: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, threads)
    for name in ("single_face.mp4", "face_noface.mov"):
        every = {frame.number: frame for frame in read(videos[name], 0)}
        for frame in read(videos[name], 2):
            assert frame.time == every[frame.number].time
            assert frame.picture.image.tobytes() == every[frame.number].picture.image.tobytes()


def test_frames_before_the_beginning_that_an_edit_list_hides_are_not_counted(videos: Mapping[str, Path]) -> None:
    first = next(iter(read(videos["no_face.mp4"], 1)))
    assert (first.number, first.time) == (0, 0.0)


def test_frames_of_a_variable_rate_are_taken_when_they_are_shown(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 1.0, 1.5, 2.5, 2.6]
    found = read(video(tmp_path / "variable.mkv", times), 2)
    assert [frame.time for frame in found] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.5])
    assert [frame.number for frame in found] == [0, 5, 7, 8, 9]
    assert [gray(frame) for frame in found] == pytest.approx([4 * frame.number + 20 for frame in found], abs=3)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "ending"),
    [
        ("mpeg4", "yuv420p", "mp4"),
        ("mjpeg", "yuvj444p", "avi"),
        ("ffv1", "gray", "mkv"),
        ("ffv1", "yuv444p10le", "mkv"),
        ("png", "rgba", "mov"),
        ("gif", "rgb8", "gif"),
    ],
)
def test_every_kind_of_pixel_is_read(tmp_path: Path, codec: str, pix_fmt: str, ending: str) -> None:
    found = read(video(tmp_path / f"video.{ending}", [n / 10 for n in range(10)], codec=codec, pix_fmt=pix_fmt), 0)
    assert [frame.number for frame in found] == list(range(10))
    assert all(frame.picture.image.mode == "RGB" for frame in found)
    assert [gray(frame) for frame in found] == pytest.approx([4 * n + 20 for n in range(10)], abs=25)


def test_anamorphic_video_is_as_wide_as_players_show_it(tmp_path: Path) -> None:
    (frame, *_) = read(video(tmp_path / "wide.mkv", [0, 0.1], aspect=Fraction(2, 1)), 0)
    assert frame.picture.image.size == (128, 48)
    assert (frame.picture.width, frame.picture.height) == (64, 48)
    assert frame.picture.scale_x == 0.5


def test_a_video_that_was_filmed_sideways_stands_upright(videos: Mapping[str, Path], tmp_path: Path) -> None:
    content = videos["single_face.mp4"].read_bytes()
    # The matrix in the track header, 36 bytes: the identity, then 90 degrees clockwise.
    one, zero, minus = (0x10000).to_bytes(4, "big"), bytes(4), (0x100000000 - 0x10000).to_bytes(4, "big")
    last = (0x40000000).to_bytes(4, "big")
    identity = one + zero * 3 + one + zero * 3 + last
    turned = zero + one + zero + minus + zero * 4 + last
    begin = content.index(b"tkhd")
    at = content.index(identity, begin)
    path = tmp_path / "sideways.mp4"
    path.write_bytes(content[:at] + turned + content[at + 36 :])
    (lying, *_), (standing, *_) = read(videos["single_face.mp4"]), read(path)
    assert (standing.picture.width, standing.picture.height) == (lying.picture.height, lying.picture.width)
    expected = lying.picture.image.transpose(Image.Transpose.ROTATE_270)
    assert standing.picture.image.tobytes() == expected.tobytes()


def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path: Path) -> None:
    path = video(tmp_path / "long.mkv", [n / 30 for n in range(600)], size=(320, 240))
    media = Media(path=str(path), name="long.mkv", file_type="video", md5sum="0" * 32)
    tracemalloc.start()
    try:
        count = sum(1 for _ in frames(media, 0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 600
    assert peak < 5_000_000  # one picture has 230,000 bytes


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be opened"),
        (b"no video at all", "cannot be opened"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n", "cannot be opened"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "cannot be opened"),
    ],
    ids=["empty", "text", "playlist", "concat"],
)
def test_what_is_no_video_is_refused_without_opening_what_it_names(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    with pytest.raises(Unmeasurable, match=reason) as caught:
        read(path)
    assert str(tmp_path) not in str(caught.value)


def test_a_file_with_sound_only_has_no_video_track(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(Unmeasurable, match="no video track"):
        read(path)


def test_a_video_that_ends_early_gives_what_there_is_and_says_so(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    whole, path = tmp_path / "whole.mp4", tmp_path / "short.mp4"
    with av.open(str(whole), "w", options={"movflags": "faststart"}) as out:  # what is where comes first
        stream: Any = out.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(150):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(noise, number, 0), "rgb24")))
        out.mux(stream.encode(None))
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    found: list[Frame] = []
    with pytest.raises(Unmeasurable, match=r"ends after \d\.\d of 5\.0 s|damaged"):
        found.extend(frames(Media(path=str(path), name="short.mp4", file_type="video", md5sum="0" * 32), 3))
    assert 3 <= len(found) <= 12


@given(
    fps=st.sampled_from([0.5, 1.0, 2.0, 3.0, 7.3, 24.0]),
    rate=st.sampled_from([10.0, 23.976, 25.0, 29.97, 30.0, 60.0]),
    count=st.integers(1, 300),
)
def test_of_an_even_video_the_nearest_frame_is_taken_for_each_moment(fps: float, rate: float, count: int) -> None:
    wanted = Wanted(fps, 1 / rate)
    times = [number / rate for number in range(count)]
    taken = [time for time in times if wanted.take(time)]
    assert all(Wanted(fps, 1 / rate).may_be(time) for time in taken)
    if fps <= rate:
        moments = [number / fps for number in range(int(times[-1] * fps) + 1)]
        for moment, time in zip(moments, taken, strict=False):
            assert abs(time - moment) <= 0.501 / rate
        assert len(taken) - len(moments) in (0, 1)  # the last one may be nearest to a moment after the end
    else:
        assert taken == times
