"""`check_measurer`: a good measurer passes, and each rule is named by what breaks it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from humebatch.predictions import TranscriptionMetadata
from humebatch.server.measure import Measurer, Note, Row
from humebatch.server.measure.card import Given, Weights
from humebatch.server.measure.fixed import measurer as fixed
from humebatch.testing import RULES, NonConforming, check_measurer
from tests.server.measure import conforming as toys

QUICK = frozenset(RULES) - {"memory"}


def changed(change: Any) -> Callable[[], Measurer]:
    return functools.partial(toys.Changed, change)


def carded(**changes: Any) -> Callable[[], Measurer]:
    return functools.partial(toys.WithCard, **changes)


def broken(make: Callable[[], Measurer], **options: Any) -> dict[str, str]:
    """The rules that are broken, with what is said about them."""
    with pytest.raises(NonConforming) as found:
        check_measurer(make, **options)
    messages: dict[str, str] = {}
    for one in found.value.violations:
        messages[one.rule] = f"{messages.get(one.rule, '')}{one.message}\n"
        assert f"- {one.rule}: {one.message}" in str(found.value)
    assert messages.keys() <= RULES.keys()
    return messages


def test_a_good_one_passes() -> None:
    check_measurer(toys.Good)


def test_a_good_one_passes_on_given_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("One line.\nAnother one.\n")
    check_measurer(toys.Good, media=[tmp_path / "mine.txt"], skip=["memory"])


@pytest.mark.parametrize("model", ["face", "burst", "prosody", "language", "ner", "facemesh"])
def test_made_up_scores_pass(model: str) -> None:
    check_measurer(functools.partial(fixed, model), skip=["memory"])


JOY = toys.JOY
BREAKING: list[tuple[str, str, Callable[[], Measurer]]] = [
    ("card", "summary is empty", carded(summary=" ")),
    ("card", "about the model 'ner'", carded(model="ner")),
    ("card", "no reason", carded(names=(toys.CARD.names[0], Given("Joy", "measured", "joy", "")))),
    ("card", "not in the vocabulary", carded(names=(*toys.CARD.names, Given("Glee", "measured", "x", "x")))),
    ("card", "more than once", carded(names=(*toys.CARD.names, JOY))),
    ("card", "order of the vocabulary", carded(names=toys.CARD.names[::-1])),
    ("card", "no sha256", carded(weights=(Weights(file="w", source="s", licence="MIT", sha256="0", size=1),))),
    ("card", "no licence", carded(weights=(Weights(file="w", source="s", licence="", sha256="0" * 64, size=1),))),
    ("finds", "never anything to measure", changed(toys.nothing)),
    ("findings", "LookupError: no such thing", changed(toys.good_then_raises)),
    ("findings", "NerPrediction, not a LanguagePrediction", changed(toys.of_another_model)),
    ("findings", "a str, which is no Finding", changed(toys.Then("a finding"))),
    ("findings", "the metadata cannot be written", changed(toys.Then(TranscriptionMetadata(toys.NoFloat(1), "en")))),
    ("finite", "confidence is nan", changed(toys.Then(TranscriptionMetadata(float("nan"), "en")))),
    ("findings", "a note is empty", changed(toys.Then(Note(" ")))),
    ("findings", "'../frame.png' has no plain name", changed(toys.Then(toys.PICTURE))),
    ("findings", "'face_1' cannot be merged", changed(toys.Then(toys.STRANGERS))),
    ("findings", "'a b' is not a plain name", changed(toys.Then(Row("a b", toys.Good().prediction("x", 9999))))),
    ("names", "'Glee' in emotions is not in the vocabulary", changed(toys.Scored([("Glee", 0.5)]))),
    ("names", "'Sadness' in emotions is not among the names", changed(toys.Scored([("Sadness", 0.5)]))),
    ("names", "'Joy' stands more than once", changed(toys.Scored([("Joy", 0.5), ("Joy", 0.5)]))),
    ("finite", "'Joy' in emotions is nan", changed(toys.Scored([("Joy", float("nan"))]))),
    ("finite", "'Joy' in emotions is inf", changed(toys.Scored([("Joy", float("inf"))]))),
    ("order", "at character 100 follows one at 900", changed(toys.backwards)),
    ("order", "from character 5005 to 5000", changed(toys.inside_out)),
    ("cancelled", "GeneratorExit", changed(toys.goes_on)),
    ("cancelled", "leaves files open", changed(toys.leaves_open)),
    ("cancelled", "other findings", changed(toys.remembers)),
    ("together", "other findings", changed(toys.shares)),
    ("empty", "was measured; expected Unmeasurable", changed(toys.silent_when_empty)),
    ("empty", "KeyError", changed(toys.Trips("empty"))),
    ("damaged", "does not say why", changed(toys.speechless)),
    ("damaged", "KeyError", changed(toys.Trips("damaged"))),
    ("wrong_kind", "KeyError: 'header'; expected Unmeasurable", changed(toys.Trips("made-0.png"))),
]


@pytest.mark.parametrize(("rule", "words", "make"), BREAKING, ids=[f"{one[0]}: {one[1]}" for one in BREAKING])
@pytest.mark.filterwarnings("ignore:Exception ignored in")
def test_what_breaks_a_rule(rule: str, words: str, make: Callable[[], Measurer]) -> None:
    try:
        found = broken(make, skip=["memory"])
    finally:
        while toys.KEPT:
            toys.KEPT.pop().close()
    assert set(found) == {rule}
    assert words in found[rule]


def test_what_differs_from_time_to_time() -> None:
    # These cannot be told from each other: dice fall differently in every check.
    assert "deterministic" in broken(changed(toys.dice), skip=["memory"])
    assert "deterministic" in broken(changed(toys.counts), skip=["memory"])


@pytest.mark.parametrize("model", ["smell", ""])
def test_a_model_that_there_is_not(model: str) -> None:
    class Other(toys.Good):
        pass

    Other.model = model
    assert set(broken(Other)) == {"card"}


def test_no_card_at_all() -> None:
    class Bare(toys.Good):
        card: Any = None

    assert "NoneType, not a Card" in broken(Bare)["card"]


def test_one_measurer_for_all() -> None:
    one = toys.Good()
    assert "same measurer twice" in broken(lambda: one, skip=["memory"])["together"]


def test_every_broken_rule_is_named() -> None:
    scores = changed(toys.Scored([("Glee", float("nan"))]))
    assert set(broken(scores, skip=["memory"])) == {"names", "finite"}


def test_rules_can_be_left_out() -> None:
    check_measurer(changed(toys.Scored([("Glee", 0.5)])), skip=["memory", "names"])
    with pytest.raises(ValueError, match="unknown rules nmes; expected some of card"):
        check_measurer(toys.Good, skip=["nmes"])


def test_rows_that_are_held() -> None:
    assert "MiB more than 10, expected at most 8" in broken(changed(toys.hoards), growth_bytes=8 * 2**20)["memory"]


def test_a_process_that_dies_of_a_long_file() -> None:
    assert "died" in broken(changed(toys.dies))["memory"]


def test_a_child_process_must_be_able_to_make_it() -> None:
    class Local(toys.Good):
        pass

    with pytest.raises(TypeError, match="make: expected a function of a module"):
        check_measurer(Local)


def test_all_options_are_switched_on() -> None:
    seen: list[Any] = []

    class Curious(toys.Good):
        def measure(self, recording: Any, config: Any, /) -> Any:
            seen.append(config)
            return super().measure(recording, config)

    check_measurer(Curious, skip=["memory"])
    assert all(one.sentiment == {} and one.toxicity == {} and one.granularity == "word" for one in seen)
    mine = msgspec.structs.replace(seen[0], granularity="sentence")
    seen.clear()
    check_measurer(Curious, config=mine, skip=["memory"])
    assert all(one is mine for one in seen)
