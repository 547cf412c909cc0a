"""The verbs of rules and of moving a company: what they print, and their exit codes."""

from __future__ import annotations

import json
import os
from functools import partial

import pytest
from typer.testing import CliRunner

from kylo_outbox.cli import app
from kylo_outbox.flows.direct import DirectDelivery
from kylo_outbox.settings import load
from kylo_outbox.store.history import moment, stored_rows
from kylo_outbox.wiring import parts
from kylo_outbox.wiring.projectors import named, projection
from tests.helpers.rules import ingest, rows, staged

SECRET = "hunter2-canary"


@pytest.fixture
def run(control_db, tmp_path, monkeypatch):
    """Run the command in this process, with company 710 and an environment with nothing but the database."""
    for name in list(os.environ):
        if name.startswith(("KYLO_", "KAFKA_", "ROUTE_VIA_", "PG", "GOOGLE_APPLICATION")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PG_DSN_RW", control_db.dsn)
    monkeypatch.chdir(tmp_path)

    def invoke(*words, code=0):
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == code, (words, result.exit_code, result.stdout, result.stderr)
        assert SECRET not in result.output
        return result

    invoke("company", "add", "710", "--spreadsheet", "book")
    return invoke


def deliver(database):
    """Serve every request for promotion, as a relay on the direct path would."""
    built = parts.build(load({"PG_DSN_RW": database.dsn}))
    direct = DirectDelivery(
        store_id="s",
        topics=["rules.promote.requests"],
        is_direct=lambda _company: True,
        projections=[projection(built, named(built, "promote"))],
        moment=partial(moment, database),
        published_rows=lambda topics, _at: stored_rows(database, topics),
    )
    assert list(direct.catch_up())
    built.close()


def test_a_rule_from_proposal_to_undo(run, control_db):
    """The story of the help texts; data on stdout, talk on stderr."""
    ingest(control_db, [staged("710", f"t{n}", "Starbucks") for n in range(3)])
    made = run(
        "rules", "propose", "710", "--source", "STARBUCKS", "--sheet", "PETTY CASH", "--header", "Coffee", "--json"
    )
    assert json.loads(made.stdout)[0]["state"] == "proposed"
    assert "approved" in run("rules", "approve", "710", "1").stdout
    seen = run("rules", "promote", "710", "--preview")
    assert "would resolve 3 items" in seen.stderr
    assert json.loads(run("rules", "promote", "710", "--preview", "--json").stdout)["would_resolve"] == 3
    waited = run("rules", "promote", "710", "--wait", "0.1", code=4)
    assert "does `project` run?" in waited.stderr
    deliver(control_db)
    listed = json.loads(run("rules", "list", "710", "--json").stdout)
    assert (listed["version"], [rule["source"] for rule in listed["rules"]]) == (1, ["STARBUCKS"])
    assert "STARBUCKS" in run("rules", "list", "710").stdout
    assert "promoted" in run("rules", "list", "710", "--proposals").stdout
    [log] = json.loads(run("rules", "history", "710", "--json").stdout)
    assert (log["act"], log["resolved"]) == ("promote", 3)
    assert log["asked_by"].startswith("cli")
    assert "say --yes" in run("rules", "undo", "710", code=2).stderr
    assert "nothing was changed" in run("rules", "undo", "710", "--dry-run").stderr
    assert json.loads(run("rules", "undo", "710", "--yes", "--json").stdout)["reopened"] == 3
    assert "nothing to undo" in run("rules", "undo", "710", "--yes", code=1).stderr
    assert "undo" in run("rules", "history", "710").stdout


def test_many_rules_from_a_file_and_every_company_at_once(run, tmp_path):
    """All of a file or none; promote --all asks for each company."""
    run("company", "add", "711", "--spreadsheet", "book")
    file = tmp_path / "rules.json"
    rules = [{"source": f"shop {n}", "target_sheet": "A", "target_header": "x"} for n in range(50)]
    file.write_text(json.dumps({"proposals": rules}))
    assert "50 new" in run("rules", "propose", "710", "--file", str(file), "--approve").stderr
    assert "0 new, 50 known" in run("rules", "propose", "710", "--file", str(file)).stderr
    file.write_text(json.dumps([*rules[:1], {"source": "***"}]))
    assert "proposals[1].target_sheet" in run("rules", "propose", "711", "--file", str(file), code=1).stderr
    assert json.loads(run("rules", "list", "711", "--proposals", "--json").stdout) == []
    asked = json.loads(run("rules", "promote", "--all", "--json").stdout)
    assert [(each["company_id"], each["outcome"]) for each in asked] == [("710", None), ("711", None)]
    assert "50 rules would be added" in run("rules", "promote", "--all", "--preview").stderr


def test_targets_and_withdrawing(run):
    """A list of targets is kept; a proposal can be taken back."""
    shown = run("rules", "targets", "710", "--add", "PETTY CASH", "--add", "BALANCE/Fuel", "--json").stdout
    assert [row["target_sheet"] for row in json.loads(shown)] == ["BALANCE", "PETTY CASH"]
    words = ("rules", "propose", "710", "--source", "x", "--header", "h", "--sheet")
    assert "known: 'BALANCE', 'PETTY CASH'" in run(*words, "PETY CASH", code=1).stderr
    run(*words, "PETTY CASH")
    assert "withdrawn" in run("rules", "withdraw", "710", "1").stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("rules", "list", "999"), 1, "'999' is unknown"),
        (("rules", "approve", "710", "9"), 1, "no proposal 9"),
        (("rules", "promote"), 2, "name one company, or give --all"),
        (("rules", "promote", "710", "--all"), 2, "name one company, or give --all"),
        (("rules", "propose", "710"), 1, "proposals[0].source"),
        (("rules", "propose", "710", "--file", "none.json"), 2, "cannot be read"),
        (("rules", "propose", "710", "--file", "x", "--source", "y"), 2, "leave --source"),
        (("company", "move", "710"), 2, "give --dsn, or --cancel"),
        (("company", "move", "710", "--dsn", "env:NOT_SET", "--yes"), 2, "NOT_SET"),
    ],
)
def test_faults_are_one_line_with_the_remedy(run, words, code, said):
    """What is wrong, on stderr, with the exit code that scripts rely on."""
    assert said in run(*words, code=code).stderr


def test_company_move(run, control_db, make_database, monkeypatch):
    """Told first, done with --yes, repeated without harm; no password is shown."""
    other = make_database()
    monkeypatch.setenv("OTHER", other.dsn)
    ingest(control_db, [staged("710", "t1", "Starbucks")])
    words = ("company", "move", "710", "--dsn", "env:OTHER")
    assert "say --yes" in run(*words, code=2).stderr
    assert "would move company 710 from env:PG_DSN_RW to env:OTHER" in run(*words, "--dry-run").stderr
    assert "stays in env:PG_DSN_RW" in run("company", "move", "710", "--cancel").stderr
    moved = run(*words, "--yes", "--json")
    assert json.loads(moved.stdout)["db_dsn_rw"] == "env:OTHER"
    assert "lives in env:OTHER" in moved.stderr
    assert rows(other, "select count(*) from app_710.transactions") == [(1,)]
    assert "0 rows copied" in run(*words, "--yes").stderr
    run("company", "move", "710", "--dsn", f"postgresql://u:{SECRET}@127.0.0.1:1/d", "--dry-run")
    run("company", "move", "710", "--dsn", f"postgresql://u:{SECRET}@127.0.0.1:1/d", "--yes", code=3)
