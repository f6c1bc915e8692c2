"""What humebatch tests itself with, for tests of yours: a real server, planted faults, a clock that does not wait.

`running_server` is the service as it is, `Trouble` what goes wrong with it and with the line to it, and `FakeClock`
what makes hours of waiting pass at once.
"""

from __future__ import annotations

from .clock import FakeClock
from .proxy import Cut, Proxy, Reset, Slow, Stall
from .servers import RunningServer, jobs_in, running_server
from .trouble import Answer, Before, Trouble

__all__ = [
    "Answer",
    "Before",
    "Cut",
    "FakeClock",
    "Proxy",
    "Reset",
    "RunningServer",
    "Slow",
    "Stall",
    "Trouble",
    "jobs_in",
    "running_server",
]
