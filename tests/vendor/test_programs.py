"""Small programs of the kind that people wrote for the hosted service, unchanged but for the base URL, on real media.

They walk answers as such programs do: without asking whether a list is empty or a key is there.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from examples.demo_media import MEDIA
from humebatch.server.measure import carried
from tests.server.process import Served, served

HERE = Path(__file__).parent / "programs"
KEY = "program-test-key"
LETTER = "Barack Obama thanked the doctors in Paris. Everybody at Microsoft was delighted by the news."


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real media, small enough to be measured in a minute."""
    folder = tmp_path_factory.mktemp("media")
    found = carried.fetch_all([*carried.TABLE.values(), *MEDIA.values()])
    shutil.copy(found["astronaut.png"], folder / "photo.png")
    cut(found["two_cities.wav"], folder / "reading.mp3", seconds=12)
    cut_video(found["WolfgangLanger_Pexels.mp4"], folder / "video.mp4", seconds=3)
    shutil.copy(Path(__file__).parents[2] / "examples" / "media" / "laugh.mp3", folder / "laugh.mp3")
    (folder / "letter.txt").write_text(LETTER)
    (folder / "faces.json").write_text(json.dumps([face(0.0), face(0.5)]))
    return folder


def face(shift: float) -> list[list[float]]:
    """478 points in the plane, which are no face but have its form as data."""
    return [[shift + (point % 22) / 50, (point // 22) / 50, 0.0] for point in range(478)]


def cut(source: Path, target: Path, *, seconds: float) -> None:
    """The beginning of a recording, as mp3."""
    with av.open(str(source)) as sound, av.open(str(target), "w") as out:
        heard = out.add_stream("mp3", rate=16_000, layout="mono")
        resampler = av.AudioResampler(heard.format.name, "mono", 16_000, 1152)
        for frame in sound.decode(audio=0):
            if frame.time is not None and frame.time >= seconds:
                break
            for piece in resampler.resample(frame):
                out.mux(heard.encode(piece))
        out.mux(heard.encode(None))


def cut_video(source: Path, target: Path, *, seconds: float) -> None:
    """The beginning of a video with its sound, as it is encoded."""
    with av.open(str(source)) as video, av.open(str(target), "w") as out:
        copies = {stream.index: out.add_stream_from_template(stream) for stream in video.streams}
        for packet in video.demux():
            if packet.dts is not None and float(packet.dts * packet.time_base) < seconds:
                packet.stream = copies[packet.stream.index]
                out.mux(packet)


@pytest.fixture(scope="module")
def urls(media: Path) -> Iterator[str]:
    """A server of that folder, of the kind that media lie on."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code: object = "-", size: object = "-") -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(media))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("server") / "data", "--port", "0", "--measure", "local", key=KEY) as running:
        yield running


def run(python: Path, program: str, server: Served, *arguments: str, stdin: str = "") -> str:
    """What a program prints."""
    ended = subprocess.run(
        [str(python), str(HERE / program), server.base_url, KEY, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=280,
        env={"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8", "NO_PROXY": "*"},
    )
    assert ended.returncode == 0, ended.stderr + server.errors()
    return ended.stdout


def test_top_emotions_of_a_video(hume_python: Path, server: Served, urls: str) -> None:
    """The video begins with a man who cries."""
    lines = run(hume_python, "top_emotions.py", server, f"{urls}/video.mp4").splitlines()
    assert lines[0].startswith("Sadness: ")
    assert len(lines) == 3


def test_a_bar_of_sentiment(hume_python: Path, server: Served) -> None:
    text = "What a wonderful day, thank you so much! I hate this awful, disgusting place."
    good, bad = run(hume_python, "sentiment_bar.py", server, text).splitlines()
    (_, high, first), (_, low, second) = good.split("\t"), bad.split("\t")
    assert (first, second) == (text[:40], text[41:])
    assert float(high) > 6 > 4 > float(low)


def test_a_list_of_who_and_what_is_named(legacy_python: Path, server: Served) -> None:
    rows = [line.split("\t") for line in run(legacy_python, "ner_list.py", server, LETTER).splitlines()]
    assert {row[0] for row in rows} >= {"Barack Obama", "Paris", "Microsoft"}
    assert all(entity == inside for entity, inside, _ in rows)
    assert all(emotion for *_, emotion in rows)


def test_the_prosody_of_an_mp3(legacy_python: Path, server: Served, media: Path) -> None:
    rows = [
        line.split("\t")
        for line in run(legacy_python, "prosody_mp3.py", server, str(media / "reading.mp3")).splitlines()
    ]
    said = " ".join(text for _, _, text, _ in rows).lower()
    assert "it was the best of times" in said
    assert "the age of wisdom" in said
    times = [float(begin) for begin, *_ in rows]
    assert times == sorted(times)


def test_a_filter_of_toxic_lines(hume_python: Path, server: Served) -> None:
    lines = ["Thank you for the lovely flowers.", "You are a stupid idiot, shut up!", "The meeting is at noon."]
    kept = run(hume_python, "toxicity_filter.py", server, stdin="\n".join(lines)).splitlines()
    assert kept == [lines[0], lines[2]]


def test_the_action_units_of_a_photo(hume_python: Path, server: Served, media: Path) -> None:
    """The astronaut smiles."""
    lines = run(hume_python, "facs_photo.py", server, str(media / "photo.png")).splitlines()
    scores = {name: float(score) for score, name in (line.split("\t") for line in lines)}
    assert scores["AU12 Lip Corner Puller"] > 0.5 > scores["AU43 Eye Closure"]
    assert list(scores.values()) == sorted(scores.values(), reverse=True)


FOUND = {
    "photo.png": {"face"},
    "video.mp4": {"face"},
    "reading.mp3": {"prosody", "language"},
    "laugh.mp3": {"burst"},
    "letter.txt": {"language", "ner"},
    "faces.json": {"facemesh"},
}


@pytest.mark.parametrize("client", ["hume 0.13.13", "hume 0.4.2"])
def test_every_model_on_media_behind_urls(
    client: str, hume_python: Path, legacy_python: Path, server: Served, urls: str
) -> None:
    python, program = {
        "hume 0.13.13": (hume_python, "all_models_by_url.py"),
        "hume 0.4.2": (legacy_python, "all_models_by_url_legacy.py"),
    }[client]
    report: dict[str, Any] = json.loads(run(python, program, server, *(f"{urls}/{name}" for name in FOUND)))
    assert report["state"] == "COMPLETED"
    rows = {name: {model for model, count in found.items() if count} for name, found in report["rows"].items()}
    for name, models in FOUND.items():
        assert models <= rows[name], (name, report)
    if "classes" in report:
        assert report["classes"] == {
            "face": ["FacePrediction"],
            "burst": ["BurstPrediction"],
            "prosody": ["ProsodyPrediction"],
            "language": ["LanguagePrediction"],
            "ner": ["NerPrediction"],
            "facemesh": ["FacemeshPrediction"],
        }
