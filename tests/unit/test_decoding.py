"""Reading any record: a delivery comes out whatever was written, and its payload is readable or poison."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE
from hypothesis import HealthCheck, given, settings

from kylo_outbox import Poison
from kylo_outbox.kafka.consumer import as_delivery
from kylo_outbox.model.delivery import from_record
from kylo_outbox.model.events import Event, origin_of
from kylo_outbox.model.upcast import lift
from kylo_outbox.store.deliveries import delivery_of, row_of
from tests.helpers.odd_records import records

UUID = "018f0000-0000-7000-8000-000000000001"


def check(record):
    """Read one record, store it as a row, read the row."""
    delivery = from_record(**record, topic="t", offset=7, at=None)
    generation, number = delivery.position
    assert -1 < generation < 2**31
    assert -1 < number < 2**63
    row = row_of(delivery)
    assert not any("\x00" in value for value in row if isinstance(value, str))
    assert all("\x00" not in part for part in delivery.hold_key or ())
    assert all("\x00" not in part for part in delivery.position_key)
    again = delivery_of([*row[:8], delivery.event.headers, *row[9:]])
    assert (again.position_key, again.position) == (delivery.position_key, delivery.position)
    assert again.event.raw == delivery.event.raw
    with suppress(Poison):
        assert lift(delivery.event, {("T", 1): lambda old: old}).raw == delivery.event.raw


def check_many(number):
    """Generate so many records."""
    plain = settings(max_examples=number, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    plain(given(records)(check))()


def test_every_record_becomes_a_delivery_that_can_be_stored():
    """Never an exception; numbers fit their columns, no text holds a NUL, and a stored row comes back as it was."""
    check_many(2000)


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_every_record_becomes_a_delivery_that_can_be_stored_at_full_size():
    """The same with 200,000 records."""
    check_many(200_000)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"1;x;y",
        f"2;store;1;1;{UUID};T".encode(),
        f"1;store;-1;1;{UUID};T".encode(),
        f"1;store;2147483648;1;{UUID};T".encode(),
        f"1;store;1;9223372036854775808;{UUID};T".encode(),
        f"1;st\x00re;1;1;{UUID};T".encode(),
        f"1;store;1;1;{UUID};T\x00".encode(),
        "1;store;\u0663;1;018f0000-0000-7000-8000-000000000001;T".encode(),
        b"1;store;1;1;no-uuid-no-uuid-no-uuid-no-uuid-noo;T",
        b"\xff;",
    ],
)
def test_a_header_that_is_not_ours_is_not_believed(header):
    """Other versions, numbers that no store gives out, broken ids: another producer's record."""
    assert origin_of(header) is None


def test_a_key_that_no_store_can_have_is_another_producers():
    """`emit` refuses NUL characters, so a record with one has only borrowed our header."""
    header = f"1;aaaabbbbcccc;1;5;{UUID};T".encode()
    plain: dict[str, Any] = {"topic": "t", "partition": 2, "offset": 9, "value": b"{}", "at": None}
    plain["headers"] = [("kylo", header)]
    ours, borrowed = from_record(**plain, key=b"k"), from_record(**plain, key=b"\x00")
    assert (ours.position, ours.event.outbox_id) == ((1, 5), 5)
    assert (borrowed.position_key, borrowed.position) == (("", "t", "@2"), (0, 9))
    assert borrowed.event.outbox_id is None


@pytest.mark.parametrize(
    ("kind", "number"),
    [(TIMESTAMP_CREATE_TIME, 2**62), (TIMESTAMP_CREATE_TIME, -(2**62)), (TIMESTAMP_NOT_AVAILABLE, -1)],
)
def test_any_time_a_producer_may_write(kind, number):
    """A time that no calendar has is no time."""
    parts = {"topic": "t", "partition": 0, "offset": 1, "key": None, "value": None, "headers": None}
    message = SimpleNamespace(**{name: lambda value=value: value for name, value in parts.items()})
    message.timestamp = lambda: (kind, number)
    assert as_delivery(message).event.created_at is None


def test_upcasters_that_never_end_are_poison():
    """A function that never raises the version is stopped by the runtime's own count."""
    event = Event(topic="t", key="k", type="T", raw=b'{"version": 1}')
    endless = {("T", number): (lambda old: old) for number in range(200)}
    with pytest.raises(Poison, match="upcasters"):
        lift(event, endless)
    assert lift(event, {("T", 1): lambda old: old}).payload == {"version": 2}
