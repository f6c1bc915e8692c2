"""An example of a measurer of your own: emotions of language by any text classification model of transformers.

`serve --measure language=hf:MODEL_OR_FOLDER` selects it. The folder, or the model of the hub, holds what
`save_pretrained` of transformers writes: a model for sequence classification and its tokenizer. Labels of the model
that are a name of the API (`given`) become its scores; the model's other labels are not given, and names that it has no
label for are absent. docs/measurers.md goes through this file.

Nothing is known here of how good the model is, nor of which language it reads; the card says so.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ...jobs import Language
from ...predictions import LanguagePrediction, PositionInterval, Score, Scores
from ...vocabulary import LANGUAGE_EMOTIONS
from . import Card, Finding, Note, Row, Unmeasurable
from .card import Given, Weights
from .device import device, threads
from .recording import Recording

# Both would otherwise report to the hub which versions ask for a model.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Through importlib: the types of both are so many that checking them takes minutes.
torch: Any = importlib.import_module("torch")
transformers: Any = importlib.import_module("transformers")
transformers.utils.logging.disable_progress_bar()

__all__ = ["HfMeasurer", "given", "measurer"]

# Labels of GoEmotions that the API has another name for; the definitions are those of its paper.
_ALSO: Final[Mapping[str, tuple[str, str]]] = {
    "curiosity": ("Interest", "a strong desire to know or learn something"),
    "nervousness": ("Anxiety", "apprehension, worry, anxiety"),
    "remorse": ("Guilt", "regret or guilty feeling"),
}
_BLOCK: Final = 32  # segments read together: bounds the memory
_LONGEST: Final = 512  # tokens of a segment that are read; what most models can take


def measurer(model: str, argument: str) -> HfMeasurer:
    """The measurer of `language` with the model `argument`: a folder, or a name on the hub.

    Raises `Unmeasurable` for another model of the API, and when `argument` cannot be loaded or has no fitting label.
    """
    if model != HfMeasurer.model:
        raise Unmeasurable(f"{model} is not measured: hf: measures language only")
    return HfMeasurer(argument)


def given(labels: Mapping[int, str]) -> list[tuple[int, Given]]:
    """Which labels of a model (number → label) are names of the API, in the API's order, with the label's number.

    A label is one when it is spelled like the name, upper and lower case aside, or stands in the table above.
    """
    names = {name.lower(): name for name in LANGUAGE_EMOTIONS}
    found: dict[str, tuple[int, Given]] = {}
    for number, label in sorted(labels.items()):
        also, meaning = _ALSO.get(label.lower(), ("", ""))
        if name := names.get(label.lower()):
            found[name] = number, Given(name, "measured", label, "the model's label is the same word")
        elif also:
            found.setdefault(also, (number, Given(also, "measured", label, f"means the same: {meaning}")))
    return [found[name] for name in LANGUAGE_EMOTIONS if name in found]


class HfMeasurer:
    """Measures `language` with one model of transformers. Loads it at once, downloading it where it is not here."""

    model = "language"

    def __init__(self, name: str) -> None:
        folder = Path(name)
        try:
            options = {"local_files_only": folder.is_dir(), "trust_remote_code": False}
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
            self._network = transformers.AutoModelForSequenceClassification.from_pretrained(name, **options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise Unmeasurable(
                f"language is not measured: {name!r} is no folder and no model of the hub that transformers can load "
                f"for sequence classification ({_first_line(error)})"
            ) from error
        config = self._network.config
        self._columns = given(config.id2label)
        if not self._columns:
            labels = ", ".join(list(config.id2label.values())[:8])
            raise Unmeasurable(
                f"language is not measured: none of the labels of {name!r} is a name of the API ({labels})"
            )
        # As transformers' own pipeline decides it.
        self._each = config.problem_type == "multi_label_classification" or config.num_labels == 1
        self._limit = min(
            self._tokenizer.model_max_length, getattr(config, "max_position_embeddings", _LONGEST), _LONGEST
        )
        self._device = "cuda" if device() == "cuda" and torch.cuda.is_available() else "cpu"
        self._network.eval().to(self._device)
        torch.set_num_threads(threads())
        self.card = _card(name, folder, config, [column for _, column in self._columns])

    def measure(self, recording: Recording, config: Language, /) -> Iterator[Finding]:
        """One row per segment of the text or the transcript, in the group of its speaker.

        Sentiment and toxicity are not measured, with a note when they were asked for. Raises `Unmeasurable` for a
        text that cannot be read, and for speech without a transcript.
        """
        if (metadata := recording.metadata()) is not None:
            yield metadata
        identify = config.identify_speakers is True
        segments = recording.segments(config.granularity or "word", identify_speakers=identify)
        cut = 0
        for start in range(0, len(segments), _BLOCK):
            block = segments[start : start + _BLOCK]
            texts = list(dict.fromkeys(segment.text for segment in block))
            scores, shortened = self._read(texts)
            cut += shortened
            for segment in block:
                yield Row(
                    segment.speaker,
                    LanguagePrediction(
                        text=segment.text,
                        position=PositionInterval(segment.begin, segment.end),
                        emotions=scores[segment.text],
                        time=segment.time,
                        confidence=segment.confidence,
                        speaker_confidence=segment.speaker_confidence,
                    ),
                )
            if (time := block[-1].time) is not None:
                recording.progress(time.end)
        if cut:
            yield Note(f"the ends of {cut} segments were not read: the model reads {self._limit} tokens of each")
        for extra in ("sentiment", "toxicity"):
            if isinstance(getattr(config, extra), dict):
                yield Note(f"{extra} was asked for and is not measured by this model")

    def _read(self, texts: Sequence[str]) -> tuple[dict[str, Scores], int]:
        """The scores of each text, and how many of them are longer than what the model reads."""
        whole = self._tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        batch = self._tokenizer(
            list(texts), truncation=True, max_length=self._limit, padding=True, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            logits = self._network(**batch).logits.float()
        odds = (logits.sigmoid() if self._each else logits.softmax(dim=-1)).cpu().tolist()
        scores = {
            text: Scores(Score(column.name, round(row[number], 6)) for number, column in self._columns)
            for text, row in zip(texts, odds, strict=True)
        }
        return scores, sum(len(tokens) > self._limit for tokens in whole)


def _card(name: str, folder: Path, config: Any, names: Sequence[Given]) -> Card:
    # Where a folder lies is nobody's business but the server's.
    shown = folder.resolve().name if folder.is_dir() else name
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return Card(
        model="language",
        measurer=f"hf:{shown}",
        version=getattr(config, "_commit_hash", None) or f"transformers {transformers.__version__}",
        summary=f"a text classification model chosen by whoever runs the server: {shown} ({config.model_type})",
        weights=tuple(
            Weights(
                file=file.name,
                source=shown,
                licence="not known to this server",
                sha256=_sha256(file),
                size=file.stat().st_size,
            )
            for file in files
        ),
        names=tuple(names),
        limits=(
            "How good it is was not measured.",
            "Texts in a language that the model does not know are not recognised as such.",
            f"Of a segment {_LONGEST} tokens at most are read.",
        ),
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
