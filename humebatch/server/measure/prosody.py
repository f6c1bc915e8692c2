"""Tone of voice: how something is said, for each stretch of speech of an audio or a video file.

Four of the API's 48 names are measured, `Anger`, `Boredom`, `Joy` and `Sadness`, and only against the same speaker's
other utterances: voices differ more from each other than moods do, and on recordings that the heads were not trained
on, little is left without the comparison. So a speaker needs `ENOUGH` utterances in the recording, and one who speaks
in the same mood throughout has no scores that stand out. A score is the probability that an actor of Emo-DB had this
emotion, of seven, in mind. What the words say has no part in it; that is for the measurer of language.

What is scored is an utterance (at granularity `sentence` a sentence, by window a turn of a speaker), in pieces of at
most 6 seconds. A row has the mean of the pieces that it overlaps. **A word thus carries the scores of the utterance
that it lies in**: a fifth of a second tells a pitch but no emotion. Utterances below half a second have no scores.

Every row has, as an extension, `acoustics`: `pitch_hz`, `pitch_range_semitones`, `energy_db`, `syllables_per_second`,
`words_per_second`, and where the speaker has enough utterances `arousal` (0 calm … 1 excited, again as compared with
the speaker's other utterances). Rows come even if nothing was scored: programs read their transcript here.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ...jobs import Prosody, ProsodyWindow
from ...predictions import ProsodyPrediction, Score, Scores, TimeInterval
from ...vocabulary import EMOTIONS
from . import Finding, Note, Row, Unmeasurable
from .acoustic import Encoder
from .intonation import Intonation, listen
from .prosody_card import CARD, MEASURED
from .prosody_rows import SHORTEST, Piece, Spans, Spoken, Stretch, of_segments, pieces, windows
from .recording import Recording
from .sound import Sound
from .tone import Heads, centred, level

__all__ = ["CARD", "ENOUGH", "MEASURED", "ProsodyMeasurer", "measurer"]

Floats = npt.NDArray[np.float32]

ENOUGH: Final = 5
"""Pieces of at least `SHORTEST` seconds that a speaker needs in a recording to be compared with themselves."""

_TOGETHER: Final = 8  # pieces that are embedded at once
_COVERED: Final = 0.5  # of a row's speech that has to be scored for the row to have scores
_COUNTED: Final = 1.0  # seconds of a row from which on its words are counted per second


class _Plan(NamedTuple):
    """What to measure: rows, the pieces that are scored for them, and why there are none if there are none."""

    rows: Sequence[Stretch]
    pieces: Sequence[Piece] = ()
    unscored: str | None = None
    spoken: Spoken | None = None


class ProsodyMeasurer:
    """Scores the tone of voice of speakers against themselves. `heads`, `encoder`: by default those of this package."""

    model = "prosody"
    card = CARD

    def __init__(self, heads: Heads | None = None, encoder: Encoder | None = None) -> None:
        self.heads = heads or Heads.load(files("humebatch.server.measure") / "weights" / "prosody_heads.npz")
        self._encoder_given = encoder
        self._columns = [(name, self.heads.names.index(name)) for name in EMOTIONS if name in MEASURED]

    @functools.cached_property
    def _encoder(self) -> Encoder:
        return self._encoder_given or Encoder()

    def measure(self, recording: Recording, config: Prosody, /) -> Iterator[Finding]:
        """Rows by `config.granularity`; by window where one is given, or where transcription is switched off.

        Raises `Unmeasurable` without audio or speech, and `TranscriptRejected` except by window.
        """
        sound = recording.audio()
        window = config.window if isinstance(config.window, ProsodyWindow) else None
        if window is None and recording.transcription is not None:
            plan = _by_transcript(recording, config)
        else:
            spoken = None
            if recording.transcription is not None:
                try:
                    spoken = Spoken(recording.transcript())
                except Unmeasurable as error:
                    yield Note(f"prosody has no text: {error}")
            plan = _by_window(recording, config, window or ProsodyWindow(), spoken)
        if not plan.rows:
            raise Unmeasurable("no speech was found")
        if plan.spoken is not None and (metadata := recording.metadata()) is not None:
            yield metadata
        yield from self._rows(plan, self._score(plan.pieces, recording, sound), listen(sound))

    def _score(self, parts: Sequence[Piece], recording: Recording, sound: Sound) -> Floats:
        """Emotions and arousal of each piece [pieces, names of the heads]; NaN where its speaker has too few."""
        count = Counter(piece.speaker for piece in parts)
        compared = [n for n, piece in enumerate(parts) if piece.speaker != "unknown" and count[piece.speaker] >= ENOUGH]
        said = np.zeros((len(parts), len(self.heads.names)), np.float32)
        for first in range(0, len(compared), _TOGETHER):
            together = compared[first : first + _TOGETHER]
            clips = [level(sound.read(parts[number].begin, parts[number].end)) for number in together]
            said[together] = self.heads.read(self._encoder.embed(clips))
            recording.progress(parts[together[-1]].end)
        scores = np.full_like(said, np.nan)
        if compared:
            speakers = np.array([parts[number].speaker for number in compared])
            scores[compared] = np.column_stack(self.heads.scores(centred(said[compared], speakers)))
        return scores

    def _rows(self, plan: _Plan, scores: Floats, intonation: Intonation) -> Iterator[Finding]:
        spans = Spans((piece.begin, piece.end) for piece in plan.pieces)
        missing = 0
        for row in plan.rows:
            found = _mean(scores, *spans.overlapping(row.begin, row.end))
            acoustics = intonation.between(row.begin, row.end)
            if plan.spoken is not None and row.end - row.begin >= _COUNTED:
                words = len(plan.spoken.words(row.begin, row.end))
                acoustics["words_per_second"] = round(words / (row.end - row.begin), 2)
            emotions = Scores()
            if found is not None:
                emotions = Scores(Score(name, float(found[column])) for name, column in self._columns)
                acoustics = {"arousal": round(float(found[-1]), 4), **acoustics}
            missing += found is None
            yield Row(
                row.speaker,
                ProsodyPrediction(
                    time=TimeInterval(row.begin, row.end),
                    emotions=emotions,
                    text=row.text,
                    confidence=row.confidence,
                    speaker_confidence=row.speaker_confidence,
                    acoustics=acoustics,
                ),
            )
        if missing:
            yield Note(f"{missing} of {len(plan.rows)} rows have no emotions: {plan.unscored or _TOO_FEW}")


_TOO_FEW: Final = (
    "tone of voice is measured against other utterances of the same speaker, and takes at least "
    f"{ENOUGH} of them in the recording, each of {SHORTEST} s or more"
)


def _mean(scores: Floats, touched: npt.NDArray[np.intp], shared: npt.NDArray[np.float64]) -> Floats | None:
    """The scores of a row, from the pieces that it touches and the seconds shared with each; or None."""
    known = ~np.isnan(scores[touched, -1])
    if not known.any() or shared[known].sum() < _COVERED * shared.sum():
        return None
    mean: Floats = np.average(scores[touched[known]], axis=0, weights=shared[known])
    return mean


def _by_transcript(recording: Recording, config: Prosody) -> _Plan:
    granularity = str(config.granularity or "utterance")
    rows = of_segments(recording.segments(granularity, identify_speakers=bool(config.identify_speakers)))
    spoken = Spoken(recording.transcript())
    try:
        # Speakers are told apart in any case; whether the rows say who it is, is another question.
        scored = recording.segments("sentence" if granularity == "sentence" else "utterance", identify_speakers=True)
    except Unmeasurable as error:
        return _Plan(rows, unscored=str(error), spoken=spoken)
    return _Plan(rows, pieces((one.begin, one.end, one.speaker) for one in of_segments(scored)), spoken=spoken)


def _by_window(recording: Recording, config: Prosody, window: ProsodyWindow, spoken: Spoken | None) -> _Plan:
    length, step = window.length or 4.0, window.step or 1.0
    identify = bool(config.identify_speakers or (recording.transcription and recording.transcription.identify_speakers))
    seconds = recording.audio().seconds
    try:
        turns = recording.speakers()
    except Unmeasurable as error:
        return _Plan(list(windows(seconds, length, step, spoken=spoken)), unscored=str(error), spoken=spoken)
    rows = list(windows(seconds, length, step, turns=turns, identify=identify, spoken=spoken))
    parts = pieces(((turn.begin, turn.end, f"spk_{turn.speaker}") for turn in turns), max(2 * SHORTEST, min(length, 6)))
    return _Plan(rows, parts, spoken=spoken)


def measurer(model: str) -> ProsodyMeasurer:
    """The measurer of `prosody`; raises `ValueError` for another model."""
    if model != ProsodyMeasurer.model:
        raise ValueError(f"this module measures prosody, not {model}")
    return ProsodyMeasurer()
