"""Any text classification model of transformers as a measurer of `language`, on tiny models made here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from humebatch.jobs import Language, Transcription
from humebatch.predictions import LanguagePrediction, TranscriptionMetadata
from humebatch.server.measure import Finding, Measurer, Media, Note, Row, Unmeasurable, load
from humebatch.server.measure.recording import Recording
from humebatch.server.measure.speech import Transcript, Word

torch: Any = pytest.importorskip("torch", reason="the group 'hf' is not installed (torch)")
transformers: Any = pytest.importorskip("transformers", reason="the group 'hf' is not installed (transformers)")
tokenizers: Any = pytest.importorskip("tokenizers", reason="the group 'hf' is not installed (tokenizers)")

TEXT = "What a lovely day! I was so angry yesterday. Now I am calm."
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "a", "lovely", "day", "i", "was", "angry", "now", "am", "!", "."]

Made = Callable[..., Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A folder with a random BERT of two layers that has these labels."""

    def make(labels: Mapping[int, str], *, multi: bool = True, positions: int = 64) -> Path:
        folder: Path = tmp_path_factory.mktemp("models") / "tiny"
        torch.manual_seed(7)
        config = transformers.BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=positions,
            id2label=dict(labels),
            label2id={label: number for number, label in labels.items()},
            problem_type="multi_label_classification" if multi else "single_label_classification",
        )
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
        words = tokenizers.Tokenizer(
            tokenizers.models.WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
        )
        words.normalizer = tokenizers.normalizers.Lowercase()
        words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        words.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
        return folder

    return make


LABELS = {0: "joy", 1: "ANGER", 2: "neutral", 3: "curiosity", 4: "surprise"}


@pytest.fixture(scope="module")
def folder(made: Made) -> Path:
    return made(LABELS)


@pytest.fixture(scope="module")
def measurer(folder: Path) -> Measurer:
    return load("language", f"hf:{folder}")


def measure(measurer: Measurer, where: Path, text: str = TEXT, **config: Any) -> list[Finding]:
    path = where / "text"
    path.write_bytes(text.encode())
    media = Media(str(path), "a.txt", "text", md5(text.encode()).hexdigest())
    options = Language(**{"granularity": "sentence", **config})
    return list(measurer.measure(Recording(media, Transcription(), scratch=where), options))


def rows(found: list[Finding]) -> list[LanguagePrediction]:
    predictions = [one.prediction for one in found if isinstance(one, Row)]
    assert all(isinstance(one, LanguagePrediction) for one in predictions)
    return predictions  # type: ignore[return-value]  # asserted above


def test_labels_that_are_names_of_the_api_become_scores_and_no_others(measurer: Measurer, tmp_path: Path) -> None:
    found = rows(measure(measurer, tmp_path))
    assert [row.text for row in found] == ["What a lovely day!", "I was so angry yesterday.", "Now I am calm."]
    for row in found:
        assert TEXT[row.position.begin : row.position.end] == row.text
        assert [score.name for score in row.emotions] == ["Anger", "Interest", "Joy"]
        assert all(0 < score.score < 1 for score in row.emotions)
    assert len({row.emotions["Joy"] for row in found}) == 3


def test_the_scores_are_the_models_own(measurer: Measurer, folder: Path, tmp_path: Path) -> None:
    (told,) = transformers.pipeline("text-classification", model=str(folder), top_k=None)([TEXT[:18]])
    expected = {one["label"]: one["score"] for one in told}
    (row, *_) = rows(measure(measurer, tmp_path))
    for name, label in (("Joy", "joy"), ("Anger", "ANGER"), ("Interest", "curiosity")):
        assert row.emotions[name] == pytest.approx(expected[label], abs=1e-4)


def test_of_one_label_alone_the_scores_are_shares_of_one(made: Made, tmp_path: Path) -> None:
    measurer = load("language", f"hf:{made({0: 'Joy', 1: 'Sadness'}, multi=False)}")
    for row in rows(measure(measurer, tmp_path)):
        assert sum(score.score for score in row.emotions) == pytest.approx(1, abs=1e-5)


def test_a_segment_scores_alike_alone_and_among_many(measurer: Measurer, tmp_path: Path) -> None:
    alone = rows(measure(measurer, tmp_path, "Now I am calm."))[0].emotions
    among = rows(measure(measurer, tmp_path, "A lovely day! " * 70 + "Now I am calm."))[-1].emotions
    assert [score.score for score in among] == pytest.approx([score.score for score in alone], abs=1e-4)


def test_what_the_model_cannot_read_is_said(made: Made, tmp_path: Path) -> None:
    measurer = load("language", f"hf:{made({0: 'joy', 1: 'fear'}, positions=8)}")
    found = measure(measurer, tmp_path, "I was angry. " + "a lovely day " * 20 + ".")
    assert [one.message for one in found if isinstance(one, Note)] == [
        "the ends of 1 segments were not read: the model reads 8 tokens of each"
    ]


def test_extra_scores_that_were_asked_for_are_said_not_to_be_measured(measurer: Measurer, tmp_path: Path) -> None:
    found = measure(measurer, tmp_path, sentiment={}, toxicity={})
    assert [one.message.split()[0] for one in found if isinstance(one, Note)] == ["sentiment", "toxicity"]
    assert {(row.sentiment, row.toxicity) for row in rows(found)} == {(None, None)}


def test_speech_is_read_by_its_transcript(measurer: Measurer, tmp_path: Path) -> None:
    class Speech(Recording):
        def transcript(self) -> Transcript:
            words = [Word(word, place, place + 0.5, 0.5) for place, word in enumerate(TEXT.split())]
            return Transcript(words=words, language="en", confidence=0.75)

    speech = Speech(Media("none", "a.wav", "audio", "0" * 32), Transcription(), scratch=tmp_path)
    metadata, *found = measurer.measure(speech, Language(granularity="sentence"))
    assert metadata == TranscriptionMetadata(confidence=0.75, detected_language="en")
    first, *_ = rows(found)
    assert first.time is not None
    assert (first.text, first.time.begin, first.time.end, first.confidence) == ("What a lovely day!", 0, 3.5, 0.5)


def test_the_card_says_which_weights_and_that_nobody_knows_how_good_they_are(measurer: Measurer, folder: Path) -> None:
    card = measurer.card
    assert (card.model, card.measurer, card.figures) == ("language", "hf:tiny", ())
    assert str(folder.parent) not in repr(card)
    assert [(one.name, one.of) for one in card.names] == [("Anger", "ANGER"), ("Interest", "curiosity"), ("Joy", "joy")]
    (weights,) = card.weights
    data = (folder / weights.file).read_bytes()
    assert (weights.size, weights.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert any("not measured" in limit for limit in card.limits)


def test_a_model_without_a_fitting_label_is_refused(made: Made) -> None:
    with pytest.raises(Unmeasurable, match=r"none of the labels.*LABEL_0"):
        load("language", f"hf:{made({0: 'LABEL_0', 1: 'LABEL_1'})}")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unmeasurable, match="no folder and no model of the hub"):
        load("language", f"hf:{tmp_path}")


def test_other_models_of_the_api_are_refused(folder: Path) -> None:
    with pytest.raises(Unmeasurable, match="measures language only"):
        load("face", f"hf:{folder}")
