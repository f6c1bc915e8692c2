"""The examples run as they stand, in processes of their own, against a server of `humebatch serve`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from humebatch._wire.signature import Signer, key_from
from humebatch.callbacks import new_secret

ROOT = Path(__file__).parent.parent
LIMIT = 60.0


@contextlib.contextmanager
def running(log: Path, *command: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process, told to stop at the end of the block."""
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield process
            process.terminate()
            process.wait(LIMIT)
        finally:
            process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return int(unused.getsockname()[1])


def ask(url: str, data: Any = None, method: str = "GET", **headers: str) -> tuple[int, Any]:
    """Status and JSON of an answer; a service that is still starting is waited for."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    ends = time.monotonic() + LIMIT
    while True:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, data, names, method=method), timeout=LIMIT
            ) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")
        except urllib.error.URLError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)


def signed(body: bytes, secret: str) -> dict[str, str]:
    """The headers of a callback."""
    now = str(int(time.time()))
    signer = Signer(key_from(secret), message_id="m1", timestamp=now)
    signer.update(body)
    return {"webhook_id": "m1", "webhook_timestamp": now, "webhook_signature": signer.signature()}


def hang_up(port: int, path: str) -> None:
    """The start of an upload, and no more once its body is being read."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as connection:
        head = f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode() + b"abc")
        assert b"100 Continue" in connection.recv(1024)


@pytest.mark.parametrize("sized", [True, False], ids=["Content-Length", "chunked"])
def test_fastapi_service(tmp_path: Path, sized: bool) -> None:
    """Upload through, called back with a signature, result out."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    shutil.copy(ROOT / "examples" / "media" / "grateful.txt", tmp_path / "upload.txt")
    secret, own = new_secret(), f"http://127.0.0.1:{(port := free_port())}"
    settings = {"HUME_API_KEY": "test-key", "HUMEBATCH_CALLBACK_SECRET": secret}
    serve = ("humebatch", "serve", "--data", str(tmp_path / "data"), "--port", "0", "--measure", "fixed")
    log, server_log = tmp_path / "service.log", tmp_path / "server.log"
    with running(server_log, *serve, "--callback-allow", "127.0.0.1", environment=settings) as server:
        assert server.stdout is not None
        settings |= {"HUMEBATCH_BASE_URL": server.stdout.readline().strip(), "PUBLIC_URL": own}
        with running(log, "uvicorn", "examples.fastapi_service:app", "--port", str(port), environment=settings):
            assert ask(f"{own}/results/11111111-2222-4333-8444-555555555555")[0] == 404
            with (tmp_path / "upload.txt").open("rb") as file:
                size = str((tmp_path / "upload.txt").stat().st_size)
                headers = {"Content_Length": size} if sized else {"Transfer_Encoding": "chunked"}
                status, answer = ask(f"{own}/measure/thanks.txt", file, "PUT", **headers)
            assert status == 200, log.read_text()
            job_id = answer["job_id"]
            status, result = ask(f"{own}/results/{job_id}")
            ends = time.monotonic() + LIMIT
            while status == 202 and time.monotonic() < ends:
                time.sleep(0.05)
                status, result = ask(f"{own}/results/{job_id}")
            assert status == 200, log.read_text() + server_log.read_text()
            # Only what the server signed counts.
            forged = json.dumps({"job_id": job_id, "status": "COMPLETED", "predictions": []}).encode()
            assert ask(f"{own}/callback", forged, "POST", Content_Type="application/json")[0] == 401
            assert ask(f"{own}/results/{job_id}") == (200, result)
            assert ask(f"{own}/measure/empty.txt", b"", "PUT")[0] == 400
            assert ask(f"{own}/measure/empty.txt", iter([]), "PUT", Transfer_Encoding="chunked")[0] == 400
            assert ask(f"{own}/results/a.b")[0] == 400
            assert ask(f"{own}/callback", b'{"nonsense": 1}', "POST", **signed(b'{"nonsense": 1}', secret))[0] == 400
            hang_up(port, "/measure/cut.txt")
            server.terminate()
            server.wait(LIMIT)
            for _ in range(12):
                assert ask(f"{own}/measure/thanks.txt", b"thanks", "PUT")[0] in (502, 503)
    assert (result["job_id"], result["status"]) == (job_id, "COMPLETED")
    (source,) = result["predictions"]
    assert source["source"]["filename"] == "thanks.txt"
    assert source["results"]["predictions"][0]["models"]["language"]
    said = log.read_text() + server_log.read_text()
    assert "Traceback" not in said
    assert secret.removeprefix("whsec_") not in said
