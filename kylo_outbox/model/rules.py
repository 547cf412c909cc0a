"""Rules: what one says, which one wins, and what triage, promotion and replay mean, as pure functions.

A rule matches a transaction when the normalised forms of its source and of the description are equal, nothing else.
The SQL in `store/pending.py` and `store/rules.py` does the same for many rows at once; tests hold both together.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kylo_outbox.model.errors import Refused
from kylo_outbox.model.normalise import normalise
from kylo_outbox.model.transactions import MAX_DESCRIPTION, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

MAX_TARGET: Final = 100
MAX_NOTES: Final = 1_000
MAX_DRAFTS: Final = 10_000
FIELDS: Final = ("source", "target_sheet", "target_header", "match_notes")
_REQUIRED: Final = FIELDS[:3]
_NOT_IN_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LIMITS: Final = dict(zip(FIELDS, (MAX_DESCRIPTION, MAX_TARGET, MAX_TARGET, MAX_NOTES), strict=True))

Targets = frozenset[tuple[str, str]]
"""(sheet, header) pairs that rules may point to; header "" allows every header of the sheet. Empty: anywhere."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Transactions whose description reads as `source` belong under `target_header` of `target_sheet`."""

    source: str
    target_sheet: str
    target_header: str
    match_notes: str | None = None

    @property
    def source_norm(self) -> str:
        """What descriptions are compared with."""
        return normalise(self.source)

    @property
    def rule_id(self) -> uuid.UUID:
        """The same for the same meaning: how the source is written does not change it, its targets do."""
        content = json.dumps([self.source_norm, self.target_sheet, self.target_header], separators=(",", ":"))
        return uuid.uuid5(uuid.NAMESPACE_URL, hashlib.sha256(content.encode()).hexdigest())


def rules_in_force(rules: Iterable[Rule]) -> dict[str, Rule]:
    """Rules by normalised source; of several for one source the last one wins."""
    return {rule.source_norm: rule for rule in rules}


def additions(in_force: Mapping[str, uuid.UUID | None], approved: Sequence[Rule]) -> list[Rule]:
    """What a promotion appends: the approved rules that are not in force already; nothing is ever taken away.

    Args:
        in_force: The rule id that holds for each normalised source.
        approved: In the order in which they were proposed.
    """
    return [rule for rule in approved if in_force.get(rule.source_norm) != rule.rule_id]


def triage(descriptions: Mapping[Any, str], rules: Mapping[str, Rule]) -> tuple[dict[Any, Rule], set[Any]]:
    """(matched with their rules, unmatched) of transactions given by their normalised descriptions."""
    matched = {txn: rules[norm] for txn, norm in descriptions.items() if norm in rules}
    return matched, descriptions.keys() - matched.keys()


def replay(open_items: Mapping[Any, str], rules: Mapping[str, Rule]) -> dict[Any, Rule]:
    """The open items that now match, with their rules: exactly those that a promotion resolves."""
    return triage(open_items, rules)[0]


def parse_rules(rows: Any, targets: Collection[tuple[str, str]] = ()) -> list[Rule]:
    """Check rows (dicts with the fields of `FIELDS`) and make them rules.

    Raises:
        Refused: with every fault as `proposals[2].target_sheet: what is wrong; what is accepted`.
    """
    if not isinstance(rows, list) or not rows:
        raise Refused(["proposals: must be a list with at least one rule"])
    if len(rows) > MAX_DRAFTS:
        raise Refused([f"proposals: more than {MAX_DRAFTS:,} in one request; send several"])
    faults: list[str] = []
    rules: list[Rule] = []
    for index, row in enumerate(rows):
        wrong = rule_faults(row, targets)
        faults += [f"proposals[{index}]{fault}" for fault in wrong]
        if not wrong:
            rules.append(Rule(row["source"], row["target_sheet"], row["target_header"], row.get("match_notes") or None))
    if faults:
        raise Refused(faults)
    return rules


def target_fault(sheet: str, header: str, targets: Collection[tuple[str, str]]) -> str | None:
    """Why a rule may not point there, or None; no targets at all means that anywhere is right."""
    if not targets or (sheet, header) in targets or (sheet, "") in targets:
        return None
    sheets = sorted({known for known, _ in targets})
    if sheet not in sheets:
        return f"unknown Target_Sheet {shown(sheet)}; known: {', '.join(map(shown, sheets))}"
    headers = sorted(known for at, known in targets if at == sheet)
    return f"unknown Target_Header {shown(header)} of {shown(sheet)}; known: {', '.join(map(shown, headers))}"


def rule_faults(row: Any, targets: Collection[tuple[str, str]]) -> list[str]:
    """Every fault of one row, each beginning with `.field: `; none means that it is a rule."""
    if not isinstance(row, dict):
        return [f": must be an object with {', '.join(_REQUIRED)}"]
    faults = [
        f".{shown(name)[1:-1]}: unknown field; accepted: {', '.join(FIELDS)}" for name in row if name not in FIELDS
    ]
    for field, limit in _LIMITS.items():
        value = row.get(field)
        if field not in _REQUIRED and value is None:
            continue
        if not isinstance(value, str) or not value.strip() or len(value) > limit:
            faults.append(f".{field}: must be a text of 1 to {limit:,} characters")
        elif (_NOT_IN_NAMES if field.startswith("target") else _NOT_IN_TEXT).search(value):
            faults.append(f".{field}: control characters and lone surrogates are no text")
        elif field == "source" and not normalise(value):
            faults.append(".source: has no letter and no digit, so it could never match")
    if not faults and (fault := target_fault(row["target_sheet"], row["target_header"], targets)):
        faults.append(f".target: {fault}")
    return faults
