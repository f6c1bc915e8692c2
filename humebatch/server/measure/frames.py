"""The pictures of a file, one at a time: an image is one frame, a video as many as are asked for.

A video's frames are decoded as they are read and never held, so that memory does not grow with its length. What no
other frame needs and nobody asked for is not decoded at all.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import msgspec
from PIL import Image

from . import Media, Unmeasurable, device
from .face_picture import WORKING_SIDE, Picture, open_picture

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["MAX_VIDEO_PIXELS", "Frame", "Wanted", "frames"]

MAX_VIDEO_PIXELS: Final = 8192 * 4320
"""Largest frame that is decoded. A decoder keeps up to some twenty of them, 1.5 bytes a pixel."""

_CUT_SHORT: Final = 1.0  # seconds that may be missing at the end before a video counts as cut short
_TURNS: Final = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


class Frame(msgspec.Struct, frozen=True):
    """One picture of a file. `number`: its index in the video, from 0. `time`: seconds from the first frame."""

    number: int
    time: float
    picture: Picture


def frames(media: Media, fps: float) -> Iterator[Frame]:
    """The picture of an image, or `fps` frames per second of a video, in order of time; 0: every frame.

    Where a video has fewer frames than asked for, each comes once. Pictures stand upright, as a player shows them.
    Raises `Unmeasurable` when the file holds no picture or cannot be decoded; for a video that is damaged further on
    it does so after the frames that could be read.
    """
    if media.file_type == "image":
        yield Frame(number=0, time=0.0, picture=open_picture(media.path))
    else:
        yield from _of_video(media.path, fps)


class Wanted:
    """Which frames of a video are asked for: the ones nearest to 0, 1/`fps`, 2/`fps`, … seconds.

    `length`: seconds that one frame is shown for, as far as known. Times are seconds from the first frame.
    """

    def __init__(self, fps: float, length: float) -> None:
        self._fps = fps
        self._slack = length / 2
        self._next = 0

    def may_be(self, time: float) -> bool:
        """Whether the frame at `time` could be the nearest to one of the moments; answers yes rather than no."""
        if self._fps <= 0:
            return True
        moment = round(time * self._fps) / self._fps
        return abs(moment - time) <= 2.5 * self._slack

    def take(self, time: float) -> bool:
        """Whether the frame at `time` is the first one for the next moment; if so, asks for the one after it."""
        if self._fps <= 0:
            return True
        # A thousandth of a frame, as times are rounded to the container's ticks: 10/30 s and 1/3 s are the same moment.
        reached = time + self._slack * 0.999
        if reached < self._next / self._fps:
            return False
        self._next = max(self._next, math.floor(reached * self._fps)) + 1
        return True


def _of_video(path: str, fps: float) -> Iterator[Frame]:
    from av.error import FFmpegError

    from .tracks import open_media

    try:
        container = open_media(path)
    except (FFmpegError, ValueError) as error:
        raise Unmeasurable(
            f"the video cannot be opened: it is damaged, cut short or of a kind that is not read ({_told(error)})"
        ) from error
    with container:
        stream = _picture_track(container)
        context = stream.codec_context
        if context.width * context.height > MAX_VIDEO_PIXELS:
            raise Unmeasurable(
                f"the video's frames are too large: {context.width} x {context.height}, "
                f"more than {MAX_VIDEO_PIXELS:,} pixels"
            )
        # One thread for each core that is ours; slices and frames, whatever the codec can.
        context.thread_count = device.threads()
        context.thread_type = "AUTO"
        yield from _decoded(container, stream, fps)


def _decoded(container: Any, stream: VideoStream, fps: float) -> Iterator[Frame]:
    from av.error import FFmpegError

    rate = stream.guessed_rate or stream.average_rate or Fraction(25)
    base = stream.time_base or Fraction(1, 1000)
    wanted = Wanted(fps, float(1 / rate))
    numbers = _Numbers()
    begin: int | None = stream.start_time
    counted = broken = 0
    time = end = 0.0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError as error:
            raise Unmeasurable(f"the video is damaged after {time:.1f} s: {_told(error)}") from error
        if packet is None:
            break
        numbers.seen(packet.pts)
        if packet.pts is not None and begin is not None:
            end = max(end, float((packet.pts + (packet.duration or 0) - begin) * base))
        # Without a time nobody can say which frame a packet makes. With one, what is not asked for is decoded only
        # where others are predicted from it.
        if packet.pts is None or begin is None or wanted.may_be(float((packet.pts - begin) * base)):
            stream.codec_context.skip_frame = "DEFAULT"
        else:
            stream.codec_context.skip_frame = "NONREF"
        try:
            decoded = packet.decode()
        except FFmpegError:
            broken += 1
            continue
        for frame in decoded:
            if begin is None:
                begin = frame.pts
            if frame.pts is None or begin is None:
                number, time = counted, float(counted / rate)
            else:
                number, time = numbers.of(frame.pts), max(float((frame.pts - begin) * base), 0.0)
            counted += 1
            if wanted.take(time):
                yield Frame(number=number, time=time, picture=_picture(frame, stream))
    _complain(stream, counted, broken, max(time, end))


class _Numbers:
    """The index of each frame in its video, though not every frame is decoded: how many packets are before it.

    Counted from the first frame that is shown; an edit list may hide some before it.
    """

    def __init__(self) -> None:
        self._waiting: list[int] = []
        self._before = 0
        self._hidden: int | None = None

    def seen(self, pts: int | None) -> None:
        if pts is not None:
            heapq.heappush(self._waiting, pts)

    def of(self, pts: int) -> int:
        """The index of the frame shown at `pts`; asked in the order of showing."""
        while self._waiting and self._waiting[0] < pts:
            heapq.heappop(self._waiting)
            self._before += 1
        if self._hidden is None:
            self._hidden = self._before
        return self._before - self._hidden


def _complain(stream: VideoStream, counted: int, broken: int, end: float) -> None:
    """Say what was missing, after everything that could be read up to `end`. Raises `Unmeasurable` if anything was."""
    if not counted:
        raise Unmeasurable("the video is damaged or cut short: no frame of it could be decoded")
    if broken:
        raise Unmeasurable(f"the video is damaged: {broken} of its frames could not be decoded and were left out")
    promised = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if promised - end > _CUT_SHORT:
        raise Unmeasurable(f"the video is cut short: it ends after {end:.1f} of {promised:.1f} s")


def _picture_track(container: Any) -> VideoStream:
    from av.stream import Disposition

    for stream in container.streams.video:
        # The cover of a piece of music is a "video" of one picture.
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None or not stream.codec_context.width:
                raise Unmeasurable("the video track cannot be decoded: its format is unknown or damaged")
            track: VideoStream = stream
            return track
    raise Unmeasurable("there is no video track in the file")


def _picture(frame: VideoFrame, stream: VideoStream) -> Picture:
    """The frame as RGB, with square pixels, upright and no side above `WORKING_SIDE`."""
    # Anamorphic video is stored squeezed; a face in it is as wide as the player shows it.
    aspect = float(stream.sample_aspect_ratio or 1)
    wide, high = frame.width * aspect, float(frame.height)
    scale = min(1.0, WORKING_SIDE / max(wide, high))
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    image: Image.Image = frame.to_image(width=size[0], height=size[1], interpolation="BILINEAR")  # type: ignore[no-untyped-call]
    width, height = frame.width, frame.height
    turn = round(frame.rotation) % 360
    if turn in _TURNS:
        image = image.transpose(_TURNS[turn])
    if turn in (90, 270):
        width, height = height, width
    return Picture(image=image, width=width, height=height)


def _told(error: Exception) -> str:
    # FFmpeg's own message ends with the path, which is nobody's business outside this machine.
    return str(getattr(error, "strerror", None) or type(error).__name__)
