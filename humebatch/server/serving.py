"""Running the application: one listening socket, the base URL on stdout, and an orderly stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import anyio
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from ..config import Secret
from ..errors import ConfigError
from .app import create_app
from .guard import LOOPBACK
from .protocol import JsonAppRunner

__all__ = ["CALLBACK_SECRET_VARIABLE", "serve"]

CALLBACK_SECRET_VARIABLE = "HUMEBATCH_CALLBACK_SECRET"  # noqa: S105 - its name

# Uploads and downloads in flight get this long to end when the server is told to stop, in seconds.
_DRAIN = 10.0


async def serve(
    data: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_keys: Sequence[str] = (),
    measure: str | Sequence[str] = "local",
    unmeasured: Literal["absent", "zero"] = "absent",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    callback_secret: str | Secret | None = None,
    callback_allow: Sequence[str] = (),
    fetch: bool | None = None,
    fetch_allow: Sequence[str] = (),
    until_stdin_closes: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM (or the end of stdin). `port=0` picks a free one.

    The first line on stdout is the base URL, written when connections are accepted; `ready` takes its
    place. `fetch`: whether the `urls` of submissions are fetched; None fetches them if `host` is loopback. A server on
    loopback may fetch from this machine too. The other arguments are those of `create_app`. Raises `ConfigError`
    for these, for a bad address, a folder in use, or an open server on a public address: without keys it listens on
    loopback only.
    """
    if not api_keys and not _loopback(host):
        raise ConfigError(
            f"api_key: a server on {host} needs one (--api-key or HUME_API_KEY); without a key it listens on "
            "127.0.0.1 only",
            field="api_key",
        )
    fetches = _loopback(host) if fetch is None else fetch
    if fetch_allow and not fetches:
        raise ConfigError("fetch_allow: this server fetches no URLs; switch it on with --fetch", field="fetch_allow")
    app = create_app(
        data,
        api_keys=api_keys,
        measure=measure,
        unmeasured=unmeasured,
        device=device,
        callback_secret=callback_secret,
        callback_allow=callback_allow,
        fetch=fetches,
        fetch_allow=(*fetch_allow, *(LOOPBACK if _loopback(host) else ())),
    )
    # Requests carry people's file names and, in query strings, callers' own ids: no access log.
    http_log = logging.getLogger("humebatch.server.http")
    http_log.addFilter(_not_about_bytes)
    runner = JsonAppRunner(app, access_log=None, logger=http_log, shutdown_timeout=_DRAIN)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"host/port: cannot listen on {host}:{port}: {error}", field="port") from error
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        (ready or _announce)(_base_url(runner, host))
        async with anyio.create_task_group() as group:
            if until_stdin_closes:
                group.start_soon(_watch_stdin, stop)
            await stop.wait()
            group.cancel_scope.cancel()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        await runner.cleanup()


def _not_about_bytes(record: logging.LogRecord) -> bool:
    # aiohttp quotes what it cannot parse, and a malformed header may hold a key. The client was told.
    return not (record.exc_info and isinstance(record.exc_info[1], BadHttpMessage))


def _announce(base_url: str) -> None:
    print(base_url, flush=True)  # noqa: T201 - stdout is this command's data


def _base_url(runner: web.AppRunner, host: str) -> str:
    port = runner.addresses[0][1]
    shown = host if host not in ("", "0.0.0.0", "::") else "127.0.0.1"  # noqa: S104 - compared, not bound
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _watch_stdin(stop: asyncio.Event) -> None:
    """Set `stop` at the end of stdin: the parent is gone, or wants us to be."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while await reader.read(4096):
            pass
    finally:
        transport.close()
    stop.set()


@contextlib.contextmanager
def _removed(folder: Path) -> Iterator[None]:
    """Remove `folder` at the end of the block, whatever ends it: the parent that made it may have been killed."""
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # nothing may come in between
            signal.signal(number, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    """`python -m humebatch.server`: what the embedded server runs; `humebatch serve` is the same with help."""
    import argparse

    from ..config import API_KEY_VARIABLE

    parser = argparse.ArgumentParser(prog="python -m humebatch.server")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--measure", action="append", default=[])
    parser.add_argument("--unmeasured", choices=("absent", "zero"), default="absent")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--callback-allow", metavar="HOST", action="append", default=[])
    parser.add_argument("--fetch", action=argparse.BooleanOptionalAction)
    parser.add_argument("--fetch-allow", metavar="HOST", action="append", default=[])
    parser.add_argument("--until-stdin-closes", action="store_true")
    parser.add_argument("--temporary", action="store_true", help="remove --data at the end")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # Taken out of the environment, which the measuring processes inherit.
    key = os.environ.pop(API_KEY_VARIABLE, "")
    secret = os.environ.pop(CALLBACK_SECRET_VARIABLE, "")
    try:
        with (
            _removed(chosen.data) if chosen.temporary else contextlib.nullcontext(),
            contextlib.suppress(KeyboardInterrupt),
        ):
            asyncio.run(
                serve(
                    chosen.data,
                    port=chosen.port,
                    api_keys=[key] if key else [],
                    measure=chosen.measure,
                    unmeasured=chosen.unmeasured,
                    device=chosen.device,
                    callback_secret=secret or None,
                    callback_allow=chosen.callback_allow,
                    fetch=chosen.fetch,
                    fetch_allow=chosen.fetch_allow,
                    until_stdin_closes=chosen.until_stdin_closes,
                )
            )
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's message
        return 2
    return 0
