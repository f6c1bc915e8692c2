"""A server that accepts every job, calls it completed at once, and answers with predictions of the test's making."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DETAILS = {
    "request": {"files": [], "urls": [], "text": []},
    "state": {"status": "COMPLETED", "created_timestamp_ms": 1, "num_predictions": 0, "num_errors": 0},
}


def source(name: str, **more: Any) -> dict[str, Any]:
    """One source's part of an answer; without predictions or errors unless told."""
    results = {"predictions": [], "errors": [], **more}
    return {"source": {"type": "file", "filename": name, "md5sum": ""}, "results": results}


def measured(name: str) -> dict[str, Any]:
    """A prediction of the language model with one row."""
    row = {"text": "x", "position": {"begin": 0, "end": 1}, "emotions": [{"name": "Joy", "score": 0.5}]}
    groups = {"grouped_predictions": [{"id": "unknown", "predictions": [row]}]}
    return {"file": name, "models": {"language": groups}}


@contextlib.contextmanager
def answering(predictions: Any) -> Iterator[str]:
    """The base URL of a server whose predictions are these: bytes as they are, else as JSON."""
    body = predictions if isinstance(predictions, bytes) else json.dumps(predictions).encode()
    jobs: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def _reply(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Humebatch-Capabilities", "idempotency-key")
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            jobs.append(f"11111111-2222-4333-8444-{len(jobs):012}")
            self._reply(json.dumps({"job_id": jobs[-1]}).encode())

        def do_GET(self) -> None:
            if self.path.endswith("/predictions"):
                self._reply(body)
            else:
                asked = self.path.rpartition("/")[2]
                found = {"job_id": asked, **DETAILS} if asked in jobs else [{"job_id": one, **DETAILS} for one in jobs]
                self._reply(json.dumps(found).encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
