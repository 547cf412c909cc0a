"""Companies are kept apart: by PostgreSQL for whoever acts for one company, over HTTP and in messages."""

from __future__ import annotations

import itertools
import json
import random
import re
from uuid import UUID

import psycopg
import pytest

from kylo_outbox.flows.approvals import TakeApprovals
from kylo_outbox.flows.rules import Rules
from kylo_outbox.model.approvals import Line
from kylo_outbox.model.companies import new_company
from kylo_outbox.model.errors import KyloError, NotReady
from kylo_outbox.model.events import Event
from kylo_outbox.model.messages import PromoteRules, TxnsBatch
from kylo_outbox.settings import load
from kylo_outbox.store.engine import Database
from kylo_outbox.store.isolation import acting_for, company_transaction, require_unbound
from kylo_outbox.wiring import parts
from kylo_outbox.wiring.projectors import named
from tests.helpers.rules import ingest, promote, rows, staged

COMPANIES = ("710", "711")
COMPANY_TABLES = """
select n.nspname, c.relname, c.relrowsecurity,
       exists (select from pg_policy p where p.polrelid = c.oid and p.polname = 'company_only' and p.polcmd = '*'
                  and p.polqual is not null and p.polwithcheck is not null)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attname = 'company_id' and not a.attisdropped
 where c.relkind in ('r', 'p') and n.nspname in ('kylo', 'app', 'control', 'intake')
"""
# What the ordinary role may touch; the tables of the control database are not its business at all.
TABLES = (
    *("transactions", "pending_txns", "rules_active", "sort_queue", "triage_runs", "company_state"),
    *("rules_versions", "rules_proposals", "sheet_approvals", "promotions"),
)


@pytest.fixture
def filled(control_db):
    """Two companies with rows in every table."""
    with control_db.transaction() as tx:
        for company in COMPANIES:
            tx.execute(
                "insert into control.company_config values (%s, 'env:PG_DSN_RW', 'app_' || %s, 'S', %s || ' P', 'A')",
                (company, company, company),
            )
            tx.execute("select kylo.make_company_views(%s, 'app_' || %s)", (company, company))
    for company in COMPANIES:
        items = [staged(company, f"t{n}", f"shop {company} {n}") for n in range(3)]
        ingest(control_db, items)
        promote(control_db, company, (f"shop {company} 0", "A", company))
        TakeApprovals(control_db, lambda _: control_db).take(
            company, [Line(2, str(items[1].txn_uid), approved=True, target_sheet="A", target_header="x")]
        )
        with control_db.transaction() as tx:
            tx.execute(
                "insert into kylo.triage_runs values (%s, 1, gen_random_uuid(), 0, 0, 3)",
                (company,),
            )
    return control_db


def test_every_table_of_a_company_is_covered(control_db):
    """A table with a company_id and no policy fails here; so does a list that found nothing."""
    found = rows(control_db, COMPANY_TABLES)
    assert {table for schema, table, *_ in found if schema == "kylo"} >= set(TABLES)
    assert [(schema, table) for schema, table, enabled, policy in found if not (enabled and policy)] == []
    with control_db.transaction() as tx:
        tx.execute("create table kylo.forgotten (company_id text)")
    bare = [table for _, table, enabled, policy in rows(control_db, COMPANY_TABLES) if not (enabled and policy)]
    assert bare == ["forgotten"]


@pytest.mark.parametrize("table", TABLES)
def test_whoever_acts_for_one_company_sees_and_writes_its_rows_alone(filled, table):
    """No WHERE at all: the rows are those of the company; nothing can be written for another."""
    assert {row[0] for row in rows(filled, f"select distinct company_id from kylo.{table}")} == set(COMPANIES)
    with company_transaction(filled, "710") as tx:
        assert tx.execute(f"select distinct company_id from kylo.{table}").fetchall() == [("710",)]
        columns = ", ".join(
            name
            for (name,) in tx.execute(
                "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
                " and attidentity = '' and attname <> 'company_id'",
                (f"kylo.{table}",),
            )
        )
        copy = f"insert into kylo.{table} (company_id, {columns}) select '711', {columns} from kylo.{table}"
        with pytest.raises(psycopg.Error, match=r"row-level security|permission denied"), tx.transaction():
            tx.execute(copy)
        for change in (f"update kylo.{table} set company_id = '711'", f"delete from kylo.{table}"):
            assert _touched(tx, change + " where company_id = '711'") == 0


def test_an_ordinary_role_sees_nothing_until_it_says_for_whom_it_acts(filled):
    """Also through the views of app and of another company; the setting ends with the transaction."""
    with filled.transaction() as tx:
        tx.execute("set local role kylo_company")
        assert tx.execute("select count(*) from kylo.transactions").fetchone() == (0,)
        assert tx.execute("select count(*) from app.pending_txns").fetchone() == (0,)
        for denied in ("control.company_config", "intake.transactions", "kylo.positions", "kylo.outbox_log"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), tx.transaction():
                tx.execute(f"select from {denied}")
    with company_transaction(filled, "710") as tx:
        assert tx.execute("select distinct company_id from app.pending_txns").fetchall() == [("710",)]
    with filled.transaction() as tx:
        assert tx.execute("select current_setting('kylo.company', true)").fetchone() in {("",), (None,)}
        assert tx.execute("select current_user = session_user").fetchone() == (True,)
        with acting_for(tx, "711"):
            assert tx.execute("select distinct company_id from kylo.transactions").fetchall() == [("711",)]
        assert tx.execute("select count(distinct company_id) from kylo.transactions").fetchone() == (2,)


def test_a_user_who_would_see_nothing_is_refused(control_db):
    """A user that row-level security binds cannot run a process: it would take rows for missing."""
    user = f"bound_{control_db.name}"
    with control_db.transaction() as tx:
        tx.execute(f"create role {user} login password 'bound' in role kylo_company")
        tx.execute(f"grant usage on schema control to {user}")
        tx.execute(f"grant select on all tables in schema kylo, control to {user}")
        tx.execute(f"grant execute on function pg_control_system() to {user}")
    bound = Database(re.sub("//[^@]*@", f"//{user}:bound@", control_db.dsn), name="bound")
    try:
        with pytest.raises(NotReady, match=f"{user} does not own.*BYPASSRLS"), bound.begin() as connection:
            require_unbound(connection)
        made = parts.build(load({"PG_DSN_RW": bound.dsn}))
        with pytest.raises(NotReady, match="does not own"):
            parts.require_schema(made)
        assert "does not own" in str(made.directory.stores()[0].problem)
        made.close()
    finally:
        bound.close()
        with control_db.transaction() as tx:
            tx.execute(f"drop owned by {user}")
            tx.execute(f"drop role {user}")


def test_a_thousand_attempts_to_cross(filled):
    """Swapped ids through every door of the flows, in SQL and in messages: nothing of the other company shows."""
    dice = random.Random(7)
    attempts = seen = 0
    flow = Rules(filled, "p", lambda company: new_company(company, "b"), lambda _company: filled)
    built = parts.build(load({"PG_DSN_RW": filled.dsn}))
    projectors = {kind: named(built, kind) for kind in ("txns", "promote")}
    before = _everything(filled)
    foreign = {
        company: [
            row[0] for row in rows(filled, "select txn_uid from kylo.transactions where company_id = %s", company)
        ]
        for company in COMPANIES
    }
    for me, other in itertools.permutations(COMPANIES):
        for _ in range(150):
            table = dice.choice(TABLES)
            with company_transaction(filled, me) as tx:
                found = tx.execute(f"select * from kylo.{table} where company_id = %s or true", (other,)).fetchall()
                seen += sum(other in map(str, row) for row in found)
                attempts += 1
        for _ in range(150):
            lines = [Line(2, str(dice.choice(foreign[other])), approved=True, target_sheet="A", target_header="y")]
            [told] = TakeApprovals(filled, lambda _: filled).take(me, lines)
            seen += bool(told.rule_id or told.processed_at) or "Row_Hash is not" not in told.match_notes
            attempts += 1
        for _ in range(100):
            numbers = [proposal.proposal for proposal in flow.proposals(other)]
            asked = flow.withdraw if dice.random() < 0.5 else lambda company, n: flow.approve(company, n, "me")
            try:
                asked(me, [max(numbers) + dice.randint(1, 9)])
                seen += 1
            except KyloError as refused:
                seen += other in str(refused)
            texts = [rule.source for rule in flow.active(me).rules] + [row.description for row in flow.open_items(me)]
            seen += any(f"shop {other}" in text for text in texts)
            attempts += 2
        for _ in range(50):
            for kind, message in _messages(other, dice):
                with pytest.raises(KyloError), filled.transaction() as tx:
                    projectors[kind].apply(tx, [Event(topic="t", key=me, type="x", raw=message)])
                attempts += 1
    built.close()
    print(f"{attempts} attempts, {seen} times something of another company")
    assert attempts >= 1000
    assert seen == 0
    assert _everything(filled) == before


def _touched(tx, change):
    """How many rows a change reached; none where it is not even allowed."""
    try:
        with tx.transaction():
            return tx.execute(change).rowcount
    except psycopg.errors.InsufficientPrivilege:
        return 0


def _messages(company, dice):
    at = "2026-11-21T00:00:00Z"
    batch = {"batch_id": str(UUID(int=dice.getrandbits(128))), "ingest_batch_id": dice.randint(1, 99)}
    yield "promote", _raw(PromoteRules, company, at)
    yield "txns", _raw(TxnsBatch, company, at, **batch, slice_signature="00" * 32)


def _raw(message, company, at, **more):
    return json.dumps(
        {"event_type": message.TYPE, "version": 1, "company_id": company, "created_at": at} | more
    ).encode()


def _everything(database):
    """Every row of every company table, without times."""
    return {table: sorted(map(str, rows(database, f"select * from kylo.{table}"))) for table in TABLES}
