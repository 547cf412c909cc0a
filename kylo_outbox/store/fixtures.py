"""Template databases and their clones, for tests: behind the door, so that tests need no SQL of their own for it."""

from __future__ import annotations

from psycopg import sql

from kylo_outbox.store import migrate
from kylo_outbox.store.engine import Database, connect

# A clone is a copied database; naming it anew is what an operator would do.
_RENAME = """
update kylo.store set store_id = substr(replace(gen_random_uuid()::text, '-', ''), 1, 12),
       database_oid = (select oid from pg_database where datname = current_database())
"""


def ensure_template(server_dsn: str, dsn: str, name: str) -> None:
    """Make the template database `name` with both trees at their heads, unless it is there."""
    with connect(server_dsn, "tests", autocommit=True) as connection:
        if connection.execute("select from pg_database where datname = %s", (name,)).fetchone() is not None:
            return
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    database = Database(dsn, name=name)
    migrate.migrate(database, "store")
    migrate.migrate(database, "control")
    database.close()


def clone(server_dsn: str, dsn: str, template: str, name: str) -> Database:
    """Copy the template to `name` and give the copy a store name of its own."""
    with connect(server_dsn, "tests", autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    with connect(dsn, "tests", autocommit=True) as connection:
        connection.execute(_RENAME)
    return Database(dsn, name=name)


def drop(server_dsn: str, name: str) -> None:
    """Drop the database `name` with whoever is connected to it."""
    with connect(server_dsn, "tests", autocommit=True) as connection:
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
