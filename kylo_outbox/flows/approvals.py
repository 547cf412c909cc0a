"""Approvals read back from the Pending tab: lines in, proposals approved or released, and what to write beside each.

The tab as it is now counts: a line that is no longer ticked, or no longer says the same, releases what it had approved
(as long as that is not promoted). Reading the same tab again changes nothing.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.approvals import NOTE, Outcome, judge, uid_of
from kylo_outbox.store import approvals, company_state, proposals, targets
from kylo_outbox.store.isolation import company_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from uuid import UUID

    from kylo_outbox.model.approvals import Line
    from kylo_outbox.model.rules import Rule
    from kylo_outbox.store.approvals import Item, Taken
    from kylo_outbox.store.engine import Database

_BY = "sheet"
_OPEN = frozenset({"proposed", "approved"})
_OVER = frozenset({"undone", "withdrawn"})


class TakeApprovals:
    """Takes what people approved in a tab. Safe to share between threads; it calls no Google.

    Args:
        control: The control store, which knows where rules may point to.
        store_of: The store in which a company lives; may raise `Transient`.
    """

    def __init__(self, control: Database, store_of: Callable[[str], Database]) -> None:
        self._control = control
        self._store_of = store_of

    def take(self, company_id: str, lines: Sequence[Line]) -> list[Outcome]:
        """Settle the lines of a company's tab in one transaction; one outcome each, in the order given.

        Lines that are not given stay as they were read last.

        Raises:
            Transient: a database is away, or the company is being moved; nothing was taken.
        """
        with self._control.transaction() as tx:
            allowed = targets.read(tx, company_id)
        uids = [uid_of(line.row_hash) for line in lines]
        with company_transaction(self._store_of(company_id), company_id) as tx:
            company_state.lock(tx, [company_id])
            items = approvals.items(tx, company_id, {uid for uid in uids if uid})
            sources = {uid: item.description for uid, item in items.items() if item.is_open}
            verdicts = judge(lines, sources, allowed)
            wanted = {uid: rule for n, rule in verdicts.rules.items() if (uid := uids[n])}
            refused = _settle(tx, company_id, {uid for uid in uids if uid in sources}, wanted)
        outcomes = []
        for index, (line, uid) in enumerate(zip(lines, uids, strict=True)):
            item = items.get(uid) if uid else None
            # What a promotion has resolved is settled, whatever is ticked beside it.
            fault = "" if item and not item.is_open else verdicts.faults.get(index, "")
            outcomes.append(_outcome(line, item, fault or (refused.get(uid, "") if uid else "")))
        return outcomes


def _settle(tx: Any, company_id: str, read: Collection[UUID], wanted: dict[UUID, Rule]) -> Mapping[UUID, str]:
    """Release what is no longer approved, approve what is wanted; why a wanted rule is not approved, by row."""
    former = approvals.taken(tx, company_id)
    refused: dict[UUID, str] = {}
    for uid, rule in wanted.items():
        before = former.get(uid)
        if before and before.rule_id == rule.rule_id and before.state in _OVER:
            refused[uid] = f"this rule was {before.state}; untick Approved and tick it again to approve it anew"
    released = {
        uid
        for uid in read & former.keys()
        if uid not in refused and (uid not in wanted or wanted[uid].rule_id != former[uid].rule_id)
    }
    _release(tx, company_id, former, released)
    approved = {proposal.rule.source_norm: proposal for proposal in proposals.approved(tx, company_id)}
    for uid, rule in wanted.items():
        rival = approved.get(rule.source_norm)
        if rival and rival.rule_id != rule.rule_id and uid not in refused:
            where = f"{rival.target_sheet} / {rival.target_header}"
            refused[uid] = f"proposal {rival.proposal} for this source is approved with {where}; withdraw one of them"
    fresh = {uid: rule for uid, rule in wanted.items() if uid not in refused and (uid not in former or uid in released)}
    if fresh:
        made, _ = proposals.propose(tx, company_id, list(fresh.values()), _BY)
        proposals.approve(tx, company_id, [proposal.proposal for proposal in made], _BY)
        numbers = [proposal.proposal for proposal in made]
        approvals.remember(tx, company_id, dict(zip(fresh, numbers, strict=True)))
    return refused


def _release(tx: Any, company_id: str, former: Mapping[UUID, Taken], released: Collection[UUID]) -> None:
    """Forget approvals, and withdraw proposals that nobody else approved and that are not promoted."""
    still = {taken.proposal for uid, taken in former.items() if uid not in released}
    gone = {
        taken.proposal
        for uid, taken in former.items()
        if uid in released and taken.proposal not in still and taken.state in _OPEN and taken.approved_by == _BY
    }
    approvals.forget(tx, company_id, released)
    if gone:
        proposals.withdraw(tx, company_id, gone)


def _outcome(line: Line, item: Item | None, fault: str) -> Outcome:
    resolved = item if item and not item.is_open else None
    at = resolved.resolved_at if resolved else None
    return Outcome(
        row=line.row,
        row_hash=line.row_hash,
        match_notes=NOTE + fault if fault else "",
        rule_id=str(resolved.rule_id) if resolved and resolved.rule_id else "",
        processed_at=at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at else "",
    )
