"""Prosody on a real reading. Who speaks when and what is said is laid down here: those models have their own tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from examples.demo_media import MEDIA
from humebatch.jobs import Prosody, ProsodyWindow, Transcription
from humebatch.predictions import ProsodyPrediction, Scores, TimeInterval, TranscriptionMetadata
from humebatch.server.measure import Finding, Media, Note, Row, Unmeasurable, carried
from humebatch.server.measure.prosody import ENOUGH, MEASURED, ProsodyMeasurer, measurer
from humebatch.server.measure.recording import Recording, TranscriptRejected
from humebatch.server.measure.sound import Sound, decode
from humebatch.server.measure.speech import Segment, Transcript, Turn, Word

# Where the reader of two_cities.wav draws breath, in seconds; invented words between.
UTTERANCES = [(0.5, 4.0), (4.5, 8.0), (8.5, 12.0), (12.5, 16.0), (16.5, 20.0), (20.5, 24.0), (24.5, 27.9), (28.0, 28.3)]


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    file = MEDIA["two_cities.wav"]
    path = carried.present(file) or carried.fetch_all([file])[file.name]
    return decode(str(path), tmp_path_factory.mktemp("reading") / "sound", 16_000)


@pytest.fixture(scope="module")
def prosody() -> ProsodyMeasurer:
    return measurer("prosody")


class Told(Recording):
    """A recording of which everything is told. `speakers`: of each utterance; a text: why they are not known."""

    def __init__(
        self,
        sound: Sound,
        *,
        transcription: Transcription | None = Transcription(),  # noqa: B008 - frozen
        speakers: Sequence[int] | str = (0,) * len(UTTERANCES),
        rejected: bool = False,
    ) -> None:
        media = Media(path="", name="reading.wav", file_type="audio", md5sum="")
        super().__init__(media, transcription, scratch=Path(), progress=self.reached)
        self.sound, self.told, self.rejected = sound, speakers, rejected
        self.seconds: list[float] = []

    def reached(self, second: float) -> None:
        self.seconds.append(second)

    def audio(self, rate: int = 16_000) -> Sound:
        return self.sound

    def transcript(self) -> Transcript:
        if self.rejected:
            raise TranscriptRejected("transcript confidence (0.2) below threshold value (0.5)")
        return Transcript(words=list(words()), language="en", confidence=0.8)

    def speakers(self, total: int | None = None, maximum: int | None = None) -> list[Turn]:
        if isinstance(self.told, str):
            raise Unmeasurable(self.told)
        return [Turn(*span, who, 0.75) for span, who in zip(UTTERANCES, self.told, strict=False)]

    def segments(self, granularity: str, *, identify_speakers: bool = False) -> list[Segment]:
        said = self.transcript().words
        speakers = [turn.speaker for turn in self.speakers()] if identify_speakers else []
        if granularity == "word":
            cuts = [[word] for word in said]
        elif granularity == "conversational_turn":
            cuts = [said]
        else:
            cuts = [[word for word in said if begin <= word.begin < end] for begin, end in UTTERANCES]
        return [
            Segment(
                text=" ".join(word.text for word in cut),
                begin=0,
                end=1,
                time=TimeInterval(cut[0].begin, cut[-1].end),
                confidence=0.5,
                speaker=f"spk_{speakers[number]}" if speakers else "unknown",
                speaker_confidence=0.75 if speakers else None,
            )
            for number, cut in enumerate(cuts)
        ]


def words() -> Iterator[Word]:
    for number, (begin, end) in enumerate(UTTERANCES):
        half = (begin + end) / 2
        yield Word(f"one{number}", begin, half, 0.5)
        yield Word(f"two{number}", half, end, 0.5)


def config(**given: Any) -> Prosody:
    return msgspec.structs.replace(Prosody(granularity="utterance", identify_speakers=False, window=None), **given)


def rows(found: Sequence[Finding]) -> list[ProsodyPrediction]:
    return [one.prediction for one in found if isinstance(one, Row) and isinstance(one.prediction, ProsodyPrediction)]


def notes(found: Sequence[Finding]) -> list[str]:
    return [one.message for one in found if isinstance(one, Note)]


@pytest.fixture(scope="module")
def found(prosody: ProsodyMeasurer, reading: Sound) -> list[Finding]:
    return list(prosody.measure(Told(reading), config()))


def test_every_utterance_is_a_row_with_its_text_and_time(found: list[Finding]) -> None:
    assert [row.text for row in rows(found)] == [f"one{number} two{number}" for number in range(len(UTTERANCES))]
    assert [(row.time.begin, row.time.end) for row in rows(found)] == UTTERANCES
    assert {row.confidence for row in rows(found)} == {0.5}
    assert {one.group for one in found if isinstance(one, Row)} == {"unknown"}


def test_exactly_the_names_that_are_measured_have_scores(found: list[Finding]) -> None:
    for row in rows(found)[:-1]:
        assert [score.name for score in row.emotions] == list(MEASURED)
        assert all(0 < score.score < 1 for score in row.emotions)
        assert sum(score.score for score in row.emotions) < 1  # what is left is for emotions that are not given


def test_utterances_differ(found: list[Finding]) -> None:
    assert len({row.emotions["Anger"] for row in rows(found)[:-1]}) == len(UTTERANCES) - 1


def test_a_third_of_a_second_has_no_scores_and_one_note_says_why(found: list[Finding]) -> None:
    assert rows(found)[-1].emotions == []
    (note,) = notes(found)
    assert note.startswith("1 of 8 rows have no emotions")
    assert "at least 5 of them in the recording, each of 0.5 s or more" in note


def test_the_transcription_is_told_once(found: list[Finding]) -> None:
    assert [one for one in found if isinstance(one, TranscriptionMetadata)] == [
        TranscriptionMetadata(confidence=0.8, detected_language="en")
    ]


def test_every_row_has_the_acoustics_of_a_reader(found: list[Finding]) -> None:
    for row in rows(found)[:-1]:
        assert isinstance(row.acoustics, dict)
        assert 60 < row.acoustics["pitch_hz"] < 300
        assert 0 < row.acoustics["pitch_range_semitones"] < 30
        assert -60 < row.acoustics["energy_db"] < 0
        assert 1 < row.acoustics["syllables_per_second"] < 8
        assert row.acoustics["words_per_second"] == pytest.approx(2 / 3.5, rel=0.05)
        assert 0 <= row.acoustics["arousal"] <= 1
    short = rows(found)[-1].acoustics
    assert isinstance(short, dict)
    assert "energy_db" in short
    assert not {"arousal", "words_per_second", "syllables_per_second"} & set(short)


def test_the_same_file_gives_the_same_numbers(prosody: ProsodyMeasurer, reading: Sound, found: list[Finding]) -> None:
    assert list(prosody.measure(Told(reading), config())) == found


def test_how_loud_a_recording_is_has_no_part_in_its_scores(
    prosody: ProsodyMeasurer, reading: Sound, found: list[Finding], tmp_path: Path
) -> None:
    quiet = tmp_path / "quiet"
    quiet.write_bytes((reading.read() * 32768 / 4).round().astype("<i2").tobytes())
    for row, soft in zip(rows(found), rows(list(prosody.measure(Told(Sound(quiet, 16_000)), config()))), strict=True):
        assert [score.score for score in soft.emotions] == pytest.approx(
            [score.score for score in row.emotions], abs=0.05
        )


def test_progress_is_told_while_utterances_are_heard(prosody: ProsodyMeasurer, reading: Sound) -> None:
    recording = Told(reading)
    next(iter(prosody.measure(recording, config())))
    list(prosody.measure(recording, config()))
    assert recording.seconds
    assert recording.seconds == sorted(recording.seconds)


def test_a_speaker_with_too_few_utterances_is_not_scored_and_the_other_is(
    prosody: ProsodyMeasurer, reading: Sound
) -> None:
    few = ENOUGH - 3
    speakers = [1] * few + [0] * (len(UTTERANCES) - few)
    found = list(prosody.measure(Told(reading, speakers=speakers), config(identify_speakers=True)))
    assert [one.group for one in found if isinstance(one, Row)] == [f"spk_{who}" for who in speakers]
    assert [bool(row.emotions) for row in rows(found)] == [False] * few + [True] * (7 - few) + [False]
    assert {row.speaker_confidence for row in rows(found)} == {0.75}
    assert notes(found)[0].startswith(f"{few + 1} of 8 rows have no emotions")


def test_speakers_are_told_apart_even_if_nobody_asked_for_their_ids(prosody: ProsodyMeasurer, reading: Sound) -> None:
    speakers = [0, 1] * 4
    found = list(prosody.measure(Told(reading, speakers=speakers), config()))
    assert {one.group for one in found if isinstance(one, Row)} == {"unknown"}
    assert not any(row.emotions for row in rows(found))


def test_where_speakers_cannot_be_told_apart_rows_come_without_emotions(
    prosody: ProsodyMeasurer, reading: Sound
) -> None:
    found = list(prosody.measure(Told(reading, speakers="the weights of speakers are not on the server"), config()))
    assert len(rows(found)) == len(UTTERANCES)
    assert not any(row.emotions for row in rows(found))
    assert all(isinstance(row.acoustics, dict) and "energy_db" in row.acoustics for row in rows(found))
    assert notes(found) == ["8 of 8 rows have no emotions: the weights of speakers are not on the server"]


def test_a_word_carries_the_scores_of_its_utterance(
    prosody: ProsodyMeasurer, reading: Sound, found: list[Finding]
) -> None:
    single = rows(list(prosody.measure(Told(reading), config(granularity="word"))))
    assert [row.text for row in single] == [word.text for word in words()]
    for number, row in enumerate(rows(found)):
        assert single[2 * number].emotions == single[2 * number + 1].emotions == row.emotions


def test_a_turn_has_the_mean_of_its_utterances(prosody: ProsodyMeasurer, reading: Sound, found: list[Finding]) -> None:
    (turn,) = rows(list(prosody.measure(Told(reading), config(granularity="conversational_turn"))))
    scored = [row for row in rows(found) if row.emotions]
    for name in MEASURED:
        mean = np.average(
            [row.emotions[name] for row in scored], weights=[row.time.end - row.time.begin for row in scored]
        )
        assert turn.emotions[name] == pytest.approx(mean, abs=1e-5)


def test_without_transcription_rows_are_windows_without_text(prosody: ProsodyMeasurer, reading: Sound) -> None:
    found = list(prosody.measure(Told(reading, transcription=None), config(granularity="word")))
    assert [(row.time.begin, row.time.end) for row in rows(found)] == [(float(n), n + 4.0) for n in range(28)]
    assert {(row.text, row.confidence) for row in rows(found)} == {(None, None)}
    assert all(row.emotions for row in rows(found))
    assert not any(isinstance(one, TranscriptionMetadata) for one in found)


def test_a_window_has_the_words_that_are_said_in_it(prosody: ProsodyMeasurer, reading: Sound) -> None:
    window = ProsodyWindow(length=8.0, step=8.0)
    found = list(prosody.measure(Told(reading), config(window=window, identify_speakers=True)))
    assert [row.text for row in rows(found)][:2] == ["one0 two0 one1 two1", "one2 two2 one3 two3"]
    assert {one.group for one in found if isinstance(one, Row)} == {"spk_0"}
    assert rows(found)[0].confidence == pytest.approx(0.5)
    assert any(isinstance(one, TranscriptionMetadata) for one in found)


def test_a_rejected_transcript_leaves_windows_without_text(prosody: ProsodyMeasurer, reading: Sound) -> None:
    recording = Told(reading, rejected=True)
    found = list(prosody.measure(recording, config(window=ProsodyWindow(length=4.0, step=4.0))))
    assert {row.text for row in rows(found)} == {None}
    assert notes(found) == ["prosody has no text: transcript confidence (0.2) below threshold value (0.5)"]
    with pytest.raises(TranscriptRejected):
        list(prosody.measure(recording, config()))


def test_where_nobody_speaks_there_is_nothing_to_measure(prosody: ProsodyMeasurer, reading: Sound) -> None:
    with pytest.raises(Unmeasurable, match="no speech was found"):
        list(prosody.measure(Told(reading, transcription=None, speakers=[]), config()))


def test_acoustics_survive_json_and_are_absent_where_nobody_measured_them() -> None:
    said = ProsodyPrediction(time=TimeInterval(0, 1), emotions=Scores(), acoustics={"pitch_hz": 120.5})
    assert msgspec.json.decode(msgspec.json.encode(said), type=ProsodyPrediction) == said
    assert b"acoustics" not in msgspec.json.encode(ProsodyPrediction(time=TimeInterval(0, 1), emotions=Scores()))


def test_the_card_accounts_for_every_name(prosody: ProsodyMeasurer) -> None:
    assert tuple(given.name for given in prosody.card.names) == MEASURED
    assert all(given.reason for given in prosody.card.names)


def test_the_card_and_the_notice_name_the_heads_that_are_used(prosody: ProsodyMeasurer) -> None:
    heads = prosody.card.weights[0]
    content = (files("humebatch.server.measure") / "weights" / heads.file).read_bytes()
    assert (hashlib.sha256(content).hexdigest(), len(content)) == (heads.sha256, heads.size)
    assert heads.sha256 in (Path(__file__).parents[3] / "NOTICE").read_text()


def test_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="measures prosody, not burst"):
        measurer("burst")
