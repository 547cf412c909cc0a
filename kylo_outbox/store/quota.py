"""Google's quota as one row an account and kind: when each call of the last minute was allowed, for all processes.

A sliding window, not a bucket that refills: a bucket of 60 lets 120 calls pass in its first minute.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg

Kind = Literal["read", "write"]

WINDOW = timedelta(seconds=62)
"""Google counts a minute. Two seconds more, because a call may reach Google later than the one allowed after it."""

FIRST = "insert into control.sheets_quota (account, kind) values (%s, %s) on conflict do nothing"
LOCK = """
select grants, not_before, coalesce(%s::timestamptz, clock_timestamp()) from control.sheets_quota
 where account = %s and kind = %s for update
"""
GRANT = "update control.sheets_quota set grants = %s where account = %s and kind = %s"
POSTPONE = """
update control.sheets_quota
   set not_before = greatest(not_before, coalesce(%s::timestamptz, clock_timestamp()) + make_interval(secs => %s))
 where account = %s and kind = %s
"""


class Grant(NamedTuple):
    """Whether a call may be made, and in how many seconds from now; a refused one may be asked for again then."""

    allowed: bool
    wait: float


def reserve(
    tx: psycopg.Connection[Any],
    account: str,
    kind: Kind,
    *,
    limit: int,
    patience: float,
    now: datetime | None = None,
) -> Grant:
    """Take the next free place for one call, if it comes within `patience` seconds; nothing is taken otherwise.

    Args:
        tx: A transaction of the control database; end it before waiting.
        account: Who calls, as Google counts.
        kind: Reads and writes are counted apart.
        limit: Calls in any minute. A caller with a lower limit than others leaves them the rest.
        patience: Seconds that the caller is ready to wait.
        now: For tests: the clock; None is the database's.
    """
    tx.execute(FIRST, (account, kind))
    row: Any = tx.execute(LOCK, (now, account, kind)).fetchone()
    grants, not_before, at = row
    recent = sorted(grant for grant in grants if grant > at - WINDOW)
    earliest = max(at, not_before)
    if len(recent) >= limit:
        # Whatever minute this call will lie in, at most limit - 1 of the others lie in it too.
        earliest = max(earliest, recent[-limit] + WINDOW)
    wait = (earliest - at).total_seconds()
    if wait > patience:
        return Grant(allowed=False, wait=wait)
    tx.execute(GRANT, ([*recent, earliest], account, kind))
    return Grant(allowed=True, wait=wait)


def postpone(
    tx: psycopg.Connection[Any], account: str, kind: Kind, seconds: float, now: datetime | None = None
) -> None:
    """Google said "later": nobody calls before."""
    tx.execute(FIRST, (account, kind))
    tx.execute(POSTPONE, (now, seconds, account, kind))
