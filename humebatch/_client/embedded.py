"""A server of one's own, in a child process, for as long as a block runs.

The child gets its key in its environment (an argument would show in the process list) and ends when
its stdin closes, so it cannot outlive this process, however that ends. Data that nobody keeps are
removed by both: by the child when this process was killed, by this process when the child was.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from .._transport.files import private
from ..config import API_KEY_VARIABLE, Secret
from ..errors import ConnectFailed

__all__ = ["Embedded", "embedded_server"]

_START_LIMIT = 60.0
# More than the child takes to end requests in flight (10 s) and measuring processes: it must not be killed meanwhile.
_STOP_LIMIT = 20.0
_KEY_FILE = "embedded.key"


class Embedded(msgspec.Struct, frozen=True):
    """Where the child listens, the key that it takes, and its `identity`.

    That is the same for all servers over the same folder, however it is spelt, and a new one over a temporary folder.
    """

    base_url: str
    api_key: Secret
    identity: str


class _Home:
    """Where the child lives: a file for its stderr, its key, and a folder for its data, temporary unless given."""

    def __init__(self, data: str | os.PathLike[str] | None) -> None:
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `cleanup`
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if data is None:
            # ignore_cleanup_errors: a measuring process may still be closing its files.
            self._folder = tempfile.TemporaryDirectory(prefix="humebatch-", ignore_cleanup_errors=True)
            data = self._folder.name
            self.identity = f"embedded:temporary:{secrets.token_hex(8)}"
        else:
            self.identity = f"embedded:kept:{os.path.realpath(data)}"
        self.data = os.fspath(data)

    def key(self) -> str:
        """The key of every server over this folder: a key sees its own jobs only, so it is kept with them."""
        path = Path(self.data, _KEY_FILE)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError), open(path, "x", opener=private) as file:
            file.write(secrets.token_urlsafe(24))
        key = path.read_text()
        if not key:  # an empty one would make a server that is open to everybody on this machine
            raise OSError(f"{path} is empty; remove it")
        return key

    def said(self) -> str:
        self.stderr.seek(0)
        return self.stderr.read()[-2000:].decode("utf-8", "replace").strip()

    def cleanup(self) -> None:
        self.stderr.close()
        if self._folder is not None:
            self._folder.cleanup()


async def _shielded(clean: Callable[[], None]) -> None:
    # A cancelled block must leave no folder with people's data behind.
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(clean)


@contextlib.asynccontextmanager
async def embedded_server(
    *, data: str | os.PathLike[str] | None = None, measure: str = "local"
) -> AsyncIterator[Embedded]:
    """Start `python -m humebatch.server` on a free loopback port and stop it at the end of the block.

    `data`: the folder for jobs and results, and for the key that sees them; without one they go to a
    temporary folder that is removed at the end. `measure`: `local` (open models) or `fixed` (made-up
    scores, for tests only).
    Raises `ConnectFailed` with what the child wrote if it does not come up.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            home = await anyio.to_thread.run_sync(_Home, data)
        except OSError as error:
            raise ConnectFailed(f"the embedded server did not start: {error}") from error
        stack.push_async_callback(_shielded, home.cleanup)
        command = [sys.executable, "-m", "humebatch.server", "--data", home.data, "--port", "0"]
        command += ["--measure", measure, "--until-stdin-closes"]
        if data is None:
            command.append("--temporary")
        try:
            key = await anyio.to_thread.run_sync(home.key)
            child = await anyio.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=home.stderr,
                env={**os.environ, API_KEY_VARIABLE: key},
                # Ctrl-C and a closed terminal go to every process of a session: ending it is this process's part.
                start_new_session=True,
            )
        except OSError as error:
            raise ConnectFailed(f"the embedded server did not start: {error}") from error
        async with child:
            try:
                assert child.stdout is not None
                try:
                    with anyio.fail_after(_START_LIMIT):
                        line = await BufferedByteReceiveStream(child.stdout).receive_until(b"\n", 1000)
                except (anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound, TimeoutError) as error:
                    said = await anyio.to_thread.run_sync(home.said)
                    raise ConnectFailed(f"the embedded server did not start: {said or 'it said nothing'}") from error
                yield Embedded(base_url=line.decode().strip(), api_key=Secret(key), identity=home.identity)
            finally:
                with anyio.CancelScope(shield=True):
                    assert child.stdin is not None
                    await child.stdin.aclose()
                    with anyio.move_on_after(_STOP_LIMIT):
                        await child.wait()
                    if child.returncode is None:
                        child.kill()
