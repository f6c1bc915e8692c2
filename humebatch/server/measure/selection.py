"""Which measurer answers for which model: what `serve --measure`, `--unmeasured` and `--device` say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from ...errors import ConfigError
from ...jobs import MODEL_NAMES

__all__ = ["Selection", "Unmeasured"]

Unmeasured = Literal["absent", "zero"]


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """A measurer for every model.

    `base`: `local` (open models) or `fixed` (made-up scores, for tests), for every model that `chosen` does not name.
    `chosen`: model → `hf:MODEL_OR_FOLDER` or the name of an installed measurer. `unmeasured`: whether names that
    were not measured are left out, or written as 0.0 for programs that read scores by position.
    """

    base: Literal["local", "fixed"] = "local"
    chosen: Mapping[str, str] = {}
    unmeasured: Unmeasured = "absent"

    @classmethod
    def parse(cls, given: str | Iterable[str], *, unmeasured: str = "absent") -> Selection:
        """From the values of `--measure`: `local`, `fixed`, and any number of `MODEL=MEASURER`.

        Raises `ConfigError` for anything else.
        """
        base: Literal["local", "fixed"] = "local"
        chosen: dict[str, str] = {}
        for value in [given] if isinstance(given, str) else given:
            model, equals, measurer = value.partition("=")
            if not equals and value in ("local", "fixed"):
                base = "fixed" if value == "fixed" else "local"
            elif equals and measurer and model in MODEL_NAMES:
                chosen[model] = measurer
            elif equals and measurer:
                raise ConfigError(
                    f"measure: unknown model {model!r}: expected {', '.join(MODEL_NAMES)}", field="measure"
                )
            else:
                raise ConfigError(
                    f"measure: {value!r}: expected local, fixed, or MODEL=MEASURER such as language=hf:FOLDER",
                    field="measure",
                )
        if unmeasured not in ("absent", "zero"):
            raise ConfigError(f"unmeasured: {unmeasured!r}: expected absent or zero", field="unmeasured")
        return cls(base=base, chosen=chosen, unmeasured="zero" if unmeasured == "zero" else "absent")

    def of(self, model: str) -> str:
        """The measurer of `model`, as `measure.load` takes it."""
        return self.chosen.get(model, self.base)

    def __str__(self) -> str:
        """As the header `X-Humebatch-Measure` shows it; folders and arguments of measurers are not for callers."""
        named = [f"{model}={measurer.partition(':')[0]}" for model, measurer in sorted(self.chosen.items())]
        return ", ".join([self.base, *named])
