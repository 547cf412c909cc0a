"""`python3 scripts/dev.py soak`: the whole road under fire on real servers, and a verdict.

Exit code 0: everything arrived once and in order. 1: something is different. 2: wrong words.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.soak.outcome import Outcome, Wanted
from tests.soak.plants import PLANTS
from tests.soak.report import first_line, lines
from tests.soak.run import Soak
from tests.soak.stage import Stage

_KEPT = Path(".kylo") / "soak"


def main() -> int:
    """Run what the command line asks for; the exit code."""
    wanted = _wanted()
    # Asked to end, it ends what it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(first_line(wanted), flush=True)
    # Not below /root or another closed folder: PostgreSQL may have to run as an account of its own.
    folder = Path(tempfile.mkdtemp(prefix="kylo-outbox-soak-"))
    folder.chmod(0o711)
    outcome: Outcome | None = None
    try:
        with Stage(folder).running() as stage:
            outcome = Soak(stage, wanted).run()
    finally:
        if outcome is None or not outcome.good:
            _keep_logs(folder, wanted)
        shutil.rmtree(folder, ignore_errors=True)
    for line in lines(wanted, outcome):
        print(line)
    return 0 if outcome.good else 1


def _wanted() -> Wanted:
    parser = argparse.ArgumentParser(prog="dev.py soak", description=__doc__, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=120.0, help="at least so long under fire (120)")
    parser.add_argument("--seed", type=int, help="what the plan of faults is drawn from; a new one without it")
    parser.add_argument("--faults", type=int, default=0, help="at least so many faults")
    parser.add_argument("--events", type=int, default=0, help="at least so many events")
    parser.add_argument("--plant", choices=PLANTS, default="", metavar="NAME", help=f"one of {', '.join(PLANTS)}")
    words = parser.parse_args()
    seed = random.randrange(1, 1_000_000) if words.seed is None else words.seed
    return Wanted(seed, words.seconds, words.faults, words.events, words.plant)


def _keep_logs(folder: Path, wanted: Wanted) -> None:
    kept = _KEPT / f"seed-{wanted.seed}{'-' + wanted.plant if wanted.plant else ''}"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for log in [*folder.glob("*.log"), *folder.glob("*/*.log")]:
        shutil.copy(log, kept)
    print(f"logs: {kept}")


if __name__ == "__main__":
    sys.exit(main())
