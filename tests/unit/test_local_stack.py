from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from kylo_outbox.local import logs, parts, processes
from kylo_outbox.local.stack import Stack
from kylo_outbox.local.state import StackFile
from kylo_outbox.model.errors import Misconfigured, NotReady, Unreachable

if TYPE_CHECKING:
    from pathlib import Path

STEERING = ("KYLO_", "KAFKA_", "PG", "ROUTE_", "GOOGLE_")


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stack's folder, away from the settings of whoever runs the tests."""
    for name in os.environ:
        if name.startswith(STEERING):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".kylo"


def state(stack: Stack, part: str) -> parts.PartState:
    """Return what is known about one part."""
    return next(each for each in stack.status() if each.name == part)


def test_never_started(data_dir):
    """A stack that was never started has only stopped parts, and no settings to hand out."""
    stack = Stack(data_dir)
    assert {each.state for each in stack.status()} == {"stopped"}
    with pytest.raises(NotReady, match="never been started"):
        stack.env()
    stack.down()


def test_named_servers_are_used_and_not_started(data_dir, monkeypatch):
    """A server that the environment or .env names is external: handed on, not ours to start, stop or kill."""
    monkeypatch.setenv("PG_DSN_RW", "postgresql://somewhere/db")
    (data_dir.parent / ".env").write_text("KAFKA_BROKERS=broker:9092\n")
    stack = Stack(data_dir)
    assert state(stack, "postgres").state == state(stack, "kafka").state == "external"
    assert stack.env()["PG_DSN_RW"] == "postgresql://somewhere/db"
    assert stack.env()["KAFKA_BROKERS"] == "broker:9092"
    for act in (stack.start, stack.stop, stack.restart, stack.kill):
        with pytest.raises(Misconfigured, match="not ours"):
            act("postgres")


def test_isolated_stack_ignores_the_environment(data_dir, monkeypatch):
    """Demo and tests never touch a server that the person's environment names."""
    monkeypatch.setenv("PG_DSN_RW", "postgresql://somewhere/db")
    monkeypatch.setenv("ROUTE_VIA_KAFKA", "0")
    stack = Stack(data_dir, isolated=True)
    assert stack.external == {}
    env = parts.environment({"PG_DSN_RW": "ours"}, isolated=True)
    assert env["PG_DSN_RW"] == "ours"
    assert "ROUTE_VIA_KAFKA" not in env


def test_own_settings_in_the_environment_are_not_external(data_dir, monkeypatch):
    """After `eval "$(kylo-outbox env)"` the stack still knows that these servers are its own."""
    file = StackFile(data_dir / "stack.json")
    for number, name in enumerate(("postgres", "kafka", "controller", "sheets", "api")):
        file.set_port(name, 40000 + number)
    (data_dir / "postgres").mkdir()
    (data_dir / "postgres" / "password").write_text("secret")
    for name, value in Stack(data_dir).env().items():
        monkeypatch.setenv(name, value)
    assert Stack(data_dir).external == {}


def test_unknown_part_is_refused(data_dir):
    """A part that does not exist is an error of use that lists those that do."""
    with pytest.raises(Misconfigured, match="postgres, kafka, sheets, api, relay, projectors"):
        Stack(data_dir).start("redis")


def test_pid_of_somebody_else_is_not_touched(data_dir):
    """A remembered pid that belongs to another process now shows as crashed and is never signalled."""
    foreign = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        stale = processes.Handle(foreign.pid, psutil.Process(foreign.pid).create_time() - 1000)
        StackFile(data_dir / "stack.json").remember("relay", stale, None, data_dir / "logs" / "relay.log")
        stack = Stack(data_dir)
        assert state(stack, "relay").state == "crashed"
        stack.kill("relay")
        stack.down()
        assert foreign.poll() is None
        assert state(stack, "relay").state == "stopped"
    finally:
        foreign.kill()
        foreign.wait()


def test_part_that_dies_at_its_start_is_named_and_cleaned(data_dir, monkeypatch):
    """A part that cannot run is one line with its last words and its log."""
    monkeypatch.setattr(parts, "command", lambda *_: [sys.executable, "-c", "raise SystemExit('no schema')"])
    monkeypatch.setattr(parts, "is_ready", lambda *_: False)
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "password").write_text("secret")
    with pytest.raises(Unreachable, match=r"API is not reachable: it ended.*no schema.*api\.log") as caught:
        Stack(data_dir).start("api")
    assert "secret" not in str(caught.value)


def test_logs_are_read_from_the_end_and_kept_small(tmp_path):
    """The last lines of a log are shown, and a huge one is put aside before its part starts anew."""
    log = tmp_path / "relay.log"
    log.write_text("one\ntwo\nthree\n")
    assert list(logs.read(log, lines=2, follow=False)) == ["two\n", "three\n"]
    follower = logs.read(log, lines=1, follow=True)
    assert next(follower) == "three\n"
    with log.open("a") as stream:
        stream.write("four\n")
    assert next(follower) == "four\n"
    logs.trim(log)
    assert log.exists()
    with log.open("r+b") as stream:
        stream.truncate(20_000_001)
    logs.trim(log)
    assert not log.exists()
    assert (tmp_path / "relay.log.1").exists()
