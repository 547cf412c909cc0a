"""The breaker of a relay: open while Kafka is away, and never left open by a worker that is gone."""

from __future__ import annotations

from kylo_outbox.flows.relay import RelayState
from kylo_outbox.flows.relay.away import Breaker


def test_it_is_open_until_kafka_answers():
    """The reason stands in the state for people and metrics, and goes with the outage."""
    state = RelayState(store="test", lane=0)
    breaker = Breaker(state)
    breaker.open("no answer")
    assert (state.breaker, breaker.seconds >= 0) == ("no answer", True)
    breaker.close()
    assert (state.breaker, breaker.seconds) == ("", 0.0)


def test_a_worker_that_is_started_again_begins_with_a_closed_one():
    """What the former worker had opened nobody would ever close, and held keys would wait for ever."""
    state = RelayState(store="test", lane=0)
    Breaker(state).open("no answer")
    Breaker(state)
    assert state.breaker == ""
