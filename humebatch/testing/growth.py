"""How much more memory a measurer takes for a long file than for a short one, in a process of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..server.measure import Measurer, Media, Unmeasurable
from ..server.measure.recording import Recording

__all__ = ["growth"]


class _Enough(BaseException):
    """The time for measuring is up. Not an `Exception`: measurers catch those."""


def growth(make: Callable[[], Measurer], files: Sequence[Media], config: Any, scratch: str, seconds: float) -> int:
    """Bytes by which the peak memory of this process is higher after the last file than after the first.

    Nothing is transcribed. At most `seconds` are spent on each file, as far as the measurer comes in that time.
    """
    measurer = make()
    peaks = []
    for media in files:
        until = time.monotonic() + seconds

        def look(_second: float, until: float = until) -> None:
            if time.monotonic() > until:
                raise _Enough

        recording = Recording(media, None, scratch=Path(tempfile.mkdtemp(dir=scratch)), progress=look)
        try:
            for _ in measurer.measure(recording, config):
                look(0.0)
        except (_Enough, Unmeasurable):
            pass
        peaks.append(_peak_memory())
    return peaks[-1] - peaks[0]


def _peak_memory() -> int:
    try:
        # Not getrusage: on Linux its figure begins with that of the process that started this one.
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
