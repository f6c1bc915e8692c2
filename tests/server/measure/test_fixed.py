"""Made-up scores: repeatable, in the shapes and under the ids that were asked for, without opening any media."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import md5
from pathlib import Path
from typing import Any

import msgspec
import pytest

from humebatch import vocabulary
from humebatch.jobs import MODEL_NAMES, Burst, Face, Facemesh, Language, Ner, Prosody, ProsodyWindow, Transcription
from humebatch.server.measure import Attachment, FileType, Finding, Media, Row, Unmeasurable, load
from humebatch.server.measure.recording import Recording

CONFIGS: dict[str, Any] = {
    "face": Face(), "burst": Burst(), "prosody": Prosody(granularity="utterance"), "language": Language(), "ner": Ner(),
    "facemesh": Facemesh(),
}  # fmt: skip
KINDS: dict[str, FileType] = {"face": "image", "burst": "audio", "prosody": "audio", "facemesh": "landmarks"}
ON = Transcription()

Found = Callable[..., list[Finding]]


@pytest.fixture
def find(tmp_path: Path) -> Found:
    """What `fixed` finds for a model in a file with this content."""

    def found(
        model: str,
        content: bytes | str = b"Test!",
        kind: FileType | None = None,
        *,
        config: Any = None,
        transcription: Transcription | None = ON,
    ) -> list[Finding]:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / "media"
        path.write_bytes(data)
        media = Media(str(path), "media", kind or KINDS.get(model, "text"), md5(data).hexdigest())
        recording = Recording(media, transcription, scratch=tmp_path)
        return list(load(model, "fixed").measure(recording, config or CONFIGS[model]))

    return found


def rows(found: list[Finding]) -> list[Any]:
    return [one.prediction for one in found if isinstance(one, Row)]


def groups(found: list[Finding]) -> list[str]:
    return [one.group for one in found if isinstance(one, Row)]


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_the_card_says_that_the_scores_are_made_up(model: str) -> None:
    card = load(model, "fixed").card
    assert (card.model, card.made_up) == (model, True)
    assert "MADE-UP" in card.summary
    assert card.names == ()
    assert card.figures == ()


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_the_same_bytes_give_the_same_scores_and_other_bytes_others(find: Found, model: str) -> None:
    first, again, other = (msgspec.json.encode(rows(find(model, text))) for text in ("Test!", "Test!", "Test?"))
    assert first == again
    assert first != other


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_every_name_of_the_vocabulary_has_a_score_within_0_and_1(find: Found, model: str) -> None:
    for row in rows(find(model)):
        names = vocabulary.SCORES[model]["emotions"]
        assert [score.name for score in row.emotions] == list(names)
        assert all(0 <= score.score < 1 for score in row.emotions)


def test_one_sentence_at_any_granularity_but_word_is_one_row(find: Found) -> None:
    for granularity in ("word", "sentence", "utterance", "conversational_turn"):
        (row,) = rows(find("language", "Test!", config=Language(granularity=granularity)))
        assert (row.text, row.position.begin, row.position.end) == ("Test!", 0, 5)
        assert (row.time, row.confidence, row.speaker_confidence) == (None, None, None)


def test_text_is_cut_like_the_api_does_it(find: Found) -> None:
    def cut(granularity: str) -> list[str]:
        return [row.text for row in rows(find("language", "A b. C!\n", config=Language(granularity=granularity)))]

    assert cut("word") == ["A", "b.", "C!"]
    assert cut("sentence") == ["A b.", "C!"]
    assert cut("conversational_turn") == ["A b. C!"]


def test_sentiment_and_toxicity_come_when_they_are_asked_for(find: Found) -> None:
    (plain,) = rows(find("language"))
    (full,) = rows(find("language", config=Language(sentiment={}, toxicity={})))
    assert (plain.sentiment, plain.toxicity) == (None, None)
    assert [score.name for score in full.sentiment] == [str(level) for level in range(1, 10)]
    assert len(full.toxicity) == 6


def test_an_empty_text_is_refused(find: Found) -> None:
    with pytest.raises(Unmeasurable, match="empty"):
        find("language", " \n")


@pytest.mark.parametrize("kind", ["audio", "video"])
@pytest.mark.parametrize("model", ["prosody", "language"])
def test_speech_has_text_time_and_metadata(find: Found, model: str, kind: FileType) -> None:
    config = Prosody(granularity="sentence") if model == "prosody" else Language(granularity="sentence")
    *found, metadata = find(model, b"sound", kind, config=config, transcription=Transcription(language="de"))
    assert [row.text for row in rows(found)] == ["Segment 1.", "Segment 2.", "Segment 3."]
    assert [(row.time.begin, row.time.end) for row in rows(found)] == [(0, 1), (1, 2), (2, 3)]
    assert groups(found) == ["unknown"] * 3
    assert metadata == msgspec.convert({"confidence": 1.0, "detected_language": "de"}, type(metadata))


def test_words_of_speech_lie_in_the_whole_text_and_follow_each_other(find: Found) -> None:
    found = rows(find("language", b"sound", "audio", config=Language(granularity="word")))
    assert [row.text for row in found] == ["Segment", "1.", "Segment", "2.", "Segment", "3."]
    whole = "Segment 1. Segment 2. Segment 3."
    assert all(whole[row.position.begin : row.position.end] == row.text for row in found)
    ends = [0.0, *(row.time.end for row in found)]
    assert [row.time.begin for row in found] == ends[:-1]


@pytest.mark.parametrize("model", ["prosody", "language"])
@pytest.mark.parametrize("asked", ["model", "transcription"])
def test_speakers_have_ids_when_they_are_asked_for(find: Found, model: str, asked: str) -> None:
    maker: Any = Prosody if model == "prosody" else Language
    config = maker(granularity="sentence", identify_speakers=asked == "model")
    options = Transcription(identify_speakers=asked == "transcription")
    found = find(model, b"sound", "audio", config=config, transcription=options)
    assert groups(found) == ["spk_0", "spk_1", "spk_0"]
    assert {row.speaker_confidence for row in rows(found)} == {1.0}


def test_an_entity_of_speech_has_its_speaker(find: Found) -> None:
    found = find("ner", b"sound", "audio", config=Ner(identify_speakers=True))
    assert groups(found) == ["spk_0"]
    (row,) = rows(found)
    assert (row.entity, row.link_word, row.uri, row.time.begin) == ("Segment", "Segment", "", 0)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (ProsodyWindow(length=1.0, step=0.5), [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (2, 3)]),
        (ProsodyWindow(), [(0, 3)]),
        (ProsodyWindow(length=2.0, step=1.0), [(0, 2), (1, 3)]),
    ],
)
def test_prosody_goes_by_window_when_one_is_set(
    find: Found, window: ProsodyWindow, expected: list[tuple[float, float]]
) -> None:
    found = rows(find("prosody", b"sound", config=Prosody(granularity="word", window=window)))
    assert [(row.time.begin, row.time.end) for row in found] == expected


def test_without_transcription_prosody_has_no_text_and_language_says_why_there_is_none(find: Found) -> None:
    found = find("prosody", b"sound", transcription=None)
    assert [row.text for row in rows(found)] == [None]
    assert len(rows(found)) == len(found)  # no metadata of a transcription either
    for model in ("language", "ner"):
        with pytest.raises(Unmeasurable, match="switched off"):
            find(model, b"sound", "audio", transcription=None)
        assert rows(find(model, b"Test!", "text", transcription=None))


def test_faces_have_ids_when_they_are_asked_for(find: Found) -> None:
    assert groups(find("face")) == ["unknown"]
    assert groups(find("face", config=Face(identify_faces=True))) == ["face_0"]
    film = find("face", b"film", "video", config=Face(identify_faces=True))
    assert groups(film) == ["face_0", "face_1"] * 3
    assert [row.frame for row in rows(film)] == [0, 0, 30, 30, 60, 60]
    assert [row.time for row in rows(film)] == [0, 0, 1, 1, 2, 2]


def test_extra_scores_of_a_face_come_when_they_are_asked_for(find: Found) -> None:
    (plain,) = rows(find("face"))
    (full,) = rows(find("face", config=Face(facs={}, descriptions={})))
    assert (plain.facs, plain.descriptions) == (None, None)
    assert (len(full.facs), len(full.descriptions)) == (len(vocabulary.FACS), len(vocabulary.FACE_DESCRIPTIONS))


def test_saved_faces_are_pictures_with_names_of_their_own(find: Found) -> None:
    assert not [one for one in find("face", b"film", "video") if isinstance(one, Attachment)]
    film = find("face", b"film", "video", config=Face(save_faces=True, identify_faces=True))
    saved = [one for one in film if isinstance(one, Attachment)]
    assert len({(one.group, one.name) for one in saved}) == len(saved) == 6
    assert all(one.data.startswith(b"\x89PNG\r\n\x1a\n") and one.data.endswith(b"IEND\xaeB`\x82") for one in saved)


@pytest.mark.parametrize(("faces", "expected"), [(0, 0), (1, 1), (3, 3)])
def test_a_file_of_landmarks_has_a_row_for_each_face(find: Found, faces: int, expected: int) -> None:
    assert len(rows(find("facemesh", json.dumps([[[0.5, 0.5, 0.0]] * 478] * faces)))) == expected


@pytest.mark.parametrize("content", ["[1", "{}", "[[1, 2, 3]]", "[" * 100_000])
def test_any_other_json_counts_as_one_face(find: Found, content: str) -> None:
    assert len(rows(find("facemesh", content))) == 1


def test_it_loads_nothing_that_takes_time() -> None:
    heavy = ("numpy", "av", "onnxruntime", "PIL", "spacy", "faster_whisper")
    code = f"import sys, humebatch.server.measure.fixed; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
