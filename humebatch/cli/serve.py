"""`humebatch serve`."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .. import server
from ..config import API_KEY_VARIABLE, Secret, api_key_from
from ..server.serving import CALLBACK_SECRET_VARIABLE
from .output import say
from .weights import offer

__all__ = ["serve"]


class _Unmeasured(StrEnum):
    absent = "absent"
    zero = "zero"


class _Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


async def serve(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Where jobs and results are kept.")] = Path(
        "humebatch-data"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 picks a free one.")] = 8000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            help=f"A key that clients must send; may be repeated, each key sees its own jobs. Default: "
            f"{API_KEY_VARIABLE}. Without one, everybody on this machine may use the server.",
        ),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            metavar="NAME",
            help="local: open models (default). fixed: made-up scores, for tests. MODEL=MEASURER: another measurer for "
            "one model, such as language=hf:FOLDER; may be repeated.",
        ),
    ] = None,
    unmeasured: Annotated[
        _Unmeasured,
        typer.Option(
            "--unmeasured",
            help="absent: leave out scores that were not measured. zero: write them as 0.0, for programs that read "
            "scores by position.",
        ),
    ] = _Unmeasured.absent,
    device: Annotated[
        _Device, typer.Option("--device", help="Where models run. auto: a CUDA device if there is one.")
    ] = _Device.auto,
    callback_secret: Annotated[
        str | None,
        typer.Option(
            "--callback-secret",
            metavar="SECRET",
            help=f"Signs the callbacks (whsec_…). Default: {CALLBACK_SECRET_VARIABLE}, which other users of this "
            "machine cannot read in the list of processes. Without one they are not signed.",
        ),
    ] = None,
    callback_allow: Annotated[
        list[str] | None,
        typer.Option(
            "--callback-allow",
            metavar="HOST",
            help="A host, address or CIDR range that callbacks may go to although it is not public; may be repeated.",
        ),
    ] = None,
    fetch: Annotated[
        bool | None,
        typer.Option(
            "--fetch/--no-fetch",
            help="Fetch the `urls` of submissions. Default: only if the server listens on loopback, where it may fetch "
            "from this machine too.",
            show_default=False,
        ),
    ] = None,
    fetch_allow: Annotated[
        list[str] | None,
        typer.Option(
            "--fetch-allow",
            metavar="HOST",
            help="Host, address or CIDR range to fetch from although it is not public; may be repeated.",
        ),
    ] = None,
) -> None:
    """Run the server. The first line on stdout is its base URL. Ctrl-C or SIGTERM stops it, with exit code 0."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # Through the same check as a client's key: a key with a stray newline would never match.
    given: list[str | None] = [*api_key] if api_key else [None]
    keys = [key for one in given if (key := api_key_from(one))]
    if not keys:
        say(f"no API key: everybody on this machine may use this server (--api-key or {API_KEY_VARIABLE})")
    if "fixed" not in (measure or ()):
        await offer()
    # Out of the environment in any case: the measuring processes inherit it.
    from_environment = os.environ.pop(CALLBACK_SECRET_VARIABLE, "")
    secret = callback_secret or from_environment
    await server.serve(
        data,
        host=host,
        port=port,
        api_keys=[key.reveal() for key in keys],
        measure=measure or ["local"],
        unmeasured=unmeasured.value,
        device=device.value,
        callback_secret=Secret(secret) if secret else None,
        callback_allow=callback_allow or (),
        fetch=fetch,
        fetch_allow=fetch_allow or (),
    )
