"""What a projector takes from the log first: which keys, and up to where."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import murmur2

from kylo_outbox import Transient
from kylo_outbox.flows.direct import DirectDelivery
from kylo_outbox.flows.project import Projection
from kylo_outbox.flows.unread import Unread
from kylo_outbox.kafka.unread import _rounds as rounds
from kylo_outbox.store.history import Moment
from tests.helpers.projectors import STORE, Collects, delivery


def place(key, store=STORE):
    """Where positions of a key of topic t stand."""
    return (store, "t", key)


def ids(batches):
    """Outbox ids, batch by batch."""
    return [[each.event.outbox_id for each in batch] for batch in batches]


def test_keys_that_are_behind_are_read_up_to_what_left():
    """What is stored comes from the outbox; a key that was taken is not read, nor one of another store."""
    asked = []

    def records(keys):
        asked.append(keys)
        yield [delivery(1, "a"), delivery(1, "a", store="other"), delivery(2, "b")]
        yield []
        yield [delivery(3, "a"), delivery(4, "a"), delivery(9, "a", generation=0)]

    left = [{place("a"): (1, 3), place("b"): (1, 2)}, {place("c"): (1, 7)}]
    unread = Unread(lambda: left, lambda goals: [{each for each in goals if each[2] != "b"}], records)
    assert len(list(unread.look())) == 2
    assert ids(unread.batches()) == [[1], [], [3, 9]]
    assert asked == [{"a", "c"}]


def test_a_key_is_read_where_it_lay_before_its_topic_grew_and_then_where_it_lies():
    """Its old partition in the first round, all others in the second; without growth there is one round."""
    key = b"k13"
    old, new = murmur2(key, 3), murmur2(key, 8)
    assert old != new
    turns = [{number for number in range(8) if is_turn_of(key, number)} for is_turn_of in rounds(8, 3)]
    assert turns == [{old}, set(range(8)) - {old}]
    assert [is_turn_of(key, 5) for before in (8, 9, None) for is_turn_of in rounds(8, before)] == [True] * 3


def test_nothing_is_read_where_nothing_is_missing():
    """The log is not even asked."""
    unread = Unread(lambda: [{place("a"): (1, 3)}], lambda _goals: [set()], lambda _keys: pytest.fail("it was asked"))
    list(unread.look())
    assert list(unread.batches()) == []
    assert unread.keys == set()


def test_a_database_that_is_away_says_nothing_of_its_keys():
    """Not known is not taken."""

    def away(_delivery):
        raise Transient("away")

    projection = Projection(Collects("t"), away, lambda topic: topic)
    assert list(projection.short_of({place("a"): (1, 3)})) == [{place("a")}]


class Home:
    """A database that does not answer, and counts how often it was asked."""

    def __init__(self, dsn):
        self.dsn, self.asked = dsn, 0

    def transaction(self):
        """After some seconds, perhaps."""
        self.asked += 1
        raise Transient("away")


def test_each_database_is_a_step_and_a_silent_one_is_asked_once_a_minute():
    """A lease is renewed between two steps; a database that costs its time-out each time would cost the lease again."""
    one, two = Home("one"), Home("two")
    homes: dict[str, Any] = {"a": one, "b": one, "c": two}
    projection = Projection(Collects("t"), lambda given: homes[given.event.key], lambda topic: topic)
    goals = {place(key): (1, 3) for key in "abc"}
    assert list(projection.short_of(goals)) == [{place("a"), place("b")}, {place("c")}]
    assert list(projection.short_of(goals)) == [set(goals)]
    assert [one.asked, two.asked] == [1, 1]


class Missing:
    """Something of `keys` is to come from the log."""

    def __init__(self, keys, *batches):
        self.keys, self._batches = keys, batches

    def look(self):
        """Two steps."""
        yield from (None, None)

    def batches(self):
        """Until the log does not answer."""
        for batch in self._batches:
            if isinstance(batch, Exception):
                raise batch
            if callable(batch):
                batch("it was asked")
            yield batch


class Takes:
    """A projection that notes what it is given."""

    def __init__(self):
        self.projector, self.given = Collects("t"), []

    def handle(self, deliveries):
        """Note the ids."""
        self.given.append([each.event.outbox_id for each in deliveries])

    def short_of(self, goals):
        """Nobody asks here."""
        yield set(goals)


def row(number, key):
    """A row of the outbox."""
    return (number, "t", key.encode(), "T", b"{}", None, "0" * 32, 0.0, 1)


def direct(takes, missing, topics=("t",)):
    """The direct path of one store, with one batch of stored rows."""
    return DirectDelivery(
        store_id=STORE,
        topics=topics,
        is_direct=lambda _key: True,
        projections=[takes],
        moment=lambda _topics: Moment(5, "[]", frozenset()),
        published_rows=lambda _topics, at: iter([[row(at.begins, "a"), row(at.begins + 1, "b")]]),
        missing=missing,
    )


def test_the_direct_path_takes_one_step_at_a_time():
    """A turn each for what is looked for, for an empty batch, and for what is handed over: the lease is renewed."""
    takes = Takes()
    path = direct(takes, lambda *_: Missing(["a"], [delivery(1, "a")], [], [delivery(2, "a")]))
    seen = [list(map(list, takes.given)) for _ in path.catch_up()]
    assert seen == [[], [], [[1]], [[1]], [[1], [2]], [[1], [2], [5, 6]]]


def test_a_key_whose_history_cannot_be_read_is_not_handed_over():
    """Neither what is stored nor what comes; the next time that the lane is taken it is looked at anew."""
    takes = Takes()
    answers = [Missing({"a"}, [delivery(1, "a")], Transient("away")), Missing({"a"}, [delivery(2, "a")])]
    path = direct(takes, lambda *_: answers.pop(0))
    list(path.catch_up())
    assert takes.given == [[1], [6]]
    assert [path.takes("t", b"a"), path.takes("t", b"b")] == [False, True]
    list(path.catch_up())
    assert path.takes("t", b"a")
    assert takes.given[-2:] == [[2], [5, 6]]


def test_a_log_that_was_silent_is_not_asked_for_the_next_topic():
    """Each would wait out its patience, and the lane is served by nobody meanwhile."""
    takes = Takes()
    takes.projector.topics = ("t", "u")
    second = Missing({"b"}, pytest.fail)
    answers = [Missing({"a"}, Transient("away")), second]
    path = direct(takes, lambda *_: answers.pop(0), topics=["t", "u"])
    list(path.catch_up())
    assert path.on_kafka == 2
    assert [path.takes("t", b"a"), path.takes("u", b"b")] == [False, False]


def test_an_effect_that_is_away_is_no_log_that_is_away():
    """The projection says when to come back; the key does not go to Kafka for it."""
    takes = Takes()

    def handle(_deliveries):
        raise Transient("PostgreSQL is away")

    takes.handle = handle
    path = direct(takes, lambda *_: Missing({"a"}, [delivery(1, "a")]))
    with pytest.raises(Transient, match="PostgreSQL"):
        list(path.catch_up())
    assert path.takes("t", b"a")
