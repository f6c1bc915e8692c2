"""Which tracks a media file has: what its first bytes cannot say."""

from __future__ import annotations

import av.error
from av.stream import Disposition

from . import FileType, Media
from .container import opened

__all__ = ["kind_of"]


def kind_of(media: Media) -> FileType:
    """What the file holds: `audio` without moving pictures, `video`, or `video_no_audio`.

    A cover picture is no video. A file that cannot be opened keeps the kind that it was taken for; whoever decodes
    it says what is wrong.
    """
    try:
        with opened(media.path) as container:
            sound = bool(container.streams.audio)
            moving = any(not stream.disposition & Disposition.attached_pic for stream in container.streams.video)
    except (av.error.FFmpegError, ValueError):
        return media.file_type
    if moving:
        return "video" if sound else "video_no_audio"
    return "audio" if sound else media.file_type
