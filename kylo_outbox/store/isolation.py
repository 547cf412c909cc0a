"""Acting for one company: an ordinary role that PostgreSQL shows the rows of that company and no others.

Tables with a `company_id` have row-level security that binds every role but their owner. Work on many companies in
one statement (triage of a batch, the migration) is the owner's, by design. Whatever acts for one company takes the
ordinary role for the rest of its transaction, so that a forgotten `where company_id` shows nothing instead of others'
rows. The settings end with the transaction; a pooled connection never carries them on.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.errors import NotReady
from kylo_outbox.store import company_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg
    import sqlalchemy as sa

    from kylo_outbox.store.engine import Database

ROLE = "kylo_company"
_COMPANY = "select set_config('kylo.company', %s, true)"
_TAKE = f"set local role {ROLE}"
# `reset role` is undone with a savepoint only; `none` is what this transaction began with.
_LEAVE = "set local role none"
_BOUND = "select row_security_active(oid) from pg_class where oid = to_regclass('kylo.transactions')"


@contextmanager
def company_transaction(database: Database, company_id: str) -> Iterator[psycopg.Connection[Any]]:
    """One transaction in which only rows of `company_id` exist; committed at the end, rolled back if it raises.

    Raises:
        Transient: PostgreSQL is away, or the company's rows are moving or have moved to another database.
    """
    with database.transaction() as tx:
        tx.execute(_COMPANY, (company_id,))
        tx.execute(_TAKE)
        company_state.require_here(tx, company_id)
        yield tx


@contextmanager
def acting_for(tx: psycopg.Connection[Any], company_id: str) -> Iterator[None]:
    """The same for a part of a transaction; afterwards it is the owner's again (after an error it is over anyway)."""
    tx.execute(_COMPANY, (company_id,))
    tx.execute(_TAKE)
    yield
    tx.execute(_LEAVE)
    tx.execute(_COMPANY, ("",))


def require_unbound(connection: sa.Connection) -> None:
    """Refuse a user whom row-level security binds: it would see no rows where there are some, and lose them.

    Raises:
        NotReady: with the remedy.
    """
    if connection.exec_driver_sql(_BOUND).scalar():
        user = connection.exec_driver_sql("select current_user").scalar()
        raise NotReady(
            f"user {user} does not own the tables of schema kylo, so it would see no company's rows: "
            "connect as the user that ran `kylo-outbox migrate`, or give it BYPASSRLS"
        )
