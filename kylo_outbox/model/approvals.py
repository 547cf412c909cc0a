"""Lines of the Pending tab as people filled them in: which approve a rule, and what is wrong with the others.

Only what people typed counts (Approved, Target_Sheet, Target_Header); the source of a rule is the description of the
transaction that Row_Hash names, so a tab that was sorted or whose Source was edited approves what it says it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from kylo_outbox.model.rules import Rule, rule_faults
from kylo_outbox.model.transactions import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kylo_outbox.model.rules import Targets

NOTE: Final = "Not taken: "
"""How every note of ours in Match_Notes begins; any other text there is somebody's own."""
_MAX_LISTED: Final = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the tab as it was read: its number there, Row_Hash, and the three cells that belong to people."""

    row: int
    row_hash: str
    approved: bool | str | float | None
    target_sheet: str = ""
    target_header: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the system's columns of a row should hold.

    `match_notes` is `""` where there is nothing to say: then a note of ours (`is_own_note`) goes, anything else stays.
    `rule_id` and `processed_at` (UTC, ISO text) are `""` until a promotion has resolved the row.
    """

    row: int
    row_hash: str
    match_notes: str
    rule_id: str
    processed_at: str


@dataclass(frozen=True, slots=True)
class Verdicts:
    """By the index of the line: the rules that are approved, and why lines that want to be are not."""

    rules: dict[int, Rule]
    faults: dict[int, str]


def is_own_note(text: str) -> bool:
    """Whether a text in Match_Notes was written by the system and may be replaced by it."""
    return text.startswith(NOTE)


def uid_of(row_hash: str) -> UUID | None:
    """The transaction that a Row_Hash names; None if it is no Row_Hash."""
    try:
        return UUID(row_hash)
    except (ValueError, AttributeError, TypeError):
        return None


def judge(lines: Sequence[Line], sources: Mapping[UUID, str], targets: Targets) -> Verdicts:
    """Judge lines by what stands in them and by each other.

    Args:
        lines: All rows of the tab.
        sources: Description of each transaction that is open.
        targets: Where rules may point to; empty: anywhere.
    """
    rules: dict[int, Rule] = {}
    faults: dict[int, str] = {}
    for index, line in enumerate(lines):
        match line.approved:
            case False | None | "" | "FALSE":
                continue
            case True | "TRUE":
                found = _rule(line, sources, targets)
            case other:
                found = f"Approved must be TRUE or FALSE, not {shown(other)}"
        if isinstance(found, Rule):
            rules[index] = found
        elif found:
            faults[index] = found
    return Verdicts(*_without_conflicts(lines, rules, faults))


def _rule(line: Line, sources: Mapping[UUID, str], targets: Targets) -> Rule | str:
    uid = uid_of(line.row_hash)
    if uid is None or uid not in sources:
        return "Row_Hash is not that of an open transaction of this company"
    sheet, header = line.target_sheet.strip(), line.target_header.strip()
    missing = [name for name, text in (("Target_Sheet", sheet), ("Target_Header", header)) if not text]
    if missing:
        return f"{' and '.join(missing)} must be filled in"
    row = {"source": sources[uid], "target_sheet": sheet, "target_header": header}
    wrong = rule_faults(row, targets)
    return "; ".join(fault.removeprefix(".target: ").lstrip(".") for fault in wrong) if wrong else Rule(**row)


def _without_conflicts(
    lines: Sequence[Line], rules: dict[int, Rule], faults: dict[int, str]
) -> tuple[dict[int, Rule], dict[int, str]]:
    """Where lines approve different targets for one source, none of them is taken."""
    by_source: dict[str, list[int]] = {}
    for index, rule in rules.items():
        by_source.setdefault(rule.source_norm, []).append(index)
    for indexes in by_source.values():
        if len({rules[index].rule_id for index in indexes}) > 1:
            numbers = [str(lines[index].row) for index in indexes]
            more = ", ..." if len(numbers) > _MAX_LISTED else ""
            told = f"rows {', '.join(numbers[:_MAX_LISTED])}{more} approve different targets for one source"
            faults |= dict.fromkeys(indexes, told)
    return {index: rule for index, rule in rules.items() if index not in faults}, faults
