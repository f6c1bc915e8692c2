"""The embedded default: a client on a server of its own, in a child process, measuring with local models."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Literal

from ._client.batch import BatchClient
from ._client.embedded import embedded_server
from .config import Limits, PollPolicy, RetryPolicy, Timeouts

__all__ = ["client"]


@contextlib.asynccontextmanager
async def client(
    *,
    data: str | os.PathLike[str] | None = None,
    measure: Literal["local", "fixed"] = "local",
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    retry: RetryPolicy | None = None,
    poll: PollPolicy | None = None,
) -> AsyncIterator[BatchClient]:
    """`async with humebatch.local.client() as client`: no server at hand, same calls.

    `data`: folder that keeps jobs and results; without one they vanish with the client, so save what
    you want to keep. `measure`: `local` for open models (extra `local`), `fixed` for made-up scores in
    tests. Raises `ConnectFailed` when the server does not come up.
    """
    async with (
        embedded_server(data=data, measure=measure) as server,
        BatchClient(
            base_url=server.base_url,
            api_key=server.api_key,
            limits=limits,
            timeouts=timeouts,
            retry=retry,
            poll=poll,
        ) as opened,
    ):
        opened._embedded = server.identity
        yield opened
