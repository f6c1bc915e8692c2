"""One file while it is measured: what it holds is decoded lazily, once, and shared by all measurers.

Nothing here keeps a whole recording in memory: audio lies on disk and is read in pieces, frames come one at a time.
What several measurers need (the transcript, the speakers) is made by the first one that asks, and an `Unmeasurable`
that it raised is raised again for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...jobs import Transcription
from ...predictions import TranscriptionMetadata
from . import Media, Unmeasurable
from .speech import Segment, Transcript, Turn

if TYPE_CHECKING:
    from .frames import Frame
    from .sound import Sound

__all__ = ["Recording", "TranscriptRejected"]

T = TypeVar("T")

Progress = Callable[[float], None]


class TranscriptRejected(Unmeasurable):
    """There is a transcript, but less sure than the request's threshold. It is an error of the file, not of a model."""


class Recording:
    """A file and what can be read out of it. `media` says what and where it is.

    `transcription`: the request's options with every default filled in, None when transcription is switched off.
    `scratch`: a folder for decoded media, removed after the file. `progress`: called with the second of the media
    that was reached.
    """

    def __init__(
        self,
        media: Media,
        transcription: Transcription | None = None,
        *,
        scratch: Path,
        progress: Progress = lambda _seconds: None,
    ) -> None:
        self.media = media
        self.transcription = transcription
        self.scratch = scratch
        self.progress = progress
        self._made: dict[object, Any] = {}

    @property
    def spoken(self) -> bool:
        """Whether words come out of sound: the file is audio or video, and not a text."""
        return self.media.file_type in ("audio", "video")

    def audio(self, rate: int = 16_000) -> Sound:
        """The audio as mono samples. Raises `Unmeasurable` when there is no audio track or it cannot be decoded."""
        from .sound import decode

        return self._once(("audio", rate), lambda: decode(self.media.path, self.scratch / f"audio-{rate}", rate))

    def frames(self, fps: float) -> Iterator[Frame]:
        """The picture of an image, or the frames of a video, `fps` a second (0: every one), one at a time.

        Raises `Unmeasurable` when there is no picture in the file or it cannot be decoded.
        """
        from .frames import frames

        return frames(self.media, fps)

    def transcript(self) -> Transcript:
        """What is said. Raises `Unmeasurable` without audio, speech, or weights, and when transcription is off.

        Raises `TranscriptRejected` when it is less sure than the request's `confidence_threshold`.
        """
        from .transcribing import transcribe

        options = self.transcription
        if options is None:
            raise Unmeasurable("transcription is switched off in the request")
        return self._once("transcript", lambda: transcribe(self.audio(), options, self.progress))

    @property
    def remark(self) -> str:
        """What there is to say about the transcript, if one was made; else empty."""
        made = self._made.get("transcript")
        return made.note if isinstance(made, Transcript) else ""

    def speakers(self, total: int | None = None, maximum: int | None = None) -> list[Turn]:
        """Who speaks when, in order. `total`: how many speakers there are; `maximum`: how many at most."""
        from .speakers import turns

        return self._once(("speakers", total, maximum), lambda: turns(self.audio(), total=total, maximum=maximum))

    def text(self) -> str:
        """The text of a text file, or the transcript as one string."""
        from .segments import joined
        from .texts import read_text

        if self.spoken:
            return joined(self.transcript())
        return self._once("text", lambda: read_text(self.media.path))

    def segments(self, granularity: str, *, identify_speakers: bool = False) -> list[Segment]:
        """The stretches that rows are about: `word`, `sentence`, `utterance` or `conversational_turn`.

        `identify_speakers` (or the same option of the transcription): segments carry `spk_0`, `spk_1`, …
        """
        from .segments import of_speech, of_text

        if not self.spoken:
            return of_text(self.text(), granularity)
        identify = identify_speakers or bool(self.transcription and self.transcription.identify_speakers)
        turns = self.speakers() if identify or granularity == "conversational_turn" else []
        return of_speech(self.transcript(), granularity, turns, identify=identify)

    def metadata(self) -> TranscriptionMetadata | None:
        """How sure the transcription is, and the language it heard; None for what was not transcribed."""
        if not self.spoken or self.transcription is None:
            return None
        transcript = self.transcript()
        return TranscriptionMetadata(confidence=transcript.confidence, detected_language=transcript.language)

    def _once(self, key: object, make: Callable[[], T]) -> T:
        if key not in self._made:
            try:
                self._made[key] = make()
            except Unmeasurable as error:
                self._made[key] = error
        made: T | Unmeasurable = self._made[key]
        if isinstance(made, Unmeasurable):
            raise made
        return made
