"""The service itself: the batch API on aiohttp.web, SQLite and files, measuring with open models."""

from __future__ import annotations

from .app import create_app
from .callbacks import CallbackLimits
from .intake import IntakeLimits
from .runner import RunnerLimits
from .serving import serve

__all__ = ["CallbackLimits", "IntakeLimits", "RunnerLimits", "create_app", "serve"]
