"""aiohttp's answers to what is no HTTP at all, as JSON like every other refusal.

They are made below the application, where no middleware sees them, and quote over several lines what
they could not parse, which may be a key.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from .._wire.codec import encode

__all__ = ["JsonAppRunner"]


class _Protocol(web.RequestHandler):
    __slots__ = ()

    def handle_error(self, *arguments: Any, **named: Any) -> web.StreamResponse:
        """The answer to a request that cannot be read."""
        response = super().handle_error(*arguments, **named)
        if response.status >= 500:
            body = {"message": "internal error of the server; its log says more"}
        else:
            # The first line says what is wrong; those below quote the request.
            first = ((response.text if isinstance(response, web.Response) else None) or "").partition("\n")[0]
            said = first.partition(": b'")[0].rstrip(":. ")
            body = {"message": f"the request is not valid HTTP: {said}", "field": "body"}
        refusal = web.Response(body=encode(body), status=response.status, content_type="application/json")
        refusal.force_close()
        return refusal


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        """A connection's protocol. aiohttp has no option for its class."""
        protocol = super().__call__()
        protocol.__class__ = _Protocol
        return protocol


class JsonAppRunner(web.AppRunner):
    """An `AppRunner` whose answers to broken HTTP are JSON."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        return server
