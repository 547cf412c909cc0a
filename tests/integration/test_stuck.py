"""Silent stalls, each planted as it happens: `/readyz` and its metric tell it, with a remedy, and stay at 200."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer
from fastapi import FastAPI

from kylo_outbox.flows.overview import Overview
from kylo_outbox.flows.relay import RelayState
from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.lag import Lag
from kylo_outbox.kafka.producer import Publisher
from kylo_outbox.model.errors import Transient
from kylo_outbox.model.stalls import KINDS
from kylo_outbox.runtime.clocks import ClockWatch
from kylo_outbox.runtime.schedule import Schedule
from kylo_outbox.runtime.stop import Stop
from kylo_outbox.sheets.errors import QuotaExceeded
from kylo_outbox.store import keyholds, notices
from kylo_outbox.store.emit import emit
from kylo_outbox.store.engine import Database
from kylo_outbox.store.held import PAUSED
from kylo_outbox.web import health
from kylo_outbox.web.metrics import render
from kylo_outbox.wiring.lagging import LagWatch
from kylo_outbox.wiring.parts import Heart
from tests.helpers.broker import make_topic, outbox_rows, read_all


class Watched:
    """A process whose loops a test plants troubles in, and the door that tells of them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.stop = Stop()
        self.schedule = Schedule(self.stop)
        self.state: dict[str, Any] = {"leader": True, "broker_contact_age_seconds": 0.1}
        self.heart = Heart(database, "relay", lambda: self.state, self.schedule)
        self.overview = Overview(database, lambda: [database])
        self.app = FastAPI()
        self.app.include_router(health.routes(self.overview, {}, list))

    def get(self, path: str) -> httpx.Response:
        """One answer, from a snapshot that is made now."""
        self.overview._made_at = -1e9

        async def story() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.get(path)

        return asyncio.run(story())

    def told(self) -> dict[str, str]:
        """What stands still, as `/readyz` tells it: subjects by kind. The metric must say the same."""
        self.heart.beat()
        answer = self.get("/readyz")
        assert answer.status_code == 200, answer.text
        stuck = answer.json()["stuck"]
        assert all(one["text"] and one["remedy"] for one in stuck)
        assert self.overview._last is not None
        scrape = render(self.overview._last, []).decode()
        for kind in KINDS:
            number = sum(one["kind"] == kind for one in stuck)
            assert f'kylo_stalls{{kind="{kind}"}} {number}.0' in scrape
        return {one["kind"]: one["subject"] for one in stuck}

    def plant(self, name: str, run_once: Any) -> threading.Event:
        """A loop whose worker does this at each turn; set once it has had one."""
        turned = threading.Event()

        def turn() -> Any:
            turned.set()
            return run_once()

        worker: Any = SimpleNamespace(name=name, run_once=turn, close=lambda: None)
        self.schedule.keep_running(name, lambda: worker)
        return turned


@pytest.fixture
def watched(control_db):
    """A process of the test's database, with a lane that somebody leads."""
    with control_db.transaction() as tx:
        tx.execute("update kylo.lanes set holder = 'me', lease_until = now() + interval '1 hour'")
    made = Watched(control_db)
    yield made
    made.schedule.stop()
    made.overview.close()


def test_a_process_in_order_has_nothing_to_tell(watched):
    """Loops that come round, jobs, a lane with a leader: every kind is there as a metric, at 0."""
    turned = watched.plant("relay s/0", lambda: SimpleNamespace(pause=0.01))
    watched.schedule.every(0.1, "job", lambda: None)
    watched.schedule.start()
    assert turned.wait(10)
    for _ in range(3):
        assert watched.told() == {}


def test_a_dead_loop(watched):
    """A turn that never ends; also a process that says nothing more and was not stopped."""
    release = threading.Event()
    turned = watched.plant("project txns", lambda: (release.wait(60), SimpleNamespace(pause=0.01))[1])
    watched.schedule.start()
    assert turned.wait(10)
    assert watched.told() == {}
    watched.schedule._pulses["project txns"].at -= 16.0
    [(kind, subject)] = watched.told().items()
    assert kind == "dead_loop"
    assert subject.endswith("project txns")
    release.set()


def test_a_process_that_was_killed_and_one_that_was_stopped(watched, control_db):
    """Only the first is a trouble, until another one has taken its place."""
    ago = "update control.heartbeats set at = at - interval '12 seconds'"
    watched.heart.beat()
    watched.heart.stop()
    with control_db.transaction() as tx:
        tx.execute(ago)
    assert watched.get("/readyz").json()["stuck"] == []
    watched.heart.beat()
    with control_db.transaction() as tx:
        tx.execute(ago)
    assert [one["kind"] for one in watched.get("/readyz").json()["stuck"]] == ["dead_loop"]
    Heart(control_db, "relay", dict, watched.schedule)._instance = "x"
    successor = Heart(control_db, "relay", dict, watched.schedule)
    successor._instance = "another"
    successor.beat()
    assert watched.get("/readyz").json()["stuck"] == []


def test_a_lost_lease(watched, control_db):
    """Nobody leads: not told at once, because another takes the lane within two seconds, but within thirty."""
    with control_db.transaction() as tx:
        tx.execute("update kylo.lanes set lease_until = '-infinity', holder = null")
    assert watched.told() == {}
    watched.overview._leaderless._since = {place: at - 6.0 for place, at in watched.overview._leaderless._since.items()}
    assert watched.told() == {"lost_lease": f"{control_db.name}/0"}


def test_a_held_key(watched, control_db):
    """Behind an event that Kafka refused, and behind a dead letter; what a person paused is no trouble."""
    hold = """
        insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, reason, held_at)
        values (%s, gen_random_uuid(), now(), 0, 't', 'k', 'T', '{}', %s, now() - make_interval(secs => %s))"""
    with control_db.transaction() as tx:
        tx.execute(hold, (1, PAUSED, 60))
        tx.execute(hold, (2, "MSG_SIZE_TOO_LARGE: too large", 1))
    assert watched.told() == {}
    with control_db.transaction() as tx:
        tx.execute("update kylo.outbox_held set held_at = now() - interval '11 seconds' where id = 2")
    assert watched.told() == {"held_key": f"{control_db.name} relay t"}
    with control_db.transaction() as tx:
        tx.execute("delete from kylo.outbox_held")
        keyholds.hold(tx, keyholds.Hold("txns", "dead", ("s", "t", "k"), "poison", 1))
        tx.execute("update kylo.holds set since = now() - interval '11 seconds'")
    assert watched.told() == {"held_key": f"{control_db.name} txns t"}
    with control_db.transaction() as tx:
        tx.execute("update kylo.holds set released_at = now()")
    assert watched.told() == {}, "the projector is at it"


@pytest.mark.parametrize(
    ("name", "error", "kind"),
    [
        ("project txns", Transient("company 710: its database is away"), "paused_partition"),
        ("project sheets", QuotaExceeded("60 writes a minute are used up", 30.0), "quota_wait"),
        ("relay s/0", Transient("PostgreSQL asks to wait"), "relay_waits"),
    ],
)
def test_a_loop_that_waits(watched, name, error, kind):
    """Paused partitions, Google's quota, a relay: told after fifteen seconds, its reason only to who may know it."""

    def away():
        raise error

    turned = watched.plant(name, away)
    watched.schedule.start()
    assert turned.wait(10)
    until = time.monotonic() + 10
    while (pulse := watched.schedule._pulses[name])._waits is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert watched.told() == {}
    pulse._waits = (pulse._waits[0] - 16.0, pulse._waits[1])
    [(found, subject)] = watched.told().items()
    assert found == kind
    assert subject.endswith(name)
    assert str(error) not in watched.get("/readyz").text
    assert str(error) in watched.get("/health/kafka/stats").text


def test_a_full_producer_queue(watched, control_db, make_relay, kafka_server, address):
    """No room in the client: the relay keeps its lane, reads no more, tells it, and goes on in order when there is."""
    topic = make_topic(kafka_server.bootstrap, partitions=1)
    with control_db.transaction() as tx:
        tx.execute("update kylo.lanes set lease_until = '-infinity', holder = null")
        for number in range(100):
            emit(tx, topic=topic, key="k", type="T", payload={"n": number})
    made: list[Any] = []

    def tight(store_id: str) -> Any:
        publisher: Any = Publisher(address, store_id)
        # Room for ten records, and the client keeps them for as long as nobody lets them go.
        publisher._config |= {"queue.buffering.max.messages": 10, "linger.ms": 900_000}
        publisher.hurry = lambda: publisher._serve(publisher._producer.poll, 0)
        publisher._open()
        made.append(publisher)
        return publisher

    state: Any = RelayState("test", 0)
    relay = make_relay(state=state, open_publisher=tight)
    until = time.monotonic() + 30
    while state.full_since is None:
        assert time.monotonic() < until
        relay.run_once()
    # No turn takes longer than what is left of a lease, so nobody else takes the lane.
    for _ in range(5):
        began = time.monotonic()
        relay.run_once()
        assert time.monotonic() - began < 0.5
    since = state.full_since
    assert since is not None
    lane = {"store": "test", "lane": 0, "breaker": "", "queue_full": time.monotonic() - since + 15.0}
    watched.state["lanes"] = [lane]
    assert watched.told() == {"full_queue": "test/0"}
    del made[0].hurry
    while state.full_since is not None or state.published < 100:
        assert time.monotonic() < until
        relay.run_once()
        made[0].hurry()
    assert [record.outbox_id for record in read_all(kafka_server.bootstrap, topic)] == list(range(1, 101))


def test_nothing_passes_a_refused_record_while_others_wait_for_room(kafka_server, address):
    """What stood in line behind it is dropped with it, to be read again; the line is empty after a new start."""
    topic = make_topic(kafka_server.bootstrap, partitions=1)
    publisher: Any = Publisher(address, "test")
    publisher._config |= {"queue.buffering.max.messages": 5, "linger.ms": 900_000}
    publisher._open()
    assert publisher.exists(topic)
    publisher.send(outbox_rows(topic, [b"k"] * 5))
    waiting = publisher.send(outbox_rows(topic, [b"k"] * 2, start=6))
    refused = publisher.send(outbox_rows(topic, [b"k"], payload=b"x" * 5_000_000, start=8))
    behind = publisher.send(outbox_rows(topic, [b"k"], start=9))
    assert publisher.full_since is not None
    until = time.monotonic() + 30
    while refused.failure is None and publisher.fatal is None:
        assert time.monotonic() < until
        publisher.hurry()
    publisher.drain(10)
    assert (waiting.done, refused.done, behind.done) == (True, False, False)
    assert [record.outbox_id for record in read_all(kafka_server.bootstrap, topic)] == [1, 2, 3, 4, 5, 6, 7]
    publisher.rebuild()
    assert publisher.full_since is None
    publisher.close()


def test_a_clock_jump(watched):
    """This machine's clock goes back an hour between two heartbeats."""
    shift = [0.0]
    watched.heart._clocks = ClockWatch(lambda: time.time() + shift[0])
    assert watched.told() == {}
    shift[0] = -3600.0
    told = watched.told()
    assert set(told) == {"clock_jump"}
    assert "jumped by -3600" in watched.get("/readyz").text


def test_an_old_transaction(watched, control_db, monkeypatch):
    """A session that sits in a transaction; its statement is shown only to who may see it."""
    assert watched.told() == {}
    monkeypatch.setattr("kylo_outbox.model.stalls.OPEN_FOR", 0.0)
    idle = Database(control_db.dsn, name="idle")
    with idle.transaction() as tx:
        tx.execute("select 'mine' as very_private")
        # Other tests of this server may have short ones of their own.
        answer = watched.get("/readyz")
        mine = f"session pid {tx.info.backend_pid} in {tx.info.dbname}"
        assert mine in [one["subject"] for one in answer.json()["stuck"] if one["kind"] == "old_transaction"]
        assert "very_private" not in answer.text
        assert "very_private" in watched.get("/health/kafka/stats").text
    idle.close()


def test_a_stuck_partition(watched, kafka_server):
    """Records wait and nobody reads them: the others of the group go on, this one is named."""
    topic = make_topic(kafka_server.bootstrap, partitions=2)
    producer = Producer({"bootstrap.servers": kafka_server.bootstrap})
    producer.produce(topic, b"{}", b"k", partition=1)
    assert producer.flush(30) == 0
    now = [0.0]
    watch, lag = LagWatch(lambda: now[0]), Lag(KafkaAddress(brokers=kafka_server.bootstrap))
    for now[0] in (0.0, 5.0, 10.0):
        watch.look(lag.of({"nobody": [topic]}))
        watched.state["stuck"] = watch.stuck
        assert watched.told() == {}
    now[0] = 15.0
    watch.look(lag.of({"nobody": [topic]}))
    watched.state["stuck"] = watch.stuck
    assert watched.told() == {"stuck_partition": f"nobody {topic}/1"}
    watch.look(lag.of({"nobody": [topic]}), judge=False)
    assert watch.stuck == [], "on the direct path nobody is meant to read"
    lag.close()


def test_a_notice_of_a_projector(watched, control_db):
    """What waits for a person is told until it is accepted."""
    with control_db.transaction() as tx:
        notices.tell(tx, "txns", "circuit", "", "most of what arrives fails")
    assert watched.told() == {"notice": "txns circuit"}
    with control_db.transaction() as tx:
        notices.accept(tx, "txns")
    assert watched.told() == {}


def test_only_a_loop_of_its_own_makes_the_api_unready_and_only_for_long_unalive(watched, monkeypatch):
    """Looking at the stores hangs: not ready after fifteen seconds, a restart is asked for after sixty."""
    release, began = threading.Event(), threading.Event()
    monkeypatch.setattr(watched.overview, "_make", lambda: (began.set(), release.wait(60)))
    assert watched.get("/readyz").status_code == 200
    assert began.wait(10)
    for seconds, ready, alive in ((0.0, 200, 200), (16.0, 503, 200), (61.0, 503, 503)):
        watched.overview._making_since = time.monotonic() - seconds
        assert (watched.get("/readyz").status_code, watched.get("/livez").status_code) == (ready, alive)
    release.set()
