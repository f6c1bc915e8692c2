"""What humebatch tests itself with, for tests of yours: a real server, planted faults, a clock that does not wait.

`running_server` is the service as it is, `Trouble` what goes wrong with it and with the line to it, `FakeClock` what
makes hours of waiting pass at once, and `check_measurer` the conformance check of measurers.
"""

from __future__ import annotations

from .clock import FakeClock
from .measuring import check_measurer
from .proxy import Cut, Proxy, Reset, Slow, Stall
from .rules import RULES, NonConforming, Violation
from .servers import RunningServer, jobs_in, running_server
from .trouble import Answer, Before, Trouble

__all__ = [
    "RULES",
    "Answer",
    "Before",
    "Cut",
    "FakeClock",
    "NonConforming",
    "Proxy",
    "Reset",
    "RunningServer",
    "Slow",
    "Stall",
    "Trouble",
    "Violation",
    "check_measurer",
    "jobs_in",
    "running_server",
]
