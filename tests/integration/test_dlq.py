"""The desk: looking at dead letters, releasing, discarding, editing and replaying them, each act audited."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from kylo_outbox.cli import app
from kylo_outbox.flows.project import Projection, preview
from kylo_outbox.model.topics import dead_letter_name
from kylo_outbox.store import dead_letters, desk
from tests.helpers.projectors import TABLE, Collects, delivery

OF_RELAY = """
insert into kylo.dead_letters (stage, topic, key, store_id, generation, outbox_id, payload, headers, reason,
                               error_class, attempts, settled_at, outcome)
values ('relay', 't', '713', 's', 1, 9, 'x', '{}', 'large', 'E', 1, now(), 'applied')
"""
BAD = b'{"poison": true}'


@pytest.fixture
def projection(control_db):
    """A projector with three dead letters: two keys that wait and one that does not."""
    with control_db.transaction() as tx:
        tx.execute(TABLE)
    made = Projection(Collects("t"), lambda _delivery: control_db, dead_letter_name, databases=lambda: [control_db])
    made.handle([delivery(n, "710", BAD if n == 1 else b"{}") for n in range(1, 5)])
    made.handle([delivery(n, "711", BAD if n == 5 else b"{}") for n in range(5, 7)])
    made.projector.on_poison = "skip"
    made.handle([delivery(7, "712", BAD), delivery(8, "712")])
    made.projector.on_poison = "hold"
    return made


@pytest.fixture
def run(control_db, projection, monkeypatch, tmp_path):
    """Run the command; what it printed."""
    monkeypatch.setenv("PG_DSN_RW", control_db.dsn)
    monkeypatch.chdir(tmp_path)

    def invoke(*words, code=0, **more):
        result = CliRunner().invoke(app, ["dlq", *words], **more)
        assert result.exit_code == code, (words, result.exit_code, result.stdout, result.stderr)
        return result

    return invoke


def ask(database, sql):
    """The answer of one query."""
    with database.transaction() as tx:
        return tx.execute(sql).fetchall()


def listed(run, *words):
    """`dlq ls --json`."""
    return json.loads(run("ls", *words, "--json").stdout)


def cured(database):
    """Make every open dead letter good."""
    with database.transaction() as tx:
        tx.execute("update kylo.dead_letters set payload = '{}' where settled_at is null")


def applied(database):
    """Outbox ids in the order in which they were applied."""
    return [number for (number,) in ask(database, "select outbox_id from applied order by n")]


PROMISED = [
    *("id", "stage", "topic", "key", "event_id", "outbox_id", "reason", "error_class", "attempts", "at"),
    "waiting_behind",
]


def test_the_list_has_the_promised_shape(run):
    """The promised names come first; what waits behind each is counted."""
    found = listed(run)
    assert [list(each)[: len(PROMISED)] for each in found] == [PROMISED] * 3
    assert [(each["key"], each["waiting_behind"]) for each in found] == [("710", 3), ("711", 1), ("712", 0)]
    assert found[0]["stage"] == "collects"


def test_filters(run):
    """By key, topic, stage, reason and time."""
    assert [each["key"] for each in listed(run, "--company", "711")] == ["711"]
    assert listed(run, "--topic", "other") == []
    assert listed(run, "--stage", "other") == []
    assert len(listed(run, "--like", "THIS ONE is poison")) == 3
    assert listed(run, "--like", "something else") == []
    assert len(listed(run, "--since", "1h")) == 3
    assert listed(run, "--until", "1h") == []
    run("ls", "--since", "yesterday", code=2)


def test_show_and_held(run):
    """One whole, with payload and stack; the keys that wait, with how many."""
    whole = json.loads(run("show", "1", "--json").stdout)
    assert whole["payload"] == BAD.decode()
    assert "Traceback" in whole["detail"]
    waiting = json.loads(run("held", "--json").stdout)
    assert [(each["key"], each["waiting"], each["dead_letter_id"]) for each in waiting] == [
        ("710", 3, 1),
        ("711", 1, 2),
    ]
    run("show", "99", code=1)


def test_release_needs_yes_and_is_audited(run, control_db, projection):
    """Without --yes nothing happens; with it the projector goes on, and the audit tells who and why."""
    run("release", "1", code=2)
    run("release", "1", "--dry-run")
    projection.tend(at_once=True)
    assert listed(run, "--company", "710")[0]["releases"] == 0
    cured(control_db)
    run("release", "1", "--reason", "mended", "--yes")
    projection.tend(at_once=True)
    assert applied(control_db) == [8, 1, 2, 3, 4]
    [(who, verb, key, reason, before)] = ask(control_db, "select who, verb, key, reason, before from kylo.audit")
    assert "@" in who
    assert (verb, key, reason, before["dead_letter"]) == ("dlq release", "710", "mended", 1)


def test_acts_on_many_by_reason_and_twice_is_harmless(run, control_db, projection):
    """Everything with one reason at once; the second time there is nothing left to do."""
    cured(control_db)
    for _ in range(2):
        run("release", "--like", "poison", "--yes")
        projection.tend(at_once=True)
    assert applied(control_db) == [8, 1, 2, 3, 4, 5, 6, 7]
    assert listed(run) == []
    run("release", "--yes", code=2)


def test_a_dead_letter_that_fails_again_and_again_is_left_out(run, control_db, projection):
    """Loop guard: after three releases in vain acts on many leave it alone, --again or its number take it."""
    for _ in range(desk.LOOP):
        run("release", "--company", "710", "--yes")
        projection.tend(at_once=True)
    assert "left out" in run("release", "--company", "710", "--yes").stderr
    assert ask(control_db, "select released_at from kylo.holds where key = '710'") == [(None,)]
    run("release", "--company", "710", "--again", "--yes")
    assert ask(control_db, "select released_at is null from kylo.holds where key = '710'") == [(False,)]


def test_discard_is_a_declared_gap(run, control_db, projection):
    """The gap has a reason and its payload stays in the audit; what waited goes on; replay can bring it back."""
    run("discard", "1", "--yes", code=2)
    run("discard", "1", "--reason", "sent twice", "--yes")
    projection.tend(at_once=True)
    assert applied(control_db) == [8, 2, 3, 4]
    [(reason, before)] = ask(control_db, "select reason, before from kylo.audit")
    assert (reason, before["payload"]) == ("sent twice", BAD.decode())
    [letter] = listed(run, "--all", "--company", "710")
    assert letter["outcome"] == "discarded"
    with control_db.transaction() as tx:
        tx.execute("update kylo.dead_letters set payload = '{}' where id = 1")
    for _ in range(2):
        run("replay", "1", "--yes")
        projection.tend(at_once=True)
    assert applied(control_db) == [8, 2, 3, 4, 1]


def test_edit_keeps_the_original_and_releases(run, control_db, projection, tmp_path):
    """The new payload is applied, the old one stays beside it and in the audit; broken JSON is refused."""
    (tmp_path / "bad.json").write_text("{")
    run("edit", "1", "--payload", "bad.json", "--reason", "x", "--yes", code=1)
    run("edit", "1", "--payload", "missing.json", "--reason", "x", "--yes", code=2)
    run("edit", "1", "--payload", "-", "--reason", "amount added", "--yes", input='{"amount": 1}')
    projection.tend(at_once=True)
    assert applied(control_db) == [8, 1, 2, 3, 4]
    [letter] = ask(control_db, "select payload, original, outcome from kylo.dead_letters where id = 1")
    assert letter == (b'{"amount": 1}', BAD, "applied")
    assert ("dlq edit",) in ask(control_db, "select verb from kylo.audit")
    run("edit", "1", "--payload", "-", "--reason", "once more", "--yes", input="{}", code=1)


def test_long_after_it_was_settled_only_what_history_does_not_tell_is_kept(run, control_db, projection):
    """Applied ones are deleted; of discarded and edited ones stays what a rebuild needs, and the verbs say so."""
    run("edit", "1", "--payload", "-", "--reason", "amount added", "--yes", input='{"amount": 1}')
    run("discard", "2", "--reason", "sent twice", "--yes")
    projection.tend(at_once=True)
    cured(control_db)
    run("replay", "3", "--yes")
    projection.tend(at_once=True)
    with control_db.transaction() as tx:
        tx.execute(OF_RELAY)
        tx.execute("update kylo.dead_letters set settled_at = settled_at - interval '29 days'")
        assert dead_letters.forget_settled(tx, 30 * 86_400.0) == 0
        assert tx.execute("select count(*) from kylo.dead_letters where payload is null").fetchone() == (0,)
        tx.execute("update kylo.dead_letters set settled_at = settled_at - interval '2 days'")
        assert [dead_letters.forget_settled(tx, 30 * 86_400.0) for _ in range(2)] == [1, 0]
    kept = ask(control_db, "select id, outcome, payload, original, headers, detail from kylo.dead_letters order by id")
    assert kept == [
        (1, "applied", b'{"amount": 1}', b"", {}, None),
        (2, "discarded", None, None, {}, None),
        (4, "applied", None, None, {}, None),
    ]
    assert json.loads(run("show", "2", "--json").stdout)["payload"] is None
    assert "its payload is gone" in run("replay", "2", "--yes").stderr
    [shown] = json.loads(run("replay", "2", "--preview", "--projector", f"{__name__}:OnT", "--json").stdout)
    assert shown["events"] == []
    assert ask(control_db, "select count(*) from kylo.dead_letters where retry_at is not null") == [(0,)]


def test_replay_refuses_what_its_key_waits_for(run, control_db, projection):
    """A single try would overtake nobody but break the order: it is to be released."""
    assert "release it" in run("replay", "1", "--yes").stderr
    cured(control_db)
    run("replay", "3", "--yes")
    projection.tend(at_once=True)
    assert applied(control_db) == [8, 7]


def test_a_preview_tells_and_changes_nothing(control_db, projection):
    """The events in order with what would become of them, rows by table, and not a row stays."""
    [letter] = letters(control_db, 1)
    assert preview(projection, control_db, 1, letter.holds, 10).events[0][1] == "payload: this one is poison"
    cured(control_db)
    found = preview(projection, control_db, 1, letter.holds, 10)
    assert [(delivery.event.outbox_id, why) for delivery, why in found.events] == [(n, None) for n in range(1, 5)]
    assert list(found.changes.values()) == [{"inserted": 4, "updated": 0, "deleted": 0}]
    assert next(iter(found.changes)).endswith(".applied")
    assert applied(control_db) == [8]
    assert letters(control_db, 1) == [letter]


def letters(database, *ids):
    """Dead letters by number."""
    with database.transaction() as tx:
        return desk.find(tx, desk.Filter(ids=ids))


def test_preview_by_the_command(run, control_db, projection):
    """`--preview` runs a projector of one's own by its class and prints the result; nothing is released."""
    cured(control_db)
    words = ("release", "1", "--preview", "--projector", "tests.integration.test_dlq:OnT", "--json")
    [shown] = json.loads(run(*words).stdout)
    assert [event["would"] for event in shown["events"]] == ["pass"] * 4
    assert [rows["inserted"] for rows in shown["changes"].values()] == [4]
    assert ask(control_db, "select released_at from kylo.holds where key = '710'") == [(None,)]


class OnT(Collects):
    """`Collects` as the command makes it: without arguments."""

    def __init__(self):
        super().__init__("t")


def test_open_notices_are_told_until_accepted(run, control_db, projection):
    """An open circuit shows with every list; accepting is audited."""
    with control_db.transaction() as tx:
        tx.execute(
            "insert into kylo.notices (projector, kind, subject, detail) values ('b', 'circuit', '', 'all fails')"
        )
    assert "b: all fails" in run("ls").stderr
    run("accept", "b", "--reason", "known", "--yes")
    assert "all fails" not in run("ls").stderr
    run("accept", "b", "--reason", "known", "--yes", code=1)
    assert ask(control_db, "select verb, reason from kylo.audit") == [("dlq accept", "known")]
