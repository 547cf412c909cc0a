"""What left the log unread, as one member of a group meets it: never in the middle of what is handed out together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kylo_outbox.kafka import consumer
from kylo_outbox.kafka.client import KafkaAddress, KafkaFault
from kylo_outbox.kafka.consumer import Subscription

BEGINS = 15


class Client:
    """A client with these (partition, offset) to give; both logs begin at 15, both were committed at 10."""

    def __init__(self, records):
        self.left = [self._message(*each) for each in records]
        self.silent, self.committed_at = False, 10

    @staticmethod
    def _message(partition, offset):
        known: dict[str, Any] = {
            "topic": "t",
            "partition": partition,
            "offset": offset,
            "key": b"k",
            "value": b"{}",
            "headers": None,
            "timestamp": (0, 0),
            "error": None,
        }
        return SimpleNamespace(**{name: lambda value=value: value for name, value in known.items()})

    def subscribe(self, *_args, **_more):
        """Nothing."""

    def poll(self, _seconds):
        """The next one."""
        return self.left.pop(0) if self.left else None

    def consume(self, number, _seconds):
        """The next ones."""
        taken, self.left = self.left[:number], self.left[number:]
        return taken

    def committed(self, places, _seconds):
        """Ten, if somebody answers."""
        if self.silent:
            raise KafkaFault("no broker answers", "broker", "_TIMED_OUT")
        return [SimpleNamespace(offset=self.committed_at) for _ in places]

    def get_watermark_offsets(self, _place, _seconds):
        """Where the log begins and ends."""
        return BEGINS, 100


@pytest.fixture
def member(monkeypatch):
    """A member whose client has these records."""

    def make(*records, read_before=()):
        client = Client(records)
        monkeypatch.setattr(consumer, "build", lambda *_: client)
        return Subscription(KafkaAddress("nowhere:1"), "g", ["t"], read_before=read_before), client

    return make


def taken(subscription, limit=100):
    """What it gives, as (partition, offset), and what it says was lost before that."""
    records = [(each.partition, each.offset) for each in subscription.take(limit, 0.0)]
    return records, subscription.lost()


def test_records_on_both_sides_of_a_gap_come_one_after_the_other(member):
    """Whoever fills the gap has settled what came before it, and nothing behind it."""
    subscription, _ = member((0, 15), (0, 16), (1, 15), (1, 16))
    assert taken(subscription) == ([(0, 15), (0, 16)], [("t", 0, 10, 15)])
    assert taken(subscription) == ([(1, 15), (1, 16)], [("t", 1, 10, 15)])
    assert taken(subscription) == ([], [])


def test_what_waits_behind_a_gap_keeps_its_place_before_newer_records(member):
    """Neither the gap nor a limit mixes up an order."""
    subscription, client = member((0, 15), (1, 15), (1, 16))
    assert taken(subscription) == ([(0, 15)], [("t", 0, 10, 15)])
    client.left.append(client._message(0, 16))
    assert taken(subscription, 1) == ([(1, 15)], [("t", 1, 10, 15)])
    assert taken(subscription) == ([(1, 16), (0, 16)], [])


def test_a_silent_broker_loses_neither_records_nor_the_gap(member):
    """What was taken stays until it is known whether something lies before it."""
    subscription, client = member((0, 15))
    client.silent = True
    with pytest.raises(KafkaFault):
        subscription.take(100, 0.0)
    client.silent = False
    assert taken(subscription) == ([(0, 15)], [("t", 0, 10, 15)])


@pytest.mark.parametrize(("read_before", "lost"), [(["t"], [("t", 0, 0, 15)]), (["other"], [])])
def test_without_a_committed_offset_a_group_that_has_read_before_may_have_lost_something(member, read_before, lost):
    """Its offset has expired; a group that is new begins where the log begins."""
    subscription, client = member((0, 15), (0, 16), read_before=read_before)
    client.committed_at = -1001
    assert taken(subscription) == ([(0, 15), (0, 16)], lost)
