"""Our own measurers hold to the protocol: `check_measurer` on each, with real media where made ones are not enough."""

from __future__ import annotations

import functools
import itertools
import os
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import pytest

from examples.demo_media import MEDIA
from humebatch.jobs import MODEL_NAMES, Transcription
from humebatch.server.measure import carried
from humebatch.testing import RULES, check_measurer
from tests.server.measure.conforming import ours

LAUGH = Path(__file__).parents[3] / "examples" / "media" / "laugh.mp3"
OPTIONS = Transcription(language="en", identify_speakers=False, confidence_threshold=0.0)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Sequence[Path]]:
    """Per model, files that it finds something in, as short as will do: each is measured a dozen times."""
    files = carried.fetch_all(
        [MEDIA[name] for name in ("grace_hopper.jpg", "two_cities.wav", "WolfgangLanger_Pexels.mp4")]
    )
    folder = tmp_path_factory.mktemp("media")
    with wave.open(str(files["two_cities.wav"])) as whole, wave.open(str(folder / "read.wav"), "wb") as part:
        part.setparams(whole.getparams())
        part.writeframes(whole.readframes(4 * whole.getframerate()))
    with av.open(str(files["WolfgangLanger_Pexels.mp4"])) as video, av.open(str(folder / "man.mp4"), "w") as cut:
        pictures = video.streams.video[0]
        out = cut.add_stream_from_template(pictures)
        for packet in itertools.islice(video.demux(pictures), 25):
            packet.stream = out
            cut.mux(packet)
    return {
        "face": [files["grace_hopper.jpg"], folder / "man.mp4"],
        "burst": [LAUGH],
        "prosody": [folder / "read.wav"],
    }


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_it_conforms(model: str, media: Mapping[str, Sequence[Path]]) -> None:
    check_measurer(functools.partial(ours, model), media=media.get(model, ()), skip=["memory"])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["prosody", "language", "ner"])
def test_it_conforms_on_what_is_said(model: str, media: Mapping[str, Sequence[Path]]) -> None:
    make = functools.partial(ours, model)
    check_measurer(make, media=media["prosody"], transcription=OPTIONS, skip=["memory"])


# A face video of half an hour takes minutes.
_SECONDS = dict.fromkeys(MODEL_NAMES, 600.0) | {"face": 20.0}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODEL_NAMES)
def test_its_memory_does_not_grow(model: str, media: Mapping[str, Sequence[Path]]) -> None:
    if model == "prosody" and not os.environ.get("EVERY_POINT"):
        # A time limit would end the short file on a busy machine, before what both need is in memory.
        pytest.skip("takes some minutes: EVERY_POINT=1 runs it")
    # The words of a text are all held; texts are limited to 4 MiB.
    most = (128 if model == "language" else 32) * 2**20
    check_measurer(
        functools.partial(ours, model),
        growth_bytes=most,
        growth_seconds=_SECONDS[model],
        skip=RULES.keys() - {"memory"},
    )
