"""One colour and one kind of line per emotion, the same in every chart: 18 hues, three lines in each."""

from __future__ import annotations

import functools
import math
import zlib
from typing import Final, NamedTuple

__all__ = ["Look", "look"]

# Hues of OKLCH in degrees, around the circle; what is felt alike lies near each other.
_HUES: Final[dict[int, tuple[str, ...]]] = {
    10: ("Love", "Romance", "Adoration"),
    30: ("Anger", "Annoyance", "Disapproval"),
    50: ("Craving", "Desire", "Determination"),
    70: ("Excitement", "Enthusiasm", "Triumph"),
    90: ("Joy", "Ecstasy", "Pride"),
    110: ("Amusement", "Surprise (positive)", "Gratitude"),
    130: ("Interest", "Realization"),
    150: ("Satisfaction", "Contentment", "Relief"),
    165: ("Disgust", "Envy", "Contempt"),
    182: ("Calmness", "Aesthetic Appreciation", "Entrancement"),
    205: ("Contemplation", "Concentration", "Sympathy"),
    225: ("Confusion", "Doubt", "Surprise (negative)"),
    245: ("Nostalgia", "Tiredness", "Boredom"),
    262: ("Sadness", "Disappointment", "Empathic Pain"),
    280: ("Awe", "Admiration", "Sarcasm"),
    300: ("Fear", "Anxiety", "Horror"),
    320: ("Awkwardness", "Embarrassment", "Shame"),
    345: ("Distress", "Pain", "Guilt"),
}
# Lightness on white and on black; hues take turns, so that neighbours differ in that too.
_LIGHTNESS: Final = ((0.66, 0.82), (0.50, 0.68))
# Who does not tell two hues apart can go by the lines.
_DASHES: Final = ("solid", "dash", "dot")
_CHROMA: Final = 0.16
_PLACES: Final = {name: place for place in enumerate(_HUES.values()) for name in place[1]}


class Look(NamedTuple):
    """How an emotion is drawn: `#rrggbb` on a light and on a dark page, and the line (`solid`, `dash`, `dot`)."""

    light: str
    dark: str
    dash: str


@functools.cache
def look(name: str) -> Look:
    """The look of an emotion; a name of no vocabulary gets one that depends on the name alone."""
    if name in _PLACES:
        place, names = _PLACES[name]
        dash = names.index(name)
    else:
        dash, place = divmod(zlib.crc32(name.encode("utf-8", "replace")) % (len(_DASHES) * len(_HUES)), len(_HUES))
    hue = list(_HUES)[place]
    light, dark = _LIGHTNESS[(place + dash) % 2]
    return Look(_hex(light, hue), _hex(dark, hue), _DASHES[dash])


def _hex(lightness: float, hue: int) -> str:
    """OKLCH to sRGB, by the matrices of Oklab's definition; what a screen cannot show is cut off."""
    a, b = _CHROMA * math.cos(math.radians(hue)), _CHROMA * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )
    curved = (12.92 * one if one <= 0.0031308 else 1.055 * one ** (1 / 2.4) - 0.055 for one in linear)
    return "#" + "".join(f"{round(255 * min(1.0, max(0.0, one))):02x}" for one in curved)
