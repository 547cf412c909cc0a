"""Rows of the two tabs of a company, their columns in order, and the signature of a post.

A cell is a text, a number, a truth value or None (empty). A text is always data: nothing here can become a formula.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Cell = str | float | bool | None

PENDING_COLUMNS = (
    "Row_Hash",
    "Date",
    "Source",
    "Company_ID",
    "Amount",
    "Target_Sheet",
    "Target_Header",
    "Match_Notes",
    "Approved",
    "Rule_ID",
    "Processed_At",
)
ACTIVE_COLUMNS = (
    "Ruleset_Version",
    "Effective_At",
    "Company_ID",
    "Source",
    "Target_Sheet",
    "Target_Header",
    "Match_Notes",
    "Created_At",
)
MAX_CELL_UNITS = 50_000
"""Google's limit for the text of one cell; counted here in UTF-16 units, the strictest reading of "characters"."""

CUT_NOTE = "Kylo: Source is cut at 50,000 characters; the whole text is in app.pending_txns."


@dataclass(frozen=True, slots=True)
class PendingRow:
    """One unmatched transaction as the bookkeeper sees it.

    `date` is ISO text, `source` the description as received, `amount_cents` minor units. The last six columns are
    empty (and Approved is False) when a row is first written: five of them belong to people or to the promotion.
    """

    txn_uid: str
    date: str
    source: str
    company_id: str
    amount_cents: int
    target_sheet: str = ""
    target_header: str = ""
    match_notes: str = ""
    approved: bool = False
    rule_id: str = ""
    processed_at: str = ""

    def cells(self) -> tuple[Cell, ...]:
        """Return the eleven cells in the order of `PENDING_COLUMNS`.

        The amount is a number exact to the cent up to 2**53 cents (some 90,000,000,000,000.00); a longer one loses
        cents in the tab, as every number in a sheet does, and never in the tables. A source over Google's limit is
        cut and Match_Notes says so.
        """
        source, cut = _fit(self.source)
        notes = CUT_NOTE if cut and not self.match_notes else self.match_notes
        return (
            self.txn_uid,
            self.date,
            source,
            self.company_id,
            self.amount_cents / 100,
            self.target_sheet or None,
            self.target_header or None,
            notes or None,
            self.approved,
            self.rule_id or None,
            self.processed_at or None,
        )


@dataclass(frozen=True, slots=True)
class ActiveRow:
    """One active rule as the Active tab shows it; times are ISO text in UTC."""

    ruleset_version: int
    effective_at: str
    company_id: str
    source: str
    target_sheet: str
    target_header: str
    match_notes: str
    created_at: str

    def cells(self) -> tuple[Cell, ...]:
        """Return the eight cells in the order of `ACTIVE_COLUMNS`."""
        return (
            float(self.ruleset_version),
            self.effective_at,
            self.company_id,
            _fit(self.source)[0],
            _fit(self.target_sheet)[0] or None,
            _fit(self.target_header)[0] or None,
            _fit(self.match_notes)[0] or None,
            self.created_at,
        )


def pending_tab(company_id: str) -> str:
    """Name of the tab of open transactions, unless the company's settings say otherwise."""
    return f"{company_id} Pending"


def active_tab(company_id: str) -> str:
    """Name of the tab of active rules, unless the company's settings say otherwise."""
    return f"{company_id} Active"


def batch_signature(
    company_id: str, tab: str, ordinal: int, hashes: Iterable[str], *, ruleset_version: int | None = None
) -> str:
    """Return 32 hex digits that name one post: who, where, which one in order, and what.

    Args:
        company_id: Owner of the rows.
        tab: Title of the tab.
        ordinal: The post's own number within (company, tab). It makes A, B, A three posts instead of two.
        hashes: Identity of each row, in any order (`txn_uid` for Pending).
        ruleset_version: Given for the Active tab only.
    """
    named = json.dumps([company_id, tab, ordinal, ruleset_version, sorted(hashes)], separators=(",", ":"))
    return hashlib.sha256(named.encode()).hexdigest()[:32]


def post_marker(ordinal: int, signature: str) -> str:
    """Return the value written beside the rows of a post; found again, it proves that this post was applied."""
    return f"{ordinal}.{signature}"


def marker_ordinal(marker: str) -> int | None:
    """Return the ordinal inside a marker, or None when the text was not written by us."""
    head, dot, tail = marker.partition(".")
    return int(head) if dot and tail and head.isascii() and head.isdigit() else None


def text_units(text: str) -> int:
    """Length of a text in UTF-16 units."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def is_cut(source: str) -> bool:
    """Whether a cell cannot hold the whole text."""
    return text_units(source) > MAX_CELL_UNITS


def _fit(text: str) -> tuple[str, bool]:
    """Return the text as a cell can hold it, and whether it had to be cut (never inside a character)."""
    if text_units(text) <= MAX_CELL_UNITS:
        return text, False
    whole = text.encode("utf-16-le", "surrogatepass")[: (MAX_CELL_UNITS - 1) * 2]
    return whole.decode("utf-16-le", "ignore") + "…", True
