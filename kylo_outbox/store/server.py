"""What a server says of itself: its clock, and settings under which a crash can lose what was committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

_CLOCK = "select extract(epoch from clock_timestamp())::float8"
# synchronous_commit is no matter here: `kylo.emit` and our own connections turn it on for themselves.
_UNSAFE = "select name, setting from pg_settings where name in ('fsync', 'full_page_writes') and setting = 'off'"


def clock(tx: psycopg.Connection[Any]) -> float:
    """Seconds since 1970, now."""
    [[seconds]] = tx.execute(_CLOCK).fetchall()
    return float(seconds)


def unsafe_settings(tx: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    """(name, value) of settings that a database with money in it must not have."""
    return tx.execute(_UNSAFE).fetchall()
