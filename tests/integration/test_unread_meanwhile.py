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
from tests.helpers.unread import Behind, remove


def test_a_gap_is_filled_anew_if_something_leaves_meanwhile(behind):
    """What the log alone has was found out at the beginning: the stored rows that left since would be missing."""
    behind.publish("n" * 1001)
    filling = history.published_events(behind.parts, behind.applies, behind.topic)
    while not any(each.partition is None for each in next(filling)):
        pass
    behind.let_leave()
    with pytest.raises(Transient, match="left while it was read"):
        next(filling)
    direct = behind.direct()
    behind.publish("n" * 1001)
    steps = direct.catch_up()
    while len(behind.ids.get("n", ())) <= 1001:
        next(steps)
    behind.let_leave()
    with pytest.raises(Transient, match="left while it was read"):
        list(steps)


def test_what_is_about_to_leave_is_stored_still(control_db, kafka_server, make_relay, run_until):
    """Housekeeping has decided, and waits for a long transaction: the log lost some of it, the outbox has it all."""
    behind = Behind(control_db, kafka_server, make_relay, run_until)
    behind.publish("k" * 4)
    behind.read(4)
    behind.publish("k" * 6)
    [[partition]] = ask(control_db, "select partition from kylo.outbox_partitions order by low limit 1")
    with control_db.transaction() as tx:
        left.fold(tx, partition)
    remove(behind, 6)
    behind.read(10)
    assert behind.ids["k"] == list(range(1, 11))
    behind.parts.close()


def test_what_is_let_go_meanwhile_is_not_passed_by_what_waited_behind_it(behind):
    """Held at the beginning: its later events are no part of what is gone through, though they go out meanwhile."""
    behind.read(13)
    behind.save("k")
    behind.hold_newest()
    behind.let_leave()
    behind.save("k")
    behind.hold_newest()
    filling = history.published_events(behind.parts, behind.applies, behind.topic)
    assert next(filling) == []
    behind.relay(2)
    for batch in filling:
        behind.applies.handle(batch)
    assert len(behind.ids["k"]) == 13
    behind.read(15)
    assert behind.ids["k"] == sorted({record.outbox_id for record in read_all(behind.server.bootstrap, behind.topic)})


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


@pytest.mark.parametrize("who", ["relay", "projector"])
def test_whoever_ends_leaves_no_consumer_behind(behind, monkeypatch, who):
    """It lost its lane or was stopped, in the middle of catching up or of filling a gap."""
    made = opened(monkeypatch)
    remove(behind, 6)
    worker = behind.worker() if who == "projector" else behind.make_relay(direct=behind.direct())
    while not made:
        worker.run_once()
    assert not closed(made[0])
    worker.close()
    assert closed(made[0])


def test_keys_that_stay_on_kafka_are_looked_at_again(behind, monkeypatch):
    """Where the broker answers, their lane is taken anew; where none stay, nothing is."""
    settings = load(
        {"PG_DSN_RW": behind.database.dsn, "KAFKA_BROKERS": behind.server.bootstrap, "ROUTE_VIA_KAFKA": "0"}
    )
    built = parts.build(settings)
    process = relays.RelayProcess(built)
    state = process._states[behind.database.dsn, 0] = relays.RelayState(store="s", lane=0, leading=True)
    relay = process._relay(behind.database, state)
    direct = process._directs[behind.database.dsn, 0]

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
