"""From saved predictions to what the page shows, read row by row and bounded in everything that is kept."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from .._tally import Frames, Strong, files, models, rows, source_name
from ..errors import DecodeError, SourceError
from ..predictions import MeasuredBy, PredictionReader, SourceReader, read
from .charts import Chart, Person, Points
from .transcript import Line, Transcript
from .words import cut, shown

__all__ = [
    "STRONGEST",
    "Content",
    "FilePart",
    "Given",
    "Group",
    "ModelPart",
    "Origin",
    "Problem",
    "collect",
    "find",
    "search",
]

STRONGEST: Final = 6
"""Emotions that are shown of a group."""

# What one page holds at most; it says how much more there is. Together they keep it below some 15 MB.
_GROUPS_OF_MODEL: Final = 8
_FILES: Final = 200
_GROUPS: Final = 400
_CHARTS: Final = 100
_LINES: Final = 3000
_LINES_OF_FILE: Final = 1000
_PROBLEMS: Final = 300
_OVERVIEW: Final = 500
_ORIGINS: Final = 50
_NAMES: Final = frozenset({"predictions.json", "predictions.json.gz"})
_CHECKED: Final = 4096
# Seconds of silence, and characters between two words, that a line is drawn across.
_GAPS: Final = {"time": 2.0, "characters": 3.0}
# The same as a part of the whole: what is closer looks like one stretch anyhow.
_GAP: Final = 0.02
# Frames that may lack a face before its line breaks.
_MISSED_FRAMES: Final = 2.5


class Given(msgspec.Struct, kw_only=True):
    """A predictions file: its path, bytes and time of last change (None: it is not there), how far it could be read."""

    path: str
    size: int | None = None
    written: datetime | None = None
    sources: int = 0
    files: int = 0
    error: str | None = None


class Problem(msgspec.Struct, frozen=True):
    """Why a source, a file of it or one model on that file was not measured."""

    source: str
    file: str | None
    model: str | None
    message: str


class Origin(msgspec.Struct, frozen=True):
    """Where the numbers of one model come from, as the server says."""

    model: str
    by: MeasuredBy


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A face, a speaker, or (`id` None) all of a model together. `seconds`: how long seen or heard."""

    id: str | None
    rows: int
    strongest: list[Strong]
    seconds: float | None
    begin: float | None
    end: float | None
    chart: Chart | None


class ModelPart(msgspec.Struct, frozen=True, kw_only=True):
    """What one model found in one file. `left_out`: groups that are not shown."""

    model: str
    rows: int
    ids: int
    groups: list[Group]
    left_out: int


class FilePart(msgspec.Struct, kw_only=True):
    """One file. `number`: that of its section, None if it has none."""

    number: int | None
    file: str
    source: str
    given: str
    type: str | None
    rows: dict[str, int]
    strongest: dict[str, list[Strong]]
    models: list[ModelPart]
    transcript: str | None = None
    lines: list[Line] = []
    lines_left: int = 0


class Content(msgspec.Struct, kw_only=True):
    """All that the page shows. What ends in `_left` counts what it leaves out."""

    given: list[Given] = []
    parts: list[FilePart] = []
    problems: list[Problem] = []
    origins: list[Origin] = []
    files: int = 0
    rows: int = 0
    overview_left: int = 0
    sections: int = 0
    sections_left: int = 0
    problems_left: int = 0
    groups: int = 0
    charts: int = 0
    charts_left: int = 0
    lines: int = 0

    @property
    def made_up(self) -> bool:
        """Whether any of the scores were invented."""
        return any(origin.by.made_up for origin in self.origins)

    @property
    def zeros(self) -> bool:
        """Whether the server wrote 0.0 for names that were not measured."""
        return any(origin.by.unmeasured == "zero" for origin in self.origins)


def find(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The predictions files at `paths`: files as given, of folders all below named predictions.json(.gz).

    Hidden folders are passed over. Raises `SourceError` for what does not exist and for a folder without any.
    """
    found, missed = search(paths)
    for error in missed:
        raise error
    return found


def search(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], list[SourceError]]:
    """What `find` gives, and why there is nothing at the other paths."""
    found: dict[str, Path] = {}
    missed: list[SourceError] = []
    for given in map(Path, paths):
        try:
            if not given.exists():
                raise SourceError(f"{given}: no such file or folder", path=str(given))
            inside = sorted(_below(given)) if given.is_dir() else [given]
            if not inside:
                raise SourceError(f"{given}: no predictions.json in this folder or below", path=str(given))
        except SourceError as error:
            missed.append(error)
            continue
        for path in inside:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values()), missed


def _below(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(here, name) for name in names if name in _NAMES and Path(here, name).is_file())


def _unreadable(error: OSError) -> None:
    # os.walk would pass over the folder, and nobody would miss what is in it.
    where = os.fsdecode(error.filename)
    raise SourceError(f"{where}: {error.strerror}", path=where) from error


def collect(paths: Sequence[Path], missed: Sequence[SourceError], check: Callable[[], None]) -> Content:
    """Read predictions files for the page; `missed` is what else `search` says.

    Why one cannot be read is the `error` of its `Given`. If none can, `SourceError` is raised, with a line for each.
    `check` is called every few thousand rows, and may raise to end it.
    """
    reading = _Reading(check)
    for path in paths:
        reading.take(path)
    content = reading.content
    content.given += [Given(path=shown(error.path), error=_why(error, error.path)) for error in missed]
    if content.given and not content.files and all(given.error for given in content.given):
        lines = [f"{given.path}: {given.error}" for given in content.given]
        raise SourceError("\n".join(lines), path=content.given[0].path)
    return content


def _why(error: DecodeError | SourceError, path: str) -> str:
    return cut(str(error).removeprefix(f"{path}: "))


class _Look:
    """A first look at one model's rows in a file: all together, and every face or speaker."""

    def __init__(self, model: str, found: Iterable[tuple[str, Any]]) -> None:
        self.model = model
        self.whole = Person()
        self.persons: defaultdict[str, Person] = defaultdict(Person)
        self.frames = Frames()
        self.texts = 0
        for name, row in found:
            self.whole.add(row)
            self.persons[name].add(row)
            self.texts += bool(getattr(row, "text", None))
            if model == "face":
                self.frames.add(name, row.time)

    def chosen(self, most: int) -> list[tuple[str | None, Person]]:
        """What is shown of the model: all together, then those with most rows, in the order of the answer."""
        if len(self.persons) < 2:
            return list(self.persons.items())
        ranked = sorted(self.persons, key=lambda name: -self.persons[name].tally.rows)[: max(0, most - 1)]
        return [(None, self.whole), *((name, self.persons[name]) for name in self.persons if name in ranked)]

    def gap(self, axis: str) -> float:
        """What a line is drawn across."""
        if self.model == "face":
            return _MISSED_FRAMES * (self.frames.step or 0.0)
        begin, end = self.whole.limits[axis]
        return max(_GAPS[axis], _GAP * (end - begin))

    def seconds(self, name: str | None, person: Person) -> float | None:
        """How long somebody was seen or heard."""
        if self.model == "face":
            return None if name is None else self.frames.seconds(name)
        return person.spoken.seconds if "time" in person.limits else None


class _Reading:
    """What has been read so far, and what may still be added to the page."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.content = Content()
        self._check = check

    def take(self, path: Path) -> None:
        """Read one predictions file, as far as that goes."""
        given = Given(path=shown(path))
        self.content.given.append(given)
        try:
            about = path.stat()
        except OSError as error:
            given.error = error.strerror or str(error)
            return
        given.size = about.st_size
        given.written = datetime.fromtimestamp(int(about.st_mtime), UTC)
        try:
            with read(path) as answer:
                for source in answer:
                    given.sources += 1
                    self._source(given, source)
        except (DecodeError, SourceError) as error:
            given.error = _why(error, str(path))

    def _rows(self, file: PredictionReader, model: str) -> Iterator[tuple[str, Any]]:
        for number, found in enumerate(rows(file, model)):
            if number % _CHECKED == 0:
                self._check()
            yield found

    def _source(self, given: Given, source: SourceReader) -> None:
        name = cut(source_name(source.source))

        def called(file: str) -> tuple[str, str]:
            # Texts have no names but numbers, and all of them are one source.
            return (f"text {cut(file)}", f"text {cut(file)}") if source.source.type == "text" else (cut(file), name)

        self._origins(source)
        if source.error is not None:
            self._problem(Problem(name, None, None, cut(source.error)))
        for error in source.errors:
            file, of = called(error.file)
            self._problem(Problem(of, file, error.model and cut(error.model), cut(error.message)))
        for one in files(source):
            assert isinstance(one, PredictionReader)
            part = self._file(one, called(one.file), given.path)
            given.files += 1
            self.content.files += 1
            self.content.rows += sum(part.rows.values())
            if len(self.content.parts) < _OVERVIEW:
                self.content.parts.append(part)
            else:
                self.content.overview_left += 1

    def _origins(self, source: SourceReader) -> None:
        for model, by in source.measured_by.items():
            origin = Origin(model, by)
            if origin not in self.content.origins and len(self.content.origins) < _ORIGINS:
                self.content.origins.append(origin)

    def _problem(self, problem: Problem) -> None:
        if len(self.content.problems) < _PROBLEMS:
            self.content.problems.append(problem)
        else:
            self.content.problems_left += 1

    def _file(self, file: PredictionReader, name: tuple[str, str], given: str) -> FilePart:
        """Look through a file's rows once, decide what is shown of it, and go through them again for that."""
        looks = {
            model: look for model in models(file) if (look := _Look(model, self._rows(file, model))).whole.tally.rows
        }
        part = FilePart(
            number=None,
            file=name[0],
            source=name[1],
            given=given,
            type=file.file_type,
            rows={model: look.whole.tally.rows for model, look in looks.items()},
            strongest={model: look.whole.strongest(3) for model, look in looks.items()},
            models=[],
        )
        if not looks:
            return part
        if self.content.sections == _FILES:
            self.content.sections_left += 1
            return part
        self.content.sections += 1
        part.number = self.content.sections
        # All charts of a file show the same stretch, so that one can be read below the other.
        limits = {
            axis: (min(begin for begin, _ in found), max(end for _, end in found))
            for axis in ("time", "characters")
            if (found := [look.whole.limits[axis] for look in looks.values() if axis in look.whole.limits])
        }
        said = next((model for model in ("prosody", "language") if model in looks and looks[model].texts), None)
        for model, look in looks.items():
            transcript = None
            if model == said:
                axis = "time" if "time" in look.whole.limits else "characters"
                transcript = Transcript(axis, min(_LINES_OF_FILE, _LINES - self.content.lines))
            part.models.append(self._model(file, look, limits, transcript))
            if transcript is not None:
                part.transcript = model
                part.lines, part.lines_left = transcript.finish()
                self.content.lines += len(part.lines)
        return part

    def _model(
        self,
        file: PredictionReader,
        look: _Look,
        limits: dict[str, tuple[float, float]],
        transcript: Transcript | None,
    ) -> ModelPart:
        chosen = look.chosen(min(_GROUPS_OF_MODEL, _GROUPS - self.content.groups))
        shown_ids = sum(name is not None for name, _ in chosen)
        self.content.groups += len(chosen)
        drawn: dict[str | None, Points] = {}
        for name, person in chosen:
            axis = person.axis()
            if axis is not None:
                if self.content.charts < _CHARTS:
                    drawn[name] = Points(person, axis, [strong.name for strong in person.strongest(STRONGEST)])
                    self.content.charts += 1
                else:
                    self.content.charts_left += 1
        if drawn or transcript is not None:
            for name, row in self._rows(file, look.model):
                for who in (name, None):
                    if who in drawn:
                        drawn[who].add(row)
                if transcript is not None:
                    transcript.add(name, row)
        return ModelPart(
            model=look.model,
            rows=look.whole.tally.rows,
            ids=len(look.persons),
            groups=[_group(look, name, person, limits, drawn.get(name)) for name, person in chosen],
            left_out=len(look.persons) - shown_ids,
        )


def _group(
    look: _Look, name: str | None, person: Person, limits: dict[str, tuple[float, float]], points: Points | None
) -> Group:
    begin, end = person.limits.get("time", (None, None))
    chart = None
    if points is not None:
        chart = points.chart(look.gap(points.axis), limits[points.axis])
    return Group(
        id=name,
        rows=person.tally.rows,
        strongest=person.strongest(STRONGEST),
        seconds=look.seconds(name, person),
        begin=begin,
        end=end,
        chart=chart,
    )
