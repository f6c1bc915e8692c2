"""The self-hosted service: `create_app` gives an `aiohttp.web.Application`, `serve` runs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import create_app as create_app
    from .callbacks import CallbackLimits as CallbackLimits
    from .fetching import FetchLimits as FetchLimits
    from .intake import IntakeLimits as IntakeLimits
    from .runner import RunnerLimits as RunnerLimits
    from .serving import serve as serve

# Measuring processes import from this package, and each of them would load the HTTP server first.
_HOMES = {
    "CallbackLimits": "callbacks",
    "FetchLimits": "fetching",
    "IntakeLimits": "intake",
    "RunnerLimits": "runner",
    "create_app": "app",
    "serve": "serving",
}

__all__ = ["CallbackLimits", "FetchLimits", "IntakeLimits", "RunnerLimits", "create_app", "serve"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
