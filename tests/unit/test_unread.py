"""What a projector takes from the log first: which keys, and up to where."""

from __future__ import annotations

import pytest

from kylo_outbox import Transient
from kylo_outbox.flows.direct import DirectDelivery
from kylo_outbox.flows.project import Projection
from kylo_outbox.flows.unread import Unread
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
    unread = Unread(lambda: left, lambda goals: {each for each in goals if each[2] != "b"}, records)
    assert len(list(unread.look())) == 2
    assert ids(unread.batches()) == [[1], [], [3, 9]]
    assert asked == [{"a", "c"}]


def test_nothing_is_read_where_nothing_is_missing():
    """The log is not even asked."""
    unread = Unread(lambda: [{place("a"): (1, 3)}], lambda _goals: set(), lambda _keys: pytest.fail("it was asked"))
    list(unread.look())
    assert list(unread.batches()) == []
    assert unread.keys == set()


def test_a_database_that_is_away_says_nothing_of_its_keys():
    """Not known is not taken."""

    def away(_delivery):
        raise Transient("away")

    projection = Projection(Collects("t"), away, lambda topic: topic)
    assert projection.short_of({place("a"): (1, 3)}) == {place("a")}


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
        return set(goals)


def row(number, key):
    """A row of the outbox."""
    return (number, "t", key.encode(), "T", b"{}", None, "0" * 32, 0.0, 1)


def direct(takes, missing):
    """The direct path of one store, with one batch of stored rows."""
    return DirectDelivery(
        store_id=STORE,
        topics=["t"],
        is_direct=lambda _key: True,
        projections=[takes],
        beginning=lambda: 5,
        published_rows=lambda _topics, begins: iter([[row(begins, "a"), row(begins + 1, "b")]]),
        missing=missing,
    )


def test_the_direct_path_takes_one_step_at_a_time():
    """A turn each for what is looked for, for an empty batch, and for what is handed over: the lease is renewed."""
    takes = Takes()
    path = direct(takes, lambda _projection, _topic: Missing(["a"], [delivery(1, "a")], [], [delivery(2, "a")]))
    seen = [list(map(list, takes.given)) for _ in path.catch_up()]
    assert seen == [[], [], [[1]], [[1]], [[1], [2]], [[1], [2], [5, 6]]]


def test_a_key_whose_history_cannot_be_read_is_not_handed_over():
    """Neither what is stored nor what comes; the next time that the lane is taken it is looked at anew."""
    takes = Takes()
    answers = [Missing({"a"}, [delivery(1, "a")], Transient("away")), Missing(set())]
    path = direct(takes, lambda _projection, _topic: answers.pop(0))
    list(path.catch_up())
    assert takes.given == [[1], [6]]
    assert [path.takes("t", b"a"), path.takes("t", b"b")] == [False, True]
    list(path.catch_up())
    assert path.takes("t", b"a")
    assert takes.given[-1] == [5, 6]


def test_an_effect_that_is_away_is_no_log_that_is_away():
    """The projection says when to come back; the key does not go to Kafka for it."""
    takes = Takes()

    def handle(_deliveries):
        raise Transient("PostgreSQL is away")

    takes.handle = handle
    path = direct(takes, lambda _projection, _topic: Missing({"a"}, [delivery(1, "a")]))
    with pytest.raises(Transient, match="PostgreSQL"):
        list(path.catch_up())
    assert path.takes("t", b"a")
