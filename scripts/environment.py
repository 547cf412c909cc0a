"""The private environment of a clone: made from a lock file with hashes, kept while the lock file stays the same.

Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / ".venv"
LOG = ROOT / ".kylo" / "logs" / "install.log"
_STAMP = HOUSE / "kylo-outbox.json"
_SCRIPTS = HOUSE / ("Scripts" if sys.platform == "win32" else "bin")
PYTHON = _SCRIPTS / ("python.exe" if sys.platform == "win32" else "python")
# A clone that was moved or copied would go on importing the package from its old place.
_WHERE = {"python": sys.version, "place": str(HOUSE)}
_OLDEST = (3, 11)


class SetupFailed(Exception):  # noqa: N818 - reads as what happened
    """The environment cannot be made; the message is for people and names the remedy."""


def ready(lock: str) -> Path:
    """Return the Python of an environment that holds everything in `deploy/requirements/<lock>.txt`.

    Used again while no lock file that it was made from has changed; otherwise, or when its making was cut short, made
    anew. Safe for two commands at once: the second waits.

    Raises:
        SetupFailed: no suitable Python, or a package cannot be installed.
    """
    if sys.version_info < _OLDEST:
        raise SetupFailed(
            f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}. Install it and try again."
        )
    with _alone():
        made_from = _stamp()
        unchanged = bool(made_from) and all(digest == _sum(name) for name, digest in made_from.items())
        if unchanged and lock in made_from:
            return PYTHON
        begun = time.monotonic()
        if not unchanged:
            made_from = {}
            _make_house()
        # An unchanged house only lacks what this lock file adds: all lock files pin the same versions.
        _STAMP.unlink(missing_ok=True)
        _install(lock)
        _install_project()
        _STAMP.write_text(json.dumps({**_WHERE, "locks": made_from | {lock: _sum(lock)}}))
        say(f"environment ready after {time.monotonic() - begun:.0f} s ({HOUSE})")
    return PYTHON


def environment() -> dict[str, str]:
    """Return the environment for commands inside, with a HOME that programs can work with.

    An empty HOME would make them write to the root of the file system; without HOME they ask the system for the
    account's home, and an account without one gets a folder in the clone.
    """
    env = dict(os.environ)
    if not env.get("HOME") and sys.platform != "win32":
        env.pop("HOME", None)
        os.environ.pop("HOME", None)
        if Path("~").expanduser() == Path("~"):
            home = ROOT / ".kylo" / "home"
            home.mkdir(parents=True, exist_ok=True)
            env["HOME"] = str(home)
    env.pop("PYTHONHOME", None)
    # In a clone of one's own nothing speaks against compiled modules, and a dozen processes start much sooner.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def say(line: str) -> None:
    """Tell people something, at once."""
    print(line, file=sys.stderr, flush=True)


def _make_house() -> None:
    if importlib.util.find_spec("ensurepip") is None:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        raise SetupFailed(
            f"this Python cannot make environments. Run: apt-get install {version}-venv (or python3-venv)"
        )
    if HOUSE.exists():
        shutil.rmtree(HOUSE)
    say(f"making a private environment in {HOUSE}")
    _run([sys.executable, "-m", "venv", str(HOUSE)])


def _install(lock: str) -> None:
    """Install a lock file: hashes required, wheels only, and no resolving, because a lock file is complete."""
    path = _lock_file(lock)
    packages = len(re.findall(r"^\S+==", path.read_text(encoding="utf-8"), re.MULTILINE))
    argv = [str(PYTHON), "-m", "pip", "install", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    argv += ["--no-compile", "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "-r", str(path)]
    seen = 0
    for line in _lines(argv):
        if line.startswith(("Collecting ", "Requirement already satisfied")):
            seen += 1
            name = line.split()[1 if line.startswith("Collecting") else 3].split("==")[0]
            _progress(f"packages: {seen} of {packages}  {name}", worth_a_line=seen % 20 == 0)
        elif line.startswith("Installing collected"):
            _progress(f"packages: installing {packages}", worth_a_line=True)
    _progress(f"packages: compiling {packages}", worth_a_line=True)
    # On all cores, which pip does not do; and now, because many machines forbid Python to write it at first use.
    _run([str(PYTHON), "-m", "compileall", "-q", "-j", "0", str(HOUSE)])
    _progress("")


def _install_project() -> None:
    """Put this clone on the environment's path, with its command.

    Not by pip: an editable install would first have to fetch and run a build tool, for a line of text.
    """
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    (site / "kylo_outbox.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    if sys.platform == "win32":
        (_SCRIPTS / "kylo-outbox.cmd").write_text(f'@"{PYTHON}" -m kylo_outbox %*\n', encoding="utf-8")
        return
    command = _SCRIPTS / "kylo-outbox"
    # Through sh, because a path with spaces, or a long one, is no interpreter line.
    command.write_text(f'#!/bin/sh\nexec "{PYTHON}" -m kylo_outbox "$@"\n', encoding="utf-8")
    command.chmod(0o755)


def _run(argv: list[str]) -> None:
    for _ in _lines(argv):
        pass


def _lines(argv: list[str]) -> Iterator[str]:
    """Run a command, keep what it says in the log, and yield it line by line.

    Raises:
        SetupFailed: it failed.
    """
    LOG.parent.mkdir(parents=True, exist_ok=True)
    last = ""
    with LOG.open("a", encoding="utf-8") as log:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        with subprocess.Popen(argv, text=True, env=environment(), **options) as process:  # type: ignore[call-overload]
            for line in process.stdout:
                log.write(line)
                last = line.strip() or last
                yield line
    if process.returncode != 0:
        _progress("")
        raise SetupFailed(f"installing failed: {last}. Check the connection and its proxy; the whole log: {LOG}")


def _progress(text: str, *, worth_a_line: bool = False) -> None:
    """Show how far it is: one line that changes in a terminal, a line now and then anywhere else."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif worth_a_line:
        say(text)


def _stamp() -> dict[str, str]:
    """Return which lock files the environment was made from; nothing when half made, moved or of another Python."""
    try:
        stamp = json.loads(_STAMP.read_text())
    except (OSError, ValueError):
        return {}
    same = PYTHON.exists() and all(stamp.get(name) == value for name, value in _WHERE.items())
    return dict(stamp["locks"]) if same else {}


def _lock_file(lock: str) -> Path:
    return ROOT / "deploy" / "requirements" / f"{lock}.txt"


def _sum(lock: str) -> str:
    return hashlib.sha256(_lock_file(lock).read_bytes()).hexdigest()


@contextmanager
def _alone() -> Iterator[None]:
    """Let one command at a time make the environment; the lock falls when its holder dies."""
    path = ROOT / ".kylo" / "install.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as lock:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 - Windows only

            msvcrt.locking(lock.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl  # noqa: PLC0415 - not on Windows

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
