"""The sources and files of a job in the order of its results, and what measuring has told of each file so far."""

from __future__ import annotations

from pathlib import Path

import anyio
import msgspec

from ..predictions import ResultError, Source
from .children import ChildFailed
from .measure import Media
from .measure.running import Begun, Failed, Found, Opened, Told

__all__ = ["Begin", "Broken", "End", "File", "Step"]


class Begin(msgspec.Struct):
    """A source begins."""

    source: Source


class End(msgspec.Struct):
    """A source ends; `error`: what broke it off, and which file that was."""

    error: ResultError | None = None


class Broken(msgspec.Struct):
    """A source of which nothing can be measured."""

    source: Source
    error: str


class File(msgspec.Struct):
    """A file of the current source, and what its measuring has told so far."""

    media: Media
    folder: Path
    ready: anyio.Event
    begun: list[str] = []
    """Models that were tried, the last one at the end."""
    logged_at: float = 0.0
    applicable: list[str] | None = None
    found: dict[str, Found] = {}
    errors: list[Failed] = []

    def take(self, told: Told) -> None:
        """One step of the process that measures it."""
        match told:
            case Opened(file_type, models):
                # A second process, after a crash, is asked for one model only.
                if self.applicable is None:
                    self.applicable = models
                    self.media = msgspec.structs.replace(self.media, file_type=file_type)
            case Begun(model):
                self.begun.append(model)
            case Found(model):
                self.found[model] = told
            case Failed() if told not in self.errors:
                # After a crash each further process says again what is wrong with the file as a whole.
                self.errors.append(told)

    def blame(self, error: ChildFailed) -> str | None:
        """The process died or was stopped in the middle of something: the model that it was about, if any."""
        model = self.begun[-1] if self.begun else None
        what = "opening the file" if model is None else f"measuring {model}"
        self.errors.append(Failed(model, f"{what} failed: {error}"))
        return model

    def remaining(self) -> list[str]:
        """The models that were not tried."""
        return [model for model in self.applicable or () if model not in self.begun]


Step = Begin | End | Broken | File
"""What the results are made of, one after the other."""
