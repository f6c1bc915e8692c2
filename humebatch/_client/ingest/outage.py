"""A server that takes or tells nothing: ever longer pauses, and after a while the end of the run."""

from __future__ import annotations

import random
from collections.abc import Callable

from ...errors import ApiError, HumebatchError, RateLimited, ServerError, SubmissionUnknown, TransportError

__all__ = ["Outage"]

# Between two tries, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class Outage:
    """Of one kind of request. `patience`: seconds without a success after which `fail` is told the last error.

    `successes`: how often the server has taken or told something.
    """

    def __init__(self, now: Callable[[], float], fail: Callable[[Exception], None], *, patience: float) -> None:
        self._now = now
        self._fail = fail
        self._patience = patience
        self._began: float | None = None
        self._failures = 0
        self._pause_until = 0.0
        self.successes = 0

    def fine(self) -> None:
        """The server has taken or told something."""
        self.successes += 1
        self.over()

    def over(self) -> None:
        """Nothing is wanted any more of what it did not take or tell."""
        self._began, self._failures = None, 0

    def refused(self, error: HumebatchError) -> None:
        """It takes or tells nothing just now."""
        now = self._now()
        if self._began is None:
            self._began = now
        left = self._began + self._patience - now
        if left <= 0:
            self._fail(_of_an_outage(error))
            return
        wait = 0.0
        # What fails during a pause left before it: whatever was sent together counts as one failure.
        if not self.pause:
            wait = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures, 30)) * (0.5 + random.random() / 2)
            self._failures += 1
        said = _last(error)
        asked = said.retry_after if isinstance(said, (RateLimited, ServerError)) else None
        # Whoever asks for more than our patience is asked once more at its end.
        wait = min(max(wait, asked or 0.0), left)
        self._pause_until = max(self._pause_until, now + wait)

    @property
    def pause(self) -> float:
        """Seconds until the server is asked for something new again."""
        return max(0.0, self._pause_until - self._now())


def _last(error: HumebatchError) -> BaseException | None:
    """What was answered or failed last, behind a submission whose fate is unknown."""
    if not isinstance(error, SubmissionUnknown):
        return error
    return error.earlier[-1] if error.earlier else error.__cause__


def _of_an_outage(error: HumebatchError) -> HumebatchError:
    """What ends the run. Submissions without an answer need nobody's decision: the next run finds out about them."""
    # ApiError itself: 408, 409, a no for now only, whose class does not say so.
    if not isinstance(error, SubmissionUnknown) and type(error) is not ApiError:
        return error
    return TransportError(
        f"no submission has been answered for too long ({_last(error)}); run again to go on",
        method=error.method,
        path=error.path,
        earlier=(error,),
    )
