"""`python -m humebatch.server` as a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

LIMIT = 60.0


class Served(msgspec.Struct):
    """A server process; what it wrote besides its first line is in `output` once it has ended."""

    process: subprocess.Popen[bytes]
    base_url: str
    stderr: IO[bytes]

    def end(self) -> int:
        """Wait for the end of the process: its exit code."""
        return self.process.wait(LIMIT)

    def errors(self) -> str:
        """Everything on stderr so far."""
        self.stderr.seek(0)
        return self.stderr.read().decode()


def command(data: Path, *arguments: str) -> list[str]:
    """The command line, on a free port and with made-up scores unless the arguments say otherwise."""
    return [sys.executable, "-m", "humebatch.server", "--data", str(data), "--measure", "fixed", *arguments]


def environment(key: str) -> dict[str, str]:
    """The environment of the tests with this key, or with none."""
    return {**os.environ, "HUME_API_KEY": key}


@contextlib.contextmanager
def served(data: Path, *arguments: str, key: str = "test-key") -> Iterator[Served]:
    """A server that accepts connections; it is killed at the end of the block if it still runs."""
    errors = (data.parent / f"{data.name}.stderr").open("w+b")
    with (
        errors,
        subprocess.Popen(
            command(data, *(arguments or ("--port", "0"))),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(key),
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            running = Served(process=process, base_url=line.rstrip("\n"), stderr=errors)
            assert line.endswith("\n"), running.errors()
            yield running
        finally:
            process.kill()
