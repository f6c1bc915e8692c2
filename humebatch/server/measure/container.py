"""Opening a media container that a stranger sent: only kinds that hold media themselves.

A playlist names other files and addresses, which nobody may have opened on the server's behalf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import av

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["opened"]

_OPTIONS: Final = {
    "format_whitelist": "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,h264,hevc,m4v,ivf,obu,mxf,nut,dv,"
    "wtv,rm,gif,apng,mjpeg,wav,w64,rf64,mp3,aac,flac,aiff,amr,au,caf,ac3,eac3,ape,wv,tta,mpc,mpc8,dts,adts,loas,spx,"
    "opus,gsm,voc,sox,xwma",
    "protocol_whitelist": "file",
}


def opened(path: str) -> InputContainer:
    """The container, to be used in a `with`. Raises `av.error.FFmpegError` or `ValueError` when it cannot be opened."""
    return av.open(path, mode="r", metadata_errors="replace", options=dict(_OPTIONS))
