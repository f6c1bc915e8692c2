"""Predictions made up by a seeded generator, as the API writes them: `python -m benchmarks.data FILE MEGABYTES`."""

from __future__ import annotations

import json
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from humebatch.vocabulary import EMOTIONS

# Rows repeat after so many, with other times and boxes: making random numbers is slower than writing them.
_DISTINCT = 997


def _emotions(rng: random.Random) -> str:
    # Doubles of 32-bit floats with all their digits, as real answers have them; a few are tiny.
    scores = [struct.unpack("f", struct.pack("f", rng.random() ** 3))[0] for _ in EMOTIONS]
    rows = [{"name": name, "score": score} for name, score in zip(EMOTIONS, scores, strict=True)]
    return json.dumps(rows, separators=(",", ":"))


def _rows(model: str, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    emotions = [_emotions(rng) for _ in range(_DISTINCT)]
    number = 0
    while True:
        scores = emotions[number % _DISTINCT]
        if model == "face":
            box = ",".join(f'"{side}":{rng.random() * 500!r}' for side in "xywh")
            yield (
                f'{{"frame":{number * 10},"time":{number / 3!r},"prob":{0.9 + rng.random() / 10!r},"box":{{{box}}},'
                f'"emotions":{scores},"facs":null,"descriptions":null}}'
            )
        else:
            yield (
                f'{{"text":"this is what was said, number {number}","time":{{"begin":{number * 2.5!r},'
                f'"end":{number * 2.5 + 2!r}}},"confidence":{rng.random()!r},"speaker_confidence":null,'
                f'"emotions":{scores}}}'
            )
        number += 1


def write_predictions(path: Path, size: int, *, seed: int = 1) -> None:
    """One source with one video, `size` bytes in all, half of them faces and half prosody."""
    head = (
        '[{"source":{"type":"file","filename":"video.mp4","content_type":"video/mp4",'
        '"md5sum":"d41d8cd98f00b204e9800998ecf8427e"},"results":{"predictions":[{"file":"video.mp4",'
        '"file_type":"video","models":{'
    )
    with path.open("w", encoding="utf-8") as file:
        file.write(head)
        for place, model in enumerate(("face", "prosody")):
            file.write(f'{"," if place else ""}"{model}":{{"metadata":null,"grouped_predictions":[{{"id":"unknown",')
            file.write('"predictions":[')
            written = 0
            for row in _rows(model, seed + place):
                file.write(f",{row}" if written else row)
                written += len(row) + 1
                if written >= size // 2:
                    break
            file.write("]}]}")
        file.write('}}],"errors":[]}}]')


def write_rows(path: Path, predictions: Path) -> None:
    """The rows of each model of a predictions file as lines, for readers that take nothing else: `path.model`."""
    (source,) = json.loads(predictions.read_bytes())
    for model, found in source["results"]["predictions"][0]["models"].items():
        rows = [row for group in found["grouped_predictions"] for row in group["predictions"]]
        with path.with_suffix(f".{model}").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)


if __name__ == "__main__":
    write_predictions(Path(sys.argv[1]), int(float(sys.argv[2]) * 1e6))
