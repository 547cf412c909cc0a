from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner, Result

from kylo_outbox.cli import stack as verbs

if TYPE_CHECKING:
    from pathlib import Path

STEERING = ("KYLO_", "KAFKA_", "PG", "ROUTE_", "GOOGLE_")
NAMES = ("up", "down", "status", "logs", "start", "stop", "restart", "env")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stack, and no settings of whoever runs the tests."""
    for name in os.environ:
        if name.startswith(STEERING):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> Result:
    """Run one verb."""
    app = typer.Typer()
    verbs.register(app)
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("name", NAMES)
def test_help_has_an_example(name):
    """Every verb of the stack shows how it is used."""
    done = run(name, "--help")
    assert done.exit_code == 0
    assert "Example:" in done.stdout


def test_status_of_nothing():
    """Without a stack the parts are listed as stopped, and the exit code says that nothing is reachable."""
    done = run("status", "--json")
    assert done.exit_code == 3
    parts = json.loads(done.stdout)
    assert [part["name"] for part in parts] == ["postgres", "kafka", "sheets", "api", "relay", "projectors"]
    assert {part["state"] for part in parts} == {"stopped"}


def test_env_without_a_stack():
    """Settings of a stack that was never started are one line and exit 3, not a trace."""
    done = run("env")
    assert done.exit_code == 3
    assert done.stdout == ""
    assert "Start it first" in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize("words", [("start", "redis"), ("logs", "redis")])
def test_unknown_part(words):
    """A part that does not exist is an error of use."""
    done = run(*words)
    assert done.exit_code == 2
    assert "there is no part 'redis'" in done.stderr


def test_missing_extra(monkeypatch):
    """Without the extra, one line says what to install."""
    monkeypatch.setattr(verbs, "find_spec", lambda _: None)
    done = run("up")
    assert done.exit_code == 3
    assert 'pip install "kylo-outbox[local]"' in done.stderr


def test_logs_of_a_part():
    """The last lines of a part's log go to stdout."""
    assert run("logs", "relay").stdout == ""
    with open(".kylo/logs/relay.log", "w", encoding="utf-8") as log:  # noqa: PTH123 - relative on purpose
        log.write("one\ntwo\n")
    assert run("logs", "relay", "-n", "1").stdout == "two\n"
    assert "relay: two" in run("logs").stdout
