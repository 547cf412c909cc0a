"""Rule sets of a company: versions that never change, the one in force, promotion with its replay, and the way back.

Every function works on one company whose row of kylo.company_state the caller has locked (`company_state.lock`),
except where it only reads. SQL names the company everywhere, also where row-level security would hide the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kylo_outbox.model.errors import Refused
from kylo_outbox.model.rules import Rule, additions
from kylo_outbox.store import company_state, proposals

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    import psycopg

IN_FORCE = """
select s.rules_version, v.created_at
  from kylo.company_state s join kylo.rules_versions v on v.company_id = s.company_id and v.version = s.rules_version
 where s.company_id = %s
"""
# Of several rules for one source the last one wins; the others stay in the table and are not shown.
WINNING = """
select distinct on (source_norm) position, source, source_norm, target_sheet, target_header, match_notes, rule_id,
       created_at
  from kylo.rules_active where company_id = %(company)s and version = %(version)s
 order by source_norm, position desc
"""
# One look-up in the index an item, whatever the planner knows of the tables' sizes: a join of rules that it takes for
# few with items that it takes for few compares each with each (`+ 0`: nor by walking the rules by position).
_WINNER = """
      select r.target_sheet, r.target_header, r.rule_id from kylo.rules_active r
       where r.company_id = %(company)s and r.version = %(version)s and r.source_norm = {norm}
       order by r.position + 0 desc limit 1
"""
RULES = f"select * from ({WINNING}) winning order by position"  # noqa: S608 - a constant of this file
ADD_VERSION = """
insert into kylo.rules_versions (company_id, version, former)
select %(company)s, coalesce(max(version), 0) + 1, %(version)s from kylo.rules_versions where company_id = %(company)s
returning version
"""
# Nothing that was active is lost: the former set is carried over whole, the new rules come behind it.
CARRY_OVER = """
insert into kylo.rules_active (company_id, version, position, source, source_norm, target_sheet, target_header,
                               match_notes, rule_id, created_at)
select company_id, %(next)s, position, source, source_norm, target_sheet, target_header, match_notes, rule_id,
       created_at
  from kylo.rules_active where company_id = %(company)s and version = %(version)s
"""
APPEND = """
insert into kylo.rules_active (company_id, version, position, source, source_norm, target_sheet, target_header,
                               match_notes, rule_id)
select %s, %s, n + (select coalesce(max(position), 0) from kylo.rules_active where company_id = %s and version = %s),
       source, source_norm, target_sheet, target_header, match_notes, rule_id
  from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::uuid[]) with ordinality
       as given(source, source_norm, target_sheet, target_header, match_notes, rule_id, n)
"""
PUT_IN_FORCE = "update kylo.company_state set rules_version = %s where company_id = %s"
# Replay: the open items that a rule in force matches, resolved and sorted, and no others.
REPLAY = f"""
with found as materialized (
    select p.txn_uid, r.target_sheet, r.target_header, r.rule_id
      from kylo.pending_txns p cross join lateral ({_WINNER.format(norm="p.description_norm")}) r
     where p.company_id = %(company)s and p.status = 'open'
), resolved as (
    update kylo.pending_txns p
       set status = 'resolved', resolved_at = now(), rule_id = f.rule_id, rules_version = %(version)s
      from found f
     where p.company_id = %(company)s and p.txn_uid = f.txn_uid
    returning p.txn_uid, f.target_sheet, f.target_header
), sorted as (
    insert into kylo.sort_queue (company_id, txn_uid, reason, batch_id, target_sheet, target_header, rules_version)
    select %(company)s, txn_uid, 'rules.updated', 'replay', target_sheet, target_header, %(version)s from resolved
    on conflict do nothing
)
select count(*) from resolved
"""  # noqa: S608 - the only thing put in is a constant of this file
FORMER = "select former from kylo.rules_versions where company_id = %s and version = %s"
# What the version decided and the former one decides as well stays sorted, as if it had never been another.
DECIDE_ANEW = f"""
with found as materialized (
    select q.txn_uid, r.target_sheet, r.target_header
      from kylo.sort_queue q
      join kylo.transactions t on t.company_id = q.company_id and t.txn_uid = q.txn_uid
      cross join lateral ({_WINNER.format(norm="t.description_norm")}) r
     where q.company_id = %(company)s and q.rules_version = %(undone)s
)
update kylo.sort_queue q
   set target_sheet = f.target_sheet, target_header = f.target_header, rules_version = %(version)s
  from found f
 where q.company_id = %(company)s and q.txn_uid = f.txn_uid and q.rules_version = %(undone)s
"""  # noqa: S608 - the only thing put in is a constant of this file
REOPEN = """
with gone as (
    delete from kylo.sort_queue where company_id = %(company)s and rules_version = %(undone)s returning txn_uid
), opened as (
    insert into kylo.pending_txns as p (company_id, txn_uid, first_seen_batch, last_seen_batch, occurred_at,
                                        description, description_norm, amount_cents)
    select t.company_id, t.txn_uid, t.first_seen_batch, t.last_seen_batch, t.occurred_at, t.description,
           t.description_norm, t.amount_cents
      from (select distinct txn_uid from gone) g
      join kylo.transactions t on t.company_id = %(company)s and t.txn_uid = g.txn_uid
     order by t.first_seen_batch, t.txn_id
    on conflict (company_id, txn_uid) do update
       set status = 'open', resolved_at = null, rule_id = null, rules_version = null
    returning 1
)
select count(*) from opened
"""
COUNT = """
select count(distinct source_norm) from kylo.rules_active where company_id = %(company)s and version = %(version)s
"""
LOG = """
insert into kylo.promotions (company_id, number, act, request_id, asked_by, former, version, rules, resolved, reopened)
select %s, coalesce(max(number), 0) + 1, %s, %s, %s, %s, %s, %s, %s, %s from kylo.promotions where company_id = %s
returning number, at
"""
HISTORY = """
select number, act, request_id, asked_by, former, version, rules, resolved, reopened, at
  from kylo.promotions where company_id = %s order by number desc limit %s
"""
OF_REQUEST = """
select number, act, request_id, asked_by, former, version, rules, resolved, reopened, at
  from kylo.promotions where company_id = %s and request_id = %s order by number limit 1
"""
SERVED = "select request_id, number from kylo.promotions where request_id = any(%s) order by number"
# What a promotion would resolve: open items for whose source a rule is in force or approved.
PREVIEW = """
select count(*) from kylo.pending_txns p
 where p.company_id = %(company)s and p.status = 'open' and p.description_norm in (
     select source_norm from kylo.rules_active where company_id = %(company)s and version = %(version)s
     union
     select source_norm from kylo.rules_proposals where company_id = %(company)s and state = 'approved')
"""


class ActiveRule(NamedTuple):
    """One rule in force; `rule_id` is None for rules that were there before rules had ids."""

    position: int
    source: str
    source_norm: str
    target_sheet: str
    target_header: str
    match_notes: str | None
    rule_id: UUID | None
    created_at: datetime


class ActiveSet(NamedTuple):
    """The version in force (0: none) with its rules, one for a source, oldest first; when the version was made."""

    version: int
    effective_at: datetime | None
    rules: list[ActiveRule]


class Promotion(NamedTuple):
    """What a promotion or an undo did: versions before and after, rules in force since, items resolved or reopened."""

    number: int
    act: str
    request_id: UUID | None
    asked_by: str | None
    former: int
    version: int
    rules: int
    resolved: int
    reopened: int
    at: datetime


class Preview(NamedTuple):
    """What a promotion would do now: rules it would add, and open items it would resolve."""

    version: int
    added: list[Rule]
    would_resolve: int


def in_force(tx: psycopg.Connection[Any], company_id: str) -> ActiveSet:
    """The rules of a company as they hold now.

    Raises:
        Transient: its rows are moving or have moved to another database.
    """
    company_state.require_here(tx, company_id)
    row = tx.execute(IN_FORCE, (company_id,)).fetchone()
    version, effective_at = row or (0, None)
    found = tx.execute(RULES, {"company": company_id, "version": version}).fetchall()
    return ActiveSet(version, effective_at, [ActiveRule(*rule) for rule in found])


def promote(
    tx: psycopg.Connection[Any], company_id: str, version: int, *, request_id: UUID | None, asked_by: str | None
) -> Promotion:
    """Make what is approved the next version, then resolve the open items that match.

    With nothing approved the version stays and only the replay runs (it finds nothing, unless somebody wrote into the
    tables).

    Args:
        tx: A transaction that has locked the company.
        company_id: Whose rules.
        version: The one in force, from that lock.
        request_id: What asked for it.
        asked_by: Who, for people.
    """
    approved = proposals.approved(tx, company_id)
    now = _add(tx, company_id, version, [proposal.rule for proposal in approved])
    proposals.settle(tx, company_id, [proposal.proposal for proposal in approved], now)
    here = {"company": company_id, "version": now}
    resolved = _count(tx, REPLAY, here)
    return _log(tx, company_id, "promote", request_id, asked_by, (version, now, _count(tx, COUNT, here), resolved, 0))


def preview(tx: psycopg.Connection[Any], company_id: str) -> Preview:
    """What `promote` would do now; changes nothing."""
    current = in_force(tx, company_id)
    ids = {rule.source_norm: rule.rule_id for rule in current.rules}
    added = additions(ids, [proposal.rule for proposal in proposals.approved(tx, company_id)])
    would = _count(tx, PREVIEW, {"company": company_id, "version": current.version})
    return Preview(current.version, added, would)


def undo(tx: psycopg.Connection[Any], company_id: str, version: int, *, asked_by: str | None) -> Promotion:
    """Put the former version in force again and open what the undone one had decided otherwise.

    Transactions that arrived meanwhile are treated as if the undone version had never been. Its proposals count as
    undone: they are promoted again only after somebody approves them again.

    Raises:
        Refused: no version is in force.
    """
    if version == 0:
        raise Refused([f"company {company_id}: no rules are in force, so there is nothing to undo"])
    row: Any = tx.execute(FORMER, (company_id, version)).fetchone()
    former = int(row[0])
    tx.execute(PUT_IN_FORCE, (former, company_id))
    here = {"company": company_id, "version": former, "undone": version}
    tx.execute(DECIDE_ANEW, here)
    reopened = _count(tx, REOPEN, here)
    proposals.undo(tx, company_id, version)
    return _log(tx, company_id, "undo", None, asked_by, (version, former, _count(tx, COUNT, here), 0, reopened))


def history(tx: psycopg.Connection[Any], company_id: str, limit: int = 50) -> list[Promotion]:
    """What was promoted and undone, newest first."""
    return [Promotion(*row) for row in tx.execute(HISTORY, (company_id, limit)).fetchall()]


def of_request(tx: psycopg.Connection[Any], company_id: str, request_id: UUID) -> Promotion | None:
    """What a request came to; None while it has not been served."""
    row = tx.execute(OF_REQUEST, (company_id, request_id)).fetchone()
    return Promotion(*row) if row else None


def served(tx: psycopg.Connection[Any], requests: Sequence[UUID]) -> list[tuple[UUID, int]]:
    """(request, number in its company's history) each time that one of `requests` was served."""
    return tx.execute(SERVED, (list(requests),)).fetchall()


def _add(tx: psycopg.Connection[Any], company_id: str, version: int, approved: list[Rule]) -> int:
    """Make the next version of the one in force and what is new in `approved`; its number, or the old one's."""
    here: dict[str, Any] = {"company": company_id, "version": version}
    found = tx.execute(RULES, here).fetchall() if approved else []
    added = additions({rule[2]: rule[6] for rule in found}, approved)
    if not added:
        return version
    here["next"] = now = _count(tx, ADD_VERSION, here)
    tx.execute(CARRY_OVER, here)
    columns = [
        [rule.source for rule in added],
        [rule.source_norm for rule in added],
        [rule.target_sheet for rule in added],
        [rule.target_header for rule in added],
        [rule.match_notes for rule in added],
        [rule.rule_id for rule in added],
    ]
    tx.execute(APPEND, (company_id, now, company_id, now, *columns))
    tx.execute(PUT_IN_FORCE, (now, company_id))
    return now


def _log(
    tx: psycopg.Connection[Any],
    company_id: str,
    act: str,
    request_id: UUID | None,
    asked_by: str | None,
    figures: tuple[int, int, int, int, int],
) -> Promotion:
    row: Any = tx.execute(LOG, (company_id, act, request_id, asked_by, *figures, company_id)).fetchone()
    return Promotion(row[0], act, request_id, asked_by, *figures, row[1])


def _count(tx: psycopg.Connection[Any], sql: str, values: dict[str, Any]) -> int:
    row: Any = tx.execute(sql, values).fetchone()
    return int(row[0])
