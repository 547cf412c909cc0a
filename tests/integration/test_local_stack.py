from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from kylo_outbox.local import parts
from kylo_outbox.local.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stacks(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stack, Stack]]:
    """Two stacks of two clones; a plain web server stands where the Sheets stand-in would be."""
    plain = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1"]
    monkeypatch.setattr(parts, "command", lambda _part, port: [*plain, str(port)])
    pair = Stack(own_folder / "a", isolated=True), Stack(own_folder / "b", isolated=True)
    yield pair
    for stack in pair:
        stack.down()


def handles(stack: Stack) -> dict[str, int | None]:
    """Return the pid of each server and of the stand-in."""
    return {state.name: state.pid for state in stack.status() if state.name in {"postgres", "kafka", "sheets"}}


def test_two_stacks_live_side_by_side_and_a_killed_one_recovers(stacks):
    """Each clone has its own ports; when all of one is killed it is found crashed and starts again with its data."""
    one, two = stacks
    for stack in stacks:
        stack.up(stack_only=True)
    ports = [{state.port for state in stack.status() if state.port} for stack in stacks]
    assert not ports[0] & ports[1]
    untouched = handles(two)
    before = handles(one)
    assert None not in before.values()
    with psycopg.connect(one.env()["PG_DSN_RW"]) as connection:
        connection.execute("create table kept as select 42 as answer")

    for name in ("postgres", "kafka", "sheets"):
        one.kill(name)
    assert [state.state for state in one.status()][:3] == ["crashed"] * 3
    one.up(stack_only=True)
    after = handles(one)
    assert all(after[name] not in {None, before[name]} for name in before)
    with psycopg.connect(one.env()["PG_DSN_RW"]) as connection:
        assert connection.execute("select answer from kept").fetchone() == (42,)

    Stack(one.data_dir, isolated=True).up(stack_only=True)
    assert handles(one) == after  # what runs is adopted, not started twice
    one.down()
    assert set(handles(one).values()) == {None}
    assert handles(two) == untouched
    assert all(psutil.pid_exists(pid) for pid in untouched.values() if pid)
