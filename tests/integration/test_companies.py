"""control.company_config, the topic registry and the views, on a real database."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.dialects.postgresql.base import ischema_names

from kylo_outbox.flows.companies import Companies
from kylo_outbox.flows.schema import Schema
from kylo_outbox.model.companies import Company, new_company
from kylo_outbox.model.errors import Conflict, Misconfigured, NotReady, Refused, Unreachable
from kylo_outbox.model.topics import declared
from kylo_outbox.store import companies, tables, topics
from kylo_outbox.store.engine import Database

TOPICS = declared("txns.company.batches", "rules.promote.requests")


@pytest.fixture
def environ(control_db):
    """What references are looked up in."""
    return {"PG_DSN_RW": control_db.dsn}


@pytest.fixture
def flow(control_db, environ):
    """The verbs on the test's control database."""
    return Companies(control_db, environ, TOPICS)


@pytest.fixture
def empty_database(make_database):
    """An existing database in which nothing of ours is."""
    database = make_database()
    with database.begin() as connection:
        for schema in ("kylo", "app", "control", "intake"):
            connection.execute(sa.text(f"drop schema {schema} cascade"))
        connection.execute(sa.text("drop view if exists public.outbox"))
    return database


def views(database: Database, schema: str) -> set[str]:
    """Names of the views of a schema."""
    with database.begin() as connection:
        return set(sa.inspect(connection).get_view_names(schema))


def differences(connection) -> list[object]:
    """What distinguishes our table definitions from the migrated tables."""
    names = {(table.schema, table.name) for table in tables.METADATA.tables.values()}

    def ours(name, kind, parents):
        if kind == "schema":
            return name in {"kylo", "control"}
        return kind != "table" or (parents["schema_name"], name) in names

    options = {"include_schemas": True, "include_name": ours, "compare_server_default": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), tables.METADATA))


def test_definitions_are_what_the_versions_make(control_db, monkeypatch):
    """Code and database cannot drift apart; a planted difference is found."""
    monkeypatch.setitem(ischema_names, "pg_snapshot", tables.Snapshot)
    with control_db.begin() as connection:
        # The test's user is named as one of the schemas, which would make that one its default.
        monkeypatch.setattr(connection.dialect, "default_schema_name", "public")
        assert differences(connection) == []
        connection.execute(sa.text("alter table control.company_config add column odd text"))
        connection.execute(sa.text("drop index kylo.outbox_held_key"))
        assert len(differences(connection)) == 2


def test_rows_of_companies(control_db):
    """Store, read, change and forget a company."""
    company = new_company("710", "book")
    with control_db.begin() as connection:
        assert companies.upsert(connection, company)
        assert not companies.upsert(connection, new_company("710", "other"))
        assert companies.all_companies(connection) == [new_company("710", "other")]
        assert companies.known(connection, ["710", "711"]) == {"710"}
        assert companies.known(connection, []) == set()
        assert companies.pause(connection, "710").paused
        assert companies.get(connection, "710").paused
        assert not companies.resume(connection, "710").paused
        assert companies.set_fields(connection, "710", tab_active="Rules").tab_active == "Rules"
        with pytest.raises(Refused, match="schema"):
            companies.set_fields(connection, "710", schema="No")
        assert companies.remove(connection, "710").tab_active == "Rules"
        with pytest.raises(Refused, match="company list"):
            companies.get(connection, "710")


def test_change_moves_updated_at(control_db, flow):
    """People see when a company was changed last; a change that changes nothing leaves no trace."""
    flow.add(new_company("710", "book"))
    ask = sa.select(tables.company_config.c.updated_at)

    def updated():
        with control_db.begin() as connection:
            return connection.scalar(ask)

    before = updated()
    flow.change("710", spreadsheet_id="book")
    assert updated() == before
    flow.change("710", spreadsheet_id="other")
    assert updated() > before


def test_unacceptable_row_of_the_old_runbook_can_be_paused(control_db):
    """A row that people wrote and that we would refuse can still be held."""
    with control_db.begin() as connection:
        connection.execute(
            sa.insert(tables.company_config).values(
                company_id="x", db_dsn_rw="env:X", db_schema="BAD", spreadsheet_id="s", tab_pending="p", tab_active="a"
            )
        )
        assert companies.pause(connection, "x").paused


def test_registry_follows_the_declaration(control_db):
    """Rows are added, changed and removed; the same again writes nothing."""
    with control_db.begin() as connection:
        assert topics.sync(connection, TOPICS)
        assert not topics.sync(connection, TOPICS)
        assert {topic.name for topic in topics.registered(connection)} == {topic.name for topic in TOPICS}
        assert topics.sync(connection, TOPICS[:1])
        assert topics.registered(connection) == [TOPICS[0]]


def test_views_show_one_company_only(control_db, flow):
    """app_710 has the rows of 710 and no other's."""
    flow.add(new_company("710", "book"))
    flow.add(new_company("711", "book"))
    with control_db.begin() as connection:
        for company in ("710", "711"):
            connection.execute(
                sa.text(
                    "insert into kylo.pending_txns (company_id, txn_uid, first_seen_batch, last_seen_batch,"
                    " occurred_at, description, description_norm, amount_cents)"
                    " values (:company, gen_random_uuid(), 1, 1, current_date, 'd', 'd', 1)"
                ),
                {"company": company},
            )
        assert connection.scalars(sa.text("select company_id from app_710.pending_txns")).all() == ["710"]


def test_two_companies_never_share_a_schema(flow):
    """A second company whose id leads to the same schema is refused, and nothing of it is stored."""
    flow.add(new_company("A-1", "book"))
    with pytest.raises(Refused, match="belongs to company 'A-1'"):
        flow.add(new_company("A_1", "book"))
    assert [company.company_id for company in flow.all()] == ["A-1"]
    flow.add(new_company("A_1", "book", schema="app_other"))


def test_foreign_schema_is_left_alone(control_db, flow):
    """A schema in which people keep tables of their own is not taken."""
    with control_db.begin() as connection:
        connection.execute(sa.text("create schema sales create table orders (id int)"))
    with pytest.raises(Refused, match="not ours"):
        flow.add(new_company("710", "book", schema="sales"))
    assert flow.all() == []


def test_add_is_repeatable_and_never_overwrites(flow):
    """The same call changes nothing, also for a paused company; another one is a conflict."""
    assert flow.add(new_company("710", "book"))
    flow.pause("710")
    assert not flow.add(new_company("710", "book"))
    assert flow.get("710").paused
    with pytest.raises(Conflict, match="company set 710"):
        flow.add(new_company("710", "other"))


def test_add_prepares_a_database_of_its_own(flow, environ, empty_database):
    """Schema, topics and views are there when `add` returns."""
    environ["DSN_710"] = empty_database.dsn
    flow.add(new_company("710", "book", dsn_ref="env:DSN_710"))
    assert "pending_txns" in views(empty_database, "app_710")
    with empty_database.begin() as connection:
        assert len(topics.registered(connection)) == len(TOPICS)


@pytest.mark.parametrize(
    ("dsn", "error"),
    [
        ("env:NOT_SET", Misconfigured),
        ("postgresql://u:hunter2@127.0.0.1:1/d", Unreachable),
        ("not a dsn hunter2", Misconfigured),
    ],
)
def test_database_that_is_not_there(flow, dsn, error):
    """Nothing is stored, and no password is shown."""
    with pytest.raises(error) as failed:
        flow.add(new_company("710", "book", dsn_ref=dsn))
    assert "hunter2" not in str(failed.value)
    assert flow.all() == []


def test_new_schema_takes_the_place_of_the_old_one(control_db, flow):
    """After a change only the new schema of views is there."""
    flow.add(new_company("710", "book"))
    flow.change("710", schema="app_new")
    assert views(control_db, "app_new")
    assert not views(control_db, "app_710")


def test_remove_keeps_what_people_built(control_db, flow):
    """A schema on which somebody built a view stays, and the answer says so."""
    flow.add(new_company("710", "book"))
    with control_db.begin() as connection:
        connection.execute(sa.text("create view public.mine as select * from app_710.pending_txns"))
    assert "app_710 stays" in flow.remove("710").left
    assert views(control_db, "app_710")
    assert flow.all() == []


def test_companies_need_the_schema(empty_database):
    """A database that was never migrated is told with the remedy."""
    with pytest.raises(NotReady, match="kylo-outbox migrate"):
        Companies(empty_database, {}, TOPICS).all()


def insert(database: Database, company: Company) -> None:
    """The old runbook's INSERT."""
    with database.begin() as connection:
        connection.execute(
            sa.insert(tables.company_config).values(
                company_id=company.company_id,
                db_dsn_rw=company.dsn_ref,
                db_schema=company.schema,
                spreadsheet_id=company.spreadsheet_id,
                tab_pending=company.tab_pending,
                tab_active=company.tab_active,
            )
        )


def test_insert_followed_by_migrate_is_company_add(control_db, environ, empty_database):
    """Rows written by hand get their databases and views; two strings for one database are one database."""
    environ |= {"OWN": empty_database.dsn, "SAME": empty_database.dsn.replace("127.0.0.1", "localhost")}
    insert(control_db, new_company("710", "book"))
    insert(control_db, new_company("720", "book", dsn_ref="env:OWN"))
    insert(control_db, new_company("721", "book", dsn_ref="env:SAME"))
    outcomes = Schema(control_db, environ, TOPICS).migrate()
    assert [(outcome.companies, outcome.problems) for outcome in outcomes] == [(("710",), ()), (("720", "721"), ())]
    assert views(control_db, "app_710")
    assert views(empty_database, "app_720")
    assert views(empty_database, "app_721")
    assert not any(outcome.moved for outcome in Schema(control_db, environ, TOPICS).migrate())


def test_migrate_goes_past_what_it_cannot_reach(control_db, environ, empty_database):
    """One database that is away and one row that is wrong are told; the others are done."""
    environ["OWN"] = empty_database.dsn
    insert(control_db, new_company("1", "book", dsn_ref="postgresql://u:hunter2@127.0.0.1:1/d"))
    insert(control_db, new_company("2", "book", dsn_ref="env:NOT_SET"))
    insert(control_db, Company("3", "env:PG_DSN_RW", "BAD", "s", "p", "a"))
    insert(control_db, new_company("4", "book", dsn_ref="env:OWN"))
    outcomes = Schema(control_db, environ, TOPICS).migrate()
    problems = {outcome.companies: " ".join(outcome.problems) for outcome in outcomes}
    assert "not reachable" in problems[("1",)]
    assert "NOT_SET" in problems[("2",)]
    assert "company 3: schema" in problems[("3",)]
    assert problems[("4",)] == ""
    assert "hunter2" not in str(problems)
    assert views(empty_database, "app_4")


def test_status_changes_nothing(empty_database):
    """Looking does not migrate."""
    schema = Schema(empty_database, {}, TOPICS)
    assert [version.at for version in schema.status()[0].versions] == [None, None]
    assert [version.at for version in schema.status()[0].versions] == [None, None]


def test_down_and_up_again(control_db):
    """A revision is reached in both directions, and going back is recognised."""
    schema = Schema(control_db, {}, TOPICS)
    assert schema.goes_back("store_0003")
    schema.migrate("store_0003")
    assert schema.status()[0].versions[0].at == "store_0003"
    assert not schema.goes_back("store_0004")
    assert all(version.current for version in schema.migrate()[0].versions)
    with pytest.raises(Misconfigured, match="unknown revision"):
        schema.migrate("store_9999")


def test_rights_that_are_missing_are_one_line(control_db):
    """A user who may not create schemas is told so, without a stack trace."""
    user = f"plain_{control_db.name}"
    with control_db.begin() as connection:
        connection.execute(sa.text(f"create role {user} login password 'plain'"))
    try:
        dsn = re.sub("//[^@]*@", f"//{user}:plain@", control_db.dsn)
        plain = Database(dsn, name="plain")
        with pytest.raises(NotReady, match="PostgreSQL refuses: permission denied"):
            Schema(plain, {}, TOPICS).migrate("store_0003")
        plain.close()
    finally:
        with control_db.begin() as connection:
            connection.execute(sa.text(f"drop role {user}"))
