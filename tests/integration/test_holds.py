"""What operators do with held events: release, discard, dead letters, pauses, and the audit of each act."""

from __future__ import annotations

import base64
import json
import os

import pytest
from typer.testing import CliRunner

from kylo_outbox import emit
from kylo_outbox.cli import app
from kylo_outbox.store import pauses
from kylo_outbox.store.engine import Database
from kylo_outbox.store.pauses import Pauses

TOPIC = "txns.company.batches"


@pytest.fixture
def run(control_db, tmp_path, monkeypatch):
    """Run the command in this process, with nothing but the test's database."""
    for name in list(os.environ):
        if name.startswith(("KYLO_", "KAFKA_", "ROUTE_VIA_", "PG", "GOOGLE_APPLICATION")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PG_DSN_RW", control_db.dsn)
    monkeypatch.chdir(tmp_path)

    def invoke(*words, code=0):
        result = CliRunner().invoke(app, ["outbox", *words])
        assert result.exit_code == code, (words, result.exit_code, result.stdout, result.stderr)
        return result

    return invoke


@pytest.fixture
def refused(control_db):
    """Three events of key 710, of which Kafka refused the first; the relay's cursor is behind all of them."""
    with control_db.transaction() as tx:
        for number in range(3):
            emit(tx, topic=TOPIC, key="710", type="T", payload={"n": number}, headers={"who": "me"})
        tx.execute(
            "insert into kylo.outbox_held "
            "(id, event_id, created_at, slot, topic, key, type, payload, headers, reason, waits) "
            "select id, event_id, created_at, slot, topic, key, type, payload, headers, "
            "case id when 1 then 'MSG_SIZE_TOO_LARGE: too large' else 'waits' end, id > 1 from kylo.outbox_log"
        )
    with control_db.transaction() as tx:
        tx.execute("update kylo.lanes set high_water = 3, snapshot = pg_current_snapshot()")
    return control_db


def rows(database, sql):
    """The answer of one query."""
    with database.transaction() as tx:
        return tx.execute(sql).fetchall()


def test_held_keys_are_shown_with_their_reason(run, refused):
    """Topic, key, why, how many wait, and that it is not tried by itself; released, it is."""
    [shown] = json.loads(run("held", "--json").stdout)
    assert (shown["topic"], shown["key"], shown["waiting"], shown["tried"]) == (TOPIC, "710", 3, False)
    assert (shown["blocked_by"], shown["reason"]) == (1, "MSG_SIZE_TOO_LARGE: too large")
    table = run("held").stdout
    assert "MSG_SIZE_TOO_LARGE" in table
    run("release", TOPIC, "710", "--dry-run")
    assert not json.loads(run("held", "--json").stdout)[0]["tried"]
    assert "done" in run("release", TOPIC, "710").stderr
    assert json.loads(run("held", "--json").stdout)[0]["tried"]


def test_a_discarded_event_lies_whole_in_the_audit(run, refused):
    """It needs a yes and a reason, leaves its bytes behind, raises the epoch, and a repeat changes nothing."""
    run("discard", TOPIC, "710", code=2)
    run("discard", TOPIC, "710", "--reason", "by hand", code=2)
    assert "would discard" in run("discard", TOPIC, "710", "--reason", "by hand", "--dry-run").stderr
    assert rows(refused, "select count(*) from kylo.outbox_held") == [(3,)]
    answer = json.loads(run("discard", TOPIC, "710", "--id", "1", "--reason", "by hand", "--yes", "--json").stdout)
    assert answer["stores"][0]["ids"] == [1]
    assert "nothing to do" in run("discard", TOPIC, "710", "--id", "1", "--reason", "again", "--yes").stderr
    assert rows(refused, "select id, retry, waits from kylo.outbox_held order by id") == [
        (2, False, True),
        (3, False, True),
    ]
    assert rows(refused, "select epoch from kylo.lanes") == [(1,)]
    [act] = json.loads(run("audit", "--json").stdout)
    assert (act["verb"], act["topic"], act["key"], act["ids"], act["reason"]) == (
        *("outbox discard", TOPIC, "710", [1]),
        "by hand",
    )
    assert "@" in act["who"]
    assert act["before"]["headers"] == {"who": "me"}
    assert json.loads(base64.b64decode(act["before"]["payload_base64"])) == {"n": 0}


def test_what_the_relay_has_not_passed_cannot_be_discarded(run, refused):
    """The next relay would read it again and publish it after all; nothing is done, and the remedy is told."""
    with refused.transaction() as tx:
        tx.execute("update kylo.lanes set high_water = 0, snapshot = '3:3:'")
    for verb in ("discard", "dead-letter"):
        answer = run(verb, TOPIC, "710", "--all", "--reason", "by hand", "--yes", code=4)
        assert "kylo-outbox relay" in answer.stderr
    assert rows(refused, "select count(*) from kylo.outbox_held") == [(3,)]
    assert rows(refused, "select count(*) from kylo.audit") == [(0,)]


def test_a_held_event_becomes_a_dead_letter_by_hand(run, refused):
    """The one that blocks leaves for the dead letters, the others may be tried, and the act is written down."""
    run("dead-letter", TOPIC, "710", "--reason", "too large", "--yes")
    assert rows(refused, "select stage, outbox_id, reason from kylo.dead_letters") == [("relay", 1, "too large")]
    assert rows(refused, f"select count(*) from outbox where topic = '{TOPIC}.dlq'") == [(1,)]
    [shown] = json.loads(run("held", "--json").stdout)
    assert (shown["waiting"], shown["blocked_by"], shown["tried"]) == (2, None, True)
    assert "nothing to do" in run("release", TOPIC, "710").stderr
    assert [act["verb"] for act in json.loads(run("audit", "--json").stdout)] == ["outbox dead-letter"]


def test_pause_and_resume_are_stored_and_audited_once(run, control_db):
    """A topic and one key of it are separate; doing either twice is harmless."""
    for _ in range(2):
        run("pause", TOPIC, "710", "--reason", "wrong file")
        run("pause", "other", "--reason", "broker work")
    paused = json.loads(run("paused", "--json").stdout)
    assert [(each["topic"], each["key"], each["reason"]) for each in paused] == [
        ("other", None, "broker work"),
        (TOPIC, "710", "wrong file"),
    ]
    seen = Pauses(control_db)
    assert seen.covers("other", b"anything")
    assert seen.covers(TOPIC, b"710")
    assert not seen.covers(TOPIC, b"711")
    run("resume", TOPIC, "--dry-run")
    for _ in range(2):
        run("resume", TOPIC, "710")
    run("resume", "other")
    assert json.loads(run("paused", "--json").stdout) == []
    acts = [(act["verb"], act["key"]) for act in json.loads(run("audit", "--json").stdout)]
    assert acts == [
        ("outbox resume", None),
        ("outbox resume", "710"),
        ("outbox pause", None),
        ("outbox pause", "710"),
    ]


def test_a_pause_outlives_an_outage_of_its_store(control_db):
    """What was read last holds while PostgreSQL is away; a relay that never read it publishes nothing."""
    with control_db.transaction() as tx:
        pauses.pause(tx, TOPIC, "710", reason="", who="me")
    database = Database(control_db.dsn, name="test")
    seen = Pauses(database)
    assert seen.covers(TOPIC, b"710")
    away = Database("postgresql://u@127.0.0.1:1/gone", name="gone")
    seen._database, seen._read_at = away, -1000.0
    assert seen.covers(TOPIC, b"710")
    with pytest.raises(Exception, match="not reachable"):
        Pauses(away).covers(TOPIC, b"710")
    database.close()
    away.close()


def test_a_policy_is_shown_and_chosen(run, control_db):
    """Hold is the default of a topic that nobody declared; the choice survives `migrate`, which writes the topics."""
    assert json.loads(run("policy", "mine", "--json").stdout)[0]["on_poison"] == "hold"
    assert "hold, dead-letter" in run("policy", "mine", "drop", code=2).stderr
    run("policy", "mine", "dead-letter")
    CliRunner().invoke(app, ["migrate"])
    [shown] = [each for each in json.loads(run("policy", "--json").stdout) if each["topic"] == "mine"]
    assert (shown["on_poison"], shown["dead_letter_topic"], shown["chosen"]) == ("dead-letter", "mine.dlq", True)


def test_acts_are_refused_with_the_name_of_what_is_wrong(run, control_db):
    """An impossible topic, a store that does not exist, and two choices at once."""
    assert "topic" in run("pause", "no topic", code=1).stderr
    assert "there is no such store" in run("pause", "t", "--store", "nowhere", code=2).stderr
    assert "--all" in run("discard", "t", "k", "--id", "1", "--all", "--reason", "x", "--yes", code=2).stderr
    assert "nothing to do" in run("release", "t", "k").stderr
