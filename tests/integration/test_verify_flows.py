"""Kylo's own flows under the verifier: what triage, promotion and posts leave behind, and what is missing of it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from kylo_outbox.cli import app
from kylo_outbox.flows.ingest import Ingest
from kylo_outbox.model.transactions import parse_request
from kylo_outbox.settings import load
from kylo_outbox.sheets.standin import background
from kylo_outbox.store import desk
from kylo_outbox.wiring import history, parts, projectors, verify
from tests.helpers import tabs

TOPICS = ("txns.company.batches", "rules.promote.requests")


@pytest.fixture
def kylo(control_db, tmp_path):
    """Companies 710 and 711 in the control database, whose flows are handed over in process."""
    environ = {"PG_DSN_RW": control_db.dsn, "ROUTE_VIA_KAFKA": "0"}
    built = parts.build(load(environ, tmp_path / "none.env"))
    with control_db.transaction() as tx:
        for company in ("710", "711"):
            tx.execute(tabs.CONFIG, (company, tabs.BOOK, f"{company} Pending", f"{company} Active"))
    yield built
    built.close()


def ingest(database, number, company):
    """One request with one transaction."""
    made = {"id": f"t{number}", "company_id": company, "date": "2025-08-26", "amount": "1.00", "description": "SHOP"}
    Ingest(database, TOPICS[0]).accept(parse_request([made]), source="test")


def apply(built):
    """Everything that is stored and not taken, projector by projector."""
    for name in projectors.TELLING:
        projector = projectors.named(built, name)
        projection = projectors.projection(built, projector)
        for topic in projector.topics:
            for batch in history.stored_events(built, topic):
                projection.handle(batch)


def found(built, since=None):
    """(part, anomaly, projector, key, ids) of what is open after one more pass."""
    own = [projectors.named(built, name) for name in projectors.TELLING]
    verdict = verify.verifier(built, own).run(since)
    assert verdict.problems == []
    return [
        (each.finding.part, each.finding.anomaly, each.finding.projector, each.finding.key, each.finding.outbox_ids)
        for _, each in verdict.differences
    ]


def do(built, *statements):
    """Run statements."""
    with built.control.transaction() as tx:
        for statement in statements:
            tx.execute(statement)


def ids(built, topic, key):
    """Outbox ids of a key."""
    with built.control.transaction() as tx:
        sql = "select id from outbox where topic = %s and key = %s order by id"
        return [number for [number] in tx.execute(sql, (topic, key))]


def test_a_transaction_that_is_in_no_table_is_a_lost_effect(kylo):
    """Open, resolved or sorted: a slice's transactions are somewhere, or its event is named."""
    for number, company in enumerate(("710", "711", "710")):
        ingest(kylo.control, number, company)
    apply(kylo)
    assert found(kylo) == []
    do(kylo, "delete from kylo.pending_txns where company_id = '711'")
    ingest(kylo.control, 9, "711")
    apply(kylo)
    do(kylo, "delete from kylo.transactions where company_id = '711' and txn_id = 't9'")
    first, second = ids(kylo, TOPICS[0], "711")
    assert found(kylo) == [("effects", "lost", "txns", "711", (second,))]
    with kylo.control.transaction() as tx:
        [long_ago] = tx.execute("select now() - interval '1 hour'").fetchone()
    lost = {("effects", "lost", "txns", "711", (number,)) for number in (first, second)}
    assert set(found(kylo, since=long_ago)) == lost


def test_lost_effects_of_triage_are_mended_in_place(kylo, control_db, monkeypatch, tmp_path):
    """What is missing comes back, open or sorted; what people and promotions wrote since stays; nothing is emitted."""
    for number, company in enumerate(("710", "711", "710", "710")):
        ingest(kylo.control, number, company)
    apply(kylo)
    _, second, third = ids(kylo, TOPICS[0], "710")
    do(
        kylo,
        "update kylo.pending_txns set status = 'resolved', resolved_at = now() "
        "where txn_uid = (select txn_uid from kylo.transactions where txn_id = 't0')",
        "delete from kylo.pending_txns where company_id = '711'",
        "delete from kylo.pending_txns where txn_uid = (select txn_uid from kylo.transactions where txn_id = 't2')",
        "delete from kylo.transactions where txn_id = 't3'",
    )
    with control_db.transaction() as tx:
        before = tx.execute("select count(*) from outbox").fetchone()
    for name, value in {"PG_DSN_RW": control_db.dsn, "ROUTE_VIA_KAFKA": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("KAFKA_BROKERS", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def rebuild(*words, code=0):
        result = CliRunner().invoke(app, ["rebuild", "txns", "--company", "710", "--json", *words])
        assert result.exit_code == code, (result.stdout, result.stderr)
        return json.loads(result.stdout)

    tried = rebuild("--dry-run", code=1)
    lacking = [{"topic": TOPICS[0], "key": "710", "outbox_id": number} for number in (second, third)]
    assert (tried["events"], tried["lacking"], tried["failed"]) == (3, lacking, [])
    assert len(found(kylo)) == 3, "a trial changes nothing"
    done = rebuild("--yes")
    assert (done["lacking"], done["changes"]) == (lacking, tried["changes"])
    assert done["changes"]["kylo.transactions"]["inserted"] == 1
    assert [each[2:] for each in found(kylo)] == [("txns", "711", (ids(kylo, TOPICS[0], "711")[0],))]
    assert rebuild("--dry-run")["lacking"] == []
    with control_db.transaction() as tx:
        asked = (
            "select status, count(*) from kylo.pending_txns where company_id = '710' group by status order by status"
        )
        assert tx.execute(asked).fetchall() == [("open", 2), ("resolved", 1)]
        assert tx.execute("select count(*) from outbox").fetchone() == before
        acts = tx.execute("select verb, ids from kylo.audit").fetchall()
    assert acts == [("rebuild in place", [second, third])]


def test_an_edited_slice_is_looked_for_as_it_was_applied(kylo):
    """Nobody can read the original; the corrected one was applied: no difference, and lost if its effect goes."""
    ingest(kylo.control, 0, "710")
    with kylo.control.transaction() as tx:
        [whole] = tx.execute("select payload from kylo.outbox_log where topic = %s", (TOPICS[0],)).fetchone()
    do(kylo, "update kylo.outbox_log set payload = '{}' where topic = 'txns.company.batches'")
    apply(kylo)
    with kylo.control.transaction() as tx:
        letters = desk.find(tx, desk.Filter())
        assert desk.edit(tx, letters[0], bytes(whole), who="me", reason="mended")
        assert len(desk.release(tx, letters, who="me", reason=None).ids) == 1
    projectors.projection(kylo, projectors.named(kylo, "txns")).tend(at_once=True)
    assert found(kylo) == []
    do(kylo, "delete from kylo.transactions", "delete from kylo.pending_txns")
    with kylo.control.transaction() as tx:
        [long_ago] = tx.execute("select now() - interval '1 hour'").fetchone()
    assert found(kylo, since=long_ago) == [("effects", "lost", "txns", "710", tuple(ids(kylo, TOPICS[0], "710")))]


def test_a_promotion_has_its_line_in_the_history_once_and_in_order(kylo):
    """Deleted and swapped lines are told by the requests that they came from."""
    flow = parts.rules_of(kylo)
    for _ in range(4):
        flow.request("710", "ann")
    apply(kylo)
    assert found(kylo) == []
    numbers = ids(kylo, TOPICS[1], "710")
    do(
        kylo,
        "delete from kylo.verify_reads where reader like 'effects%'",
        "delete from kylo.promotions where number = 1",
        "update kylo.promotions set number = 7 - number + 100 where number in (3, 4)",
        "update kylo.promotions set number = number - 100 where number > 100",
    )
    assert found(kylo) == [
        ("effects", "lost", "promote", "710", (numbers[0],)),
        ("effects", "reordered", "promote", "710", (numbers[3], numbers[2])),
    ]


def test_tabs_are_compared_by_the_verb(kylo, control_db, monkeypatch, tmp_path):
    """A line that somebody deleted and one that nobody knows are told, once they are still there at a second look."""
    monkeypatch.setattr(verify, "_UNTIL_POSTED", 0.0)
    with background.running(tmp_path) as url:
        for name, value in {
            "PG_DSN_RW": control_db.dsn,
            "KYLO_SHEETS_ENDPOINT": url,
            "KYLO_SHEETS_POST": "1",
            "ROUTE_VIA_KAFKA": "0",
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("KAFKA_BROKERS", "KAFKA_BOOTSTRAP_SERVERS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(tmp_path)

        def run(*words, code=0):
            result = CliRunner().invoke(app, ["verify", "--json", *words])
            assert result.exit_code == code, (result.stdout, result.stderr)
            return json.loads(result.stdout)["differences"]

        for made in tabs.office(control_db, url, ("710", "711")):
            made.leave_open(2, "710")
            made.post()
            assert run() == []
            sheet = made.standin.tab("710 Pending")["sheetId"]
            place = {"sheetId": sheet, "startRowIndex": 1, "endRowIndex": 2, "startColumnIndex": 0, "endColumnIndex": 1}
            value = {"userEnteredValue": {"stringValue": "nobody"}}
            rows = {"rows": [{"values": [value]}], "range": place, "fields": "userEnteredValue"}
            made.standin.people({"updateCells": rows})
            told = {(each["part"], each["anomaly"], each["topic"], each["key"]) for each in run(code=1)}
            assert {("tabs", "lost", "710 Pending", "710"), ("tabs", "aborted read", "710 Pending", "710")} <= told
            assert run("--no-tabs") == []
