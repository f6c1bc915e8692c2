"""The line between a client and a service, with the faults that lines have, at exact byte counts.

What `toxiproxy` calls `reset_peer` is `Reset` here, `limit_data` is `Cut`, `timeout` is `Stall` and `bandwidth` is
`Slow`; `down` is its disabled proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections import deque
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import anyio
import msgspec

from ..errors import ConfigError

__all__ = ["Cut", "Proxy", "Reset", "Slow", "Stall", "proxying", "resets_when_closed"]

_PIECE = 64 * 1024
_STEPS_PER_SECOND = 20  # of a slow line
_CLOSED = 7  # TCP_CLOSE, a socket's state on Linux
_LOOK = 0.001  # seconds between two looks at what a socket still has to send


class _After(msgspec.Struct, frozen=True, kw_only=True):
    after_up: int | None = None
    after_down: int | None = None

    def __post_init__(self) -> None:
        given = [count for count in (self.after_up, self.after_down) if count is not None]
        if len(given) != 1 or given[0] < 0:
            raise ConfigError(f"{self}: give after_up or after_down, a number of bytes", field="after_up")


class Reset(_After, frozen=True, kw_only=True):
    """The client's side is reset (RST) when so many bytes have passed up to the service, or down from it.

    A peer that crashed, a firewall or balancer that forgot the connection, a phone that changed its network. The
    service gets every byte counted in `after_up`, and then the end of the connection: with the length of the whole
    request it has accepted what the client has no answer to. `after_up=0`: reset as soon as it is opened, as by a
    balancer with nothing behind it. `after_down=0`: when the answer begins, and nothing of it arrives.
    """


class Cut(_After, frozen=True, kw_only=True):
    """The connection is closed in good order (FIN) when so many bytes have passed up or down.

    A gateway that gives up in the middle of an answer, or a server that is stopped: to a client that does not count,
    a short answer looks like a whole one. `after_down=0`: when the answer begins.
    """


class Stall(_After, frozen=True, kw_only=True):
    """When so many bytes have passed up (or down), nothing more passes in that direction, and nobody is told.

    A cable that was pulled, a laptop that slept, a server that hangs: `after_up` is an upload that does not go on
    (the window is closed once small buffers are full), `after_down=0` an answer that does not come.
    """


class Slow(msgspec.Struct, frozen=True):
    """So many bytes per second pass in each direction: a bad line, or one that many share. Takes real time."""

    bytes_per_second: float

    def __post_init__(self) -> None:
        if not self.bytes_per_second > 0:
            raise ConfigError(f"{self}: must be greater than zero", field="bytes_per_second")


LineFault = Reset | Cut | Stall | Slow


class _Now(Exception):
    """The planted byte count is reached."""


class Proxy:
    """A TCP forwarder on loopback, made by `Trouble.proxy`. Several may stand before one service.

    `base_url`: where clients go. `target`: the service's base URL; may be set to that of a server that took its
    place, for connections to come. `opened` counts the connections, `bytes_up` and `bytes_down` what was passed on.
    Bytes pass as they come and are not understood, TLS included; a slow reader slows the writer down.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.opened = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self._script: deque[LineFault | None] = deque()
        self._open: dict[asyncio.Task[None], socket.socket] = {}
        self._listener: socket.socket | None = None
        # Bound and never listening: keeps the port while the service is down.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        parts = urlsplit(target)
        self.base_url = parts._replace(netloc=f"127.0.0.1:{self._port.getsockname()[1]}").geturl()

    def connections(self, *faults: LineFault | None) -> None:
        """What happens to the next connections, in the order in which they are opened; None is nothing.

        Added to what was planted before. Connections after these are well. Bytes are those of the connection, so
        requests that share one are counted together.
        """
        for fault in faults:
            if fault is not None and not isinstance(fault, LineFault):
                raise ConfigError(f"connections: {fault!r} is no fault of a connection", field="connections")
        self._script.extend(faults)

    @property
    def down(self) -> bool:
        """While True, connections are refused, and those that were open have been reset.

        A server that crashed or restarts, as seen by its clients.
        """
        return self._listener is None

    @down.setter
    def down(self, down: bool) -> None:
        loop = asyncio.get_running_loop()
        if down and self._listener is not None:
            loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            for task, client in self._open.items():
                resets_when_closed(client)
                task.cancel()
        elif not down and self._listener is None:
            self._listener = _socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(self._port.getsockname())
            self._listener.listen(1024)
            loop.add_reader(self._listener, self._accept, self._listener)

    async def _close(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
        self._port.close()
        for task in self._open:
            task.cancel()
        with anyio.CancelScope(shield=True):
            while self._open:
                await asyncio.wait(self._open)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # who came is gone again
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.opened += 1
        fault = self._script.popleft() if self._script else None
        task = asyncio.get_running_loop().create_task(self._carry(client, fault), name="proxied connection")
        self._open[task] = client
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Here and not in the task, which may have been cancelled before it began.
        self._open.pop(task).close()

    async def _carry(self, client: socket.socket, fault: LineFault | None) -> None:
        loop = asyncio.get_running_loop()
        to = urlsplit(self.target)
        with _socket() as service:
            try:
                await loop.sock_connect(service, (to.hostname, to.port or {"https": 443}.get(to.scheme, 80)))
                service.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass_on(client, service, fault, up=True))
                    group.create_task(self._pass_on(service, client, fault, up=False))
            except* _Now:
                await self._play(fault, client, service)
            except* OSError:
                # The line broke on one side; the other is told in the same way.
                await _arrived(client)
                resets_when_closed(client)
                resets_when_closed(service)

    async def _pass_on(self, source: socket.socket, sink: socket.socket, fault: LineFault | None, *, up: bool) -> None:
        """All bytes of one direction. Raises `_Now` at the planted count, and `OSError` when the source breaks."""
        loop = asyncio.get_running_loop()
        left = (fault.after_up if up else fault.after_down) if isinstance(fault, _After) else None
        speed = fault.bytes_per_second if isinstance(fault, Slow) else None
        piece = _PIECE if speed is None else max(1, min(_PIECE, int(speed / _STEPS_PER_SECOND)))
        if left == 0 and not up:
            await loop.sock_recv(source, 1)
        while left != 0:
            data = await loop.sock_recv(source, piece if left is None else min(piece, left))
            try:
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                await loop.sock_sendall(sink, data)
            except OSError:
                return  # The other direction reads what the sink still had to say, and then why.
            if up:
                self.bytes_up += len(data)
            else:
                self.bytes_down += len(data)
            if left is not None:
                left -= len(data)
            if speed is not None:
                await anyio.sleep(len(data) / speed)
        if isinstance(fault, Stall):
            await anyio.sleep_forever()
        raise _Now

    async def _play(self, fault: LineFault | None, client: socket.socket, service: socket.socket) -> None:
        with contextlib.suppress(OSError):
            service.shutdown(socket.SHUT_WR)
        await _arrived(service)
        service.close()
        if isinstance(fault, Reset):
            await _arrived(client)
            resets_when_closed(client)
            return
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
            # Closed with unread bytes in it, the socket would say RST and not FIN.
            while await asyncio.get_running_loop().sock_recv(client, _PIECE):
                pass


@contextlib.asynccontextmanager
async def proxying(target: str) -> AsyncIterator[Proxy]:
    """A `Proxy` before `target`, listening for as long as the block runs."""
    proxy = Proxy(target)
    try:
        proxy.down = False
        yield proxy
    finally:
        await proxy._close()


def resets_when_closed(connection: socket.socket) -> None:
    """Make the end of this connection a reset (RST), and not a FIN."""
    # A socket that is gone already cannot be told, and need not.
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _socket() -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    # Small, so that a reader that stops is soon felt by the writer; accepted sockets inherit it.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE)
    return made


async def _arrived(connection: socket.socket) -> None:
    """Wait until the other side has everything that was sent: a reset would take back what is still on its way."""
    if sys.platform != "linux":
        return  # Nobody tells how much that is.
    # A connection that is over keeps its count for ever.
    while connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _CLOSED:
        if not struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0]:
            return
        await anyio.sleep(_LOOK)
