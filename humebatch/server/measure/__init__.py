"""What measures: the `Measurer` protocol, and the lookup of measurers by name.

A measurer answers for one model of the API (`face`, `language`, …) on one recording at a time. It is plain
synchronous code that knows neither the network nor the database; it runs in a child process, because media are
opened with native code. What it cannot measure it leaves out: a score that was not measured is absent.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast, runtime_checkable

import msgspec

from ...predictions import TranscriptionMetadata
from .card import Card
from .selection import Selection

if TYPE_CHECKING:
    from .recording import Recording

__all__ = [
    "APPLIES_TO",
    "ENTRY_POINTS",
    "Attachment",
    "Card",
    "FileType",
    "Finding",
    "Measurer",
    "Media",
    "Merged",
    "Note",
    "Row",
    "Selection",
    "Unmeasurable",
    "load",
]

FileType = Literal["text", "image", "audio", "video", "video_no_audio", "landmarks", "unknown"]
"""What a file holds; `landmarks` is a JSON file, the input of facemesh."""

ENTRY_POINTS: Final = "humebatch.measurers"
"""The group of entry points under which other packages register measurers."""


class Media(msgspec.Struct, frozen=True):
    """One file to measure, already on disk.

    `path`: where it lies (its name there means nothing). `name`: what results call it. `file_type`: what
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


APPLIES_TO: Final[dict[str, frozenset[FileType]]] = {
    "face": frozenset({"image", "video", "video_no_audio"}),
    "burst": frozenset({"audio", "video"}),
    "prosody": frozenset({"audio", "video"}),
    "language": frozenset({"text", "audio", "video"}),
    "ner": frozenset({"text", "audio", "video"}),
    "facemesh": frozenset({"landmarks"}),
}
"""Which files each model is about, whoever measures it (API reference, recommended input file types)."""

# The extra that each model's own measurer needs; the module that holds it has the model's name.
_EXTRAS: Final = {
    "face": "face", "burst": "speech", "prosody": "speech", "language": "text", "ner": "ner", "facemesh": "face",
}  # fmt: skip


@functools.cache
def load(model: str, measurer: str) -> Measurer:
    """The measurer of `model`, built once per process.

    `measurer`: `local` (ours, open models), `fixed` (made-up scores), `NAME` or `NAME:ARGUMENT` of `Selection`.
    Raises `Unmeasurable` naming the extra to install, or what is wrong with the name.
    """
    name, _, argument = measurer.partition(":")
    if name == "local":
        return _ours(model, model, _EXTRAS[model])
    if name == "fixed":
        return _ours("fixed", model, "local")
    if name == "hf":
        return _ours("hf", model, "hf", argument)
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=name):
        found = cast("Measurer", entry.load()(*([argument] if argument else [])))
        if found.model != model:
            raise Unmeasurable(f"{model} is not measured: the measurer {name!r} measures {found.model}")
        return found
    raise Unmeasurable(
        f"{model} is not measured: no measurer {name!r} is installed on the server "
        f"(expected 'local', 'fixed', 'hf:MODEL' or an entry point of the group {ENTRY_POINTS})"
    )


def _ours(module: str, model: str, extra: str, *arguments: str) -> Measurer:
    try:
        found = importlib.import_module(f"{__name__}.{module}")
    except ImportError as error:
        if (error.name or "").startswith("humebatch"):
            raise
        raise Unmeasurable(
            f"{model} is not measured: the extra {extra!r} is not installed on the server "
            f"(pip install 'humebatch[{extra}]'; missing: {error.name})"
        ) from error
    return cast("Measurer", found.measurer(model, *arguments))
