"""kylo.audit: every act of an operator in one store, with what it changed. Rows are added, never changed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg

WRITE = """
insert into kylo.audit (who, verb, store, topic, key, ids, reason, before)
select %s, %s, s.store_id, %s, %s, %s, %s, %s::jsonb from kylo.store s
"""


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
    """Write an act down in the transaction of the act itself; `before` is what there was, as plain JSON."""
    told = None if before is None else json.dumps(dict(before), default=str)
    tx.execute(WRITE, (who, verb, topic, key, None if ids is None else list(ids), reason, told))
