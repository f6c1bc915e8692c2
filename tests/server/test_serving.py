"""`python -m humebatch.server` as its callers see it: one line on stdout, exit codes, and no key anywhere."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest

import humebatch as hb
from humebatch.server import serve
from humebatch.testing import running_server
from tests.server.process import LIMIT, command, environment, served

KEY = "a-very-secret-key-c0ffee"


def ask(base_url: str, path: str = "/v0/batch/jobs", key: str = KEY) -> int:
    request = urllib.request.Request(base_url + path, headers={"X-Hume-Api-Key": key})
    try:
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_the_first_line_is_the_base_url_and_there_is_no_other(tmp_path: Path) -> None:
    with served(tmp_path / "data", key=KEY) as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", server.base_url)
        assert ask(server.base_url) == 200
        assert ask(server.base_url, key="wrong") == 401
        server.process.terminate()
        assert server.end() == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == b""


@pytest.mark.anyio
async def test_a_server_that_is_stopped_at_once(tmp_path: Path) -> None:
    """Its workers are still opening the queue then; the database must not be closed under them."""
    for _ in range(20):
        async with running_server(data=tmp_path / "data"):
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with served(tmp_path / "data") as server:
        server.process.send_signal(number)
        assert server.end() == 0
        assert "Traceback" not in server.errors()
    # The folder is free again.
    with served(tmp_path / "data") as server:
        server.process.terminate()
        assert server.end() == 0


def test_it_ends_with_its_parents_end_of_stdin(tmp_path: Path) -> None:
    with served(tmp_path / "data", "--port", "0", "--until-stdin-closes", key=KEY) as server:
        assert server.process.stdin is not None
        server.process.stdin.write(b"what is written means nothing\n")
        server.process.stdin.flush()
        assert ask(server.base_url) == 200
        server.process.stdin.close()
        assert server.end() == 0
        assert "Traceback" not in server.errors()


def run(data: Path, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(data, *arguments),
        env=environment(key),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def check_refused(ended: subprocess.CompletedProcess[str], word: str) -> None:
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_busy_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        check_refused(run(tmp_path / "data", "--port", str(port)), f"127.0.0.1:{port}")


def test_a_port_that_is_none(tmp_path: Path) -> None:
    check_refused(run(tmp_path / "data", "--port", "70000"), "70000")


def test_a_folder_in_use(tmp_path: Path) -> None:
    with served(tmp_path / "data"):
        check_refused(run(tmp_path / "data", "--port", "0"), "in use by another server")


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    check_refused(run(tmp_path / "data", "--port", "0"), "data:")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
@pytest.mark.anyio
async def test_a_public_address_needs_a_key(tmp_path: Path, host: str) -> None:
    with pytest.raises(hb.errors.ConfigError, match="HUME_API_KEY") as refusal:
        await serve(tmp_path / "data", host=host, port=0, measure="fixed")
    assert refusal.value.field == "api_key"
    # Refused before anything was made.
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("host", "keys", "pattern"),
    [
        ("127.0.0.1", [], r"http://127\.0\.0\.1:\d+"),
        ("localhost", [], r"http://localhost:\d+"),
        ("0.0.0.0", ["k"], r"http://127\.0\.0\.1:\d+"),
    ],
)
@pytest.mark.anyio
async def test_addresses_that_are_fine(tmp_path: Path, host: str, keys: list[str], pattern: str) -> None:
    said: list[str] = []
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:

            def ready(base_url: str) -> None:
                said.append(base_url)
                group.cancel_scope.cancel()

            async def go() -> None:
                await serve(tmp_path / "data", host=host, port=0, api_keys=keys, measure="fixed", ready=ready)

            group.start_soon(go)
    (base_url,) = said
    assert re.fullmatch(pattern, base_url)


def test_the_key_is_in_no_output_and_in_no_file(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with served(data, key=KEY) as server:
        where = urlsplit(server.base_url)
        assert ask(server.base_url) == 200
        assert ask(server.base_url, "/v0/batch/jobs?limit=x") == 400
        # What the HTTP parser refuses ends in the log too.
        for line in (f"X-Hume-Api-Key: {KEY}\0", f"X-Hume-Api-Key {KEY}", f"X-Hume-Api-Key: {KEY * 1000}"):
            with socket.create_connection((where.hostname, where.port), timeout=LIMIT) as connection:
                connection.sendall(f"GET /v0/batch/jobs HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n".encode())
                assert b" 400 " in connection.recv(100).split(b"\r\n")[0]
        body = b'{"text": ["a"], "models": {"language": {}}}'
        request = urllib.request.Request(server.base_url + "/v0/batch/jobs", data=body, headers={"X-Hume-Api-Key": KEY})
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            assert answer.status == 200
        server.process.terminate()
        assert server.end() == 0
        errors = server.errors()
    assert "made up" in errors
    assert KEY not in errors
    for path in data.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_an_open_server_says_nothing_of_keys(tmp_path: Path) -> None:
    with served(tmp_path / "data", key="") as server:
        assert ask(server.base_url, key="anything") == 200
