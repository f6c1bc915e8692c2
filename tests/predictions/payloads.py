"""Payloads for tests: one as a real server sends it, and strange ones, written in ways that no server would choose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from humebatch.vocabulary import (
    BURST_DESCRIPTIONS,
    EMOTIONS,
    FACE_DESCRIPTIONS,
    FACS,
    LANGUAGE_EMOTIONS,
    SENTIMENT,
    TOXICITY,
)

# Strange payloads take a while to make up, and files are written anew in every example.
patient = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)

MODELS = ("face", "burst", "prosody", "language", "ner", "facemesh")


class Literal(str):
    """JSON text that stands in a payload as it is."""

    __slots__ = ()


class Pairs(list[tuple[str, Any]]):
    """An object whose keys may come twice."""

    __slots__ = ()


class Style(NamedTuple):
    """White space of a JSON text."""

    comma: str = ","
    colon: str = ":"
    opened: str = ""
    closed: str = ""
    ascii: bool = True


STYLES = [
    Style(),
    Style(", ", ": "),
    Style(",\n    ", ": ", "\n    ", "\n"),
    Style(" ,\t", " :\r\n", " ", "  ", ascii=False),
]


def dumps(value: Any, style: Style = STYLES[0]) -> str:
    """`value` as JSON in that style."""
    if isinstance(value, Literal):
        return value
    if isinstance(value, dict):
        value = Pairs(value.items())
    if isinstance(value, Pairs):
        members = [f"{dumps(key, style)}{style.colon}{dumps(inner, style)}" for key, inner in value]
        return "{" + style.opened + style.comma.join(members) + style.closed + "}"
    if isinstance(value, list):
        return "[" + style.opened + style.comma.join(dumps(inner, style) for inner in value) + style.closed + "]"
    return json.dumps(value, ensure_ascii=style.ascii)


def named(names: tuple[str, ...], start: float = 0.0) -> list[dict[str, Any]]:
    """A score for each name."""
    return [{"name": name, "score": start + number / 256} for number, name in enumerate(names)]


def row(model: str, number: int = 0) -> dict[str, Any]:
    """A row as the hosted service sent them: explicit nulls, ints where floats are declared."""
    span = {"begin": number, "end": number + 0.5}
    sure = {"confidence": 0.75, "speaker_confidence": None}
    position = {"begin": number, "end": number + 4}
    start = number / 1024
    match model:
        case "face":
            box = {"x": 1, "y": 2.25, "w": 30.5, "h": 40}
            return {
                "frame": number, "time": number, "prob": 0.99, "box": box, "emotions": named(EMOTIONS, start),
                "facs": named(FACS) if number % 2 else None,
                "descriptions": named(FACE_DESCRIPTIONS) if number % 2 else None,
            }  # fmt: skip
        case "prosody":
            return {"text": f"word é {number}", "time": span, **sure, "emotions": named(EMOTIONS, start)}
        case "burst":
            return {"time": span, "emotions": named(EMOTIONS, start), "descriptions": named(BURST_DESCRIPTIONS)}
        case "language":
            return {
                "text": "\ud83d\ude00 \"so\" [x}".encode("utf-16", "surrogatepass").decode("utf-16"),
                "position": position, "time": span if number % 2 else None, **sure,
                "emotions": named(LANGUAGE_EMOTIONS, start), "sentiment": named(SENTIMENT),
                "toxicity": None if number % 2 else named(TOXICITY),
            }  # fmt: skip
        case "ner":
            return {
                "entity": "Rome", "position": position, "entity_confidence": 1, "support": 12, "uri": "http://a/Rome",
                "link_word": "Rome", "time": None, **sure, "emotions": named(LANGUAGE_EMOTIONS, start),
            }  # fmt: skip
    return {"emotions": named(EMOTIONS, start)}


def groups(model: str, rows: int, start: int = 0) -> dict[str, Any]:
    """What a model found: two groups."""
    found = [row(model, start + number) for number in range(rows)]
    half = rows // 2
    return {
        "metadata": {"confidence": 1, "detected_language": "en"} if model in ("prosody", "language", "ner") else None,
        "grouped_predictions": [{"id": "a_0", "predictions": found[:half]}, {"id": "a_1", "predictions": found[half:]}],
    }


def payload(rows: int = 3) -> list[dict[str, Any]]:
    """All models, all kinds of sources, errors of both kinds, and what the schema does not tell."""
    every = {model: groups(model, rows) for model in MODELS}
    file = {"type": "file", "filename": "a.zip", "content_type": None, "md5sum": "0" * 32}
    failed = [{"model": None, "file": "b.wav", "message": "unable to transcribe"}, {"file": "c", "message": "no"}]
    return [
        {
            "source": file,
            "results": {
                "predictions": [
                    {"file": "x/a.mp4", "file_type": "video", "models": every},
                    {"file": "b.wav", "file_type": None, "models": {"prosody": groups("prosody", 1), "face": None}},
                    {"file": "old.wav", "models": {}},
                ],
                "errors": failed,
            },
        },
        {"source": {"type": "url", "url": "http://a/b"}, "results": None, "error": "cannot be read"},
        {
            "source": {"type": "text"},
            "results": {
                "predictions": [{"file": "2", "file_type": "text", "models": {"language": groups("language", 2)}}],
                "errors": [],
            },
            "error": None,
        },
    ]


class Slot(NamedTuple):
    """Room for a value: from `begin` to `end`, where the next comma or bracket stands; the value begins at `value`.

    An empty list has room for a first one.
    """

    path: str
    begin: int
    end: int
    value: int
    found: Any


def slots(text: str) -> Iterator[Slot]:
    """Every place in a JSON text that holds a value, outer ones first, in characters."""
    found: list[Slot] = []
    _slot(text, 0, "$", found)
    return iter(found)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _slot(text: str, begin: int, path: str, found: list[Slot]) -> int:
    value = _skip(text, begin)
    what, closed = json.JSONDecoder().raw_decode(text, value)
    stop = _skip(text, closed)
    found.append(Slot(path, begin, stop, value, what))
    at = value + 1
    if isinstance(what, list):
        for number in range(len(what)):
            at = _slot(text, at, f"{path}[{number}]", found) + 1
        if not what:
            found.append(Slot(f"{path}[0]", at, closed - 1, at, None))
    elif isinstance(what, dict):
        for _ in range(len(what)):
            key, at = json.JSONDecoder().raw_decode(text, _skip(text, at))
            at = _slot(text, _skip(text, at) + 1, f"{path}.{key}", found) + 1
    return stop


# ── strange payloads ─────────────────────────────────────────────────────────────────────────────

HARD_NUMBERS = [
    "0", "1", "-1", "7", "-0", "-0.0", "0.0", "1E5", "1e+5", "1e-07", "5e-324", "1e-400", "-2.5e-3", "0.1",
    "1.7976931348623157e308", "123456789012345678901234567890", "9007199254740993", "0.30000000000000004",
    "2.2250738585072011e-308", "0.500000000000000166533453693773481063544750213623046875", "8.988465674311579e+307",
    "0.1000000000000000055511151231257827021181583404541015625", "1" + "0" * 300, "0." + "3" * 400,
]  # fmt: skip
STRANGE_NAMES = [
    "Serenity", "Joy}", "}", "{", "", "1", "10", 'a"score":1}', '"score":1', "a\\", 'a\\"score":1', "é", "\n", "Joy ",
    '"},{"name":"Joy","score":1', "\u2028", "\x7f", "joy", "null", "😀", "},{", ":", "score", "name",
]  # fmt: skip

numbers = st.one_of(
    st.sampled_from(HARD_NUMBERS), st.floats(allow_nan=False, allow_infinity=False).map(repr), st.floats(0, 1).map(repr)
).map(Literal)
texts = st.sampled_from(["", "a", "wörd", '"}', "x\ny", "😀"])


@st.composite
def _score(draw: st.DrawFn, name: str, form: int) -> Any:
    number = draw(numbers)
    match form:
        case 1:
            return Pairs([("score", number), ("name", name)])
        case 2:
            return Pairs([("name", name), ("id", 3), ("score", number)])
        case 3:
            return Pairs([("name", name), ("score", number), ("more", {"score": draw(numbers)})])
        case 4:
            return Pairs([("name", name), ("score", draw(numbers)), ("score", number)])
        case 5:
            return Pairs([("name", name), ("score", number), ('a"score', draw(numbers))])
        case 6:
            return Pairs([("name", "Anger"), ("name", name), ("score", number), ("note", "}")])
        case 7:
            return Pairs([("name", name), ('"score', draw(numbers)), ("score", number)])
    return Pairs([("name", name), ("score", number)])


@st.composite
def _lists(draw: st.DrawFn, known: tuple[str, ...], rows: int, optional: bool) -> list[Any]:
    """A list of scores for each row: most of them with the same names in the same order."""
    names = st.sampled_from([*known[:6], *STRANGE_NAMES])
    usual = draw(st.lists(names, min_size=1, max_size=6, unique=draw(st.booleans())))
    # Usually as real servers write them.
    form = draw(st.sampled_from([0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]))
    calm = draw(st.booleans())
    found: list[Any] = []
    for _ in range(rows):
        kind = 0 if calm else draw(st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4, 5]))
        some = usual
        if kind == 1:
            some = draw(st.permutations(usual))
        elif kind == 2:
            some = usual[1:]
        elif kind == 3:
            some = draw(st.lists(names, max_size=4))
        elif kind == 4 and optional:
            found.append(None)
            continue
        forms = draw(st.integers(0, 7)) if kind == 5 else form
        found.append([draw(_score(name, forms)) for name in some])
    return found


_CONFIDENCE = numbers | st.none()
_SPAN = st.fixed_dictionaries({"begin": numbers, "end": numbers})
_WHOLE = st.integers(-(2**63), 2**63 - 1)
_POSITION = st.fixed_dictionaries({"begin": _WHOLE, "end": _WHOLE})
_SURE: dict[str, st.SearchStrategy[Any]] = {"confidence": _CONFIDENCE, "speaker_confidence": _CONFIDENCE}
_REQUIRED: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "face": {
        "frame": _WHOLE, "time": numbers, "prob": numbers,
        "box": st.fixed_dictionaries(dict.fromkeys("xywh", numbers)),
    },
    "prosody": {"time": _SPAN},
    "burst": {"time": _SPAN},
    "language": {"text": texts, "position": _POSITION},
    "ner": {
        "entity": texts, "position": _POSITION, "entity_confidence": numbers, "support": numbers, "uri": texts,
        "link_word": texts,
    },
    "facemesh": {},
}  # fmt: skip
_OPTIONAL: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "face": {},
    "prosody": {"text": texts | st.none(), **_SURE},
    "burst": {},
    "language": {"time": _SPAN | st.none(), **_SURE},
    "ner": {"time": _SPAN | st.none(), **_SURE},
    "facemesh": {},
}
_SCORES: dict[str, dict[str, tuple[tuple[str, ...], bool]]] = {
    "face": {"emotions": (EMOTIONS, False), "facs": (FACS, True), "descriptions": (FACE_DESCRIPTIONS, True)},
    "prosody": {"emotions": (EMOTIONS, False)},
    "burst": {"emotions": (EMOTIONS, False), "descriptions": (BURST_DESCRIPTIONS, False)},
    "language": {
        "emotions": (LANGUAGE_EMOTIONS, False), "sentiment": (SENTIMENT, True), "toxicity": (TOXICITY, True),
    },
    "ner": {"emotions": (LANGUAGE_EMOTIONS, False)},
    "facemesh": {"emotions": (EMOTIONS, False)},
}  # fmt: skip


@st.composite
def _rows(draw: st.DrawFn, model: str) -> list[Any]:
    count = draw(st.integers(0, 4))
    found = [
        draw(st.fixed_dictionaries(_REQUIRED[model], optional={**_OPTIONAL[model], "unknown": texts}))
        for _ in range(count)
    ]
    for field, (known, optional) in _SCORES[model].items():
        if optional and draw(st.booleans()):
            continue
        for one, scores in zip(found, draw(_lists(known, count, optional)), strict=True):
            one[field] = scores
    return found


@st.composite
def _model(draw: st.DrawFn, model: str) -> Any:
    if draw(st.integers(0, 9)) == 0:
        return None
    ids = draw(st.lists(st.sampled_from(["unknown", "face_0", "spk_1", ""]), max_size=2))
    found: dict[str, Any] = {"grouped_predictions": [{"id": name, "predictions": draw(_rows(model))} for name in ids]}
    if draw(st.booleans()):
        found["metadata"] = draw(st.sampled_from([None, {"confidence": 1, "detected_language": None}]))
    return found


@st.composite
def strange(draw: st.DrawFn, models: tuple[str, ...] = MODELS) -> str:
    """The JSON text of an answer that the schema allows."""
    style = draw(st.sampled_from(STYLES))
    sources: list[Any] = []
    for kind in draw(st.lists(st.sampled_from(["file", "url", "text", "failed"]), max_size=3)):
        source: dict[str, Any] = {"type": "url" if kind == "failed" else kind}
        if kind == "file":
            source |= {"filename": draw(texts), "content_type": None, "md5sum": "0"}
        elif kind != "text":
            source["url"] = draw(texts)
        if kind == "failed":
            sources.append({"source": source, "results": None, "error": draw(texts)})
            continue
        files: list[Any] = []
        for _ in range(draw(st.integers(0, 2))):
            chosen = draw(st.lists(st.sampled_from(models), unique=True, max_size=2))
            file: dict[str, Any] = {"file": draw(texts), "models": {model: draw(_model(model)) for model in chosen}}
            if draw(st.booleans()):
                file["file_type"] = draw(st.sampled_from([None, "image", "audio"]))
            files.append(file)
        errors = draw(
            st.lists(
                st.fixed_dictionaries({"message": texts, "file": texts}, optional={"model": texts | st.none()}),
                max_size=2,
            )
        )
        sources.append({"source": source, "results": {"predictions": files, "errors": errors}})
    return draw(st.sampled_from(["", " \n"])) + dumps(sources, style) + draw(st.sampled_from(["", "\n"]))
