"""What every child process runs first: it ends with its server, leaves Ctrl-C to it, and may be limited in memory."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["guard_child", "limit_memory"]

_PR_SET_PDEATHSIG = 1


def guard_child(parent: int) -> None:
    """Leave SIGINT to the server (process `parent`), and end when it ends, even by SIGKILL in mid-work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before the line above; elsewhere than on Linux a child ends at its next look at its stdin.
    if os.getppid() != parent:
        os._exit(1)


def limit_memory(more: int) -> None:
    """From now on this process may grow by `more` bytes; beyond, allocations raise MemoryError."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    try:
        with open("/proc/self/statm", "rb") as file:
            present = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        present = 0
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = present + more
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
