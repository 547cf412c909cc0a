"""The command: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from confluent_kafka import Producer
from typer.testing import CliRunner

from kylo_outbox.cli import app, context
from kylo_outbox.kafka.client import KafkaAddress
from kylo_outbox.kafka.topics import Topics
from kylo_outbox.model.topics import DAY_MS, Topic
from kylo_outbox.store.migrate import version
from kylo_outbox.store.topics import registered

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def environ(control_db, tmp_path, monkeypatch):
    """An environment with nothing but the test's database; the working directory is empty."""
    for name in list(os.environ):
        if name.startswith(("KYLO_", "KAFKA_", "ROUTE_VIA_", "PG", "GOOGLE_APPLICATION")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PG_DSN_RW", control_db.dsn)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture
def run(environ):
    """Run the command in this process."""

    def invoke(*words, code=0):
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == code, (words, result.exit_code, result.stdout, result.stderr)
        return result

    return invoke


@pytest.fixture
def on_kafka(environ, kafka_server):
    """With a broker, and topics whose names are this test's own."""
    mark = os.urandom(4).hex()
    environ.setenv("KAFKA_BROKERS", kafka_server.bootstrap)
    environ.setenv("KAFKA_TOPIC_TXNS", f"{mark}.txns")
    environ.setenv("KAFKA_TOPIC_PROMOTE", f"{mark}.promote")
    environ.setenv("KAFKA_GROUP_TXNS", f"{mark}-workers")
    return mark


def process(*words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command as people do, in a process of its own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "PYTEST"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "kylo_outbox", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environ | {"PYTHONPATH": str(REPOSITORY)} | extra,
    )


def emit(database, *keys: str) -> None:
    """Save one event for each key."""
    with database.begin() as connection:
        for key in keys:
            connection.execute(
                sa.text("select kylo.emit('t', :key, 'x', cast(:payload as text))"), {"key": key, "payload": '{"a": 1}'}
            )


def test_company_from_add_to_remove(run):
    """The life of a company; data on stdout, talk on stderr."""
    added = run("company", "add", "710", "--spreadsheet", "book", "--json")
    assert json.loads(added.stdout) == {
        "company_id": "710",
        "db_dsn_rw": "env:PG_DSN_RW",
        "db_schema": "app_710",
        "spreadsheet_id": "book",
        "tab_pending": "710 Pending",
        "tab_active": "710 Active",
        "paused": False,
    }
    assert added.stderr == "company 710 added\n"
    assert "nothing changed" in run("company", "add", "710", "--spreadsheet", "book").stderr
    assert "company set 710" in run("company", "add", "710", "--spreadsheet", "other", code=1).stderr
    assert json.loads(run("company", "pause", "710", "--json").stdout)["paused"]
    assert json.loads(run("company", "show", "710", "--json").stdout)["paused"]
    assert not json.loads(run("company", "resume", "710", "--json").stdout)["paused"]
    changed = run("company", "set", "710", "--tab-pending", "Open [items]", "--json")
    assert json.loads(changed.stdout)["tab_pending"] == "Open [items]"
    assert "Open [items]" in run("company", "show", "710").stdout
    assert run("company", "remove", "710", code=2).stdout == ""
    assert "would forget" in run("company", "remove", "710", "--dry-run").stderr
    assert len(json.loads(run("company", "list", "--json").stdout)) == 1
    run("company", "remove", "710", "--yes")
    assert json.loads(run("company", "list", "--json").stdout) == []


def test_faults_of_a_company_are_one_line_each(run):
    """Everything that is wrong at once, nothing stored."""
    refused = run("company", "add", "", "--spreadsheet", "", code=1)
    assert refused.stderr.splitlines() == [
        "company_id: must be 1 to 50 characters",
        "spreadsheet: must be 1 to 100 printable characters",
    ]
    assert "company list" in run("company", "show", "nobody", code=1).stderr


def test_another_database_needs_a_yes(run, environ):
    """Moving a company leaves rows behind, so it is asked for."""
    run("company", "add", "710", "--spreadsheet", "book")
    environ.setenv("OTHER", os.environ["PG_DSN_RW"])
    assert "leave its rows behind" in run("company", "set", "710", "--dsn", "env:OTHER", code=2).stderr
    assert "env:OTHER" in run("company", "set", "710", "--dsn", "env:OTHER", "--yes").stdout


def test_migrate_tells_where_everything_stands(run, control_db):
    """Status, back and forth; going back is destructive and asked for."""
    shown = json.loads(run("migrate", "--status", "--json").stdout)
    assert [(each["tree"], each["current"]) for each in shown[0]["versions"]] == [("store", True), ("control", True)]
    assert "store_0003" in run("migrate", "--to", "store_0003", code=2).stderr
    run("migrate", "--to", "store_0003", "--yes")
    assert version(control_db, "store").at == "store_0003"
    run("migrate", "--status", code=1)
    assert "kylo-outbox migrate" in run("company", "list", code=3).stderr
    assert "migrated" in run("migrate").stdout
    run("company", "list")
    assert "unknown revision" in run("migrate", "--to", "nonsense", code=2).stderr


def test_migrate_is_partly_done_when_a_company_database_is_away(run, environ, control_db):
    """Exit 4, the reason on stderr, everything else done; never a password."""
    run("company", "add", "710", "--spreadsheet", "book")
    with control_db.begin() as connection:
        connection.execute(
            sa.text("update control.company_config set db_dsn_rw = 'postgresql://u:hunter2@127.0.0.1:1/d'")
        )
    partly = run("migrate", "--json", code=4)
    assert "not reachable" in json.loads(partly.stdout)[1]["problems"][0]
    assert "hunter2" not in partly.output
    with control_db.begin() as connection:
        assert registered(connection)


def test_outbox_shows_what_waits(run, control_db):
    """Unpublished events oldest first, filters, one event whole."""
    emit(control_db, "710", "711", "710")
    listed = json.loads(run("outbox", "ls", "--json").stdout)
    assert (listed["waiting"], [event["id"] for event in listed["events"]]) == (3, [1, 2, 3])
    assert listed["oldest_age_seconds"] >= 0
    only = json.loads(run("outbox", "ls", "--key", "710", "--limit", "1", "--json").stdout)
    assert (only["waiting"], len(only["events"])) == (2, 1)
    assert json.loads(run("outbox", "ls", "--topic", "other", "--json").stdout)["waiting"] == 0
    assert json.loads(run("outbox", "ls", "--held", "--json").stdout)["events"] == []
    assert "3 events wait" in run("outbox", "ls").stderr
    whole = json.loads(run("outbox", "show", "2", "--json").stdout)
    assert (whole["key"], whole["payload"], whole["processed_at"]) == ("711", '{"a": 1}', None)
    assert json.loads(run("outbox", "show", whole["event_id"], "--json").stdout)["id"] == 2
    assert "no such event" in run("outbox", "show", "99", code=1).stderr
    assert "UUID" in run("outbox", "show", "abc", code=2).stderr


def test_store_verbs(run, control_db):
    """A copy is shown, and named anew only after a yes."""
    [own] = json.loads(run("store", "show", "--json").stdout)
    assert own["own"]
    with control_db.begin() as connection:
        connection.execute(sa.text("update kylo.store set database_oid = 1"))
    emit(control_db, "a")
    assert "copy or a restore" in run("store", "show", code=4).stderr
    assert "count 1 waiting" in run("store", "rename", "--dry-run").stderr
    run("store", "rename", code=2)
    adopted = json.loads(run("store", "adopt", "--yes", "--json").stdout)
    assert (adopted["store"], adopted["generation"]) == (own["store"], 2)
    renamed = json.loads(run("store", "rename", "--yes", "--json").stdout)
    assert renamed["store"] != own["store"]
    assert json.loads(run("outbox", "ls", "--json").stdout)["waiting"] == 0


def test_topics_from_nothing_to_records(run, on_kafka, kafka_server):
    """Drift, correction, list, one topic, its records."""
    name = f"{on_kafka}.txns"
    assert f"{name}: topic is missing" in run("topics", "verify", code=1).stderr
    assert f"would change {name}" in run("topics", "apply", "--dry-run").stderr
    run("topics", "apply")
    assert json.loads(run("topics", "apply", "--json").stdout) == []
    assert json.loads(run("topics", "verify", "--json").stdout) == []
    assert next(t for t in json.loads(run("topics", "ls", "--json").stdout) if t["name"] == name)["declared"]
    producer = Producer({"bootstrap.servers": kafka_server.bootstrap})
    for number in range(12):
        producer.produce(name, f'{{"n": {number}}}', "710", 0)
    producer.flush(20)
    assert json.loads(run("topics", "show", name, "--json").stdout)["offsets"][0] == {
        "partition": 0,
        "low": 0,
        "high": 12,
    }
    lines = run("topics", "read", name, "--json").stdout.splitlines()
    assert [json.loads(line)["value"] for line in lines] == [f'{{"n": {number}}}' for number in range(2, 12)]
    assert len(run("topics", "read", name, "--from-beginning").stdout.splitlines()) == 12
    assert len(run("topics", "read", name, "--from-beginning", "--max", "5").stdout.splitlines()) == 5
    assert "topics ls" in run("topics", "read", "never-made", code=3).stderr


def test_shorter_retention_needs_a_yes(run, on_kafka, kafka_server):
    """Records that are kept now would be deleted."""
    month = Topic(f"{on_kafka}.txns", partitions=8, retention_ms=30 * DAY_MS)
    Topics(KafkaAddress(kafka_server.bootstrap)).apply([month])
    assert "deletes records" in run("topics", "apply", code=2).stderr
    told = run("topics", "apply", "--yes", code=1).stderr
    assert f"changed {on_kafka}.txns: retention" in told
    assert "partitions is 8, declared is 16" in told


def test_lag_has_the_relay_and_the_groups(run, on_kafka, control_db, kafka_server):
    """What waits in the outbox and what is unread on Kafka, in one list."""
    run("topics", "apply")
    emit(control_db, "710", "711")
    producer = Producer({"bootstrap.servers": kafka_server.bootstrap})
    producer.produce(f"{on_kafka}.txns", "x", "710", 3)
    producer.flush(20)
    rows = json.loads(run("lag", "--json").stdout)
    [relay] = [row for row in rows if row["group"] == "kafka-publisher"]
    assert (relay["topic"], relay["messages"], relay["partition"]) == ("t", 2, None)
    [unread] = [row for row in rows if row["group"] == f"{on_kafka}-workers" and row["messages"]]
    assert (unread["partition"], unread["messages"]) == (3, 1)
    assert unread["seconds"] is not None
    assert "3 unread" in run("lag", "--group", "kafka-publisher", "--group", f"{on_kafka}-workers").stderr
    assert "--topic" in run("lag", "--group", "somebody", code=2).stderr
    own = json.loads(run("lag", "--group", "somebody", "--topic", f"{on_kafka}.txns", "--json").stdout)
    assert sum(row["messages"] for row in own) == 1


def test_lag_without_kafka_still_shows_the_relay(run, environ, control_db):
    """One dependency that is away hides nothing else: exit 4 instead of 3."""
    emit(control_db, "710")
    environ.setenv("KAFKA_BROKERS", "127.0.0.1:1")
    partly = run("lag", "--json", code=4)
    assert json.loads(partly.stdout)[0]["messages"] == 1
    assert "KAFKA_BROKERS" in partly.stderr


@pytest.mark.parametrize(
    ("extra", "words", "code", "said"),
    [
        ({"PG_DSN_RW": ""}, ("company", "list"), 2, "PG_DSN_RW is not set"),
        ({"PG_DSN_RW": "postgresql://u:hunter2@127.0.0.1:1/d"}, ("company", "list"), 3, "PostgreSQL is not reachable"),
        ({"PG_DSN_RW": "host=x password=hunter2 nonsense"}, ("company", "list"), 2, "not a PostgreSQL connection"),
        ({"KAFKA_BROKERS": "127.0.0.1:1"}, ("topics", "ls"), 3, "Kafka is not reachable"),
        ({}, ("topics", "ls"), 2, "KAFKA_BROKERS is not set"),
        ({"KYLO_LOG_LEVLE": "x"}, ("company", "list"), 2, "KYLO_LOG_LEVLE: unknown name"),
    ],
)
def test_what_is_missing_is_one_line_with_a_remedy(environ, extra, words, code, said):
    """As people see it: one line on stderr, nothing on stdout, no stack trace, no password."""
    done = process(*words, **extra)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr


def test_as_a_process(environ):
    """The module runs as the command does; a wrong verb is wrong use; nothing is coloured in a pipe."""
    shown = process("company", "--help")
    assert shown.returncode == 0
    assert "pause" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert process("nonsense").returncode == 2
    assert process("--version").stdout.strip()
    listed = process("company", "list")
    assert listed.returncode == 0
    assert "\x1b" not in listed.stdout


def test_a_reader_that_leaves_early_is_no_error(environ, control_db):
    """`| head` ends the command quietly."""
    emit(control_db, *["710"] * 2000)
    words = f"{sys.executable} -m kylo_outbox outbox ls --limit 2000 --json | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_unexpected_errors_are_one_line_too(run, monkeypatch):
    """Nobody is shown a stack trace; -v logs it."""

    def broken(_self):
        raise ValueError("broken with postgresql://u:hunter2@h/d\nsecond line")

    monkeypatch.setattr("kylo_outbox.flows.companies.Companies.all", broken)
    told = run("company", "list", code=1)
    assert told.stderr == "unexpected ValueError: broken with postgresql://u:***@h/d (-v shows where)\n"
    told = run("-v", "company", "list", code=1)
    assert "Traceback" in told.stderr
    assert "hunter2" not in told.stderr


def test_running_local_stack_is_used_when_nothing_is_set(run, environ, control_db, tmp_path):
    """Its addresses are taken, and people are told; what is set stays as it is."""
    dsn = os.environ["PG_DSN_RW"]
    environ.delenv("PG_DSN_RW")
    (tmp_path / ".kylo").mkdir()
    (tmp_path / ".kylo" / "stack.json").write_text("{}")
    environ.setattr(context, "_addresses_of", lambda _folder, missing: {missing["postgres"]: dsn})
    shown = run("company", "list", "--json")
    assert json.loads(shown.stdout) == []
    assert "using the local stack in .kylo (PG_DSN_RW not set)" in shown.stderr
    assert "PG_DSN_RW" not in os.environ


def test_stack_that_does_not_run_is_not_used(run, environ, tmp_path):
    """Left-over files of a stack lead nowhere."""
    environ.delenv("PG_DSN_RW")
    (tmp_path / ".kylo").mkdir()
    (tmp_path / ".kylo" / "stack.json").write_text('{"ports": {"postgres": 1, "kafka": 2}, "parts": {}}')
    assert run("company", "list", code=2).stderr.startswith("PG_DSN_RW is not set; start a local stack")


def test_every_verb_has_an_example(run):
    """--help of each verb shows how it is used."""
    groups = [((), app), *(((str(group.name),), group.typer_instance) for group in app.registered_groups)]
    verbs = [
        (*words, each.name or getattr(each.callback, "__name__", ""))
        for words, group in groups
        for each in (group.registered_commands if group else ())
    ]
    assert len(verbs) > 25
    for words in verbs:
        shown = run(*words, "--help").stdout
        assert "Example:" in shown, words
        assert "kylo-outbox" in shown.partition("Example:")[2], words
