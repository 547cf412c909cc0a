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
        for log in sorted({*stage.folder.glob("*.log"), *stage.folder.glob("*/*.log")}):
            print("", log.name, *_told(log.read_text(errors="replace").splitlines()), sep="\n")
    return outcome


def _told(log):
    """Its end, and all of where the threads stood if it says so."""
    dump = next((number for number, line in enumerate(log) if line.startswith("Fatal Python error")), len(log))
    return log[min(dump, max(0, len(log) - 40)) :]


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
