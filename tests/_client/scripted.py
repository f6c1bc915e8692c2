"""A job server that says what a test tells it to, over aiohttp.web."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

JOB = "11111111-2222-4333-8444-555555555555"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """The base URL of a server that gives every request to `answer`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def details(status: str, **state: Any) -> dict[str, Any]:
    """A job as the service describes it."""
    return {
        "type": "INFERENCE",
        "job_id": JOB,
        "request": {"files": [], "models": {}, "urls": [], "text": [], "callback_url": None, "notify": False},
        "state": {"status": status, "created_timestamp_ms": 1, **state},
    }


def telling(*states: dict[str, Any]) -> Answer:
    """One state after the other, then the last for ever."""
    left = list(states)

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(left.pop(0) if len(left) > 1 else left[0])

    return answer
