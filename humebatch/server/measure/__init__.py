"""What measures: the `Measurer` protocol, and the lookup of measurers by name.

A measurer answers for one model (`face`, `language`, …) on one file at a time. It is plain
synchronous code that knows neither the network nor the database; the runner calls it in a child
process, because media are opened with native code. What it cannot measure it leaves out: a score that
nobody measured is absent, never invented.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Iterable
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from ..._wire.codec import encode
from ...predictions import ModelPredictions

__all__ = [
    "APPLIES_TO",
    "FileType",
    "Fragment",
    "MeasureMode",
    "Measured",
    "Measurer",
    "Media",
    "Unmeasurable",
    "available",
    "home",
    "load",
    "measure",
]

FileType = Literal["text", "image", "audio", "video", "landmarks", "unknown"]
"""What a file holds; `landmarks` is a JSON file, the input of facemesh."""
MeasureMode = Literal["local", "fixed"]


class Media(msgspec.Struct, frozen=True):
    """One file to measure, already on disk.

    `path`: where it lies (its name there means nothing). `name`: how results call it. `file_type`: what
    its first bytes and its name say it is. `md5sum`: lower-case hex of the whole file.
    """

    path: str
    name: str
    file_type: FileType
    md5sum: str


class Row(msgspec.Struct, frozen=True):
    """One prediction, of the person `group`: `face_0`, `spk_1`, …, or `unknown`."""

    group: str
    prediction: msgspec.Struct


class Note(msgspec.Struct, frozen=True):
    """One sentence about something that was asked for and not measured; it becomes an entry of `results.errors`."""

    message: str


class Attachment(msgspec.Struct, frozen=True):
    """A file that goes into the artifacts, such as a cut-out face. `group`: whose it is; `name`: a plain file name."""

    group: str
    name: str
    data: bytes


class Merged(msgspec.Struct, frozen=True):
    """The person `group` turned out to be `into`, and its rows and attachments go there. Comes after all rows."""

    group: str
    into: str


Finding = Row | Note | Attachment | Merged | TranscriptionMetadata


class Unmeasurable(Exception):
    """This file cannot be measured; the message is for the user and becomes its entry in `results.errors`."""


@runtime_checkable
class Measurer(Protocol):
    """Measures one model of the API. Built once per process, called many times, never concurrently.

    A third party registers one by an entry point of the group `humebatch.measurers`: its name is what
    `serve --measure MODEL=NAME` selects, its object is called without arguments and returns the measurer.
    """

    model: str
    """`face`, `burst`, `prosody`, `language`, `ner` or `facemesh`."""

    card: Card
    """What it is, whose weights it uses, which names it gives and how good they are."""

    def measure(self, recording: Recording, config: Any, /) -> Iterator[Finding]:
        """Measure one file: rows in order of time, and whatever else there is to say, one finding at a time.

        Rows are written to disk as they come, so nothing has to be held. `config` is the model's struct of
        `humebatch.jobs` with every default filled in. Raises `Unmeasurable` when the file is damaged, of the
        wrong kind, or holds nothing to measure on; what was yielded before counts all the same.
        """
        ...


APPLIES_TO: dict[str, frozenset[FileType]] = {
    "face": frozenset({"image", "video"}),
    "burst": frozenset({"audio", "video"}),
    "prosody": frozenset({"audio", "video"}),
    "language": frozenset({"text", "audio", "video"}),
    "ner": frozenset({"text", "audio", "video"}),
    "facemesh": frozenset({"landmarks"}),
}
"""Which files each model is about, whoever measures it (API reference, recommended input file types)."""

# Where each model's measurer lives, by mode. Imported on first use only: each pulls its own extras.
_HOMES: dict[MeasureMode, dict[str, str]] = {
    "local": {"face": "face", "language": "language"},
    "fixed": dict.fromkeys(("face", "burst", "prosody", "language", "ner", "facemesh"), "fixed"),
}


def available(mode: MeasureMode) -> tuple[str, ...]:
    """The models that `mode` has a measurer for, whether or not its extra is installed."""
    return tuple(_HOMES[mode])


def home(model: str, mode: MeasureMode) -> str:
    """The module that measures `model`. Raises `Unmeasurable` when this version has none; imports nothing."""
    name = _HOMES[mode].get(model)
    if name is None:
        raise Unmeasurable(
            f"{model} is not measured: this version has no open model for it; it measures {_listed(_HOMES['local'])}"
        )
    return name


@functools.cache
def load(model: str, mode: MeasureMode) -> Measurer:
    """The measurer of `model`, built once per process. Raises `Unmeasurable` naming the extra to install."""
    name = home(model, mode)
    # Before numpy is loaded: there is a process for each core already, and more threads than cores slow all of them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise Unmeasurable(
            f"{model} is not measured: the extra 'local' is not installed on the server "
            f"(pip install 'humebatch[local]'; missing: {error.name})"
        ) from error
    measurer: Measurer = module.measurer(model)
    return measurer


class Fragment(msgspec.Struct):
    """What a measurer found, as it goes into the results.

    `json`: the `ModelPredictions`, encoded; None when it is large and lies in the file that was named for it.
    `rows`: predictions in it.
    """

    json: bytes | None
    rows: int
    notes: list[str]


_SMALL = 256 * 1024


def measure(model: str, mode: MeasureMode, media: Media, config: Any, spill: str) -> Fragment:
    """Load, measure and encode in one call: the function that the runner sends to its child processes.

    Only little is handed back: what is large is written to the file `spill`, and the server never holds it.
    """
    measured = load(model, mode).measure(media, config)
    found: ModelPredictions[Any] = measured.predictions
    rows = sum(len(group.predictions) for group in found.grouped_predictions)
    json: bytes | None = encode(found)
    if json is not None and len(json) > _SMALL:
        with open(spill, "wb", opener=_private) as out:
            out.write(json)
        json = None
    return Fragment(json=json, rows=rows, notes=measured.notes)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
