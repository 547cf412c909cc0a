"""The one file to start from: `python3 scripts/dev.py demo | up | test | check | bench | soak`.

Needs Python 3.11 or newer and nothing else; makes a private environment in the clone first. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts import environment
from scripts.environment import ROOT, SetupFailed, say

# Settings of the person's own pipeline must steer neither tests nor figures.
_STEERING = ("KYLO_", "KAFKA_", "ROUTE_VIA_", "PG", "GOOGLE_APPLICATION_CREDENTIALS")
_WORKERS = "2"
_NOT_READY = 3

_CHECKS = (
    ("format", ["-m", "ruff", "format", "--check", "."]),
    ("lint", ["-m", "ruff", "check", "."]),
    ("types", ["-m", "mypy"]),
    ("floors", ["-c", "from importlinter.cli import lint_imports_command as go; go()"]),
)


def main() -> int:
    """Run the verb on the command line and return its exit code."""
    verb, arguments, rest = _command_line()
    if rest and verb not in {"test", "bench", "soak", "up"}:
        say(f"{verb} does not know {' '.join(rest)}")
        return 2
    try:
        python = environment.ready("local" if verb in {"demo", "up"} else "dev")
    except SetupFailed as failed:
        say(str(failed))
        return _NOT_READY
    if verb == "check":
        return _check(python)
    if verb == "test":
        return _test(python, rest, full=arguments.full)
    words = {
        "demo": ["scripts/demo.py", *(["--keep"] if verb == "demo" and arguments.keep else [])],
        "up": ["-m", "kylo_outbox", "up"],
        "bench": ["-m", "scripts.bench", *(["--full"] if verb == "bench" and arguments.full else [])],
        "soak": ["-m", "scripts.soak_sheets" if "--sheets" in rest else "tests.soak"],
    }
    return _inside(python, [*words[verb], *rest], steered=verb != "soak")


def _command_line() -> tuple[str, argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="dev.py", description=__doc__, epilog="Example: python3 scripts/dev.py demo", allow_abbrev=False
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    demo = verbs.add_parser("demo", help="start everything, follow one transaction to its tab, stop everything")
    demo.add_argument("--keep", action="store_true", help="leave it running and print the addresses")
    verbs.add_parser("up", help="start the local stack and stay until Ctrl-C (options of `kylo-outbox up`)")
    test = verbs.add_parser("test", help="check, then all tests; further words go to pytest", allow_abbrev=False)
    test.add_argument("--full", action="store_true", help="add what is long")
    verbs.add_parser("check", help="format, lint, types, floors")
    bench = verbs.add_parser(
        "bench", help="measure this machine: `bench [flow | relay]`", allow_abbrev=False, add_help=False
    )
    bench.add_argument("--full", action="store_true", help="add what is long")
    verbs.add_parser(
        "soak",
        help="everything under fire: `soak --seconds N --seed S [--plant NAME]`; `soak --sheets`: posts to tabs",
        add_help=False,
        allow_abbrev=False,
    )
    arguments, rest = parser.parse_known_args()
    return arguments.verb, arguments, rest


def _check(python: Path) -> int:
    """Run every check, also after one has failed; the answer is the worst exit code."""
    worst = 0
    for name, words in _CHECKS:
        begun = time.monotonic()
        code = _inside(python, words)
        say(f"{name}: {'good' if code == 0 else 'FAILED'} ({time.monotonic() - begun:.1f} s)")
        worst = max(worst, code)
    return worst


def _test(python: Path, rest: list[str], *, full: bool) -> int:
    """Run the checks and then pytest, whose closing line ends the output; the answer is the worse exit code.

    One run of pytest for all: tests marked `alone` wait until the others are done (`kylo_outbox.testing.alone`).
    """
    checked = _check(python)
    marks = [] if full else ["-m", "not full"]
    tested = _inside(python, ["-m", "pytest", "-n", _WORKERS, *marks, *rest], steered=False)
    return max(checked, tested)


def _inside(python: Path, words: list[str], *, steered: bool = True) -> int:
    """Run a command with the private environment's Python, in the clone's folder."""
    env = environment.environment()
    if not steered:
        env = {name: value for name, value in env.items() if not name.startswith(_STEERING)}
    # Its own commands first, so that a subprocess finds the tools of the same environment.
    env["PATH"] = os.pathsep.join([str(python.parent), env.get("PATH", os.defpath)])
    process = subprocess.Popen([python, *words], cwd=ROOT, env=env)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # Ctrl-C reaches the command itself too: it ends in its own way, and we wait for it.
            continue


if __name__ == "__main__":
    sys.exit(main())
