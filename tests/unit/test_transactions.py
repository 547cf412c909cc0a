"""Rows become transactions: every fault is found and named, nothing is rounded, order does not matter."""

from __future__ import annotations

import json
import time
import uuid
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kylo_outbox.model import transactions
from kylo_outbox.model.errors import Conflict, Refused
from kylo_outbox.model.transactions import (
    Invalid,
    Transaction,
    amount_cents,
    parse_request,
    slice_signature,
    txn_uid,
)

GOOD = {"id": "t1", "company_id": "710", "date": "2025-08-26", "amount": Decimal("-12.34"), "description": "STARBUCKS"}


def row(**changes: Any) -> dict[str, Any]:
    """A good row with some fields changed."""
    return {**GOOD, **changes}


def faults_of(*rows: Any) -> list[str]:
    """What a refusal of these rows lists."""
    with pytest.raises(Refused) as refused:
        parse_request(rows)
    return list(refused.value.faults)


def test_a_good_row_becomes_a_transaction():
    """Every field arrives, with the derived ones beside it."""
    [found] = parse_request([GOOD]).transactions
    assert (found.company_id, found.txn_id, found.occurred_at) == ("710", "t1", date(2025, 8, 26))
    assert (found.amount_cents, found.description, found.description_norm) == (-1234, "STARBUCKS", "starbucks")
    assert found.txn_uid == uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, "kylo://transaction"), "710|t1")


def test_identity_is_pinned():
    """The uid of a transaction is the same in every release: rows in tabs are found by it."""
    assert str(txn_uid("710", "t1")) == "94bd27af-3c5d-533b-9c41-a66f1a42229e"


@pytest.mark.parametrize(
    ("value", "cents"),
    [
        (Decimal("19.99"), 1999),
        (Decimal("1.15"), 115),
        ("-0.05", -5),
        ("+3", 300),
        (0, 0),
        (Decimal("-0.00"), 0),
        (Decimal("1E+2"), 10000),
        (12, 1200),
        ("92233720368547758.07", 2**63 - 1),
        ("-92233720368547758.08", -(2**63)),
    ],
)
def test_amounts_are_exact(value, cents):
    """What is accepted is worth exactly what was written; zero is an amount."""
    assert amount_cents(value) == cents


@pytest.mark.parametrize(
    "value",
    [
        *("12.345", "10.000", "NaN", "Infinity", "", " 1", "1,50", "1e2", "1.", ".5", "٣", "1" * 50),
        *(None, True, 1.5, float("nan"), [], {}, Decimal("NaN"), Decimal("-Infinity"), Decimal("sNaN")),
        *(Decimal("1e999999"), Decimal("0e-5"), 10**5000, 2**63, "92233720368547758.08", Decimal("1." + "1" * 5000)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_amounts_that_would_need_a_guess_are_refused(value):
    """No rounding, no binary floats, no other notations, nothing out of range."""
    with pytest.raises(Invalid):
        amount_cents(value)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_amount_of_bigint_survives(cents):
    """Text and Decimal of any number of cents come back as that number."""
    text = f"{Decimal(cents).scaleb(-2):f}"
    assert amount_cents(text) == cents == amount_cents(Decimal(text))


def test_every_fault_is_listed_with_its_path():
    """One bad row among good ones is refused with all its faults, not only the first."""
    found = faults_of(GOOD, GOOD, row(amount="x", date="2025-02-30", description=5, currency="EUR"), 7, {})
    paths = [fault.split(":")[0] for fault in found]
    assert paths == [
        *(f"transactions[2].{field}" for field in ("date", "amount", "description", "currency")),
        "transactions[3]",
        *(f"transactions[4].{field}" for field in ("id", "company_id", "date", "amount", "description")),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("id", bad) for bad in ("", "x" * 201, " t1", "t1\n", "a\x00b", None, True, 1.5, "\ud800")),
        *(("company_id", bad) for bad in ("", "7" * 51, "a|b", "710 ", None, ["710"])),
        *(
            ("date", bad)
            for bad in ("20250826", "2025-W35-2", "1899-12-31", "2201-01-01", "2025-08-26T00:00", 20250826)
        ),
        *(("date", bad) for bad in (None, "\uff12\uff10\uff12\uff15-08-26", "2025-13-01")),
        *(("description", bad) for bad in ("a\x00b", "\ud800", "bell\x07", "\x85", "x" * 50_001, 5, ["x"])),
    ],
)
def test_a_bad_field_is_named(field, value):
    """Each field's own rules are checked, and the answer can be written as JSON."""
    [fault] = faults_of(row(**{field: value}))
    assert fault.startswith(f"transactions[0].{field}: ")
    json.dumps(fault).encode("ascii")


@pytest.mark.parametrize("text", ["", None, "x" * 50_000, "Ünïcödé ☕ e\u0301", "two\nlines\tand a tab\r\n", "=1+1"])
def test_descriptions_are_kept_whole(text):
    """What was received is what is stored, to the last character; null counts as empty."""
    assert parse_request([row(description=text)]).transactions[0].description == (text or "")


def test_whole_numbers_are_ids():
    """Banks that number their rows and companies in JSON are understood."""
    [found] = parse_request([row(id=17, company_id=710)]).transactions
    assert (found.txn_id, found.company_id) == ("17", "710")


def test_a_true_repeat_counts_once_and_a_false_one_is_a_conflict():
    """The same id with equal content is one transaction; with other content both places are named."""
    same = parse_request([GOOD, row(id="t2"), row(amount="-12.34")])
    assert [txn.txn_id for txn in same.transactions] == ["t1", "t2"]
    assert same.positions == (0, 1)
    with pytest.raises(Conflict, match=r"transactions\[2\]\.id: 't1' of company '710' .*transactions\[0\]"):
        parse_request([GOOD, row(id="t2"), row(description="OTHER")])
    assert len(parse_request([GOOD, row(company_id="711", description="OTHER")]).transactions) == 2


def test_digests_depend_on_content_only():
    """Order and true repeats do not change the digest of a request or the signature of a slice; content does."""
    one, two = GOOD, row(id="t2")
    first, second = parse_request([one, two]), parse_request([two, one, one])
    assert first.digest == second.digest
    assert slice_signature(first.transactions) == slice_signature(second.transactions)
    assert parse_request([one]).digest != first.digest
    for field, value in {"id": "x", "company_id": "9", "date": "2025-08-27", "amount": 1, "description": "s"}.items():
        assert parse_request([row(**{field: value})]).digest != parse_request([GOOD]).digest


@given(st.text(max_size=5), st.text(max_size=5))
def test_content_digest_tells_descriptions_apart(one, other):
    """Two contents have one digest only if they are equal."""

    def digest(text: str) -> bytes:
        return Transaction.of("710", "t1", date(2025, 1, 1), 5, text.encode("utf-8", "replace").decode()).content_digest

    assert (digest(one) == digest(other)) == (one.encode("utf-8", "replace") == other.encode("utf-8", "replace"))


def test_a_small_body_cannot_ask_for_a_huge_answer(monkeypatch):
    """Beyond a limit faults are counted instead of listed."""
    monkeypatch.setattr(transactions, "MAX_LISTED", 12)
    found = faults_of(*[{}] * 10)
    assert len(found) == 13
    assert found[-1] == "transactions: 38 more faults"


def test_line_numbers_are_shown_where_there_are_lines():
    """A fault in a CSV or NDJSON file names its line too."""
    with pytest.raises(Refused, match=r"transactions\[1\]\.amount: .*\(line 9\)$"):
        parse_request([GOOD, row(amount="")], lines=[2, 9])


def test_fifty_thousand_rows_take_seconds_at_most():
    """A large request is checked fast enough to be answered in one go."""
    rows = [row(id=f"t{number}", description=f"STARBUCKS #{number}") for number in range(50_000)]
    start = time.process_time()
    assert len(parse_request(rows).transactions) == 50_000
    assert time.process_time() - start < 6
