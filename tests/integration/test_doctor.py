"""`doctor`: every fault is found with its cause and remedy, whatever else is away, and nothing makes it fall."""

from __future__ import annotations

import json
import os
import re
from contextlib import closing
from datetime import UTC, datetime

import psycopg
import pytest
from typer.testing import CliRunner

from kylo_outbox import emit
from kylo_outbox.cli import app
from kylo_outbox.flows.doctor import Report, store
from kylo_outbox.store import heartbeats, pauses

TOPIC = "txns.company.batches"
PREPARED = "a prepared one"


@pytest.fixture
def environ(tmp_path, monkeypatch):
    """An environment without any setting of ours; the working directory is empty."""
    for name in list(os.environ):
        if name.startswith(("KYLO_", "KAFKA_", "ROUTE_VIA_", "PG", "GOOGLE_APPLICATION")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def examined(code, *words):
    """What `doctor --json` says, and that it leaves with this code."""
    result = CliRunner().invoke(app, ["doctor", "--json", *words])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    return json.loads(result.stdout)


def found(report, check):
    """Findings of one check as (level, subject, cause, remedy)."""
    return [
        tuple(each[name] for name in ("level", "subject", "cause", "remedy"))
        for each in report
        if each["check"] == check
    ]


def causes(database, **options):
    """Findings of one store by check."""
    report = Report()
    store.examine(report, database, **options)
    return {finding.check: finding for finding in report.findings}


@pytest.fixture
def led(control_db):
    """A store whose lane somebody leads."""
    with control_db.transaction() as tx:
        tx.execute("update kylo.lanes set holder = 'me', lease_until = now() + interval '1 hour'")
    return control_db


def test_faulty_settings_are_findings(environ):
    """They are told as such, with exit 1; nothing else can be looked at."""
    environ.setenv("KYLO_TYPO", "1")
    environ.setenv("KYLO_HTTP_PORT", "many")
    answer = examined(1)
    [(level, _, cause, _)] = found(answer["findings"], "settings")
    assert level == "error"
    assert "KYLO_TYPO" in cause
    assert "KYLO_HTTP_PORT" in cause


def test_what_is_away_is_told_and_stops_no_other_check(environ):
    """No database, no broker: both are findings, the exit code is 3, and no password is shown."""
    environ.setenv("PG_DSN_RW", "postgresql://u:hunter2@127.0.0.1:1/gone")
    environ.setenv("KAFKA_BROKERS", "127.0.0.1:1")
    answer = examined(3)
    away = {each["check"] for each in answer["findings"] if each["level"] == "away"}
    assert away == {"schema", "topics"}
    assert not answer["ok"]
    assert "hunter2" not in json.dumps(answer)
    shown = CliRunner().invoke(app, ["doctor"])
    assert "hunter2" not in shown.stdout + shown.stderr
    assert "2 not reachable" in shown.stderr


def test_a_fresh_installation_lacks_processes_and_topics(environ, control_db, kafka_server):
    """Each missing part is named with the command that brings it."""
    mark = os.urandom(4).hex()
    environ.setenv("PG_DSN_RW", control_db.dsn)
    environ.setenv("KAFKA_BROKERS", kafka_server.bootstrap)
    environ.setenv("KAFKA_TOPIC_TXNS", f"{mark}.txns")
    environ.setenv("KAFKA_GROUP_TXNS", f"{mark}-workers")
    answer = examined(1)
    remedies = {each["check"]: each["remedy"] for each in answer["findings"] if each["level"] == "error"}
    assert remedies["relay"] == "start `kylo-outbox relay`"
    assert "topics apply" in remedies["topics"]
    assert "project --all" in remedies["groups"]
    assert "project --all" in remedies["projectors"]
    assert "relay" in remedies["lanes"]
    assert "KYLO_SHEETS_POST" in found(answer["findings"], "sheets")[0][3]


def test_a_relay_that_cannot_reach_its_broker_is_named(environ, led):
    """From its heartbeat: it leads, and has not heard from the broker for a minute."""
    environ.setenv("PG_DSN_RW", led.dsn)
    environ.setenv("ROUTE_VIA_KAFKA", "0")
    lane = {"store": "s", "lane": 0, "breaker": "no acknowledgement for 60 s", "on_kafka": 2}
    state = {"leader": True, "via_kafka": True, "broker_contact_age_seconds": 60.0, "lanes": [lane]}
    with led.transaction() as tx:
        heartbeats.beat(tx, "relay", "one", datetime.now(UTC), state, [])
        heartbeats.beat(tx, "projectors", "one", datetime.now(UTC), {}, [])
    answer = examined(1)
    told = found(answer["findings"], "relay")
    assert told[0][2] == "s/0: Kafka is away: no acknowledgement for 60 s"
    assert re.fullmatch(r"it heard from the broker 6\d s ago", told[1][2])
    text = "s/0: 2 keys of the direct path stay on Kafka, which alone may have older ones"
    assert (told[2][0], told[2][2]) == ("warning", text)
    assert found(answer["findings"], "projectors") == []


def test_a_loop_that_stands_still_is_named(environ, led):
    """With what it waits for; a quota is worth a look and no error."""
    environ.setenv("PG_DSN_RW", led.dsn)
    environ.setenv("ROUTE_VIA_KAFKA", "0")
    quiet = {"silent": 0.1, "allowed": 15.0, "waits": None, "why": "", "quota": False}
    loops = [
        quiet | {"name": "project txns", "waits": 40.0, "why": "company 710 is away"},
        quiet | {"name": "project sheets", "waits": 40.0, "quota": True},
        quiet | {"name": "project promote"},
    ]
    state = {"leader": True, "via_kafka": False, "broker_contact_age_seconds": None}
    with led.transaction() as tx:
        heartbeats.beat(tx, "relay", "one", datetime.now(UTC), state, [])
        heartbeats.beat(tx, "projectors", "one", datetime.now(UTC), {"loops": loops}, [])
    waits, quota = found(examined(1)["findings"], "stuck")
    assert waits[:2] == ("error", "projectors one: project txns")
    assert waits[2].endswith("company 710 is away")
    assert quota[:2] == ("warning", "projectors one: project sheets")


def test_a_healthy_store_has_no_findings(led):
    """Nothing is said where nothing is wrong."""
    assert causes(led, control=True, old_transaction=3600.0) == {}


def test_each_fault_of_a_store_is_found(led):
    """An old event, a blocked and a paused key, a dead letter, and no partition ahead."""
    with led.transaction() as tx:
        emit(tx, topic=TOPIC, key="710", type="T", payload={})
        tx.execute("update kylo.outbox_log set created_at = now() - interval '2 minutes'")
        tx.execute(
            "insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, reason) "
            "select id, event_id, created_at, slot, topic, key, type, payload, 'too large' from kylo.outbox_log"
        )
        pauses.pause(tx, "other", None, reason="broker work", who="me@here")
        tx.execute(
            "insert into kylo.dead_letters "
            "(stage, topic, store_id, generation, headers, reason, error_class, attempts) "
            "values ('txns', 't', 's', 1, '{}', 'x', 'Poison', 1)"
        )
        tx.execute("select setval(pg_get_serial_sequence('kylo.outbox_log', 'id'), 50000000)")
    told = causes(led, old_transaction=3600.0)
    assert {name: finding.level for name, finding in told.items()} == {
        "oldest event": "error",
        "held keys": "error",
        "pauses": "note",
        "dead letters": "warning",
        "partitions": "error",
    }
    assert f"outbox release {TOPIC} 710" in told["held keys"].remedy
    assert "too large" in told["held keys"].cause
    assert "broker work" in told["pauses"].cause


def test_a_copy_is_found_and_the_rest_left_alone(led):
    """What is in a copied store is its origin's: the remedy comes first."""
    with led.transaction() as tx:
        tx.execute("update kylo.store set database_oid = 1")
    told = causes(led)
    assert list(told) == ["identity"]
    assert "store rename" in told["identity"].cause


def test_clocks_that_differ_are_found(led, monkeypatch):
    """By how much, and which way."""
    real = store.time.time
    monkeypatch.setattr(store.time, "time", lambda: real() - 60)
    assert "+60" in causes(led, old_transaction=3600.0)["clock"].cause


def test_old_transactions_are_named_without_the_values_in_them(led, postgres_server):
    """A session anywhere in the cluster and a prepared transaction: who, where, how old, the statement's form."""
    with led.transaction() as tx:
        tx.execute("create table accounts (owner text)")
    name = f"{PREPARED} {os.getpid()}"
    with (
        closing(psycopg.connect(postgres_server.dsn("postgres"), application_name="somebody's report")) as elsewhere,
        closing(psycopg.connect(led.dsn)) as prepared,
    ):
        elsewhere.execute("select 'hunter2', count(*) from pg_class where relname = 'hunter2'")
        prepared.execute("insert into accounts values ('x')")
        prepared.execute(f"prepare transaction '{name}'")
        prepared.autocommit = True
        try:
            report = Report()
            store.examine(report, led, old_transaction=0.0)
            told = [each for each in report.findings if each.check == "old transactions"]
            pid = elsewhere.info.backend_pid
            [session] = [each for each in told if f"pid {pid} " in each.cause]
            [waiting] = [each for each in told if name in each.cause]
        finally:
            prepared.execute(f"rollback prepared '{name}'")
    assert session.level == "warning"
    assert "database postgres, application somebody's report, idle in transaction) open for" in session.cause
    assert "select ?, count(*) from pg_class where relname = ?" in session.cause
    assert f"pg_terminate_backend({pid})" in session.remedy
    assert f"rollback prepared '{name}'" in waiting.remedy


def test_a_check_that_falls_is_a_finding(led, monkeypatch):
    """The others are done all the same."""

    def falls(_tx):
        raise ZeroDivisionError("postgresql://u:hunter2@h/d")

    monkeypatch.setattr(store, "CHECKS", (("clock", falls), *store.CHECKS[1:]))
    report = Report()
    assert store.examine(report, led, old_transaction=3600.0)
    [finding] = report.findings
    assert "ZeroDivisionError" in finding.cause
    assert "hunter2" not in finding.cause
    assert len(report.checked) > len(store.CHECKS)


def test_a_company_whose_database_leads_nowhere_is_found(environ, led):
    """Its reference names a variable that is not set."""
    environ.setenv("PG_DSN_RW", led.dsn)
    environ.setenv("ROUTE_VIA_KAFKA", "0")
    with led.transaction() as tx:
        tx.execute("insert into control.company_config values ('710', 'env:PG_DSN_710', 'app_710', 'S', 'P', 'A')")
    [(level, subject, cause, _)] = found(examined(1)["findings"], "companies")
    assert (level, subject) == ("error", "company 710")
    assert "PG_DSN_710" in cause
