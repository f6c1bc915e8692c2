"""The names that scores carry, in the order of the JSON answers and in the order of the artifact CSVs.

Verified against real answers of the hosted service: the JSON order of emotions is alphabetical; the
CSV order moves `Desire` between `Satisfaction` and `Shame`, and in the 48 names (not in the 53 of
language) `Contemplation` before `Confusion`. The JSON order of
FACS, description and burst names was never seen; the CSV order stands for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = [
    "BURST_DESCRIPTIONS",
    "EMOTIONS",
    "EMOTIONS_CSV",
    "FACE_DESCRIPTIONS",
    "FACS",
    "LANGUAGE_EMOTIONS",
    "LANGUAGE_EMOTIONS_CSV",
    "SCORES",
    "SENTIMENT",
    "TOXICITY",
]

# 48 names of face, prosody, burst and facemesh.
EMOTIONS: Final[tuple[str, ...]] = (
    "Admiration",
    "Adoration",
    "Aesthetic Appreciation",
    "Amusement",
    "Anger",
    "Anxiety",
    "Awe",
    "Awkwardness",
    "Boredom",
    "Calmness",
    "Concentration",
    "Confusion",
    "Contemplation",
    "Contempt",
    "Contentment",
    "Craving",
    "Desire",
    "Determination",
    "Disappointment",
    "Disgust",
    "Distress",
    "Doubt",
    "Ecstasy",
    "Embarrassment",
    "Empathic Pain",
    "Entrancement",
    "Envy",
    "Excitement",
    "Fear",
    "Guilt",
    "Horror",
    "Interest",
    "Joy",
    "Love",
    "Nostalgia",
    "Pain",
    "Pride",
    "Realization",
    "Relief",
    "Romance",
    "Sadness",
    "Satisfaction",
    "Shame",
    "Surprise (negative)",
    "Surprise (positive)",
    "Sympathy",
    "Tiredness",
    "Triumph",
)

# 53 names of language and NER.
LANGUAGE_EMOTIONS: Final = tuple(sorted((*EMOTIONS, "Annoyance", "Disapproval", "Enthusiasm", "Gratitude", "Sarcasm")))


def _moved(names: tuple[str, ...], name: str, *, before: str) -> tuple[str, ...]:
    others = [other for other in names if other != name]
    others.insert(others.index(before), name)
    return tuple(others)


EMOTIONS_CSV: Final = _moved(_moved(EMOTIONS, "Desire", before="Shame"), "Contemplation", before="Confusion")
LANGUAGE_EMOTIONS_CSV: Final = _moved(LANGUAGE_EMOTIONS, "Desire", before="Shame")

FACS: Final[tuple[str, ...]] = (
    "AU1 Inner Brow Raise",
    "AU2 Outer Brow Raise",
    "AU4 Brow Lowerer",
    "AU5 Upper Lid Raise",
    "AU6 Cheek Raise",
    "AU7 Lids Tight",
    "AU9 Nose Wrinkle",
    "AU10 Upper Lip Raiser",
    "AU11 Nasolabial Furrow Deepener",
    "AU12 Lip Corner Puller",
    "AU14 Dimpler",
    "AU15 Lip Corner Depressor",
    "AU16 Lower Lip Depress",
    "AU17 Chin Raiser",
    "AU18 Lip Pucker",
    "AU19 Tongue Show",
    "AU20 Lip Stretch",
    "AU22 Lip Funneler",
    "AU23 Lip Tightener",
    "AU24 Lip Presser",
    "AU25 Lips Part",
    "AU26 Jaw Drop",
    "AU27 Mouth Stretch",
    "AU28 Lips Suck",
    "AU32 Bite",
    "AU34 Puff",
    "AU37 Lip Wipe",
    "AU38 Nostril Dilate",
    "AU43 Eye Closure",
    "AU53 Head Up",
    "AU54 Head Down",
    "Hand over Mouth",
    "Hand over Eyes",
    "Hand over Forehead",
    "Hand over Face",
    "Hand touching Face / Head",
)

FACE_DESCRIPTIONS: Final[tuple[str, ...]] = (
    "Beaming",
    "Biting lip",
    "Cheering",
    "Cringe",
    "Cry",
    "Eyes closed",
    "Face in hands",
    "Frown",
    "Gasp",
    "Glare",
    "Glaring",
    "Grimace",
    "Grin",
    "Jaw drop",
    "Laugh",
    "Licking lip",
    "Pout",
    "Scowl",
    "Smile",
    "Smirk",
    "Snarl",
    "Squint",
    "Sulking",
    "Tongue out",
    "Wide-eyed",
    "Wince",
    "Wrinkled nose",
)

BURST_DESCRIPTIONS: Final[tuple[str, ...]] = (
    "Cackle",
    "Cheer",
    "Chuckle",
    "Cry",
    "Gasp",
    "Giggle",
    "Groan",
    "Growl",
    "Grunt",
    "Hiss",
    "Hoot",
    "Howl",
    "Laugh",
    "Moan",
    "Pant",
    "Roar",
    "Scream",
    "Screech",
    "Shout",
    "Shriek",
    "Sigh",
    "Snicker",
    "Snort",
    "Sob",
    "Squeal",
    "Wail",
    "Wheep",
    "Whimper",
    "Yawn",
    "Yelp",
    "Ah",
    "Aha",
    "Ahh",
    "Argh",
    "Aww",
    "Eek",
    "Eww",
    "Grr",
    "Ha",
    "Hah",
    "Haha",
    "Hehe",
    "Hmm",
    "Huh",
    "Hurray",
    "Mhm",
    "Mmm",
    "Oh",
    "Ohh",
    "Ooh",
    "Ooph",
    "Ouch",
    "Oww",
    "Pff",
    "Phew",
    "Tsk",
    "Ugh",
    "Uh",
    "Uh-huh",
    "Umm",
    "Whee",
    "Whew",
    "Woah",
    "Wow",
    "Yay",
    "Yippee",
    "Yuck",
)

SENTIMENT: Final = tuple(str(level) for level in range(1, 10))
TOXICITY: Final = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")

SCORES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "face": {"emotions": EMOTIONS, "facs": FACS, "descriptions": FACE_DESCRIPTIONS},
    "burst": {"emotions": EMOTIONS, "descriptions": BURST_DESCRIPTIONS},
    "prosody": {"emotions": EMOTIONS},
    "language": {"emotions": LANGUAGE_EMOTIONS, "sentiment": SENTIMENT, "toxicity": TOXICITY},
    "ner": {"emotions": LANGUAGE_EMOTIONS},
    "facemesh": {"emotions": EMOTIONS},
}
"""Per model and field of its predictions the names of its scores, in the order of the JSON answers."""
