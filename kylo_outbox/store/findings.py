"""kylo.verify_findings: differences that the verifier found in a store, open until they are gone or accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kylo_outbox.model.verifying import Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    import psycopg

_SAVE = """
insert into kylo.verify_findings (part, anomaly, projector, topic, key, generation, outbox_ids, event_ids, detail)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
on conflict (part, anomaly, projector, topic, key, generation, first_id) where over_at is null
   do update set seen_at = clock_timestamp(), detail = excluded.detail
returning xmax = 0
"""
_OPEN = """
select id, found_at, accepted_at, part, anomaly, topic, key, generation, outbox_ids, event_ids, detail, projector
  from kylo.verify_findings where over_at is null order by id
"""
_OVER = "update kylo.verify_findings set over_at = clock_timestamp() where id = any(%s) and over_at is null"
_ACCEPT = """
update kylo.verify_findings set accepted_at = clock_timestamp()
 where id = %s and over_at is null and accepted_at is null
returning part, anomaly, topic, key, generation, outbox_ids, event_ids, detail, projector
"""
# At its next look the verifier takes the position for right as it is.
_TAKE_AS_IT_IS = """
insert into kylo.verify_bases (projector, topic, key, era, events, digest) values (%s, %s, %s, -1, 0, 0)
on conflict (projector, topic, key) do update set era = -1
"""


class OpenFinding(NamedTuple):
    """A difference with its number in this store; `accepted` by a person, it is no longer told."""

    id: int
    found_at: datetime
    accepted: bool
    finding: Finding


def save(tx: psycopg.Connection[Any], found: Sequence[Finding]) -> list[Finding]:
    """Write differences down; those that were not known."""
    return [finding for finding in found if _save(tx, finding)]


def still_open(tx: psycopg.Connection[Any]) -> list[OpenFinding]:
    """Every difference that is not gone, accepted ones too, in the order in which they were found."""
    return [
        OpenFinding(number, found_at, accepted_at is not None, _finding(row))
        for number, found_at, accepted_at, *row in tx.execute(_OPEN)
    ]


def over(tx: psycopg.Connection[Any], ids: Collection[int]) -> None:
    """These are gone."""
    if ids:
        tx.execute(_OVER, (list(ids),))


def accept(tx: psycopg.Connection[Any], number: int) -> Finding | None:
    """A person knows of it: it is not told any more; None if it is not open."""
    row = tx.execute(_ACCEPT, (number,)).fetchone()
    if row is None:
        return None
    finding = _finding(row)
    if finding.part == "positions":
        tx.execute(_TAKE_AS_IT_IS, (finding.projector, finding.topic, finding.key))
    return finding


def _save(tx: psycopg.Connection[Any], finding: Finding) -> bool:
    place = (finding.topic, finding.key, finding.generation)
    ids = (list(finding.outbox_ids), list(finding.event_ids))
    values = (finding.part, finding.anomaly, finding.projector, *place, *ids, finding.detail)
    row = tx.execute(_SAVE, values).fetchone()
    return bool(row and row[0])


def _finding(row: Sequence[Any]) -> Finding:
    part, anomaly, topic, key, generation, numbers, events, detail, projector = row
    return Finding(part, anomaly, topic, key, generation, tuple(numbers), tuple(events), detail, projector)
