"""The verb `ingest`: files and pipes through the same checks as the HTTP door, with its exit codes."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kylo_outbox.cli import ingest

CSV = "id,company_id,date,amount,description\nt1,710,2025-08-26,-12.34,STARBUCKS\nt3,710,2025-08-26,10.00,UNKNOWN\n"


@pytest.fixture
def command(control_db, monkeypatch, tmp_path):
    """The command with a database and one company; returns (exit code, stdout, stderr)."""
    with control_db.transaction() as tx:
        tx.execute("insert into control.company_config values ('710', 'x', 'app_710', 'S', 'P', 'A')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PG_DSN_RW", control_db.dsn)
    app = typer.Typer()
    app.callback()(lambda: None)
    ingest.register(app)

    def run(*arguments: str, piped: str | None = None) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, ["ingest", *arguments], input=piped)
        return result.exit_code, result.stdout, result.stderr

    return run


def test_a_file_and_a_pipe_are_one_request(command, tmp_path):
    """CSV from a file and the same rows as NDJSON from a pipe are the same batch; stdout is the API's answer."""
    file = tmp_path / "january.csv"
    file.write_text(CSV, encoding="utf-8")
    code, out, err = command(str(file), "--json")
    assert (code, err) == (0, "")
    first: dict[str, Any] = json.loads(out)
    assert [item["result"] for item in first["items"]] == ["accepted", "accepted"]
    rows = list(csv.DictReader(CSV.splitlines()))
    code, out, _ = command("-", "--json", piped="\n".join(json.dumps(row) for row in rows))
    assert (code, json.loads(out)) == (0, first)
    assert "2 transactions of 1 companies" in command(str(file))[1]


def test_faults_go_to_stderr_and_nothing_is_stored(command, control_db):
    """Exit code 1, one line a fault with path and line; `--json` prints them as data."""
    code, out, err = command("-", "--format", "csv", piped=CSV.replace("10.00", "10.005").replace("t1,710", "t1,999"))
    assert (code, out) == (1, "")
    assert "transactions[1].amount" in err
    assert "(line 3)" in err
    code, out, _ = command("-", "--json", piped=CSV.replace("t1,710", "t1,999"))
    assert code == 1
    assert "kylo-outbox company add 999" in json.loads(out)["errors"][0]
    with control_db.transaction() as tx:
        assert tx.execute("select count(*) from intake.batches").fetchone() == (0,)


def test_exit_codes_of_usage_and_outage(command, monkeypatch):
    """A file that is not there is usage (2), a database that is not there is 3; no password is shown."""
    assert command("nowhere.csv")[0] == 2
    assert command()[0] == 2
    monkeypatch.setenv("PG_DSN_RW", "postgresql://u:hush@127.0.0.1:1/gone")
    code, out, err = command("-", piped=CSV)
    assert code == 3
    assert "hush" not in out + err
    assert "not reachable" in err
