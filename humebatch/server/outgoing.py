"""How the server connects to a URL that a caller chose: to an address that the `Guard` looked at, never to a name.

Callbacks and fetched media go out by this one way. A session follows no redirects by itself, keeps no cookies and
no connections, and ignores proxies of the environment.
"""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec
from yarl import URL

from .guard import Guard, Refusal

__all__ = ["Route", "find_route", "open_session", "origin_of", "parse_url"]


class Route(msgspec.Struct, frozen=True):
    """Where to connect for a URL. `url` holds an address in place of the name, `host` is the `Host` header.

    `server_name` is the name that the certificate must be for.
    """

    url: URL
    host: str
    server_name: str | None


def open_session(**options: Any) -> aiohttp.ClientSession:
    """A session for requests to strangers. `options` go to aiohttp."""
    return aiohttp.ClientSession(
        # One connection per request: hosts are many, and each is looked at again before it is connected to.
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "humebatch-server"},
        trust_env=False,
        **options,
    )


async def find_route(guard: Guard, url: URL, *, turn: int = 0) -> Route:
    """Resolve the host of `url` once. Raises `Refusal` when it must not be connected to, `OSError` without an address.

    `turn` counts the tries: a host with several addresses is tried at another one each time.
    """
    addresses = await guard.addresses(url.raw_host or "", url.port or 0)
    return Route(
        url=url.with_host(addresses[turn % len(addresses)]),
        host=url.host_port_subcomponent or "",
        server_name=url.raw_host,
    )


def parse_url(text: str) -> URL:
    """An http or https URL with a host, or a `Refusal`."""
    try:
        # Encoded: ids and signatures may stand in the query, so nothing is rewritten.
        url = URL(text, encoded=text.isascii())
        if url.raw_host and url.scheme in ("http", "https"):
            return url
    except ValueError:
        pass
    raise Refusal("its URL cannot be used")


def origin_of(text: str) -> str:
    """What the log may say of a URL: the path and the query may be secrets, and so may what stands before the @."""
    try:
        return str(URL(text).origin())
    except ValueError:
        return "an unusable URL"
