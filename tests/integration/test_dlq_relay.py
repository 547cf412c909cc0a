"""Dead letters that never reached Kafka (stage `relay`): what each verb of the desk does with them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from kylo_outbox import emit
from kylo_outbox.cli import app
from kylo_outbox.store import relay_dead
from tests.helpers.broker import make_topic, read_all
from tests.helpers.projectors import ask

EVENT_ID = "01a1fc56-a14b-7176-a1d5-15208df580ec"


@pytest.fixture
def run(control_db, monkeypatch, tmp_path):
    """Run the command; its result."""
    monkeypatch.setenv("PG_DSN_RW", control_db.dsn)
    monkeypatch.chdir(tmp_path)

    def invoke(*words, code=0):
        result = CliRunner().invoke(app, ["dlq", *words])
        assert result.exit_code == code, (words, result.exit_code, result.stdout, result.stderr)
        return result

    return invoke


@pytest.fixture
def letter(control_db):
    """Number 1: an event with an id of its caller's that Kafka refused; its key has gone on."""
    with control_db.transaction() as tx:
        emit(tx, topic="t", key="k", type="T", payload={"n": 1}, headers={"who": "me"}, event_id=EVENT_ID)
        tx.execute(
            "insert into kylo.outbox_held (id, event_id, created_at, slot, topic, key, type, payload, headers, reason) "
            "select id, event_id, created_at, slot, topic, key, type, payload, headers, 'X: y' from kylo.outbox_log"
        )
    with control_db.transaction() as tx:
        tx.execute("update kylo.lanes set high_water = 1, snapshot = pg_current_snapshot()")
        assert relay_dead.bury(tx, 1, reason="MSG_SIZE_TOO_LARGE: too large", error_class="MSG_SIZE_TOO_LARGE")
        emit(tx, topic="t", key="k", type="T", payload={"n": 2})
    return "1"


def unpublished(database):
    """What waits for Kafka on topic t: (event id, payload, headers)."""
    return ask(
        database,
        "select event_id::text, payload, headers from outbox where topic = 't' and processed_at is null order by id",
    )


def outcome(database):
    """Of letter 1."""
    [(found,)] = ask(database, "select outcome from kylo.dead_letters where id = 1")
    return found


def test_it_is_listed_and_shown_like_others(run, letter):
    """With its stage, its reason, its payload; nothing waits behind it."""
    [listed] = json.loads(run("ls", "--stage", "relay", "--json").stdout)
    assert (listed["stage"], listed["waiting_behind"], listed["policy"]) == ("relay", 0, "skip")
    whole = json.loads(run("show", letter, "--json").stdout)
    assert json.loads(whole["payload"]) == {"n": 1}
    assert whole["headers"]["who"] == "me"


def test_a_release_says_what_to_do_instead(run, letter, control_db):
    """Nothing waits for it, so there is nothing to release: nobody would ever look at such a wish."""
    refused = run("release", letter, "--yes", code=1)
    assert "dlq replay 1" in refused.stderr
    done = json.loads(run("release", "--stage", "relay", "--yes", "--json").stdout)
    assert done["ids"] == []
    assert "dlq replay 1" in done["left"]["1"]
    assert ask(control_db, "select count(*) from kylo.dead_letters where retry_at is not null") == [(0,)]
    assert ask(control_db, "select count(*) from kylo.audit where verb = 'dlq release'") == [(0,)]


def test_a_replay_sends_it_again_behind_what_came_since(run, letter, control_db):
    """The same event id, bytes and headers, once, however often it is asked for; the audit tells who and why."""
    run("replay", letter, "--reason", "the limit is higher now", "--yes")
    again = json.loads(run("replay", letter, "--yes", "--json").stdout)
    assert again["ids"] == []
    assert "sent again already" in again["left"]["1"]
    (_, second, _), (event_id, payload, headers) = unpublished(control_db)
    assert (json.loads(second), json.loads(payload), headers["who"]) == ({"n": 2}, {"n": 1}, "me")
    assert event_id == EVENT_ID
    assert outcome(control_db) == "applied"
    with control_db.transaction() as tx:
        emit(tx, topic="t", key="k", type="T", payload={"n": 3}, event_id=EVENT_ID)
    assert len(unpublished(control_db)) == 2, "its sender's own repeat must still add nothing"
    assert ask(control_db, "select verb, reason from kylo.audit") == [("dlq replay", "the limit is higher now")]


def test_a_discard_can_still_be_replayed(run, letter, control_db):
    """A declared gap, with its reason; a later change of mind sends it after all."""
    run("discard", letter, "--reason", "sent twice", "--yes")
    assert (outcome(control_db), len(unpublished(control_db))) == ("discarded", 1)
    run("discard", letter, "--reason", "sent twice", "--yes")
    run("replay", letter, "--yes")
    assert (outcome(control_db), len(unpublished(control_db))) == ("applied", 2)


def test_an_edit_sends_the_new_payload_and_keeps_the_original(run, letter, control_db, tmp_path):
    """What was too large is made smaller; with --keep-waiting it waits for a replay."""
    (tmp_path / "new.json").write_text('{"n": "smaller"}')
    run("edit", letter, "--payload", "new.json", "--reason", "too large", "--keep-waiting", "--yes")
    assert len(unpublished(control_db)) == 1
    run("edit", letter, "--payload", "new.json", "--reason", "too large", "--yes")
    assert json.loads(unpublished(control_db)[-1][1]) == {"n": "smaller"}
    assert json.loads(json.loads(run("show", letter, "--json").stdout)["original"]) == {"n": 1}
    run("edit", letter, "--payload", "new.json", "--reason", "again", "--yes", code=1)


def test_what_the_outbox_refuses_stays_and_says_so(run, letter, control_db):
    """The topic's declared limit is below it: the letter stays open, with the remedy."""
    with control_db.transaction() as tx:
        tx.execute("insert into kylo.topics values ('t', 1, 1, 3, true, 'hold', 't.dlq')")
    done = json.loads(run("replay", letter, "--yes", "--json").stdout)
    assert "dlq edit 1" in done["left"]["1"]
    assert (outcome(control_db), len(unpublished(control_db))) == (None, 1)


def test_a_preview_tells_it_and_does_nothing(run, letter, control_db):
    """No projector is asked for: the letter is the relay's."""
    for verb in ("replay", "release"):
        [shown] = json.loads(run(verb, letter, "--preview", "--json").stdout)
        assert (shown["tried"], shown["changes"]) == (False, {})
        assert "sent again" in shown["events"][0]["would"]
    assert "sent again" in run("replay", letter, "--preview").stdout
    assert len(unpublished(control_db)) == 1


def test_with_a_real_relay_it_follows_in_order_or_comes_back(run, control_db, kafka_server, make_relay, run_until):
    """Refused for its size and set aside; sent as it is it comes back, made smaller it is published behind the rest."""
    topic = make_topic(kafka_server.bootstrap, partitions=1, config={"max.message.bytes": "20000"})
    with control_db.transaction() as tx:
        relay_dead.set_policy(tx, topic, "skip", "me")
        emit(tx, topic=topic, key="k", type="T", payload={"n": 1, "fill": "x" * 30_000})
        emit(tx, topic=topic, key="k", type="T", payload={"n": 2})
    relay = make_relay()
    published: list[Any] = []

    def letters(number):
        return lambda: ask(control_db, "select count(*) from kylo.dead_letters") == [(number,)]

    def in_log(*numbers):
        def holds():
            published[:] = [json.loads(record.value)["n"] for record in read_all(kafka_server.bootstrap, topic)]
            return published == list(numbers)

        return holds

    run_until(relay, letters(1), 60)
    run_until(relay, in_log(2), 60)
    run("replay", "1", "--yes")
    run_until(relay, letters(2), 60)
    [(number,)] = ask(control_db, "select id from kylo.dead_letters where settled_at is null")
    with control_db.transaction() as tx:
        tx.execute("update kylo.dead_letters set payload = '{\"n\": 1}' where id = %s", (number,))
        emit(tx, topic=topic, key="k", type="T", payload={"n": 3})
    run("replay", str(number), "--yes")
    run_until(relay, in_log(2, 3, 1), 60)
