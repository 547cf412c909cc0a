"""Connections of a pool: asked whether the server is still there after a rest, believed in quick succession."""

from __future__ import annotations

from contextlib import suppress

import psycopg
import pytest

from kylo_outbox import Transient
from kylo_outbox.store import engine


@pytest.fixture
def cut(control_db):
    """End every resting connection of the pool on the server's side."""

    def now():
        with control_db.transaction() as tx:
            [pid] = tx.execute("select pg_backend_pid()").fetchone()
        with psycopg.connect(control_db.dsn, autocommit=True) as other:
            other.execute("select pg_terminate_backend(%s, 20000)", (pid,))

    return now


def works(database):
    """Whether a transaction passes."""
    with suppress(Transient), database.transaction() as tx:
        return tx.execute("select 1").fetchone() == (1,)
    return False


def test_a_connection_that_was_cut_while_it_rested_is_made_anew(control_db, cut, monkeypatch):
    """Nobody sees an error for what happened between two transactions."""
    monkeypatch.setattr(engine, "_BELIEVED", 0.0)
    cut()
    assert works(control_db)


def test_a_connection_that_was_used_just_now_is_not_asked(control_db, cut, monkeypatch):
    """It saves a round trip; should it break at that moment, the transaction waits and the next one works."""
    monkeypatch.setattr(engine, "_BELIEVED", 60.0)
    cut()
    assert not works(control_db)
    assert works(control_db)
