"""Proposed rules of a company: numbered, approved, promoted, undone or withdrawn; and which tab row approved which.

Writers hold the company's row of kylo.company_state; numbers are given under that lock, so they have no holes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kylo_outbox.model.errors import Conflict, NotFound
from kylo_outbox.model.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from uuid import UUID

    import psycopg

_COLUMNS = """proposal, rule_id, source, target_sheet, target_header, match_notes, state, proposed_by, proposed_at,
       approved_by, approved_at, version, settled_at"""
LIST = f"""
select {_COLUMNS} from kylo.rules_proposals
 where company_id = %s and (%s::text[] is null or state = any(%s)) order by proposal
"""  # noqa: S608 - the only thing put in is a constant of this file
FIND = f"""
select {_COLUMNS} from kylo.rules_proposals where company_id = %s and proposal = any(%s) order by proposal
"""  # noqa: S608 - the only thing put in is a constant of this file
OPEN_OF_RULES = f"""
select {_COLUMNS} from kylo.rules_proposals
 where company_id = %s and rule_id = any(%s) and state in ('proposed', 'approved') order by proposal
"""  # noqa: S608 - the only thing put in is a constant of this file
ADD = """
insert into kylo.rules_proposals (company_id, proposal, rule_id, source, source_norm, target_sheet, target_header,
                                  match_notes, state, proposed_by)
select %s, n + (select coalesce(max(proposal), 0) from kylo.rules_proposals where company_id = %s),
       rule_id, source, source_norm, target_sheet, target_header, match_notes, 'proposed', %s
  from unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[]) with ordinality
       as given(rule_id, source, source_norm, target_sheet, target_header, match_notes, n)
"""
# Two approved rules for one source would leave the choice to chance.
RIVALS = """
select array_agg(proposal order by proposal) from kylo.rules_proposals
 where company_id = %(company)s
   and (state = 'approved' or (state = 'proposed' and proposal = any(%(proposals)s)))
 group by source_norm having count(*) > 1
"""
APPROVE = """
update kylo.rules_proposals set state = 'approved', approved_by = %s, approved_at = now()
 where company_id = %s and proposal = any(%s) and state = 'proposed'
"""
SETTLE = """
update kylo.rules_proposals set state = 'promoted', version = %s, settled_at = now()
 where company_id = %s and proposal = any(%s) and state = 'approved'
"""
UNDO = """
update kylo.rules_proposals set state = 'undone', settled_at = now()
 where company_id = %s and version = %s and state = 'promoted'
"""
WITHDRAW = """
update kylo.rules_proposals set state = 'withdrawn', settled_at = now()
 where company_id = %s and proposal = any(%s) and state in ('proposed', 'approved')
"""


class Proposal(NamedTuple):
    """A proposed rule and what became of it; `proposal` is its number within the company."""

    proposal: int
    rule_id: UUID
    source: str
    target_sheet: str
    target_header: str
    match_notes: str | None
    state: str
    proposed_by: str
    proposed_at: datetime
    approved_by: str | None
    approved_at: datetime | None
    version: int | None
    settled_at: datetime | None

    @property
    def rule(self) -> Rule:
        """The rule itself."""
        return Rule(self.source, self.target_sheet, self.target_header, self.match_notes)


def listed(tx: psycopg.Connection[Any], company_id: str, states: Sequence[str] | None = None) -> list[Proposal]:
    """Proposals of a company in the order of their numbers, all or those in some states."""
    chosen = list(states) if states is not None else None
    return [Proposal(*row) for row in tx.execute(LIST, (company_id, chosen, chosen)).fetchall()]


def approved(tx: psycopg.Connection[Any], company_id: str) -> list[Proposal]:
    """What the next promotion would make active."""
    return listed(tx, company_id, ["approved"])


def propose(tx: psycopg.Connection[Any], company_id: str, rules: Sequence[Rule], by: str) -> tuple[list[Proposal], int]:
    """Store proposals; one for each rule (a rule that is proposed already has its own), and how many are new."""
    ids = [rule.rule_id for rule in rules]
    known = _open_of(tx, company_id, ids)
    new = {rule.rule_id: rule for rule in rules if rule.rule_id not in known}
    if new:
        columns = [
            list(new),
            [rule.source for rule in new.values()],
            [rule.source_norm for rule in new.values()],
            [rule.target_sheet for rule in new.values()],
            [rule.target_header for rule in new.values()],
            [rule.match_notes for rule in new.values()],
        ]
        tx.execute(ADD, (company_id, company_id, by, *columns))
        known = _open_of(tx, company_id, ids)
    return [known[rule_id] for rule_id in ids], len(new)


def approve(tx: psycopg.Connection[Any], company_id: str, numbers: Iterable[int], by: str) -> list[Proposal]:
    """Approve proposals and return them; one that is approved or promoted already stays as it is.

    Raises:
        NotFound: a number is unknown.
        Conflict: a proposal was withdrawn or undone, or another one for the same source is approved too.
    """
    chosen = sorted(set(numbers))
    found = {proposal.proposal: proposal for proposal in _find(tx, company_id, chosen)}
    if unknown := [number for number in chosen if number not in found]:
        raise NotFound([f"proposals: company {company_id} has no proposal {number}" for number in unknown])
    faults = [
        f"proposals: {number} was {proposal.state}; propose the rule anew"
        for number, proposal in found.items()
        if proposal.state in {"withdrawn", "undone"}
    ]
    faults += [
        f"proposals: {', '.join(map(str, group))} are for one source; withdraw all but one of them"
        for (group,) in tx.execute(RIVALS, {"company": company_id, "proposals": chosen}).fetchall()
    ]
    if faults:
        raise Conflict(faults)
    tx.execute(APPROVE, (by, company_id, chosen))
    return _find(tx, company_id, chosen)


def withdraw(tx: psycopg.Connection[Any], company_id: str, numbers: Iterable[int]) -> list[Proposal]:
    """Withdraw proposals that are not promoted yet and return them.

    Raises:
        NotFound: a number is unknown.
        Conflict: a proposal is promoted; `rules undo` takes its whole version back.
    """
    chosen = sorted(set(numbers))
    found = _find(tx, company_id, chosen)
    if unknown := sorted(set(chosen) - {proposal.proposal for proposal in found}):
        raise NotFound([f"proposals: company {company_id} has no proposal {number}" for number in unknown])
    if promoted := [proposal for proposal in found if proposal.state == "promoted"]:
        raise Conflict(
            [f"proposals: {each.proposal} is promoted in version {each.version}; undo that" for each in promoted]
        )
    tx.execute(WITHDRAW, (company_id, chosen))
    return _find(tx, company_id, chosen)


def settle(tx: psycopg.Connection[Any], company_id: str, numbers: Sequence[int], version: int) -> None:
    """The proposals are part of `version` now."""
    tx.execute(SETTLE, (version, company_id, list(numbers)))


def undo(tx: psycopg.Connection[Any], company_id: str, version: int) -> None:
    """The proposals that made `version` count as undone."""
    tx.execute(UNDO, (company_id, version))


def _find(tx: psycopg.Connection[Any], company_id: str, numbers: Sequence[int]) -> list[Proposal]:
    return [Proposal(*row) for row in tx.execute(FIND, (company_id, list(numbers))).fetchall()]


def _open_of(tx: psycopg.Connection[Any], company_id: str, ids: Sequence[UUID]) -> dict[UUID, Proposal]:
    found = [Proposal(*row) for row in tx.execute(OPEN_OF_RULES, (company_id, list(ids))).fetchall()]
    return {proposal.rule_id: proposal for proposal in found}
