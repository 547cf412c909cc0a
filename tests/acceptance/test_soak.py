"""The soak, a short one in every run: the whole road under fire loses, doubles and reorders nothing; mistakes show."""

from __future__ import annotations

import pytest

from tests.soak.outcome import Wanted
from tests.soak.plants import PLANTS
from tests.soak.report import first_line, lines
from tests.soak.run import Soak
from tests.soak.stage import Stage

SHORT = Wanted(seed=1, seconds=30)
# As many faults and events as were asked for of a release (goal R1), in as many seconds as that takes.
FULL = Wanted(seed=2, seconds=60, faults=250, events=150_000)
DUMP = "Fatal Python error"
# Lines of a thread that waits for work in a pool.
IDLE = 4
IN_EVERY_RUN = {"no_position", "no_hold"}

pytestmark = [pytest.mark.alone, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def stage(module_folder):
    """Servers behind doors, for one run after the other."""
    with Stage(module_folder).running() as made:
        yield made


def soak(stage, wanted):
    """One run, told."""
    print(first_line(wanted))
    outcome = Soak(stage, wanted).run()
    print(*lines(wanted, outcome), sep="\n")
    if not outcome.good:
        told = [_told(log) for log in sorted({*stage.folder.glob("*.log"), *stage.folder.glob("*/*.log")})]
        # Those that did not end: where they stood is all that is of interest then.
        for lines_of_one in [log for log in told if log[1].startswith(DUMP)] or told:
            print("", *lines_of_one, sep="\n")
    return outcome


def _told(log):
    """Its name and its end, or where its threads stood if it says so, without those that had nothing to do."""
    written = log.read_text(errors="replace")
    if DUMP not in written:
        return [log.name, "", *written.splitlines()[-40:]]
    threads = written[written.index(DUMP) :].split("\n\n")
    return [log.name, *(thread for thread in threads if thread.count("\n") != IDLE)]


@pytest.mark.parametrize("wanted", [SHORT, pytest.param(FULL, marks=pytest.mark.full)], ids=["short", "full"])
def test_nothing_is_lost_doubled_or_reordered_under_fire(stage, wanted):
    """A fault every second: every event is published, applied once and in order; sums agree, repeats are absorbed."""
    outcome = soak(stage, wanted)
    assert outcome.broken == []
    assert outcome.verdict.found == set()
    assert outcome.repeats > 0
    assert outcome.released > 0
    assert outcome.discarded > 0
    assert len(outcome.faults) >= max(wanted.faults, wanted.seconds / 3)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in IN_EVERY_RUN else [pytest.mark.full]) for name in PLANTS]
)
def test_a_planted_mistake_is_found_within_a_minute(stage, name):
    """One mechanism taken out is told by its name within a minute of the first fault."""
    plant = PLANTS[name]
    outcome = soak(stage, Wanted(seed=1, seconds=plant.seconds, plant=name))
    assert outcome.verdict.found & plant.shows
    assert outcome.settled or "lost" not in plant.shows
    # A planted relay may be one that cannot end.
    assert outcome.broken == [] or plant.where == "relay"
    # What is waited for is planned; a machine that is busy with others takes longer.
    assert outcome.seconds < 120
