"""Fixtures for all tests: a real server, a client on it, and guards that make silent faults loud.

Guards, for every asynchronous test: no blocking call on the event loop, and no exception that only
reaches the loop's exception handler. Warnings are errors (see pyproject.toml).
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from blockbuster import BlockBuster
from hypothesis import settings

import humebatch as hb
from humebatch.server import guard
from humebatch.testing import RunningServer, running_server

# A busy machine takes as long as it takes.
settings.register_profile("humebatch", deadline=None)
settings.load_profile("humebatch")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_configure() -> None:
    # Under nohup or as a background job of a script these are ignored, and what the tests start would inherit that;
    # handlers are not inherited, and this one ignores them for us.
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key or URL of the person who runs the tests must not reach them."""
    for name in ("HUME_API_KEY", "HUMEBATCH_BASE_URL", "HUMEBATCH_CALLBACK_SECRET"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def loop_is_never_blocked() -> Iterator[None]:
    # Our code and the tests; what libraries do inside themselves is theirs.
    guard = BlockBuster("humebatch")
    guard.activate()
    try:
        yield
    finally:
        guard.deactivate()


@pytest.fixture(autouse=True)
def servers_do_not_go_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded submissions name real hosts: the servers of the tests must not look for them."""
    real = guard._resolve

    async def resolve(host: str, port: int) -> list[str]:
        last = host.rstrip(".").rpartition(".")[2].lower()
        if last.isalpha() and last != "localhost":
            raise socket.gaierror(socket.EAI_NONAME, "tests resolve no names")
        return await real(host, port)

    monkeypatch.setattr(guard, "_resolve", resolve)


@pytest.fixture
async def stray_exceptions() -> AsyncIterator[list[dict[str, Any]]]:
    """Exceptions that nobody awaited; the test fails if there are any at its end."""
    seen: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: seen.append(context))
    yield seen
    loop.set_exception_handler(before)
    assert seen == []


@pytest.fixture
async def server(stray_exceptions: list[dict[str, Any]]) -> AsyncIterator[RunningServer]:
    """A server with made-up scores."""
    async with running_server() as running:
        yield running


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[hb.BatchClient]:
    """A client on that server that polls fast."""
    async with hb.BatchClient(
        base_url=server.base_url, api_key=server.api_key, poll=hb.PollPolicy(first=0.02, cap=0.1)
    ) as opened:
        yield opened
