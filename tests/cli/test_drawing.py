"""The line that `humebatch run` draws on a terminal, from what any caller can follow with `client.progress()`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import humebatch as hb
from humebatch.cli.drawing import caption


def test_the_caption_says_what_is_sent_and_where_jobs_stand() -> None:
    start = hb.Progress(bytes_sent=0, bytes_planned=0, files_sent=0, files_planned=0, jobs={})
    assert caption(start) == "0 of 0 files sent"
    later = hb.Progress(
        bytes_sent=5, bytes_planned=9, files_sent=3, files_planned=8, jobs={"SENDING": 1, "IN_PROGRESS": 2}
    )
    assert caption(later) == "3 of 8 files sent · jobs: 2 in progress, 1 sending"


def test_a_run_on_a_terminal_draws_and_leaves_only_what_matters(media: Path, remote: dict[str, str]) -> None:
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "humebatch", "run", "a", "--out", "out"],
        cwd=media,
        env={**os.environ, **remote, "TERM": "xterm", "COLUMNS": "160"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # Linux says EIO when the last writer has gone
                break
            if not data:
                break
            seen += data
        os.close(ours)
        assert process.wait(timeout=60) == 0
    text = seen.decode()
    assert re.search(r"\d of \d files sent", text)
    assert "2 files: 2 measured" in text
