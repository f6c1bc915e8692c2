"""One conformance check for all measurers, ours and those of other packages: `check_measurer`.

It knows a measurer only by the protocol of `humebatch.server.measure`, and tries it on files that it makes itself and
on those that it is given. What it cannot judge is whether the numbers are true.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final

import msgspec

from .._wire.batch import RequestBody
from ..jobs import MODEL_NAMES, Transcription
from ..server.echo import echo_of
from ..server.intake import Received
from ..server.measure import APPLIES_TO, Card, FileType, Finding, Measurer, Media, Row, Unmeasurable
from ..server.measure.recording import Recording
from ..server.media import single
from .growth import growth
from .made_media import damaged, empty, long_media, made_media
from .rules import RULES, NonConforming, Violation, of_card, of_findings

__all__ = ["check_measurer"]

# What is made for each model, for a start and in length.
_MADE: Final[dict[str, FileType]] = {
    "face": "image", "burst": "audio", "prosody": "audio", "language": "text", "ner": "text", "facemesh": "landmarks",
}  # fmt: skip
_LONG: Final[dict[str, FileType]] = {**_MADE, "face": "video_no_audio"}
# The shorter one is long too: what only a start takes, such as weights, buffers and windows, is in both.
_LENGTHS: Final = (10, 30)
_TIMES_CLOSED: Final = 4
_SWITCHES: Final[dict[str, Any]] = {
    "facs": {}, "descriptions": {}, "sentiment": {}, "toxicity": {}, "identify_faces": True, "save_faces": True,
}  # fmt: skip


def check_measurer(
    make: Callable[[], Measurer],
    *,
    media: Sequence[str | os.PathLike[str]] = (),
    config: Any = None,
    transcription: Transcription | None = None,
    growth_bytes: int = 32 * 2**20,
    growth_seconds: float = 60.0,
    skip: Collection[str] = (),
) -> None:
    """Check a measurer against `RULES`. Raises `NonConforming`, which names every rule that it breaks. Blocks.

    `make` builds a new measurer each time; a function of a module, because a child process calls it too. `media`:
    files that the measurer finds something in, where made ones will not do: no made picture shows a face, and no made
    sound is speech. `config`: the options of its model; by default the API's defaults with every switch on.
    `transcription`: the options of a request; None: nothing is transcribed.
    `growth_bytes`: what 30 minutes (of text: 30 · 64 KiB) may take more than 10; at most `growth_seconds` are spent on
    either. `skip`: rules that are not checked.
    """
    if unknown := set(skip) - RULES.keys():
        raise ValueError(f"skip: unknown rules {', '.join(sorted(unknown))}; expected some of {', '.join(RULES)}")
    measurer = make()
    violations = of_card(measurer.card, measurer.model)
    if measurer.model in MODEL_NAMES and isinstance(measurer.card, Card):
        with tempfile.TemporaryDirectory(prefix="humebatch-check-", ignore_cleanup_errors=True) as folder:
            trial = _Trial(make, measurer, config or _everything(measurer.model), transcription, Path(folder))
            violations += trial.violations([Path(one) for one in media], skip)
            if "memory" not in skip and _LONG[measurer.model] != "landmarks":
                violations += trial.memory(growth_bytes, growth_seconds)
    if broken := [one for one in violations if one.rule not in skip]:
        raise NonConforming(broken)


class _Outcome(msgspec.Struct):
    """What one measuring came to: what was found, and how it ended, unless it came to its end."""

    media: Media
    findings: list[Finding] = []
    unmeasurable: str | None = None
    error: str | None = None

    def take(self, findings: Iterator[Finding]) -> bool:
        """One finding more; False at the end."""
        try:
            self.findings.append(next(findings))
        except StopIteration:
            return False
        except Unmeasurable as error:
            self.unmeasurable = str(error)
            return False
        except Exception as error:  # noqa: BLE001 - whatever a measurer raises is what is looked for
            self.error = _named(error)
            return False
        return True

    def comparable(self) -> list[Any]:
        """All of it, in a form in which equal things are equal."""
        return [*map(_comparable, self.findings), self.unmeasurable, self.error]


class _Trial:
    """A measurer, its options, and a folder to try it in. Methods give what is wrong."""

    def __init__(
        self,
        make: Callable[[], Measurer],
        measurer: Measurer,
        config: Any,
        transcription: Transcription | None,
        folder: Path,
    ) -> None:
        self._make = make
        self._measurer = measurer
        self._model = measurer.model
        self._config = config
        self._transcription = transcription
        self._folder = folder

    def violations(self, given: Sequence[Path], skip: Collection[str]) -> list[Violation]:
        """All rules but those of the card and of memory."""
        found: list[Violation] = []
        # Made-up scores open no file, so no file can be wrong.
        if not self._measurer.card.made_up:
            found += [*self._hopeless(), *self._cut(given)]
        files = [*map(_given, given), *(made_media(self._new(), _MADE[self._model], variant) for variant in (0, 1))]
        outcomes = [self._measured(self._measurer, one) for one in files]
        for outcome in outcomes:
            if outcome.error is not None:
                found.append(Violation("findings", f"{outcome.media.name}: it raised {outcome.error}"))
            for one in of_findings(outcome.findings, self._measurer.card, self._model):
                found.append(Violation(one.rule, f"{outcome.media.name}: {one.message}"))
        telling = [outcome for outcome in outcomes if any(isinstance(one, Row) for one in outcome.findings)]
        if not telling:
            why = next((one.unmeasurable for one in outcomes if one.unmeasurable), "no rows")
            message = f"it found nothing in any file ({why}); give `media` that it finds something in"
            return [*found, Violation("finds", message)]
        checks: dict[str, Callable[[_Outcome, _Outcome], Iterator[str]]]
        checks = {"deterministic": self._twice, "cancelled": self._cancelled, "together": self._together}
        for rule, check in checks.items():
            if rule not in skip:
                found += [Violation(rule, message) for message in check(telling[0], telling[-1])]
        return found

    def memory(self, most: int, seconds: float) -> list[Violation]:
        """What a long file takes more than a short one."""
        try:
            pickle.dumps(self._make)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(f"make: expected a function of a module, for a child process calls it: {error}") from None
        folder, kind = self._new(), _LONG[self._model]
        files = [long_media(folder, kind, length) for length in _LENGTHS]
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                grown = pool.submit(growth, self._make, files, self._config, str(folder), seconds).result()
            except BrokenProcessPool:
                return [Violation("memory", "the process that measured a long file died")]
            except Exception as error:  # noqa: BLE001 - whatever a measurer raises is what is looked for
                return [Violation("memory", f"on a long file it raised {_named(error)}")]
        if grown <= most:
            return []
        unit = "times 64 KiB of text take" if kind == "text" else "minutes take"
        sizes = f"{grown / 2**20:.0f} MiB more than {_LENGTHS[0]}, expected at most {most / 2**20:.0f}"
        return [Violation("memory", f"{_LENGTHS[1]} {unit} {sizes}")]

    def _new(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder))

    def _begun(self, measurer: Measurer, media: Media) -> Iterator[Finding]:
        return measurer.measure(Recording(media, self._transcription, scratch=self._new()), self._config)

    def _measured(self, measurer: Measurer, media: Media) -> _Outcome:
        outcome = _Outcome(media)
        findings = self._begun(measurer, media)
        while outcome.take(findings):
            pass
        return outcome

    def _hopeless(self) -> Iterator[Violation]:
        """Files in which nothing can be measured."""
        folder, kinds = self._new(), sorted(APPLIES_TO[self._model])
        files = [
            (rule, make(folder, kind)) for rule, make in (("empty", empty), ("damaged", damaged)) for kind in kinds
        ]
        files.append(("wrong_kind", made_media(folder, "audio" if self._model in ("face", "facemesh") else "image")))
        for rule, media in files:
            outcome = self._measured(self._measurer, media)
            if outcome.error is not None:
                yield Violation(rule, f"{media.name}: it raised {outcome.error}; expected Unmeasurable")
            elif outcome.unmeasurable is None:
                yield Violation(rule, f"{media.name}: it was measured; expected Unmeasurable")
            elif not outcome.unmeasurable.strip():
                yield Violation(rule, f"{media.name}: Unmeasurable does not say why")

    def _cut(self, given: Sequence[Path]) -> Iterator[Violation]:
        folder = self._new()
        for path in given:
            half = folder / f"half-{path.name}"
            data = path.read_bytes()
            half.write_bytes(data[: len(data) // 2])
            outcome = self._measured(self._measurer, _given(half))
            if outcome.error is not None:
                yield Violation("damaged", f"the first half of {path.name}: it raised {outcome.error}")

    def _twice(self, expected: _Outcome, _other: _Outcome) -> Iterator[str]:
        if self._measured(self._measurer, expected.media).comparable() != expected.comparable():
            yield f"{expected.media.name}: measured a second time, it gives other findings"

    def _cancelled(self, expected: _Outcome, _other: _Outcome) -> Iterator[str]:
        name = expected.media.name
        opened: list[int] = []
        for _ in range(_TIMES_CLOSED):
            findings: Any = self._begun(self._measurer, expected.media)
            try:
                next(findings, None)
                if hasattr(findings, "close"):
                    findings.close()
            except Exception as error:  # noqa: BLE001 - whatever a measurer raises is what is looked for
                yield f"{name}: closed midway, it raised {_named(error)}"
                return
            del findings
            opened.append(_open_files())
        # The first time may open what stays open for good, such as weights.
        if opened[-1] - opened[0] >= _TIMES_CLOSED - 1:
            yield f"{name}: closed midway, it leaves files open"
        if self._measured(self._measurer, expected.media).comparable() != expected.comparable():
            yield f"{name}: after it was closed midway, it gives other findings"

    def _together(self, *expected: _Outcome) -> Iterator[str]:
        measurers = [self._make() for _ in expected]
        if measurers[0] is measurers[1]:
            yield "make() returned the same measurer twice; expected a new one each time"
            return
        outcomes = [_Outcome(one.media) for one in expected]
        going = [
            (outcome, self._begun(measurer, outcome.media))
            for outcome, measurer in zip(outcomes, measurers, strict=True)
        ]
        while going:
            going = [(outcome, findings) for outcome, findings in going if outcome.take(findings)]
        for outcome, alone in zip(outcomes, expected, strict=True):
            if outcome.comparable() != alone.comparable():
                yield f"{outcome.media.name}: beside another measurer, it gives other findings"


def _everything(model: str) -> Any:
    """The options of a model with the API's defaults, and all its switches on."""
    config = getattr(echo_of(Received(body=RequestBody(), files=[])).models, model)
    known = config.__struct_fields__
    return msgspec.structs.replace(config, **{name: value for name, value in _SWITCHES.items() if name in known})


def _given(path: Path) -> Media:
    media = single(path, path.name, hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest())
    if media.file_type not in ("audio", "video"):
        return media
    from ..server.measure.tracks import kind_of

    return msgspec.structs.replace(media, file_type=kind_of(media))


def _comparable(finding: Finding) -> Any:
    try:
        return type(finding).__name__, msgspec.json.encode(finding)
    except (TypeError, ValueError):
        return repr(finding)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # not Linux: this part of the rule is not checked there
        return 0
