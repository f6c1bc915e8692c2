"""Measuring one file with all its models, and the process in which that happens.

`measure_file` is what a measuring process does with a file: open it once, run one model after the other, and tell
each step as it is taken, so that a process that dies has lost no more than the model that killed it.

The process reads one request a line on its stdin, and writes what it does as one line each to its stdout. It keeps
its models loaded and takes the next file until its stdin ends.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from ..._wire.codec import encode
from ...jobs import MODEL_NAMES, Models, Transcription
from ...predictions import MeasuredBy, TranscriptionMetadata
from ..processes import guard_child
from . import APPLIES_TO, Attachment, Card, FileType, Measurer, Media, Merged, Note, Row, Unmeasurable, load
from .recording import Recording, TranscriptRejected
from .rows import ContractBroken, RowFile
from .selection import Selection
from .speech_card import SPEAKERS, TRANSCRIPTION

__all__ = [
    "Begun",
    "Describe",
    "Described",
    "Ended",
    "Failed",
    "Found",
    "Measure",
    "Opened",
    "Reached",
    "Told",
    "main",
    "measure_file",
]

_log = logging.getLogger(__name__)

_TELL_SECONDS: Final = 1.0


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag="measure"):
    """A request: measure `media` with the models that are set in `models`; leave results in `folder`."""

    media: Media
    models: Models
    transcription: Transcription | None
    selection: Selection
    folder: str


class Describe(msgspec.Struct, frozen=True, kw_only=True, tag="describe"):
    """A request: the cards of all models of this selection."""

    selection: Selection


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """What kind of file it is, looked at more closely, and the models that are about such files."""

    file_type: FileType
    models: list[str]


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """This model begins."""

    model: str


class Reached(msgspec.Struct, frozen=True, tag="reached"):
    """This model has come to this second of the media. At most one a second."""

    model: str
    second: float


class Found(msgspec.Struct, frozen=True, tag="found"):
    """This model has ended: `folder/<model>.json` holds its predictions, `rows` of them."""

    model: str
    rows: int
    notes: list[str]
    by: MeasuredBy


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """This model (None: the whole file) has an error, for its user to read. Rows may have been found all the same."""

    model: str | None
    message: str


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """Nothing more comes for this request."""


class Described(msgspec.Struct, frozen=True, tag="described"):
    """The answer to `Describe`: cards of the models that can be measured, and why the others cannot."""

    cards: list[Card]
    missing: dict[str, str]


Told = Opened | Begun | Reached | Found | Failed | Ended | Described


def measure_file(
    media: Media,
    wanted: Mapping[str, Any],
    transcription: Transcription | None,
    *,
    selection: Selection,
    folder: Path,
    tell: Callable[[Told], None],
) -> None:
    """Measure one file with the models of `wanted` (model → its struct of `humebatch.jobs`, defaults filled in).

    `transcription`: None when the request switches it off. `folder` is made unless it is there. Each model's
    predictions become `folder/<model>.json`, saved faces `folder/faces/<group>/<name>`. `tell` is called with every
    step, `Ended` not included.
    """
    folder.mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="decoded-", dir=folder))
    try:
        if any(selection.of(model) != "fixed" for model in wanted):
            media = _looked_at(media)
        applicable = [model for model in MODEL_NAMES if model in wanted and media.file_type in APPLIES_TO[model]]
        tell(Opened(media.file_type, applicable))
        recording = Recording(media, transcription, scratch=scratch)
        rejected: str | None = None
        for model in applicable:
            tell(Begun(model))
            recording.progress = progress = _Progress(model, tell)
            try:
                _measure_model(model, recording, wanted[model], selection, folder, tell, progress.still)
            except TranscriptRejected as error:
                # An error of the file: it is the same for every model that needs the transcript.
                if rejected is None:
                    rejected = str(error)
                    tell(Failed(None, rejected))
            except Unmeasurable as error:
                tell(Failed(model, str(error)))
            except Exception as error:  # noqa: BLE001
                # One file that a measurer trips over must not take the other models with it.
                _log.exception("measuring %s failed", model)
                tell(Failed(model, f"measuring {model} failed: {type(error).__name__}: {error}"))
        if recording.remark:
            tell(Failed(None, recording.remark))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Progress:
    """Tells how far a model has come, but not more often than somebody could read it."""

    def __init__(self, model: str, tell: Callable[[Told], None]) -> None:
        self._model = model
        self._tell = tell
        self._next = 0.0
        self._reached = 0.0

    def still(self) -> None:
        """It is at work, and no further than it said: each row is a sign of life."""
        self(self._reached)

    def __call__(self, second: float) -> None:
        self._reached = second
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _TELL_SECONDS
            self._tell(Reached(self._model, second))


def _measure_model(
    model: str,
    recording: Recording,
    config: Any,
    selection: Selection,
    folder: Path,
    tell: Callable[[Told], None],
    alive: Callable[[], None],
) -> None:
    measurer = load(model, selection.of(model))
    rows = RowFile(folder, model, selection.unmeasured)
    notes: list[str] = []
    stopped: Unmeasurable | None = None
    try:
        metadata = None
        try:
            metadata = _write(measurer, recording, config, rows, notes, alive)
        except Unmeasurable as error:
            if not rows.rows:
                raise
            stopped = error
        if rows.filled:
            notes.append(_FILLED)
        rows.finish(metadata)
    except BaseException:
        rows.close()
        raise
    tell(Found(model, rows.rows, notes, measured_by(measurer.card, selection)))
    if stopped is not None:
        raise stopped


_FILLED: Final = (
    "this server writes 0.0 for every name that was not measured (--unmeasured zero): a zero is not a measurement"
)


def _write(
    measurer: Measurer,
    recording: Recording,
    config: Any,
    rows: RowFile,
    notes: list[str],
    alive: Callable[[], None],
) -> TranscriptionMetadata | None:
    metadata = None
    for finding in measurer.measure(recording, config):
        match finding:
            case Row(group, prediction):
                rows.add(group, prediction)
                alive()
            case Note(message):
                notes.append(message)
            case Attachment(group, name, data):
                rows.attach(group, name, data)
            case Merged(group, into):
                rows.merge(group, into)
            case TranscriptionMetadata():
                metadata = finding
            case _:
                raise ContractBroken(f"a measurer yielded a {type(finding).__name__}, which is not a Finding")
    return metadata


# It goes into the answer for every source; a card begins with what matters most, and /v0/models has all.
_FIGURES: Final = 3


def measured_by(card: Card, selection: Selection) -> MeasuredBy:
    """What an answer says about where its numbers come from."""
    licences = dict.fromkeys(weights.licence for weights in card.weights)
    return MeasuredBy(
        measurer=card.measurer,
        version=card.version,
        summary=card.summary,
        licence="; ".join(licences),
        accuracy=[f"{figure.what}: {figure.value} ({figure.data})" for figure in card.figures[:_FIGURES]],
        made_up=card.made_up,
        unmeasured=selection.unmeasured,
    )


def _looked_at(media: Media) -> Media:
    """The same file with its kind as its tracks show it: audio in a video container, a video without sound."""
    if media.file_type not in ("audio", "video"):
        return media
    try:
        from .tracks import kind_of
    except ImportError:  # a server for texts has no decoder; the measurers will say so
        return media
    return msgspec.structs.replace(media, file_type=kind_of(media))


def describe(selection: Selection) -> Described:
    """The cards of all models, each from its loaded measurer; for those that cannot be loaded, why not.

    The cards of transcription and speakers, which several models share, come last.
    """
    cards, missing = [], {}
    for model in MODEL_NAMES:
        try:
            cards.append(load(model, selection.of(model)).card)
        except Unmeasurable as error:
            missing[model] = str(error)
        except Exception as error:  # noqa: BLE001 - a third party's measurer may raise anything
            _log.exception("the measurer of %s cannot be loaded", model)
            missing[model] = f"{model} cannot be measured: {type(error).__name__}: {error}"
    # Made-up scores need no transcript.
    if selection.base == "local" and importlib.util.find_spec("faster_whisper") is not None:
        cards += [TRANSCRIPTION, SPEAKERS]
    return Described(cards, missing)


_requests: Final = msgspec.json.Decoder(Measure | Describe)


def main(parent: int) -> None:
    """What a measuring process runs. `parent`: the process that started it, and without which it ends."""
    guard_child(parent)
    # What libraries print must not come between the lines that the server reads.
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    def tell(told: Told) -> None:
        lines.write(encode(told) + b"\n")
        lines.flush()

    while line := sys.stdin.buffer.readline():
        request = _requests.decode(line)
        if isinstance(request, Describe):
            tell(describe(request.selection))
        else:
            wanted = {model: config for model in MODEL_NAMES if (config := getattr(request.models, model))}
            measure_file(
                request.media,
                wanted,
                request.transcription,
                selection=request.selection,
                folder=Path(request.folder),
                tell=tell,
            )
        tell(Ended())
