"""One HTML page that shows what was found: charts over time, the transcript and the errors (extra: report).

    html = report.page(["results"]).html

The page is a single file that loads nothing: the charting library and all numbers are inside. Its text comes from
the predictions and is escaped; its Content-Security-Policy lets no script run but the two that belong to it. Every
number of a chart stands in a table beneath it, and the tables need no scripts.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Callable, Iterable
from importlib.resources import files

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from . import words
from .colours import look
from .content import Given, collect, find, search

__all__ = ["Given", "Page", "find", "page"]


class Page(msgspec.Struct, frozen=True):
    """A finished page, and what was given that could not be read to its end (`error` says why)."""

    html: str
    broken: tuple[Given, ...]


def page(paths: Iterable[str | os.PathLike[str]], check: Callable[[], None] = lambda: None) -> Page:
    """The page about the predictions files that are found as by `find`, the same for the same files. Blocks meanwhile.

    Memory does not grow with the number of predictions, and neither does the page: long recordings are drawn as
    means over bins, and what is left out is counted in it. What is not there or cannot be read to its end is named in
    the page; `SourceError`, with a line for each, is raised if there is nothing else. `check` is called every few
    thousand rows; what it raises ends the reading.
    """
    content = collect(*search(paths), check)
    scripts = (get_plotlyjs(), _own("page.js"))
    html = _template().render(
        content=content,
        style=_own("page.css"),
        scripts=scripts,
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
    )
    return Page(html, tuple(given for given in content.given if given.error is not None))


def _own(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")


@functools.cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        loader=PackageLoader(__name__, "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(words, name) for name in words.__all__} | {"look": look}
    return environment.get_template("page.html.j2")
