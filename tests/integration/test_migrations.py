"""Schema versions: every one goes up, down and up again, two at a time are safe, and a wrong one stops a process."""

from __future__ import annotations

import threading
import uuid

import pytest
from alembic.script import ScriptDirectory

from kylo_outbox.model.errors import Misconfigured, NotReady
from kylo_outbox.store import fixtures, migrate
from kylo_outbox.store.engine import Database

TREES: list[migrate.Tree] = ["store", "control"]
EVERYTHING = """
select c.relkind::text, n.nspname || '.' || c.relname, coalesce(pg_get_viewdef(c.oid), '')
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where n.nspname in ('kylo', 'app', 'control', 'intake', 'public') and c.relname not like '%%_version%%'
union all
select 'f', p.oid::regprocedure::text, p.prosrc
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname in ('kylo', 'app', 'control', 'intake')
order by 1, 2
"""


@pytest.fixture
def empty_db(postgres_server):
    """A database with nothing in it."""
    name = f"m_{uuid.uuid4().hex[:10]}"
    postgres_server.create_database(name)
    database = Database(postgres_server.dsn(name), name=name)
    yield database
    database.close()
    fixtures.drop(postgres_server.dsn("postgres"), name)


def everything(database):
    """Every relation and function of ours."""
    with database.begin() as connection:
        return connection.exec_driver_sql(EVERYTHING).fetchall()


def test_up_down_up(empty_db):
    """After a full way down nothing is left, and the second way up makes the same schema."""
    for tree in TREES:
        migrate.migrate(empty_db, tree)
    first = everything(empty_db)
    for tree in reversed(TREES):
        migrate.migrate(empty_db, tree, "base")
    assert everything(empty_db) == []
    for tree in TREES:
        migrate.migrate(empty_db, tree)
    assert everything(empty_db) == first
    assert len(first) > 50


@pytest.mark.parametrize("tree", TREES)
def test_each_version_goes_down_and_up_alone(empty_db, tree):
    """Every single version can be taken back and applied again."""
    migrate.migrate(empty_db, tree)
    head = everything(empty_db)
    scripts = ScriptDirectory.from_config(migrate._config(tree)).walk_revisions()
    for revision in [script.revision for script in scripts][1:]:
        assert migrate.migrate(empty_db, tree, revision).at == revision
    assert migrate.migrate(empty_db, tree).current
    assert everything(empty_db) == head


def test_two_at_a_time_are_safe(empty_db):
    """The second caller waits and finds the work done."""
    results: list[migrate.Version] = []
    threads = [threading.Thread(target=lambda: results.append(migrate.migrate(empty_db, "store"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [result.current for result in results] == [True, True]


def test_a_schema_behind_stops_a_process(empty_db):
    """The error names the database, both revisions and the remedy."""
    migrate.migrate(empty_db, "store", "store_0001")
    with pytest.raises(NotReady, match=r"store_0001.*kylo-outbox migrate"):
        migrate.require_head(empty_db, "store")


def test_a_crash_inside_a_version_leaves_the_former_one(empty_db, monkeypatch):
    """A version and its number are one transaction."""
    migrate.migrate(empty_db, "store", "store_0001")
    before = everything(empty_db)
    run = migrate.script

    def crash(sql):
        run(sql)
        raise RuntimeError("killed")

    monkeypatch.setattr(migrate, "script", crash)
    with pytest.raises(RuntimeError, match="killed"):
        migrate.migrate(empty_db, "store")
    monkeypatch.undo()
    assert migrate.version(empty_db, "store").at == "store_0001"
    assert everything(empty_db) == before
    assert migrate.migrate(empty_db, "store").current


def test_revisions_name_their_tree():
    """`--to` finds the tree of a revision and refuses an unknown one."""
    assert migrate.tree_of("store_0002") == "store"
    assert migrate.tree_of("control_0001") == "control"
    with pytest.raises(Misconfigured, match="nowhere"):
        migrate.tree_of("nowhere")
