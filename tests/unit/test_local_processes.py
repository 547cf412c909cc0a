from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from kylo_outbox.local import paths, processes
from kylo_outbox.local.processes import Handle
from kylo_outbox.model.errors import Unreachable

if TYPE_CHECKING:
    from pathlib import Path

SLEEPER = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
PARENT = [
    sys.executable,
    "-c",
    """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
print(child.pid, flush=True)
time.sleep(60)
""",
]
# The first thread ends alone: the process looks like a zombie, and its other thread still listens.
HEADLESS = [
    sys.executable,
    "-c",
    """
import ctypes, socket, threading, time
listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=time.sleep, args=(60,)).start()
print(listener.getsockname()[1], flush=True)
ctypes.CDLL(None).pthread_exit(None)
""",
]


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    """Where the part of a test writes."""
    return tmp_path / "logs" / "part.log"


def spoken(log_file: Path) -> str:
    """Wait for the first whole line of a part and return what it wrote."""
    processes.await_ready(
        lambda: log_file.read_text().endswith("\n"), part="sleeper", handle=None, log_file=log_file, timeout=20
    )
    return log_file.read_text()


def test_started_process_is_found_again_and_ended(log_file, tmp_path):
    """A process that was started is known to whoever reads its state file, and ends when told."""
    handle = processes.start(SLEEPER, log_file=log_file)
    processes.save_handle(tmp_path / "state.json", handle)
    found = processes.load_handle(tmp_path / "state.json")
    assert found == handle
    assert found.alive()
    processes.stop(found, grace=10)
    assert not handle.alive()
    assert not psutil.pid_exists(handle.pid)  # reaped, not left as a zombie


def test_output_is_added_to_the_log(log_file):
    """A restarted part keeps what its earlier life wrote."""
    log_file.parent.mkdir()
    log_file.write_text("before\n")
    handle = processes.start(SLEEPER, log_file=log_file)
    try:
        processes.await_ready(
            lambda: "here" in log_file.read_text(), part="sleeper", handle=handle, log_file=log_file, timeout=20
        )
        assert log_file.read_text() == "before\nhere\n"
    finally:
        processes.kill(handle)


def test_kill_takes_the_children_along(log_file):
    """Killing a part leaves none of its children behind."""
    handle = processes.start(PARENT, log_file=log_file)
    child = processes.handle_of(int(spoken(log_file)))
    assert child.alive()
    processes.kill(handle)
    assert not handle.alive()
    assert not child.alive()


@pytest.mark.skipif(sys.platform != "linux", reason="only here does a process look dead before its last thread")
def test_a_process_is_gone_when_the_last_of_its_threads_is(log_file):
    """A killed server frees its port with its last thread: until then it counts as running."""
    handle = processes.start(HEADLESS, log_file=log_file)
    port = int(spoken(log_file))
    zombie = psutil.Process(handle.pid)
    processes.await_ready(
        lambda: zombie.status() == psutil.STATUS_ZOMBIE, part="headless", handle=None, log_file=log_file, timeout=20
    )
    assert not paths.is_free(port)
    assert handle.alive()
    processes.kill(handle)
    assert not handle.alive()
    assert paths.is_free(port)


def test_reused_pid_is_not_touched():
    """A pid that belongs to somebody else by now is neither seen as ours nor signalled."""
    foreign = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    try:
        stale = Handle(foreign.pid, psutil.Process(foreign.pid).create_time() - 100)
        assert not stale.alive()
        processes.stop(stale, grace=0.1)
        processes.kill(stale)
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_stubborn_process_is_killed_after_its_grace(log_file):
    """A part that ignores the request to end is killed when its time is over."""
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    handle = processes.start([sys.executable, "-c", code], log_file=log_file)
    assert spoken(log_file) == "deaf\n"
    begun = time.monotonic()
    processes.stop(handle, grace=0.3)
    assert not handle.alive()
    assert time.monotonic() - begun < 10


def test_part_that_ends_while_it_starts_is_named_with_its_last_words(log_file):
    """The message has the part, the end of its log and where the log is."""
    handle = processes.start(
        [sys.executable, "-c", "print('no such database'); raise SystemExit(3)"], log_file=log_file
    )
    with pytest.raises(Unreachable, match=r"relay is not reachable: it ended.*no such database.*part\.log"):
        processes.await_ready(lambda: False, part="relay", handle=handle, log_file=log_file, timeout=20)


def test_part_that_is_never_ready_is_given_up(log_file):
    """Waiting for a part is bounded."""
    me = processes.handle_of(os.getpid())
    with pytest.raises(Unreachable, match="not ready after 0 s"):
        processes.await_ready(lambda: False, part="relay", handle=me, log_file=log_file, timeout=0.1)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": "x"}', '{"pid": 1}'])
def test_broken_state_file_counts_as_none(tmp_path, text):
    """A state file that was cut short by a crash hinders nobody."""
    path = tmp_path / "state.json"
    path.write_text(text)
    assert processes.load_handle(path) is None
