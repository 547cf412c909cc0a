"""What the system says on a line of a Pending tab, and how its words are told from those that people typed there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NOTES, RULE_ID, PROCESSED_AT = 7, 9, 10
"""Columns (0 = A) of Match_Notes, Rule_ID and Processed_At."""

COLUMNS = (NOTES, RULE_ID, PROCESSED_AT)
NOTE_PREFIX = "Kylo: "
_NOTES = (NOTE_PREFIX, "Not taken: ")
"""How every note of ours begins."""

_RULE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|ruleset \d+")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d\S*")


@dataclass(frozen=True, slots=True)
class Marks:
    """Texts of the three system columns; "" leaves one empty."""

    match_notes: str = ""
    rule_id: str = ""
    processed_at: str = ""

    def by_column(self) -> dict[int, str]:
        """The texts as they are written, by column."""
        return {NOTES: note(self.match_notes), RULE_ID: self.rule_id, PROCESSED_AT: self.processed_at}


@dataclass(frozen=True, slots=True)
class ApprovalLine:
    """One line of a Pending tab as people left it.

    `approved` is a truth value, or whatever else stands in the cell, as text; `row` is the line's number as people see
    it. Nothing is checked here.
    """

    row_hash: str
    approved: bool | str
    target_sheet: str
    target_header: str
    row: int


def note(text: str) -> str:
    """Return a note as it stands in the tab: people see who says it, and we know our own again."""
    return text if not text or text.startswith(_NOTES) else NOTE_PREFIX + text


def is_ours(column: int, text: str) -> bool:
    """Whether a text of a system column was written by the system; anything else was typed and stays."""
    if column == NOTES:
        return text.startswith(_NOTES)
    return bool((_RULE_ID if column == RULE_ID else _TIME).fullmatch(text))


def changes(marks: Marks, line: Sequence[object]) -> dict[int, str]:
    """Return what must be written on a line, by column: never over something that people typed."""
    wanted = marks.by_column()
    found: dict[int, str] = {}
    for column, text in wanted.items():
        there = str(line[column]) if column < len(line) else ""
        if there != text and (not there or is_ours(column, there)):
            found[column] = text
    return found


def approval_line(row: int, line: Sequence[object]) -> ApprovalLine:
    """Read one line (cells A to K, number as people see it)."""
    cells = [*line, *[""] * (11 - len(line))]
    approved = cells[8]
    return ApprovalLine(
        row_hash=str(cells[0]),
        approved=approved if isinstance(approved, bool) else str(approved),
        target_sheet=_plain(cells[5]),
        target_header=_plain(cells[6]),
        row=row,
    )


def _plain(value: object) -> str:
    """A cell as text; people type numbers as targets, and Sheets makes 5 of "5"."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return str(value).strip()
