"""What each process refuses to start without: one line with the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from kylo_outbox import emit
from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.contact import BrokerContact
from kylo_outbox.model.errors import Misconfigured, NotReady, Unreachable
from kylo_outbox.runtime.stop import Stop
from kylo_outbox.settings import load
from kylo_outbox.wiring import parts, projectors, relays
from tests.helpers.away import Switch
from tests.helpers.broker import make_topic


@pytest.fixture
def settings(control_db, kafka_server, tmp_path):
    """Settings of a whole installation with topics of its own."""
    topic = make_topic(kafka_server.bootstrap, partitions=4)
    return load(
        {"PG_DSN_RW": control_db.dsn, "KAFKA_BROKERS": kafka_server.bootstrap, "KAFKA_TOPIC_TXNS": topic},
        tmp_path / "none.env",
    )


def test_a_missing_topic_stops_a_projector(settings, address):
    """The topic is named, with the command that makes it."""
    with pytest.raises(NotReady, match=r"never-made.*topics apply"):
        parts.require_topics(settings, BrokerContact(address), ["never-made"])


def test_a_wrong_partition_count_stops_a_projector(settings, address):
    """Both counts are named: keys have moved, so order is not certain."""
    with pytest.raises(NotReady, match="has 4 partitions, declared are 16"):
        parts.require_topics(settings, BrokerContact(address), [settings.topic_txns])


def test_a_missing_broker_is_named_with_its_address():
    """Nobody listens there; the name of the setting is part of the answer."""
    contact = BrokerContact(KafkaAddress(brokers="127.0.0.1:1"))
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1.*KAFKA_BROKERS"):
        contact.require(1.0)
    assert contact.age() is None


def test_waiting_goes_on_until_it_is_ready():
    """With --wait the reason is told once each time it changes."""
    answers = iter([NotReady("no schema"), NotReady("no schema"), Unreachable("Kafka", "away", "Look."), None])
    told: list[str] = []

    def check():
        answer = next(answers)
        if answer:
            raise answer

    parts.when_ready(check, wait=True, tell=told.append)
    assert told == ["waiting: no schema", "waiting: Kafka is not reachable: away. Look."]


@pytest.mark.parametrize("name", ["nobody", "no.such.module:Class", "json:JSONDecoder"])
def test_unknown_projectors_are_refused(settings, name):
    """The message names what was asked for and what there is."""
    with pytest.raises(Misconfigured, match=name.partition(":")[0]):
        projectors.named(parts.build(settings), name)


def test_a_projector_of_anybody(settings, tmp_path, monkeypatch):
    """`module:Class` is loaded from the current directory."""
    (tmp_path / "mine_here.py").write_text(
        "from kylo_outbox import Projector\nclass Mine(Projector):\n    name = 'mine'\n    topics = ('t',)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert projectors.named(parts.build(settings), "mine_here:Mine").name == "mine"


@pytest.fixture
def process(settings):
    """The process of projector `txns`, and the projector."""
    built = parts.build(settings)
    made = projectors.ProjectorProcess(built, ["txns"])
    yield made, made._projectors[0]
    built.close()


def test_gaps_are_filled_with_what_has_gone_out(process, control_db, settings):
    """What the relay has not passed comes by itself, in its turn."""
    made, txns = process
    with control_db.transaction() as tx:
        for _ in range(2):
            emit(tx, topic=settings.topic_txns, key="710", type="T", payload={})
    gaps = made._watch(projectors.projection(made._parts, txns))
    assert gaps._watched(3, print) is not print, "what kills the process meanwhile is found"
    assert list(gaps._stored(settings.topic_txns)) == []
    with control_db.transaction() as tx:
        tx.execute("update kylo.lanes set high_water = 1, snapshot = pg_current_snapshot()")
    assert [[each.event.outbox_id for each in batch] for batch in gaps._stored(settings.topic_txns)] == [[1]]


def test_a_worker_that_cannot_be_built_joins_no_group(process, monkeypatch):
    """Nobody would close the member; it would keep its partitions from others, and end whenever it is collected."""
    made, txns = process
    joined: list[str] = []
    monkeypatch.setattr(projectors, "Subscription", lambda _address, group, *_, **_more: joined.append(group))
    for name in ("_watch", "_read_before"):
        with monkeypatch.context() as one:
            one.setattr(made, name, lambda _of: (_ for _ in ()).throw(Unreachable("PostgreSQL", "gone", "Wait")))
            with pytest.raises(Unreachable):
                made._worker(txns, lambda: False)
    assert joined == []
    made._worker(txns, lambda: False)
    assert joined == [txns.group]


def test_a_stop_of_the_relay_is_seen_by_the_direct_path(settings):
    """A long search for bad records, or a long line of held events, does not outlast it."""
    built = parts.build(settings.model_copy(update={"route_via_kafka": False}))
    relay, stop = relays.RelayProcess(built), Stop()
    assert [each._stopping() for each in relay._projections] == [False] * 3
    stop.set()
    relay.run(stop)
    assert [each._stopping() for each in relay._projections] == [True] * 3
    built.close()


def test_what_was_read_before_is_told_by_the_databases_that_answer(process, control_db, settings, monkeypatch):
    """One company's database that is away keeps nobody else's projector from starting."""
    made, txns = process
    assert made._read_before(txns) == set()
    with control_db.transaction() as tx:
        tx.execute(
            "insert into kylo.positions (projector, store_id, topic, key, generation, outbox_id) "
            "values ('txns', 's', %s, '710', 1, 1)",
            (settings.topic_txns,),
        )
    gone = Switch(control_db.dsn, name="710")
    gone.away = True
    monkeypatch.setattr(projectors, "_homes", lambda *_: [gone, control_db])
    joined: dict[str, Any] = {}
    monkeypatch.setattr(projectors, "Subscription", lambda *_, **more: joined.update(more))
    worker = made._worker(txns, lambda: True)
    assert worker._projection._stopping(), "a stop of the process is seen inside a batch"
    assert (joined, gone.refused) == ({"read_before": {settings.topic_txns}}, 1)
    gone.close()
