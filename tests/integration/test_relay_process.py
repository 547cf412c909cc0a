"""The relay as a process runs it: what it tells of itself, in metrics that people alert on and in its own line."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from itertools import count

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from kylo_outbox import emit
from kylo_outbox.cli import app, relay_status
from kylo_outbox.flows.overview import Overview
from kylo_outbox.runtime.stop import Stop
from kylo_outbox.settings import load
from kylo_outbox.web.health import details, statistics
from kylo_outbox.web.metrics import render
from kylo_outbox.wiring import parts
from kylo_outbox.wiring.relays import RelayProcess
from tests.helpers.broker import make_topic, read_all

# Names and labels are promises: dashboards and alerts are written against them.
PROMISED = {
    "kylo_outbox_pending_events": {"topic"},
    "kylo_outbox_oldest_pending_age_seconds": set(),
    "kylo_outbox_published_total": {"topic"},
    "kylo_outbox_publish_failures_total": {"reason"},
    "kylo_outbox_publish_delay_seconds_count": set(),
    "kylo_relay_last_success_timestamp_seconds": {"store"},
    "kylo_relay_is_leader": {"store", "lane"},
    "kylo_held_keys": {"topic"},
    "kylo_heartbeat_age_seconds": {"stage"},
    "kylo_oldest_transaction_age_seconds": {"database"},
    "kylo_build_info": {"version"},
}


@pytest.fixture
def running(control_db, kafka_server, tmp_path, monkeypatch):
    """A relay of the test's database in a thread; (its parts, itself)."""
    monkeypatch.setattr("kylo_outbox.flows.relay.holding.RETRY_EVERY", 0.3)
    settings = load({"PG_DSN_RW": control_db.dsn, "KAFKA_BROKERS": kafka_server.bootstrap}, tmp_path / "none.env")
    built = parts.build(settings)
    process = RelayProcess(built)
    stop = Stop()
    thread = threading.Thread(target=process.run, args=(stop,))
    thread.start()
    yield built, process
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    built.close()


@pytest.fixture
def scrape(control_db):
    """What one scrape shows: {(name, labels): value}."""
    overview = Overview(control_db, lambda: [control_db])

    def look():
        text = render(overview.snapshot(), []).decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    yield look
    overview.close()


def value(found, name, **labels):
    """One value of a scrape; 0 where there is none."""
    return found.get((name, frozenset(labels.items())), 0.0)


def until(holds_now, seconds=90):
    """Wait until it holds; what it returned."""
    end = time.monotonic() + seconds
    while not (answer := holds_now()):
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.2)
    return answer


def test_every_promised_metric_is_there_and_moves(control_db, kafka_server, running, scrape):
    """A published event, a refused one and a held key: each shows where it should, with exactly the promised labels."""
    topic = make_topic(kafka_server.bootstrap, config={"max.message.bytes": "20000"})
    until(lambda: value(scrape(), "kylo_relay_is_leader", store="the control database", lane="0") == 1)
    keys = count()

    def published():
        # The broker may not know its new topic at once: then the first keys are held for a moment.
        with control_db.transaction() as tx:
            emit(tx, topic=topic, key=f"a{next(keys)}", type="T", payload={})
        return value(seen := scrape(), "kylo_outbox_published_total", topic=topic) >= 1 and seen

    before = until(published)
    until(lambda: value(scrape(), "kylo_outbox_pending_events", topic=topic) == 0)
    with control_db.transaction() as tx:
        emit(tx, topic=topic, key="b", type="T", payload={"text": "x" * 30_000})

    def held():
        seen = scrape()
        failures = [name for name, _ in seen if name == "kylo_outbox_publish_failures_total"]
        return value(seen, "kylo_held_keys", topic=topic) == 1 and failures and seen

    after = until(held)
    names = {name: {label for label, _ in labels} for name, labels in after}
    assert {name: names.get(name) for name in PROMISED} == PROMISED
    assert value(after, "kylo_outbox_pending_events", topic=topic) == 1
    assert value(after, "kylo_outbox_oldest_pending_age_seconds") > 0
    assert value(after, "kylo_heartbeat_age_seconds", stage="relay") < 10
    assert value(before, "kylo_outbox_publish_delay_seconds_count") >= 1
    last = "kylo_relay_last_success_timestamp_seconds"
    former = value(before, last, store="the control database")
    until(lambda: value(scrape(), last, store="the control database") > former)


def test_its_line_and_the_overview_tell_the_same(control_db, kafka_server, running, caplog, monkeypatch):
    """Who leads and how far, in the log line, `/readyz` details and the statistics."""
    monkeypatch.setattr(relay_status, "_LIVE_EVERY", 0.2)
    built, process = running
    topic = make_topic(kafka_server.bootstrap)
    with (
        caplog.at_level(logging.INFO, logger="kylo_outbox.cli.relay_status"),
        relay_status.shown(process.states, built),
    ):
        until(lambda: any("the control database/0 leader" in line for line in caplog.messages))
        with control_db.transaction() as tx:
            emit(tx, topic=topic, key="a", type="T", payload={})
        until(lambda: read_all(kafka_server.bootstrap, topic))
    overview = Overview(control_db, lambda: [control_db])
    try:
        snapshot = until(lambda: (seen := overview.recent()) and seen.stores[0].lanes[0].acknowledged and seen)
    finally:
        overview.close()
    [lane] = statistics(snapshot)["stores"][0]["lanes"]
    assert lane["holder"] is not None
    assert (lane["slots"], lane["acknowledged"]) == ([0, 1024], 1)
    assert details(snapshot)["lanesWithoutLeader"] == 0


def test_lanes_are_shown_with_their_holder(control_db, running, monkeypatch):
    """The verb names who leads, for how long still, and the rate over a second."""
    _, process = running
    monkeypatch.setenv("PG_DSN_RW", control_db.dsn)
    until(lambda: [state for state in process.states() if state.leading])
    answer = CliRunner().invoke(app, ["lanes", "--json", "--rate"])
    assert answer.exit_code == 0, answer.stderr
    [lane] = json.loads(answer.stdout)
    assert lane["led"]
    assert lane["holder"].endswith(f":{os.getpid()}")
    assert 0 < lane["lease_left"] <= 1.2
    assert (lane["slot_from"], lane["slot_to"], lane["rate"]) == (0, 1024, 0)


def test_lanes_without_a_leader_are_told(control_db, monkeypatch):
    """No relay runs: said, with the remedy."""
    monkeypatch.setenv("PG_DSN_RW", control_db.dsn)
    answer = CliRunner().invoke(app, ["lanes"])
    assert answer.exit_code == 0, answer.stderr
    assert "start `kylo-outbox relay`" in answer.stderr
