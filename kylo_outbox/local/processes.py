"""Detached child processes: started, recognised again by another process, and ended, on Linux, macOS and Windows.

A process is known by its pid *and* its creation time, so that a pid that the system gave to somebody else in the
meantime is never touched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from kylo_outbox.model.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

# psutil derives creation times from the boot time, which shifts a little when the clock is corrected.
_SAME_START_SECONDS = 2.0
_POLL_SECONDS = 0.02
_TAIL_LINES = 5

# Our own children stay here until they end: whoever waits for one of them must also reap it (a postmaster that is a
# zombie looks alive to the next one), and a Popen that is dropped while its process runs complains.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Handle:
    """One process of ours: its pid and the moment it was created (seconds since the epoch)."""

    pid: int
    create_time: float

    def process(self) -> psutil.Process | None:
        """Return the running process, or None when it ended or its pid belongs to somebody else now."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.create_time) < _SAME_START_SECONDS
            return process if same and not _is_over(process) else None
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # what we may not look at is not ours
            return None

    def alive(self) -> bool:
        """Tell whether the process still runs; reaps it when it was a child of this process."""
        child = _children.get(self.pid)
        if child is not None and child.poll() is not None:
            del _children[self.pid]
        return self.process() is not None


def _is_over(process: psutil.Process) -> bool:
    """Whether a process is a zombie, all of it: its ports stay taken until the last of its threads is gone too."""
    return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1


def start(
    argv: Sequence[str | Path],
    *,
    log_file: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str | None = None,
) -> Handle:
    """Start a process that outlives this one and gets none of its terminal's signals; output is added to `log_file`.

    Args:
        argv: the program and its arguments.
        log_file: standard output and error, appended; its folder is made.
        env: the whole environment, this process's own when None.
        cwd: working directory, this process's own when None.
        user: run as this account (POSIX, as root only).
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {}
    if sys.platform == "win32":
        options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    else:
        options["start_new_session"] = True
        options |= as_user(user)
    with log_file.open("ab") as log:
        child = subprocess.Popen(  # noqa: S603 - programs of this package and of its wheels only
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            **options,
        )
    _children[child.pid] = child
    return handle_of(child.pid)


def as_user(user: str | None) -> dict[str, Any]:
    """Return the `subprocess` options that run a program as another account (POSIX); none for None."""
    if user is None or sys.platform == "win32":
        return {}
    import pwd  # noqa: PLC0415 - does not exist on Windows

    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def handle_of(pid: int) -> Handle:
    """Return the handle of a running pid; one that has ended already gets a handle that is never alive."""
    try:
        return Handle(pid, psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return Handle(pid, 0.0)


def stop(handle: Handle, *, grace: float) -> None:
    """Ask the process to end, wait up to `grace` seconds, then kill it and its children. Returns when it is gone."""
    process = handle.process()
    if process is not None:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
        if not wait_gone([handle], timeout=grace):
            kill(handle)
    handle.alive()


def kill(handle: Handle, *, timeout: float = 10.0) -> None:
    """End the process and all its descendants at once (kill -9) and wait until they are gone.

    The process is suspended first, so that it cannot start another child between the look and the kill.

    Raises:
        Unreachable: something survived for `timeout` seconds (a process stuck in the kernel).
    """
    process = handle.process()
    if process is None:
        handle.alive()
        return
    doomed = [handle]
    with suppress(psutil.NoSuchProcess):
        process.suspend()
        children = process.children(recursive=True)
        doomed += [handle_of(child.pid) for child in children]
        for each in (process, *children):
            with suppress(psutil.NoSuchProcess):
                each.kill()
    if not wait_gone(doomed, timeout=timeout):
        pids = ", ".join(str(each.pid) for each in doomed if each.alive())
        raise Unreachable("process", f"pid {pids} does not end", "End it by hand.")


def wait_gone(handles: Iterable[Handle], *, timeout: float) -> bool:
    """Wait until none of the processes runs; False when `timeout` seconds were not enough."""
    deadline = time.monotonic() + timeout
    for handle in handles:
        # Our own children are looked at too and not waited for by their parent's call alone, because the processes
        # of other parents end as zombies of somebody else: gone for us, still there for the system's wait.
        while handle.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
    return True


def await_ready(ready: Callable[[], bool], *, part: str, handle: Handle | None, log_file: Path, timeout: float) -> None:
    """Wait until `ready()` is true: a bounded poll, for servers that cannot tell by themselves.

    Raises:
        Unreachable: the process ended, or `timeout` seconds went by; names the part, the end of its log and the log.
    """
    deadline = time.monotonic() + timeout
    while not ready():
        ended = handle is not None and not handle.alive()
        if ended or time.monotonic() > deadline:
            why = "it ended while it started" if ended else f"it was not ready after {timeout:.0f} s"
            raise Unreachable(part, why + tail_of(log_file), f"The whole log: {log_file}.")
        time.sleep(_POLL_SECONDS)


def tail_of(log_file: Path) -> str:
    """Return the last lines of a log as ` (last words: ...)` for a message, or nothing when there is no log."""
    try:
        with log_file.open("rb") as log:
            log.seek(max(log_file.stat().st_size - 2_000, 0))
            lines = log.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    words = " / ".join(line.strip() for line in lines[-_TAIL_LINES:] if line.strip())
    return f" (last words: {words})" if words else ""


def save_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a small state file so that a reader sees the old or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    with os.fdopen(fd, "w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2)
    Path(temporary).replace(path)


def load_json(path: Path) -> dict[str, Any]:
    """Read a state file; missing or unreadable ones are empty, because a state file only saves work."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def save_handle(path: Path, handle: Handle, **more: Any) -> None:
    """Remember a process in a state file."""
    save_json(path, asdict(handle) | more)


def load_handle(path: Path) -> Handle | None:
    """Return the process remembered in a state file, running or not; None when there is none."""
    return handle_from(load_json(path))


def handle_from(state: Mapping[str, Any]) -> Handle | None:
    """Return the handle inside a loaded state, None when it holds none."""
    try:
        return Handle(int(state["pid"]), float(state["create_time"]))
    except (KeyError, TypeError, ValueError):
        return None
