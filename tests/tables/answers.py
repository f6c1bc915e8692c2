"""Answers with every model in them, seeded, as JSON."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from humebatch import vocabulary
from humebatch._wire.codec import encode
from humebatch.server.artifacts import build

Json = dict[str, Any]


def scores(names: tuple[str, ...], chance: random.Random) -> list[Json]:
    return [{"name": name, "score": chance.random() * 1.2 - 0.1} for name in names]


def row(model: str, number: int, seed: int = 1) -> Json:
    chance = random.Random(f"{model}{number}{seed}")
    span = {"begin": number / 2, "end": number / 2 + 0.5}
    place = {"begin": number * 5, "end": number * 5 + 4}
    said = {"time": span if number % 2 else None, "confidence": 0.5 if number % 3 else None, "speaker_confidence": None}
    if model == "face":
        return {
            "frame": number * 10,
            "time": number,  # an int, as real answers have it
            "prob": 0.9990234375,
            "box": {"x": 1.5, "y": 2, "w": 100.25, "h": 80.125},
            "emotions": scores(vocabulary.EMOTIONS, chance),
            "facs": scores(vocabulary.FACS, chance) if number % 2 else None,
            "descriptions": None,
        }
    if model == "prosody":
        text = None if number % 4 == 3 else f'number {number}, he said "é"'
        return {**said, "time": span, "text": text, "emotions": scores(vocabulary.EMOTIONS, chance)}
    if model == "burst":
        names = vocabulary.BURST_DESCRIPTIONS
        return {
            "time": span,
            "emotions": scores(vocabulary.EMOTIONS, chance),
            "descriptions": scores(names, chance),
        }
    if model == "language":
        return {
            **said,
            "text": ["plain", "two\r\nlines", 'a "quoted", one', "null"][number % 4],
            "position": place,
            "emotions": scores(vocabulary.LANGUAGE_EMOTIONS, chance),
            "sentiment": scores(vocabulary.SENTIMENT, chance),
            "toxicity": None,
        }
    if model == "ner":
        return {
            **said,
            "entity": "Paris",
            "position": place,
            "entity_confidence": 1e-7,
            "support": 3,
            "uri": "https://x.example/Paris",
            "link_word": "Paris",
            "emotions": scores(vocabulary.LANGUAGE_EMOTIONS, chance),
        }
    return {"emotions": scores(vocabulary.EMOTIONS, chance)}


MODELS = ("face", "prosody", "burst", "language", "ner", "facemesh")


def file(name: str, rows: int, *models: str, file_type: str = "video") -> Json:
    found = {
        model: {
            "metadata": None,
            "grouped_predictions": [
                {"id": group, "predictions": [row(model, number) for number in range(at, rows, 2)]}
                for at, group in enumerate(("unknown", "spk_0"))
            ],
        }
        for model in models
    }
    return {"file": name, "file_type": file_type, "models": found}


def source(name: str, *files: Json, errors: list[Json] | None = None, kind: str = "file") -> Json:
    where: dict[str, Json] = {
        "file": {"filename": name, "content_type": None, "md5sum": "0" * 32},
        "url": {"url": name},
        "text": {},
    }
    return {"source": {"type": kind, **where[kind]}, "results": {"predictions": list(files), "errors": errors or []}}


def failed(url: str) -> Json:
    return {"source": {"type": "url", "url": url}, "results": None, "error": "not fetched"}


def whole() -> list[Json]:
    """All models, several sources and files, and errors of both kinds."""
    return [
        source("talk.mp4", file("talk.mp4", 5, *MODELS)),
        failed("https://x.example/a/b.mp4"),
        source(
            "faces.zip",
            file("faces/2.jpg", 1, "face", file_type="image"),
            file("faces/1.jpg", 2, "face", "facemesh", file_type="image"),
            errors=[{"file": "faces/3.jpg", "model": None, "message": "no face"}],
        ),
        source("text", file("2", 1, "language", file_type="text"), file("1", 3, "language", "ner"), kind="text"),
    ]


def saved(folder: Path, answer: list[Json] | None = None, name: str = "predictions.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(encode(whole() if answer is None else answer))
    return path


def zipped(folder: Path, answer: list[Json] | None = None) -> Path:
    """The artifacts ZIP that the server makes of it."""
    build(saved(folder, answer, "of_the_zip.json"), folder / "artifacts.zip")
    return folder / "artifacts.zip"


def large(folder: Path, size: int) -> Path:
    """An answer of so many bytes, all of it rows of a single group."""
    some = encode(row("face", 1))
    head, tail = encode([source("a.mp4", file("a.mp4", 1, "face"))]).split(encode(row("face", 0)))
    path = folder / "predictions.json"
    path.write_bytes(head + b",".join([some] * (size // len(some))) + tail)
    return path
