"""Schema versions: two trees (every store, the control database), applied by Alembic under one advisory lock.

A version is applied in one transaction with its row in the version table, so a crash leaves the former version whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from alembic import command, context
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import kylo_outbox
from kylo_outbox.model.errors import Misconfigured, NotReady
from kylo_outbox.store.engine import psycopg_of

if TYPE_CHECKING:
    from kylo_outbox.store.engine import Database

Tree = Literal["store", "control"]
_LOCK = 1802068080
_OLDEST_SERVER = 150000


@dataclass(frozen=True)
class Version:
    """Where one tree of one database stands; `at` is None before the first migration."""

    tree: Tree
    at: str | None
    head: str

    @property
    def current(self) -> bool:
        """Whether the schema is what this release expects."""
        return self.at == self.head


def versions_dir() -> Path:
    """The versions: inside the wheel, or beside the package in a checkout."""
    package = Path(kylo_outbox.__file__).parent
    shipped = package / "_migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def version(database: Database, tree: Tree) -> Version:
    """Read where `tree` of `database` stands."""
    with database.begin() as connection:
        return _version(connection, tree)


def migrate(database: Database, tree: Tree, to: str = "head") -> Version:
    """Bring `tree` of `database` to revision `to` (`head`, `base`, or an id), up or down, and tell where it stands.

    Two callers at the same time are safe: the second waits and finds the work done.
    """
    with database.begin() as connection:
        _check_server(connection, database)
        connection.execute(sa.text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        connection.execute(sa.text("create schema if not exists kylo"))
        config = _config(tree)
        config.attributes["connection"] = connection
        if to == "base" or _is_below(config, to, _version(connection, tree).at):
            command.downgrade(config, to)
        else:
            command.upgrade(config, to)
        return _version(connection, tree)


def require_head(database: Database, tree: Tree) -> None:
    """Refuse to start on a schema that this release does not know.

    Raises:
        NotReady: naming the database, both revisions and the remedy.
    """
    state = version(database, tree)
    if not state.current:
        raise NotReady(
            f"the {tree} schema of {database.name} is at {state.at or 'nothing'}, this release needs {state.head}: "
            "run `kylo-outbox migrate`"
        )


def tree_of(revision: str) -> Tree:
    """Which tree a revision belongs to.

    Raises:
        Misconfigured: for an unknown revision.
    """
    trees: tuple[Tree, ...] = ("store", "control")
    for tree in trees:
        if any(script.revision == revision for script in ScriptDirectory.from_config(_config(tree)).walk_revisions()):
            return tree
    raise Misconfigured(f"--to: unknown revision {revision}; `kylo-outbox migrate --status` lists them")


def run_versions() -> None:
    """What Alembic's env.py calls: run on the connection that `migrate` handed over."""
    config = context.config
    tree = config.get_main_option("kylo_tree") or "store"
    context.configure(
        connection=config.attributes["connection"],
        version_table=f"{tree}_version",
        version_table_schema="kylo",
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def script(sql: str) -> None:
    """Run several statements as they stand (no parameters, no escapes) in the transaction of the running version."""
    psycopg_of(context.get_bind()).execute(sql.encode())


def _config(tree: Tree) -> Config:
    config = Config()
    config.set_main_option("script_location", str(versions_dir() / tree))
    config.set_main_option("path_separator", "os")
    config.set_main_option("kylo_tree", tree)
    return config


def _version(connection: sa.Connection, tree: Tree) -> Version:
    options: dict[str, Any] = {"version_table": f"{tree}_version", "version_table_schema": "kylo"}
    found = MigrationContext.configure(connection, opts=options).get_current_revision()
    return Version(tree, found, str(ScriptDirectory.from_config(_config(tree)).get_current_head()))


def _is_below(config: Config, to: str, at: str | None) -> bool:
    if to == "head" or at is None:
        return False
    scripts = ScriptDirectory.from_config(config)
    return to in {script.revision for script in scripts.iterate_revisions(at, "base")} and to != at


def _check_server(connection: sa.Connection, database: Database) -> None:
    number, encoding = connection.execute(
        sa.text("select current_setting('server_version_num')::int, current_setting('server_encoding')")
    ).one()
    if number < _OLDEST_SERVER:
        raise NotReady(f"{database.name}: PostgreSQL {number // 10000} is too old, 15 or newer is needed")
    if encoding != "UTF8":
        raise NotReady(f"{database.name}: its encoding is {encoding}, UTF8 is needed")
