"""A whole ingest as a state machine: files come and change, everything goes wrong, and nothing is lost or done twice.

After each run the server's database is held against the journal, and at the end, when the trouble is over, everything
must come to its end (`ingest_world`). 40 examples here; `HUMEBATCH_MACHINE_EXAMPLES=5000` for a night's worth, in other
orders each time.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from humebatch.testing import Answer, Before, Reset

from .ingest_world import Ending, Meanwhile, World

PATHS = ["a.txt", "b c.txt", "folder/a.txt", "folder/ü~2.txt"]
SUBMISSIONS = st.sampled_from(
    [
        "drop",
        "late",
        "late",
        "cut",
        "reset",
        502,
        503,
        504,
        Answer(409),
        Answer(500, body=b""),
        Answer(429),
        Before(429, headers={"Retry-After": "2"}),
        Before(429),
        Before(503),
        Before(422),
        None,
    ]
)
ANSWERS = st.sampled_from(["cut", "reset", 500, 503, Answer(429, headers={"Retry-After": "1"}), None])
# Fewer bytes than a submission has: what arrived whole would become a job at a time that nobody knows.
AFTER = st.integers(0, 350)
COMMITS = st.integers(1, 60)
CHANGES = st.sampled_from(["edit", "edit_unseen", "touch", "remove", "remove_result"])
BROKEN_OFF = st.one_of(
    st.builds(Ending, st.just("die"), COMMITS, st.integers(0, 1)),
    st.builds(Ending, st.just("cancel"), COMMITS, st.integers(0, 60)),
    st.builds(Ending, st.just("hang up"), st.integers(1, 3), st.integers(0, 60)),
    st.builds(Ending, st.just("stop"), COMMITS),
)
ENDINGS = st.just(Ending()) | BROKEN_OFF
HAPPENINGS = st.none() | st.builds(
    Meanwhile,
    COMMITS,
    st.sampled_from(["release", "show", "hide", "edit", "touch", "remove"]),
    st.sampled_from(PATHS),
)


class IngestMachine(RuleBasedStateMachine):
    """What is done to an ingest, in any order."""

    world: World

    @initialize(keyed=st.booleans(), files_per_job=st.sampled_from([1, 2, 100, 101]), files=st.integers(1, 3))
    def begin(self, keyed: bool, files_per_job: int, files: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self._folder.name), keyed=keyed, files_per_job=files_per_job)
        for path in PATHS[:files]:
            self.world.add(path)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.settle()
        finally:
            self.world.close()
            self._folder.cleanup()

    # ── files

    @rule(path=st.sampled_from(PATHS), like=st.none() | st.sampled_from(PATHS))
    def add(self, path: str, like: str | None) -> None:
        self.world.add(path, like)

    # Without conditions: what there is depends on how far a run came, and that is not the same twice.
    @rule(path=st.sampled_from(PATHS), how=CHANGES)
    def change(self, path: str, how: str) -> None:
        if path in self.world.files:
            getattr(self.world, how)(path)

    # ── the server and the line to it

    @rule(faults=st.lists(SUBMISSIONS, min_size=1, max_size=4))
    def submissions(self, faults: list[str | int | Answer | None]) -> None:
        self.world.trouble.submissions(*faults)  # type: ignore[arg-type]

    @rule(
        route=st.sampled_from(["/jobs", "/jobs/{id}", "/predictions"]),
        faults=st.lists(ANSWERS, min_size=1, max_size=3),
    )
    def answers(self, route: str, faults: list[str | int | Answer | None]) -> None:
        self.world.trouble.answers("GET", route, *faults)  # type: ignore[arg-type]

    @rule(before=st.integers(0, 2), after=AFTER)
    def line(self, before: int, after: int) -> None:
        self.world.line(*[None] * before, Reset(after_up=after))

    @rule()
    def hide(self) -> None:
        self.world.hide()

    @rule()
    def show(self) -> None:
        self.world.show()

    @rule()
    def release(self) -> None:
        self.world.release()

    @rule()
    def restart(self) -> None:
        self.world.restart()

    # ── runs

    @rule(ending=ENDINGS, meanwhile=HAPPENINGS)
    def run(self, ending: Ending, meanwhile: Meanwhile | None) -> None:
        self.world.run(ending, meanwhile)

    @rule(
        new=st.lists(st.sampled_from(PATHS), min_size=1, max_size=3),
        faults=st.lists(SUBMISSIONS, min_size=1, max_size=5),
        cut=st.none() | AFTER,
        ending=BROKEN_OFF,
        meanwhile=HAPPENINGS,
    )
    def run_into_trouble(
        self,
        new: list[str],
        faults: list[str | int | Answer | None],
        cut: int | None,
        ending: Ending,
        meanwhile: Meanwhile | None,
    ) -> None:
        for path in new:
            self.world.add(path)
        self.submissions(faults)
        if cut is not None:
            self.line(1, cut)
        self.world.run(ending, meanwhile)

    @rule(
        path=st.sampled_from(PATHS),
        twins=st.lists(st.sampled_from(PATHS), min_size=1, max_size=2),
        ending=ENDINGS,
        how=CHANGES,
        and_then=ENDINGS,
    )
    def run_with_twins(self, path: str, twins: list[str], ending: Ending, how: str, and_then: Ending) -> None:
        self.world.add(path)
        for twin in twins:
            self.world.add(twin, path)
        self.world.run(ending)
        self.change(path, how)
        self.world.run(and_then)

    @rule(path=st.sampled_from(PATHS), shown_at=COMMITS)
    def run_with_a_late_list(self, path: str, shown_at: int) -> None:
        self.world.add(path)
        self.world.hide()
        self.submissions(["drop"])
        self.world.run(Ending(), Meanwhile(shown_at, "show"))


# Found by the machine; by hand, so that they are tried each time.


def test_a_request_that_arrives_after_its_run_is_told_of_by_the_next(tmp_path: Path) -> None:
    with contextlib.closing(World(tmp_path, keyed=False, files_per_job=1)) as world:
        world.add("a.txt")
        world.trouble.submissions("late")
        run = world.run(Ending())
        assert run.report is not None
        assert (run.report.done, run.report.duplicates) == (1, [])
        world.release()
        run = world.run(Ending())
        assert run.report is not None
        assert run.report.duplicates == world.trouble.accepted[1:]
        world.settle()


def test_what_is_looked_for_again_has_no_reason_any_more(tmp_path: Path) -> None:
    with contextlib.closing(World(tmp_path, keyed=False, files_per_job=1)) as world:
        world.add("a.txt")
        world.hide()
        world.trouble.submissions("drop", "drop", "drop", "drop")
        run = world.run(Ending())
        assert run.report is not None
        assert run.report.failures == {"PARKED(UNKNOWN)": 1}
        # In the middle of looking for it; each run looks at the reasons of what is on its way.
        world.run(Ending("stop", 6))
        world.settle()


NIGHT = os.environ.get("HUMEBATCH_MACHINE_EXAMPLES")
IngestMachine.TestCase.settings = settings(
    max_examples=int(NIGHT or 40),
    stateful_step_count=12,
    deadline=None,
    derandomize=NIGHT is None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestIngestMachine = IngestMachine.TestCase
