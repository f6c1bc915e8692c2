"""How fast files are measured, in how much memory: the measuring processes of the server, on real media.

"One file" is one process with one thread, as a server on two cores measures a single file; "two at once" is what two
cores do together. Memory is the highest resident size of a process that measured everything here, and a long recording
(`--long`: of three hours) besides.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import av
import numpy as np

from examples.demo_media import MEDIA, talking
from humebatch import jobs
from humebatch.server.children import Children
from humebatch.server.measure import Media, Selection, carried
from humebatch.server.measure.running import Failed, Found, Measure, Told
from humebatch.server.media import file_type

Row = tuple[str, str, str, str]

SPEECH = jobs.Models(
    burst=jobs.Burst(),
    prosody=jobs.Prosody(granularity="utterance", identify_speakers=True),
    language=jobs.Language(granularity="sentence", sentiment={}, toxicity={}, identify_speakers=True),
    ner=jobs.Ner(identify_speakers=True),
)
FACE = jobs.Models(
    face=jobs.Face(fps_pred=3.0, prob_threshold=0.99, min_face_size=60, identify_faces=True, facs={}, descriptions={})
)
TEXT = jobs.Models(language=jobs.Language(granularity="sentence", sentiment={}, toxicity={}))
BURST = jobs.Models(burst=jobs.Burst())
TRANSCRIPTION = jobs.Transcription(language=None, identify_speakers=True, confidence_threshold=0.5)

_TEXTS = 400


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """(what, measured, goal, data) of every figure."""
    yield from anyio.run(_rows, options)


async def _rows(options: argparse.Namespace) -> list[Row]:
    found = carried.fetch_all([*carried.TABLE.values(), *MEDIA.values()])
    with tempfile.TemporaryDirectory(prefix="humebatch-speed-") as folder:
        work = Path(folder)
        speech = work / "speech.wav"
        repeated([found["two_cities.wav"], found["endgame_nagg_nell.wav"]], speech, seconds=144)
        video = work / "video.mp4"
        talking(found["WolfgangLanger_Pexels.mp4"], found["two_cities.wav"], video)
        result = [await _cold(work, found["astronaut.png"], speech)]
        for what, models, goal, path in (
            ("speech with all its models", SPEECH, 4.0, speech),
            ("face video at 3 frames a second", FACE, 4.0, video),
            ("bursts", BURST, 20.0, speech),
        ):
            seconds = duration(path)
            one = await _timed(work, models, [path])
            two = await _timed(work, models, [path, path])
            result.append(
                (
                    what,
                    f"{seconds / one:.1f}× real time for one file, {2 * seconds / two:.1f}× for two at once",
                    f"{goal:g}× ({_met(max(seconds / one, 2 * seconds / two) >= goal)})",
                    f"{path.name}, {seconds:.0f} s",
                )
            )
        result.append(await _texts(work))
        result.append(await _memory(work, options, found, video))
        return result


async def _measure(children: Children, work: Path, models: jobs.Models, path: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=work))
    told: list[Told] = []
    media = Media(path=str(path), name=path.name, file_type=file_type(path, path.name), md5sum="0" * 32)
    request = Measure(
        media=media, models=models, transcription=TRANSCRIPTION, selection=Selection(), folder=str(folder)
    )
    await children.measure(request, told.append)
    failed = [step for step in told if isinstance(step, Failed)]
    if failed or not any(isinstance(step, Found) for step in told):
        raise RuntimeError(f"{path.name} was not measured: {failed}")


async def _timed(work: Path, models: jobs.Models, paths: list[Path]) -> float:
    children = Children(2, stall_seconds=600)
    try:
        async with anyio.create_task_group() as group:  # loads the models
            for path in paths:
                group.start_soon(_measure, children, work, models, path)
        started = time.perf_counter()
        async with anyio.create_task_group() as group:
            for path in paths:
                group.start_soon(_measure, children, work, models, path)
        return time.perf_counter() - started
    finally:
        await children.aclose()


async def _cold(work: Path, photo: Path, speech: Path) -> Row:
    """From no process to the results of a small file of every kind."""
    short = work / "short.wav"
    repeated([speech], short, seconds=3)
    text = work / "short.txt"
    text.write_text("Thank you, Barack Obama!")
    children = Children(1, stall_seconds=600)
    try:
        started = time.perf_counter()
        described = await children.describe(Selection())
        loaded = time.perf_counter() - started
        if described.missing:
            raise RuntimeError(f"not everything can be measured here: {described.missing}")
        await _measure(children, work, SPEECH, short)
        await _measure(children, work, FACE, photo)
        await _measure(children, work, TEXT, text)
        taken = time.perf_counter() - started
    finally:
        await children.aclose()
    return (
        "cold start: process, all models, first files",
        f"{taken:.1f} s (of it {loaded:.1f} s for the measurers)",
        f"5 s ({_met(taken < 5)})",
        "3 s of speech, a photo, a sentence",
    )


async def _texts(work: Path) -> Row:
    lines = [f"{one}, said the {two} man, and I was {three}." for one in _FIRST for two in _SECOND for three in _THIRD]
    paths = []
    for number, line in enumerate(lines[:_TEXTS]):
        path = work / f"text-{number}.txt"
        path.write_text(line)
        paths.append(path)
    children = Children(2, stall_seconds=600)
    try:
        await _measure(children, work, TEXT, paths[0])
        started = time.perf_counter()
        async with anyio.create_task_group() as group:
            for path in paths:
                group.start_soon(_measure, children, work, TEXT, path)
        rate = len(paths) / (time.perf_counter() - started)
    finally:
        await children.aclose()
    return (
        "texts, with sentiment and toxicity",
        f"{rate:.0f} texts/s",
        f"200 texts/s ({_met(rate >= 200)})",
        f"{len(paths)} short texts, each a file of its own, two processes",
    )


_FIRST = ("Thank you", "Go away", "I do not know", "How wonderful", "What a pity", "Come here", "Stop it", "Never mind")
_SECOND = ("old", "young", "tired", "strange", "friendly", "silent", "rich", "poor")
_THIRD = ("happy", "sad", "afraid", "angry", "surprised", "bored", "proud")


async def _memory(work: Path, options: argparse.Namespace, found: dict[str, Path], video: Path) -> Row:
    seconds = 3 * 3600 if getattr(options, "long", False) else 900
    recording = work / "long.wav"
    repeated([found["two_cities.wav"], found["endgame_nagg_nell.wav"]], recording, seconds=seconds)
    children = Children(1, stall_seconds=1800)
    try:
        await children.describe(Selection())
        await _measure(children, work, FACE, video)
        await _measure(children, work, TEXT, work / "text-0.txt")
        await _measure(children, work, SPEECH, recording)
    finally:
        await children.aclose()
    # The largest of the processes that have ended; this one is the last and has loaded everything.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return (
        "memory of a measuring process with every model loaded",
        f"{peak:.0f} MB",
        f"900 MB ({_met(peak < 900)})",
        f"{seconds / 60:.0f} minutes of speech, a video, a text; {os.cpu_count()} cores",
    )


def duration(path: Path) -> float:
    """Seconds of a media file."""
    with av.open(str(path)) as container:
        if container.duration is None:
            raise ValueError(f"{path}: no duration")
        return container.duration / 1e6


def repeated(sources: list[Path], target: Path, *, seconds: float) -> None:
    """A WAV of this length (16 kHz, mono) made of the recordings over and over."""
    samples: list[Any] = []
    for source in sources:
        with av.open(str(source)) as sound:
            resampler = av.AudioResampler("s16", "mono", 16_000)
            samples += [piece.to_ndarray()[0] for frame in sound.decode(audio=0) for piece in resampler.resample(frame)]
    once = np.concatenate(samples)
    with wave.open(str(target), "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", "not compressed"))
        left = int(seconds * 16_000)
        while left > 0:
            out.writeframes(once[:left].tobytes())
            left -= len(once)


def _met(yes: bool) -> str:
    return "met" if yes else "MISSED"
