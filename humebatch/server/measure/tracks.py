"""Which tracks a media file has: what its first bytes cannot say."""

from __future__ import annotations

from typing import Final

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition

from . import FileType, Media

__all__ = ["kind_of", "open_media"]

# Containers that hold their media themselves: a playlist or a manifest would have other files of this machine read.
_OPENED: Final = {
    "format_whitelist": "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,h264,hevc,m4v,ivf,obu,mxf,nut,dv,"
    "wtv,rm,gif,apng,mjpeg,wav,w64,aiff,au,caf,mp3,flac,aac,ac3,eac3,amr,amrnb,amrwb,ape,wv,tta,mpc,mpc8,dsf,dts,voc,"
    "loas,gsm,sln",
    "protocol_whitelist": "file",
}


def open_media(path: str) -> InputContainer:
    """The audio or video file at `path`, to be closed. Raises what PyAV raises."""
    return av.open(path, mode="r", metadata_errors="replace", options=dict(_OPENED))


def kind_of(media: Media) -> FileType:
    """What the file holds: `audio` without moving pictures, `video`, or `video_no_audio`.

    A cover picture is no video. A file that cannot be opened keeps the kind that it was taken for; whoever decodes
    it says what is wrong.
    """
    try:
        with open_media(media.path) as container:
            sound = bool(container.streams.audio)
            moving = any(not stream.disposition & Disposition.attached_pic for stream in container.streams.video)
    except (av.error.FFmpegError, ValueError):
        return media.file_type
    if moving:
        return "video" if sound else "video_no_audio"
    return "audio" if sound else media.file_type
