"""kylo.audit: every act of an operator in one store, with what it changed. Rows are added, never changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import psycopg

_WRITE = """
insert into kylo.audit (who, verb, store, topic, key, ids, reason, before)
select %s, %s, store_id, %s, %s, %s, %s, %s::jsonb from kylo.store
"""
_READ = "select at, who, verb, store, topic, key, ids, reason, before from kylo.audit order by id desc limit %s"


@dataclass(frozen=True, slots=True)
class Act:
    """One act as it was written down; `before` is what there was, `ids` the outbox ids it touched."""

    at: datetime
    who: str
    verb: str
    store: str
    topic: str | None
    key: str | None
    ids: list[int] | None
    reason: str | None
    before: Any


def write(
    tx: psycopg.Connection[Any],
    *,
    who: str,
    verb: str,
    topic: str | None = None,
    key: str | None = None,
    ids: Sequence[int] | None = None,
    reason: str | None = None,
    before: Mapping[str, Any] | None = None,
) -> None:
    """Write an act down in the transaction of the act itself.

    Args:
        tx: The transaction.
        who: `user@host` or the name of a token.
        verb: Such as `outbox discard`.
        topic: Where.
        key: Which key; None for a whole topic.
        ids: Outbox ids.
        reason: In the operator's words.
        before: What there was, so that nothing is gone without a trace; plain JSON.
    """
    shown = None if before is None else json.dumps(dict(before), default=str)
    tx.execute(_WRITE, (who, verb, topic, key, list(ids) if ids is not None else None, reason, shown))


def read(tx: psycopg.Connection[Any], limit: int) -> list[Act]:
    """The newest acts, newest first."""
    return [Act(*row) for row in tx.execute(_READ, (limit,))]
