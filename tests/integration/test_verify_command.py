"""The verb `verify`, its exit codes and answers, and the scheduled pass of the relay."""

from __future__ import annotations

import json
import logging
import threading
import time

import pytest
from typer.testing import CliRunner

from kylo_outbox.cli import app
from kylo_outbox.runtime.stop import Stop
from kylo_outbox.settings import load
from kylo_outbox.telemetry.metrics import samples
from kylo_outbox.wiring import parts
from kylo_outbox.wiring.relays import RelayProcess

LEDGER = "kylo_outbox.testing.ledger:Ledger"


@pytest.fixture
def run(road, kafka_server, monkeypatch, tmp_path):
    """Run the verb; it must leave with `code`."""
    monkeypatch.setenv("PG_DSN_RW", road.database.dsn)
    monkeypatch.setenv("KAFKA_BROKERS", kafka_server.bootstrap)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kylo_outbox.testing.ledger.Ledger.topics", road.books.topics)

    def run(*words, code=0):
        result = CliRunner().invoke(app, ["verify", *words])
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result

    return run


def test_no_difference_is_exit_code_0(run, road):
    """The figures tell what was compared; the shape is stable."""
    road.flow(6)
    told = json.loads(run("--projector", LEDGER, "--json").stdout)
    assert (told["equal"], told["differences"], told["problems"]) == (True, [], [])
    [store] = told["stores"]
    assert (store["log"]["events"], store["positions"]["positions"], store["effects"]["ledger"]["events"]) == (6, 3, 6)
    assert "no differences" in run().stderr


def test_a_difference_is_exit_code_1_until_it_is_accepted(run, road):
    """Named with key and ids; accepting needs a reason and a yes, and is audited."""
    road.flow(6)
    run("--projector", LEDGER)
    road.do("delete from ledger_entries where number = 3")
    run("--projector", LEDGER)
    result = run("--projector", LEDGER, "--since", "1h", "--json", code=1)
    [told] = json.loads(result.stdout)["differences"]
    assert (told["part"], told["anomaly"], told["projector"], told["key"], told["outbox_ids"]) == (
        *("effects", "lost", "ledger", "710"),
        [4],
    )
    assert [told["event_ids"]] == [[str(event)] for (event,) in road.ask("select event_id from outbox where id = 4")]
    assert "lost" in run("--projector", LEDGER, code=1).stdout
    number = str(told["id"])
    run("--accept", number, code=2)
    run("--accept", number, "--reason", "deleted by hand", code=2)
    run("--accept", "99", "--reason", "deleted by hand", "--yes", code=1)
    run("--accept", number, "--reason", "deleted by hand", "--yes")
    run("--projector", LEDGER)
    assert road.ask("select verb, reason, key, ids from kylo.audit") == [
        ("verify accept", "deleted by hand", "710", [4])
    ]


def test_an_accepted_position_counts_from_there_on(run, road):
    """The next loss of the same key is told again."""
    road.flow(6)
    run()
    road.do("update kylo.positions set applied = applied - 1, digest = digest - 2 where key = '711'")
    number = str(json.loads(run("--json", code=1).stdout)["differences"][0]["id"])
    run("--accept", number, "--reason", "known", "--yes")
    run()
    road.do("update kylo.positions set applied = applied - 1, digest = digest - 5 where key = '711'")
    [told] = json.loads(run("--json", code=1).stdout)["differences"]
    assert (told["anomaly"], told["outbox_ids"]) == ("lost", [5])


def test_a_projector_that_tells_nothing_is_refused(run):
    """It needs `effects`."""
    assert "does not tell its effects" in run("--projector", "sheets", code=2).stderr


def test_without_a_broker_the_log_is_left_out(run, road, monkeypatch):
    """Positions and effects are compared all the same."""
    monkeypatch.delenv("KAFKA_BROKERS")
    road.flow(3)
    [store] = json.loads(run("--projector", LEDGER, "--json").stdout)["stores"]
    assert (store["log"]["records"], store["positions"]["positions"], store["effects"]["ledger"]["events"]) == (0, 3, 3)


def test_the_relay_verifies_on_a_schedule(road, kafka_server, tmp_path, caplog):
    """A planted loss becomes a line and a metric without anybody asking; the pass before finds nothing."""
    road.flow(3)
    road.relay.close()
    road.save(1)
    road.do("update kylo.lanes set high_water = 4, snapshot = pg_current_snapshot(), epoch = epoch + 1")
    environ = {"PG_DSN_RW": road.database.dsn, "KAFKA_BROKERS": kafka_server.bootstrap, "KYLO_VERIFY_EVERY": "0.5"}
    built = parts.build(load(environ, tmp_path / "none.env"))
    stop = Stop()
    thread = threading.Thread(target=RelayProcess(built).run, args=(stop,))
    caplog.set_level(logging.ERROR)
    thread.start()
    try:
        until = time.monotonic() + 30
        while not (lines := [line for line in caplog.messages if line.startswith("verify: ")]):
            assert time.monotonic() < until
            time.sleep(0.05)
        while ("kylo_verify_differences", 1.0) not in {
            (name, value) for _, _, _, name, labels, value in samples() if labels == {"part": "log", "anomaly": "lost"}
        }:
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        stop.set()
        thread.join(60)
        built.close()
    assert not thread.is_alive()
    assert "log: lost" in lines[0]
    assert "710 #4" in lines[0]
    assert len(lines) == 1, "told once, not at every pass"
