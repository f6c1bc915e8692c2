"""The contenders of the upload benchmark: `python -m benchmarks.senders NAME BASE_URL AT_ONCE FILE...`.

Each runs in a process of its own, sends every file as one job, and prints one line of JSON: the seconds from the
first submission to the last answer, and the process's peak memory (RSS, bytes). Imports and set-up do not count.
`hume` runs in an environment of its own and must not need anything of ours, so nothing here is imported at the top.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any


def _say(seconds: float, **more: Any) -> None:
    # VmHWM, for ru_maxrss still holds the size of the process which started this one; elsewhere there is no better.
    try:
        status = Path("/proc/self/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, **more}))


async def humebatch(base_url: str, at_once: int, files: list[str]) -> None:
    """Ours, by its public surface."""
    import humebatch as hb

    limits = hb.Limits(uploads=at_once)
    async with hb.BatchClient(base_url=base_url, api_key="benchmark", limits=limits) as client:
        began = time.perf_counter()
        submissions = (hb.Submission(files=[path], models=hb.Models(face=hb.Face())) for path in files)
        sent = 0
        async with client.submit_many(submissions) as outcomes:
            async for outcome in outcomes:
                if outcome.error is not None:
                    raise outcome.error
                sent += 1
        assert sent == len(files)
        _say(time.perf_counter() - began, resends=client.stats.resends)


async def aiohttp_form(base_url: str, at_once: int, files: list[str]) -> None:
    """What one writes by hand with aiohttp: FormData with an open file."""
    import aiohttp

    slots = asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession() as session:

        async def one(path: str) -> None:
            async with slots:
                form = aiohttp.FormData()
                form.add_field("json", '{"models":{"face":{}}}')
                form.add_field("file", open(path, "rb"), filename=Path(path).name)
                async with session.post(base_url + "/v0/batch/jobs", data=form) as reply:
                    assert reply.status == 200
                    await reply.read()

        began = time.perf_counter()
        await asyncio.gather(*map(one, files))
        _say(time.perf_counter() - began)


async def hume(base_url: str, at_once: int, files: list[str]) -> None:
    """The vendor's own asynchronous client."""
    from hume import AsyncHumeClient  # type: ignore[import-not-found]  # lives in an environment of its own
    from hume.expression_measurement.batch.types import (  # type: ignore[import-not-found]
        Face,
        InferenceBaseRequest,
        Models,
    )

    client = AsyncHumeClient(api_key="benchmark", base_url=base_url, timeout=600)
    slots = asyncio.Semaphore(at_once)

    async def one(path: str) -> None:
        async with slots:
            with open(path, "rb") as file:
                await client.expression_measurement.batch.start_inference_job_from_local_file(
                    file=[file], json=InferenceBaseRequest(models=Models(face=Face()))
                )

    # Its first access builds the client and imports what it needs.
    _ = client.expression_measurement.batch
    began = time.perf_counter()
    await asyncio.gather(*map(one, files))
    _say(time.perf_counter() - began)


def sendfile(base_url: str, at_once: int, files: list[str]) -> None:
    """The floor: threads, sockets and sendfile(2), no HTTP client at all."""
    import socket
    from concurrent.futures import ThreadPoolExecutor
    from urllib.parse import urlsplit

    where = urlsplit(base_url)

    def one(path: str) -> None:
        framing = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n', b"\r\n--b--\r\n"
        size = os.path.getsize(path) + sum(map(len, framing))
        with socket.create_connection((where.hostname, where.port)) as connection, open(path, "rb") as file:
            connection.sendall(
                b"POST /v0/batch/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                + f"Content-Length: {size}\r\n\r\n".encode()
                + framing[0]
            )
            connection.sendfile(file)
            connection.sendall(framing[1])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, files))
    _say(time.perf_counter() - began)


def main(name: str, base_url: str, at_once: int, files: list[str]) -> None:
    """Run one contender; a name that ends in `+uvloop` runs under uvloop."""
    kind, _, loop = name.partition("+")
    run: Any = asyncio.run
    if loop == "uvloop":
        import uvloop

        run = uvloop.run
    if kind == "sendfile":
        sendfile(base_url, at_once, files)
    else:
        contender = {"humebatch": humebatch, "aiohttp": aiohttp_form, "hume": hume}[kind]
        run(contender(base_url, at_once, files))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
