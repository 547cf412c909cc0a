"""Clocks that jump, against one that never does; being slow or stopped is no jump."""

from __future__ import annotations

from kylo_outbox.runtime.clocks import ClockWatch


class Clocks:
    """Three clocks under one hand: the steady one, this machine's and the database's."""

    def __init__(self):
        self.now, self.here, self.there = 100.0, 1e9, 1e9
        self.watch = ClockWatch(lambda: self.here + self.now, lambda: self.now)

    def look(self, after=1.0, answer=0.0):
        """One look, some seconds later; the database takes `answer` seconds."""
        self.now += after

        def database():
            self.now += answer
            return self.there + self.now

        return self.watch.look(database)


def test_clocks_that_go_on_are_quiet():
    """A slow answer, a long break and a slewed clock are no jumps."""
    clocks = Clocks()
    for _ in range(600):
        clocks.here += 0.01
        clocks.there += 0.01
        assert clocks.look()["jumps"] == {}
    assert clocks.look(after=3600.0)["jumps"] == {}
    found = clocks.look(answer=8.0)
    assert (found["jumps"], found["difference"]) == ({}, 0.0)


def test_a_jump_of_this_machine_is_told_with_its_size_and_age():
    """And from then on the two clocks differ."""
    clocks = Clocks()
    clocks.look()
    clocks.here -= 3600.0
    found = clocks.look()
    assert found["jumps"] == {"this machine": {"seconds": -3600.0, "ago": 0.0}}
    assert found["difference"] == 3600.0
    assert clocks.look(after=60.0)["jumps"]["this machine"]["ago"] == 60.0


def test_a_jump_of_both_together_is_told_although_they_agree():
    """On one machine a comparison of the two would see nothing."""
    clocks = Clocks()
    clocks.look()
    clocks.here += 50.0
    clocks.there += 50.0
    found = clocks.look()
    assert set(found["jumps"]) == {"this machine", "the control database"}
    assert found["difference"] == 0.0
