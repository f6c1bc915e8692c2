"""A server that takes uploads and throws them away: `python -m benchmarks.sink [--tls CERT KEY]`.

Prints its port and serves until its stdin ends. One thread per connection; on plain connections the kernel
discards the bodies (MSG_TRUNC) instead of copying them, so that the sink costs the sender next to nothing.
It answers every POST with a job id and every GET with an empty list.
"""

from __future__ import annotations

import re
import socket
import ssl
import sys
import threading
import uuid

_BUFFER = 1024 * 1024


class _Connection:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = memoryview(bytearray(_BUFFER))
        self._ahead = b""
        # TLS records have to be decrypted, so there is nothing that the kernel could discard.
        self._discard = 0 if isinstance(connection, ssl.SSLSocket) else socket.MSG_TRUNC

    def serve(self) -> None:
        with self._socket:
            while (head := self._head()) is not None:
                text = head.decode("latin-1").lower()
                if "expect: 100-continue" in text:
                    self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                if length := re.search(r"content-length: (\d+)", text):
                    self._skip(int(length[1]))
                elif "transfer-encoding: chunked" in text:
                    self._skip_chunks()
                body = f'{{"job_id":"{uuid.uuid4()}"}}' if text.startswith("post") else "[]"
                start = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                self._socket.sendall(
                    f"{start}Keep-Alive: timeout=5\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
                )

    def _head(self) -> bytes | None:
        while b"\r\n\r\n" not in self._ahead:
            data = self._socket.recv(65536)
            if not data:
                return None
            self._ahead += data
        head, self._ahead = self._ahead.split(b"\r\n\r\n", 1)
        return head

    def _skip(self, left: int) -> None:
        taken = min(left, len(self._ahead))
        self._ahead = self._ahead[taken:]
        left -= taken
        while left:
            if self._discard:
                count = self._socket.recv_into(self._buffer, min(left, _BUFFER), self._discard)
            else:
                count = self._socket.recv_into(self._buffer, min(left, _BUFFER))
            if not count:
                raise ConnectionError("cut")
            left -= count

    def _skip_chunks(self) -> None:
        while True:
            while b"\r\n" not in self._ahead:
                self._ahead += self._socket.recv(65536)
            size, self._ahead = self._ahead.split(b"\r\n", 1)
            self._skip(int(size.split(b";")[0], 16) + 2)
            if int(size.split(b";")[0], 16) == 0:
                return


def _handle(connection: socket.socket, context: ssl.SSLContext | None) -> None:
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        _Connection(connection).serve()
    except (OSError, ssl.SSLError):
        pass  # a contender that hangs up is not the sink's business


def main(arguments: list[str]) -> None:
    """Listen on a free loopback port until stdin ends."""
    context = None
    if arguments[:1] == ["--tls"]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments[1], arguments[2])
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_handle, args=(connection, context), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
