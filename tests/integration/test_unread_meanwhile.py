"""What is unread on the log is looked for, and meanwhile something leaves, is let go, or the lane is lost."""

from __future__ import annotations

import pytest

from kylo_outbox import Transient
from kylo_outbox.kafka import unread as looking
from kylo_outbox.kafka.client import KafkaFatal, guarded
from kylo_outbox.settings import load
from kylo_outbox.store import left
from kylo_outbox.wiring import history, parts, relays
from tests.helpers.broker import read_all
from tests.helpers.projectors import ask
from tests.helpers.unread import Behind, behind, remove


@pytest.fixture
def road(control_db, kafka_server, make_relay, run_until):
    """A group that is behind by more than the outbox keeps."""
    made = behind(control_db, kafka_server, make_relay, run_until)
    yield made
    made.parts.close()


def test_a_gap_is_filled_anew_if_something_leaves_meanwhile(road):
    """What the log alone has was found out at the beginning: the stored rows that left since would be missing."""
    road.publish("n" * 1001)
    filling = history.published_events(road.parts, road.applies, road.topic)
    while not any(each.partition is None for each in next(filling)):
        pass
    road.let_leave()
    with pytest.raises(Transient, match="left while it was read"):
        next(filling)
    direct = road.direct()
    road.publish("n" * 1001)
    steps = direct.catch_up()
    while len(road.ids.get("n", ())) <= 1001:
        next(steps)
    road.let_leave()
    with pytest.raises(Transient, match="left while it was read"):
        list(steps)


def test_what_is_about_to_leave_is_stored_still(control_db, kafka_server, make_relay, run_until):
    """Housekeeping has decided, and waits for a long transaction: the log lost some of it, the outbox has it all."""
    road = Behind(control_db, kafka_server, make_relay, run_until)
    road.publish("k" * 4)
    road.read(4)
    road.publish("k" * 6)
    [[partition]] = ask(control_db, "select partition from kylo.outbox_partitions order by low limit 1")
    with control_db.transaction() as tx:
        left.fold(tx, partition)
    remove(road, 6)
    road.read(10)
    assert road.ids["k"] == list(range(1, 11))
    road.parts.close()


def test_what_is_let_go_meanwhile_is_not_passed_by_what_waited_behind_it(road):
    """Held at the beginning: its later events are no part of what is gone through, though they go out meanwhile."""
    road.read(13)
    road.save("k")
    road.hold_newest()
    road.let_leave()
    road.save("k")
    road.hold_newest()
    filling = history.published_events(road.parts, road.applies, road.topic)
    assert next(filling) == []
    road.relay(2)
    for batch in filling:
        road.applies.handle(batch)
    assert len(road.ids["k"]) == 13
    road.read(15)
    assert road.ids["k"] == sorted({record.outbox_id for record in read_all(road.server.bootstrap, road.topic)})


def opened(monkeypatch):
    """Every consumer that looks for unread records, from now on."""
    made, build = [], looking.build

    def noted(*given):
        made.append(build(*given))
        return made[-1]

    monkeypatch.setattr(looking, "build", noted)
    return made


def closed(consumer):
    """Whether the client has given everything back."""
    try:
        guarded(consumer.list_topics, "any", 5.0)
    except KafkaFatal:
        return True
    return False


def test_a_relay_that_ends_leaves_no_consumer_behind(road, monkeypatch):
    """It lost its lane in the middle of catching up, or was stopped."""
    made = opened(monkeypatch)
    relay = road.make_relay(direct=road.direct())
    while not made:
        relay.run_once()
    assert not closed(made[0])
    relay.close()
    assert closed(made[0])


def test_a_projector_that_ends_leaves_no_consumer_behind(road, monkeypatch):
    """It was stopped in the middle of filling a gap."""
    made = opened(monkeypatch)
    remove(road, 6)
    worker = road.worker()
    while not made:
        worker.run_once()
    assert not closed(made[0])
    worker.close()
    assert closed(made[0])


def test_keys_that_stay_on_kafka_are_looked_at_again(road, monkeypatch):
    """Where the broker answers, their lane is taken anew; where none stay, nothing is."""
    settings = load({"PG_DSN_RW": road.database.dsn, "KAFKA_BROKERS": road.server.bootstrap, "ROUTE_VIA_KAFKA": "0"})
    built = parts.build(settings)
    process = relays.RelayProcess(built)
    state = process._states[road.database.dsn, 0] = relays.RelayState(store="s", lane=0, leading=True)
    relay = process._relay(road.database, state)
    direct = process._directs[road.database.dsn, 0]

    def looks(*, stay, age):
        direct._on_kafka = stay
        monkeypatch.setattr(process._contact, "age", lambda: age)
        relay._steps_down = False
        process._look_again()
        return relay._steps_down

    assert [
        looks(stay={("t", "k")}, age=1.0),
        looks(stay=set(), age=1.0),
        looks(stay={("t", "k")}, age=None),
        looks(stay={("t", "k")}, age=60.0),
    ] == [True, False, False, False]
    direct._on_kafka = {("t", "k")}
    assert [lane["on_kafka"] for lane in process._state()["lanes"]] == [1]
    built.close()
