"""The messages of flow 1: built, read back, and refused with a reason when they are not ours."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kylo_outbox.model.errors import Poison
from kylo_outbox.model.messages import PendingReady, TxnsBatch

BATCH = TxnsBatch(
    batch_id=uuid.UUID(int=7),
    company_id="710",
    ingest_batch_id=3,
    slice_signature="ab" * 32,
    created_at=datetime(2026, 11, 21, 4, 5, 6, 789_000, tzinfo=UTC),
)


def test_the_payload_has_the_promised_shape():
    """Names and forms are those that readers outside this project rely on; no routing, no secret."""
    assert BATCH.payload() == {
        "event_type": "TXNS_BATCH",
        "version": 1,
        "batch_id": "00000000-0000-0000-0000-000000000007",
        "company_id": "710",
        "ingest_batch_id": 3,
        "slice_signature": "ab" * 32,
        "created_at": "2026-11-21T04:05:06.789Z",
    }
    ready = PendingReady(
        company_id="710", batch_id=uuid.UUID(int=7), ingest_batch_id=3, unmatched=2, created_at=BATCH.created_at
    )
    assert sorted(ready.payload()) == [
        *("batch_id", "company_id", "created_at", "event_type", "ingest_batch_id", "unmatched", "version")
    ]


@pytest.mark.parametrize("form", [dict, json.dumps, lambda payload: json.dumps(payload).encode()])
def test_what_was_built_is_read_back(form):
    """A message survives the way over the wire, in any form, with its meta."""
    sent = BATCH.model_copy(update={"meta": {"from": "n8n", "n": [1]}})
    assert TxnsBatch.parse(form(sent.payload())) == sent


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "unsupported version"),
        ({"version": 0}, "version"),
        ({"version": "1"}, "version"),
        ({"event_type": "PROMOTE_RULES"}, "event_type"),
        ({"routing": {"db_dsn_rw": "postgresql://u:secret@h/d"}}, "routing: Extra inputs"),
        ({"batch_id": "x"}, "batch_id"),
        ({"company_id": ""}, "company_id"),
        ({"company_id": 710}, "company_id"),
        ({"ingest_batch_id": "3"}, "ingest_batch_id"),
        ({"ingest_batch_id": 2**63}, "ingest_batch_id"),
        ({"ingest_batch_id": None}, "ingest_batch_id"),
        ({"slice_signature": None}, "slice_signature"),
        ({"created_at": "2026-11-21T04:05:06"}, "created_at"),
        ({"meta": [1]}, "meta"),
        ({"company_id": "\ud800"}, "Invalid JSON"),
    ],
)
def test_what_is_not_ours_is_poison_with_its_reason(change, reason):
    """A message that cannot be applied says which field is wrong and never repeats a value."""
    with pytest.raises(Poison, match=reason) as poison:
        TxnsBatch.parse({**BATCH.payload(), **change})
    assert "secret" not in poison.value.reason


@given(st.binary(max_size=100) | st.text(max_size=100))
def test_no_bytes_break_the_reader(raw):
    """Any bytes give a message or poison."""
    with pytest.raises(Poison):
        TxnsBatch.parse(raw)
