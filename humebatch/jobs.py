"""What is asked of the service and what it says of a job.

Requests keep three things apart that the API keeps apart: a field left out (`UNSET`: the server's
default), `None` (sent as null: switched off) and a value, `{}` included (switched on, with defaults).
`check_request` holds every range and enum of the API reference for the start-job call; building a
`Submission` runs it, so a wrong argument is found before any I/O. Replies are decoded without these
checks: a server that grows a new value must not break its clients.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from .errors import ConfigError
from .sources import Bundle, FileLike, FileSource

__all__ = [
    "MAX_ITEMS",
    "MODEL_NAMES",
    "Burst",
    "Face",
    "Facemesh",
    "File",
    "InferenceRequest",
    "JobDetails",
    "JobId",
    "Language",
    "Models",
    "Ner",
    "Prosody",
    "ProsodyWindow",
    "State",
    "Status",
    "Submission",
    "Transcription",
    "check_request",
    "split_files",
]

# API reference: at most 100 files, 100 URLs and 100 strings per request; more must come as an archive.
MAX_ITEMS = 100

GRANULARITIES = ("word", "sentence", "utterance", "conversational_turn")
LANGUAGES = (
    "zh", "da", "nl", "en", "en-AU", "en-IN", "en-NZ", "en-GB", "fr", "fr-CA", "de", "hi", "hi-Latn", "id", "it",
    "ja", "ko", "no", "pl", "pt", "pt-BR", "pt-PT", "ru", "es", "es-419", "sv", "ta", "tr", "uk",
)  # fmt: skip


class Face(msgspec.Struct, frozen=True, kw_only=True):
    """Facial expression, for images and video.

    `fps_pred`: frames measured per second of video, default 3; 0 measures every frame.
    `prob_threshold`: faces less probable than this are left out; 0..1, default 0.99.
    `identify_faces`: tell faces apart across frames, default false.
    `min_face_size`: least side of a face box in pixels.
    `facs`, `descriptions`: `{}` switches the extra scores on.
    `save_faces`: put the cut-out faces into the artifacts, default false.
    """

    fps_pred: float | UnsetType | None = UNSET
    prob_threshold: float | UnsetType | None = UNSET
    identify_faces: bool | UnsetType | None = UNSET
    min_face_size: int | float | UnsetType | None = UNSET
    facs: dict[str, Any] | UnsetType | None = UNSET
    descriptions: dict[str, Any] | UnsetType | None = UNSET
    save_faces: bool | UnsetType | None = UNSET


class Burst(msgspec.Struct, frozen=True, kw_only=True):
    """Vocal bursts (laughs, sighs…), for audio and video. The API has no options for it."""


class ProsodyWindow(msgspec.Struct, frozen=True, kw_only=True):
    """Sliding window over the audio: `length` (default 4) and `step` (default 1) in seconds, each at least 0.5."""

    length: float | UnsetType | None = UNSET
    step: float | UnsetType | None = UNSET


class Prosody(msgspec.Struct, frozen=True, kw_only=True):
    """Tone of voice, for audio and video.

    `granularity`: `word`, `sentence`, `utterance` (default) or `conversational_turn`; ignored when
    transcription is off or `window` is set. `identify_speakers`: tell speakers apart, default false.
    """

    granularity: str | UnsetType | None = UNSET
    identify_speakers: bool | UnsetType | None = UNSET
    window: ProsodyWindow | UnsetType | None = UNSET


class Language(msgspec.Struct, frozen=True, kw_only=True):
    """Emotional language, for text and for the transcript of audio and video.

    `granularity`: `word` (default), `sentence`, `utterance` or `conversational_turn`; for text the third
    equals the second, and the last gives one prediction for the whole passage.
    `sentiment`, `toxicity`: `{}` switches the extra scores on. `identify_speakers`: default false.
    """

    granularity: str | UnsetType | None = UNSET
    sentiment: dict[str, Any] | UnsetType | None = UNSET
    toxicity: dict[str, Any] | UnsetType | None = UNSET
    identify_speakers: bool | UnsetType | None = UNSET


class Ner(msgspec.Struct, frozen=True, kw_only=True):
    """Named entities and the emotions about them. `identify_speakers`: default false."""

    identify_speakers: bool | UnsetType | None = UNSET


class Facemesh(msgspec.Struct, frozen=True, kw_only=True):
    """Anonymised facial expression from 478 MediaPipe landmarks in a JSON file. The API has no options for it."""


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """Which models run. `Face()` runs one with its defaults; `None` or left out does not run it.

    Leaving `Submission.models` itself out runs all of them.
    """

    face: Face | UnsetType | None = UNSET
    burst: Burst | UnsetType | None = UNSET
    prosody: Prosody | UnsetType | None = UNSET
    language: Language | UnsetType | None = UNSET
    ner: Ner | UnsetType | None = UNSET
    facemesh: Facemesh | UnsetType | None = UNSET


MODEL_NAMES: tuple[str, ...] = Models.__struct_fields__


class Transcription(msgspec.Struct, frozen=True, kw_only=True):
    """How speech becomes text.

    `language`: BCP-47 tag of what is spoken (one of the 29 of the API reference), default: detected.
    `confidence_threshold`: transcripts less sure than this are not used; 0..1, default 0.5.
    `identify_speakers`: default false.
    """

    language: str | UnsetType | None = UNSET
    identify_speakers: bool | UnsetType | None = UNSET
    confidence_threshold: float | UnsetType | None = UNSET


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One job to start: files, URLs and texts, and what to measure on them.

    `files`: at most 100 media files or archives (`.zip .tar.gz .tar.bz2 .tar.xz`): paths, files open in
    binary mode, `FileSource` for bytes and streams, `Bundle` for many files as one archive.
    `urls`: public media URLs, at most 100. `text`: strings for the language models, at most 100.
    `models`: left out or None runs all models. `transcription`: None switches it off, left out takes
    the server's default. `callback_url`: where the server POSTs the result. `notify`: send an e-mail.

    Raises `ConfigError` naming the field when a value is outside the API's ranges.
    """

    files: Sequence[FileLike] = ()
    urls: Sequence[str] = ()
    text: Sequence[str] = ()
    models: Models | UnsetType | None = UNSET
    transcription: Transcription | UnsetType | None = UNSET
    callback_url: str | UnsetType | None = UNSET
    notify: bool | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        if isinstance(self.files, (str, bytes, os.PathLike)) or not isinstance(self.files, Sequence):
            raise ConfigError("files: give a list of paths, not a single one", field="files")
        for number, file in enumerate(self.files):
            named = isinstance(getattr(file, "name", None), str) and hasattr(file, "read")
            if not named and not isinstance(file, (str, os.PathLike, FileSource, Bundle)):
                raise ConfigError(
                    f"files[{number}]: a path, an open file, a FileSource or a Bundle is needed, "
                    f"not {type(file).__name__} (bytes and streams need a name: FileSource)",
                    field="files",
                )
        check_request(
            models=self.models,
            transcription=self.transcription,
            urls=self.urls,
            text=self.text,
            callback_url=self.callback_url,
            notify=self.notify,
            files=len(self.files),
        )


def split_files(files: Iterable[FileLike], *, per_job: int = MAX_ITEMS, **fields: Any) -> Iterator[Submission]:
    """Submissions of up to `per_job` files each, made as they are asked for; `fields` are those of `Submission`.

    Raises `ConfigError` when `per_job` is not between 1 and 100.
    """
    if not 1 <= per_job <= MAX_ITEMS:
        raise ConfigError(f"per_job: must be between 1 and {MAX_ITEMS}, got {per_job!r}", field="per_job")
    group: list[FileLike] = []
    for file in files:
        group.append(file)
        if len(group) == per_job:
            yield Submission(files=group, **fields)
            group = []
    if group:
        yield Submission(files=group, **fields)


class File(msgspec.Struct, gc=False):
    """An uploaded file as the server saw it."""

    md5sum: str
    filename: str | None = None
    content_type: str | None = None


class InferenceRequest(msgspec.Struct):
    """The request as the server echoes it, with its defaults filled in; a model that does not run is null."""

    files: list[File]
    models: Models | None = None
    transcription: Transcription | UnsetType | None = UNSET
    urls: list[str] | None = None
    text: list[str] | None = None
    callback_url: str | None = None
    notify: bool | None = None


class Status(enum.StrEnum):
    """Where a job stands. Servers may know further ones: they arrive as plain strings and count as not finished."""

    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class State(msgspec.Struct):
    """A job's state. Times are Unix milliseconds on the server's clock; a field that does not apply yet is UNSET.

    `message` says why a FAILED job failed. `num_predictions` counts rows over all files and models. `files_done`
    counts files (members of archives, URLs and texts included) that are measured; only humebatch's own server says so.
    """

    status: str
    created_timestamp_ms: int
    started_timestamp_ms: int | UnsetType | None = UNSET
    ended_timestamp_ms: int | UnsetType | None = UNSET
    num_predictions: int | UnsetType | None = UNSET
    num_errors: int | UnsetType | None = UNSET
    message: str | UnsetType | None = UNSET
    files_done: int | UnsetType | None = UNSET

    @property
    def finished(self) -> bool:
        """True once the job is COMPLETED or FAILED; a status this version does not know is not finished."""
        return self.status in (Status.COMPLETED, Status.FAILED)


class JobDetails(msgspec.Struct):
    """A job as the service describes it. `type` is `INFERENCE` for every job of this API."""

    job_id: str
    request: InferenceRequest
    state: State
    type: str = "INFERENCE"
    user_id: str | UnsetType | None = UNSET


class JobId(msgspec.Struct):
    """The answer to a submission."""

    job_id: str


def check_request(
    *,
    models: Models | UnsetType | None,
    transcription: Transcription | UnsetType | None,
    urls: Sequence[str],
    text: Sequence[str],
    callback_url: str | UnsetType | None,
    notify: bool | UnsetType | None,
    files: int,
) -> None:
    """Raise `ConfigError` with the field's name for anything the API reference does not allow.

    `files` is how many files go with the request. Used by the client before it sends and by the
    server on what it received, so both draw the same line.
    """
    _kind("models", models, Models)
    if isinstance(models, Models):
        for name, wanted in _MODEL_TYPES.items():
            _kind(f"models.{name}", getattr(models, name), wanted)
        if isinstance(models.face, Face):
            _check_face(models.face)
        if isinstance(models.prosody, Prosody):
            _check_prosody(models.prosody)
        if isinstance(models.language, Language):
            _check_language(models.language)
        if isinstance(models.ner, Ner):
            _flag("models.ner.identify_speakers", models.ner.identify_speakers)
    _kind("transcription", transcription, Transcription)
    if isinstance(transcription, Transcription):
        _choice("transcription.language", transcription.language, LANGUAGES)
        _flag("transcription.identify_speakers", transcription.identify_speakers)
        _number("transcription.confidence_threshold", transcription.confidence_threshold, 0, 1)
    _strings("urls", urls)
    _strings("text", text)
    for number, url in enumerate(urls):
        _url(f"urls[{number}]", url)
    if callback_url is not UNSET and callback_url is not None:
        _url("callback_url", callback_url)
    _flag("notify", notify)
    if files > MAX_ITEMS:
        raise ConfigError(
            f"files: {files} given, the API takes at most {MAX_ITEMS} per job; "
            "split them over several jobs or send an archive (.zip, .tar.gz, .tar.bz2, .tar.xz)",
            field="files",
        )
    if not files and not urls and not text:
        raise ConfigError("nothing to measure: give at least one of files, urls and text", field="files")


_MODEL_TYPES: dict[str, type] = {
    "face": Face,
    "burst": Burst,
    "prosody": Prosody,
    "language": Language,
    "ner": Ner,
    "facemesh": Facemesh,
}


def _check_face(face: Face) -> None:
    _number("models.face.fps_pred", face.fps_pred, 0, None)
    _number("models.face.prob_threshold", face.prob_threshold, 0, 1)
    _flag("models.face.identify_faces", face.identify_faces)
    _number("models.face.min_face_size", face.min_face_size, 0, 2**64 - 1)
    if isinstance(face.min_face_size, float) and not face.min_face_size.is_integer():
        raise ConfigError(
            f"models.face.min_face_size: must be a whole number of pixels, got {face.min_face_size!r}",
            field="models.face.min_face_size",
        )
    _mapping("models.face.facs", face.facs)
    _mapping("models.face.descriptions", face.descriptions)
    _flag("models.face.save_faces", face.save_faces)


def _check_prosody(prosody: Prosody) -> None:
    _choice("models.prosody.granularity", prosody.granularity, GRANULARITIES)
    _flag("models.prosody.identify_speakers", prosody.identify_speakers)
    _kind("models.prosody.window", prosody.window, ProsodyWindow)
    if isinstance(prosody.window, ProsodyWindow):
        _number("models.prosody.window.length", prosody.window.length, 0.5, None)
        _number("models.prosody.window.step", prosody.window.step, 0.5, None)


def _check_language(language: Language) -> None:
    _choice("models.language.granularity", language.granularity, GRANULARITIES)
    _mapping("models.language.sentiment", language.sentiment)
    _mapping("models.language.toxicity", language.toxicity)
    _flag("models.language.identify_speakers", language.identify_speakers)


def _given(value: object) -> bool:
    return value is not UNSET and value is not None


def _kind(field: str, value: object, wanted: type) -> None:
    if _given(value) and not isinstance(value, wanted):
        raise ConfigError(f"{field}: must be {wanted.__name__}, not {type(value).__name__}", field=field)


def _flag(field: str, value: object) -> None:
    if _given(value) and not isinstance(value, bool):
        raise ConfigError(f"{field}: must be true or false, got {value!r}", field=field)


def _mapping(field: str, value: object) -> None:
    if not _given(value):
        return
    if not isinstance(value, dict):
        raise ConfigError(f"{field}: must be {{}} (on) or null (off), got {value!r}", field=field)
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{field}: cannot be sent as JSON: {error}", field=field) from None


def _choice(field: str, value: object, allowed: tuple[str, ...]) -> None:
    if _given(value) and value not in allowed:
        raise ConfigError(f"{field}: must be one of {', '.join(allowed)}; got {value!r}", field=field)


def _number(field: str, value: object, low: float, high: float | None) -> None:
    if not _given(value):
        return
    # No field needs more than the API's uint64, and the encoder cannot write a larger integer.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 2**64:
        raise ConfigError(f"{field}: must be a finite number, got {value!r}", field=field)
    if value < low or (high is not None and value > high):
        bounds = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise ConfigError(f"{field}: must be {bounds}, got {value!r}", field=field)


def _strings(field: Literal["urls", "text"], values: object) -> None:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise ConfigError(f"{field}: give a list of strings", field=field)
    if len(values) > MAX_ITEMS:
        raise ConfigError(
            f"{field}: {len(values)} given, the API takes at most {MAX_ITEMS} per job; split them over several jobs",
            field=field,
        )
    for number, value in enumerate(values):
        if not isinstance(value, str):
            raise ConfigError(f"{field}[{number}]: must be a string, got {type(value).__name__}", field=field)
        _unicode(f"{field}[{number}]", value)


def _unicode(field: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{field}: not valid Unicode (a lone surrogate)", field=field) from None


def _url(field: str, url: str) -> None:
    usable = isinstance(url, str) and url.isprintable() and " " not in url
    if usable:
        scheme, _, rest = url.partition("://")
        usable = scheme.lower() in ("http", "https") and rest[:1] not in ("", "/", "?", "#")
    if not usable:
        raise ConfigError(f"{field}: must be an http or https URL, got {url!r}", field=field)
