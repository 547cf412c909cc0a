"""What the soak needs no server for: the plan of a seed, and telling differences by their names."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.soak.faults import ROUND, plan
from tests.soak.load import Note
from tests.soak.projectors import topics
from tests.soak.recovery import Flow
from tests.soak.verifier import Stored, _Judge

TOPICS = topics("run")


def first(seed, count=200):
    """The beginning of a plan."""
    return list(islice(plan(seed), count))


def test_a_seed_gives_the_same_plan_again():
    """A failing seed can be run again; another one is another plan."""
    assert first(7) == first(7)
    assert first(7) != first(8)


def test_every_fault_comes_in_every_round():
    """No kind is left to luck."""
    for seed in range(5):
        assert {each.kind for each in first(seed, sum(ROUND.values()))} == set(ROUND)


@pytest.fixture
def judge():
    """Three events of one key, 1 to 3."""
    written = {f"e{n}": Note(TOPICS["events"], "k", "WRITTEN", None, None, 0.0) for n in (1, 2, 3)}
    stored = {f"e{n}": Stored(n, TOPICS["events"], "k", "{}") for n in (1, 2, 3)}
    return _Judge(written, stored, TOPICS)


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        (["e1", "e2", "e3"], set()),
        (["e1", "e3"], {"lost"}),
        (["e1", "e2", "e2", "e3"], {"doubled"}),
        (["e1", "e3", "e2"], {"reordered"}),
        (["e1", "e2", "e3", "e4"], {"invented"}),
    ],
)
def test_each_difference_has_its_name(judge, seen, found):
    """Lost, doubled, reordered, invented: each is told apart, with key and id."""
    part = judge.journal(seen)
    assert {kind for kind in ("lost", "doubled", "reordered", "invented") if getattr(part, kind)} == found
    assert all("k)" in told for kind in found - {"invented"} for told in getattr(part, kind))


def test_a_repeat_in_the_log_is_no_difference(judge):
    """At least once is what a topic promises; only the first appearances have an order."""
    records = [_Record(f"e{n}") for n in (1, 2, 1, 2, 3)]
    part = judge.log("events", records)
    assert (part.repeats, part.lost, part.reordered) == (2, [], [])


def test_recovery_is_over_when_the_last_part_goes_on():
    """A part that never stood still hides none that did; what was on its way already is no recovery."""
    flow = Flow([(0, 1.0), (0, 1.55), (0, 2.0), (1, 1.0), (1, 9.0)])
    assert flow.again(1.5) == 9.0
    assert Flow([(0, 1.55), (0, 2.0)]).again(1.5) == 2.0
    assert flow.again(2.5) is None


class _Record:
    def __init__(self, event_id: str) -> None:
        self.event_id = event_id
