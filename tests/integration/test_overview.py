"""What the system tells of itself: heartbeats, backlog of stores, the scrape, and the stages of a batch."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from kylo_outbox.flows.ingest import Ingest
from kylo_outbox.flows.overview import Overview
from kylo_outbox.flows.trace import Trace
from kylo_outbox.model.transactions import parse_request
from kylo_outbox.store import backlog, heartbeats
from kylo_outbox.store.backlog import read_backlog
from kylo_outbox.store.emit import emit
from kylo_outbox.store.engine import Database
from kylo_outbox.web.health import health, statistics
from kylo_outbox.web.metrics import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.telemetry.metrics import Sample


def published(number: float, topic: str = "a") -> Sample:
    """A counter's sample."""
    family = "kylo_outbox_published"
    return (family, "counter", "Events.", f"{family}_total", {"topic": topic}, number)


LEADS: Sample = ("kylo_relay_is_leader", "gauge", "Leads.", "kylo_relay_is_leader", {"store": "s"}, 1.0)
LEADING = {"leader": True, "publishing": False, "via_kafka": True, "broker_contact_age_seconds": 0.1}


def beat(
    database: Database,
    state: dict[str, Any],
    samples: Sequence[Sample] = (),
    instance: str = "one",
    ago: float = 0.0,
) -> None:
    """A relay's heartbeat, some seconds ago."""
    with database.transaction() as tx:
        heartbeats.beat(tx, "relay", instance, datetime.now(UTC), state, samples)
        tx.execute(
            "update control.heartbeats set at = at - make_interval(secs => %s) where instance = %s", (ago, instance)
        )


@pytest.fixture
def overview(control_db):
    """Snapshots of one store."""
    made = Overview(control_db, lambda: [control_db])
    yield made
    made.close()


def fresh(overview: Overview) -> Any:
    """A snapshot that was made after this moment."""
    time.sleep(0.25)
    return overview.snapshot()


def test_a_dead_relay_is_unhealthy_whatever_the_backlog(control_db, overview):
    """Without a fresh heartbeat of a relay nothing flows, and the backlog is counted all the same."""
    with control_db.transaction() as tx:
        emit(tx, topic="a", key="k", type="T", payload={})
    shown = health(overview.snapshot())
    assert (shown["status"], shown["publisher"]["unprocessedEvents"]) == ("unhealthy", 1)
    beat(control_db, LEADING, ago=11.0)
    assert health(fresh(overview))["status"] == "unhealthy"


@pytest.mark.parametrize(
    ("state", "status", "connected"),
    [
        (LEADING, "healthy", True),
        ({**LEADING, "publishing": True}, "healthy", True),
        ({**LEADING, "broker_contact_age_seconds": 10.5}, "unhealthy", False),
        ({**LEADING, "broker_contact_age_seconds": None}, "unhealthy", False),
        ({**LEADING, "broker_contact_age_seconds": None, "via_kafka": False}, "healthy", False),
        ({**LEADING, "leader": False}, "degraded", False),
    ],
)
def test_the_leading_relay_decides(control_db, overview, state, status, connected):
    """Idle but alive is healthy; a broker out of reach is not, unless nothing is routed over it."""
    beat(control_db, state)
    shown = health(overview.snapshot())
    assert (shown["status"], shown["producer"]["connected"]) == (status, connected)
    assert shown["publisher"]["isRunning"] is state["publishing"]
    assert set(shown) == {"status", "producer", "publisher", "timestamp"}
    assert set(shown["publisher"]) == {"isRunning", "unprocessedEvents", "lagMs"}


def test_a_store_that_does_not_answer_degrades_and_stops_nothing(control_db):
    """It is named, the others are counted, the scrape answers and shows no password."""
    away = Database("postgresql://u:hush@127.0.0.1:1/gone", name="gone")
    empty = Database(control_db.dsn.rsplit("/", 1)[0] + "/postgres", name="empty")
    overview = Overview(control_db, lambda: [control_db, away, empty])
    beat(control_db, LEADING)
    snapshot = overview.snapshot()
    assert snapshot.status == "degraded"
    assert health(snapshot)["unreachableStores"] == ["gone", "empty"]
    text = render(snapshot, []).decode()
    assert 'kylo_store_up{store="gone"} 0.0' in text
    assert "hush" not in text + str(statistics(snapshot))
    for store in (away, empty):
        store.close()
    overview.close()


def test_an_outage_of_the_control_store_is_told_and_not_raised():
    """Health and metrics answer while PostgreSQL is away."""
    away = Database("postgresql://u@127.0.0.1:1/gone", name="gone")
    overview = Overview(away, lambda: [away])
    snapshot = overview.snapshot()
    assert snapshot.status == "unhealthy"
    assert snapshot.control_error is not None
    assert b"kylo_store_up" in render(snapshot, [])
    overview.close()


def test_counters_of_processes_add_up_and_never_fall(control_db, overview):
    """Restarts and cleaning away old processes keep the sums; a dead relay does not lead any more."""
    beat(control_db, LEADING, [published(3), LEADS], instance="one", ago=100)
    beat(control_db, LEADING, [published(4), published(1, "b")], instance="two")
    before = render(overview.snapshot(), [published(10)]).decode()
    assert 'kylo_outbox_published_total{topic="a"} 17.0' in before
    assert 'kylo_outbox_published_total{topic="b"} 1.0' in before
    assert "kylo_relay_is_leader" not in before
    for _ in range(2):
        with control_db.transaction() as tx:
            heartbeats.prune(tx, 50)
        beat(control_db, LEADING, [published(5)], instance="three", ago=60)
    after = render(fresh(overview), []).decode()
    assert 'kylo_outbox_published_total{topic="a"} 17.0' in after
    assert statistics(overview.snapshot())["publisher"]["published"] == 18
    with control_db.transaction() as tx:
        assert [row.alive for row in heartbeats.read(tx) if row.instance == heartbeats.ENDED] == [False]


def test_the_backlog_reads_what_waits_and_nothing_behind_the_cursor(control_db):
    """With many processed rows the count touches a handful of pages, and it agrees with the view."""
    with control_db.transaction() as tx:
        tx.execute(
            "select kylo.emit_many(array_agg('a'::text), array_agg('k' || i % 50), array_agg('T'::text), "
            "array_agg('{}'::bytea), array_agg('{}'::jsonb), array_agg(null::uuid)) from generate_series(1, 20000) i"
        )
    with control_db.transaction() as tx:
        tx.execute("update kylo.lanes set high_water = 20000, snapshot = pg_current_snapshot()")
    with control_db.transaction() as tx:
        emit(tx, topic="a", key="k", type="T", payload={})
        emit(tx, topic="b", key="k", type="T", payload={})
    with control_db.transaction() as tx:
        found = read_backlog(tx, {})
        assert {topic: number for topic, number in found.unprocessed.items() if number} == {"a": 1, "b": 1}
        assert found.exact
        assert 0 < found.oldest_age < 60
        tx.execute(backlog._BY_INDEX, {"plan": "off"})
        plan = tx.execute(
            "explain (analyze, buffers, format json) " + backlog._WAITING, {"bound": 1000, "window": 4000}
        ).fetchone()
    assert plan is not None
    root = plan[0][0]["Plan"]
    assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] < 100


def test_late_and_held_rows_wait_too(control_db):
    """A row that became visible below the cursor and a row that Kafka refused both count, each once."""
    late = Database(control_db.dsn, name="late")
    with late.transaction() as slow:
        emit(slow, topic="late", key="k", type="T", payload={})
        with control_db.transaction() as tx:
            emit(tx, topic="held", key="k", type="T", payload={})
        with control_db.transaction() as tx:
            tx.execute("update kylo.lanes set high_water = 2, snapshot = pg_current_snapshot()")
            tx.execute(
                "insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, reason) "
                "select id, event_id, created_at, slot, topic, key, type, payload, 'refused' from kylo.outbox_log"
            )
    with control_db.transaction() as tx:
        found = read_backlog(tx, {})
        view = tx.execute("select topic, count(*) from outbox where processed_at is null group by topic").fetchall()
    late.close()
    assert (
        {topic: number for topic, number in found.unprocessed.items() if number} == dict(view) == {"late": 1, "held": 1}
    )
    assert found.held_keys == {"held": 1}


def test_a_huge_backlog_is_estimated_and_says_so(control_db):
    """Beyond the bound the count is an estimate from the ids: cheap and near."""
    with control_db.transaction() as tx:
        tx.execute(
            "select kylo.emit_many(array_agg('a'::text), array_agg('k'::text), array_agg('T'::text), "
            "array_agg('{}'::bytea), array_agg('{}'::jsonb), array_agg(null::uuid)) from generate_series(1, 5000) i"
        )
    with control_db.transaction() as tx:
        found = read_backlog(tx, {}, bound=100)
    assert found.unprocessed["a"] == 5000
    assert not found.exact


def test_unposted_rows_are_those_above_the_last_complete_post(control_db):
    """Open rows that the tab holds already are not counted as unposted."""
    with control_db.transaction() as tx:
        tx.execute(
            "insert into kylo.pending_txns (company_id, txn_uid, first_seen_batch, last_seen_batch, occurred_at, "
            "description, description_norm, amount_cents) "
            "select '710', gen_random_uuid(), 1, 1, '2025-01-01', 'x', 'x', 5 from generate_series(1, 5)"
        )
    with control_db.transaction() as tx:
        assert (read_backlog(tx, {"710": 3}).open_pending, read_backlog(tx, {"710": 3}).unposted) == (5, 2)
        assert read_backlog(tx, {"710": 0}).unposted == 5


def test_a_batch_is_followed_through_its_stages(control_db):
    """Saved, published, applied, posted appear as they are reached."""
    with control_db.transaction() as tx:
        tx.execute(
            "insert into control.company_config values ('710', 'x', 'app_710', 'S', '710 Pending', '710 Active')"
        )
    row = {"id": "t1", "company_id": "710", "date": "2025-08-26", "amount": "1", "description": "x"}
    accepted = Ingest(control_db, "txns.company.batches").accept(parse_request([row]), source="test")
    trace = Trace(control_db, lambda _: control_db)

    def reached() -> list[str]:
        page = trace.batch(accepted.batch_id)
        assert page is not None
        assert all(stage["at"] for stage in page["companies"][0]["stages"])
        return [stage["stage"] for stage in page["companies"][0]["stages"]]

    published_it = """
        update kylo.lanes set high_water = 1, snapshot = pg_current_snapshot();
        insert into kylo.marks (lane, low, high, since, at) values (0, 1, 1, now(), now())"""
    applied_it = """
        insert into kylo.triage_runs values ('710', 1, gen_random_uuid(), 0, 0, 1);
        insert into kylo.pending_txns (company_id, txn_uid, first_seen_batch, last_seen_batch, occurred_at,
                                       description, description_norm, amount_cents)
        values ('710', gen_random_uuid(), 1, 1, now(), 'x', 'x', 100)"""
    posted_it = """
        insert into control.sheet_posts (company_id, tab_name, batch_signature, row_count, state, posted_at, upto)
        values ('710', '710 Pending', 's', 1, 'posted', now(), 1)"""
    seen = [reached()]
    for step in (published_it, applied_it, posted_it):
        with control_db.transaction() as tx:
            tx.execute(step)
        seen.append(reached())
    assert seen == [["saved", "published", "applied", "posted"][:number] for number in (1, 2, 3, 4)]
    assert trace.batch(uuid.uuid4()) is None


def test_a_batch_page_survives_a_company_store_that_is_away(control_db):
    """The page shows what is known and says what is not."""
    away = Database("postgresql://u@127.0.0.1:1/gone", name="gone")
    with control_db.transaction() as tx:
        tx.execute("insert into control.company_config values ('710', 'x', 'app_710', 'S', 'P', 'A')")
    row = {"id": "t1", "company_id": "710", "date": "2025-08-26", "amount": "1", "description": "x"}
    accepted = Ingest(control_db, "t").accept(parse_request([row]), source="test")
    stores: list[Database | None] = [away, None]
    for store in stores:
        page = Trace(control_db, {"710": store}.__getitem__).batch(accepted.batch_id)
        assert page is not None
        assert [stage["stage"] for stage in page["companies"][0]["stages"]] == ["saved"]
        assert "note" in page["companies"][0]
