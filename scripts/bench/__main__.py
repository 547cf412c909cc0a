"""Figures of this machine, as ratios that hold on others: `python3 scripts/dev.py bench [SUITE] [options]`.

flow       from a POST to the tabs, against the targets of the people who use it (the default)
relay      the relay against a raw producer, other relays, and itself under load
projector  projectors against a plain COPY and the client's own settings, and the whole road at a pace
business   triage of many transactions against many rules, and posts to tabs
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from rich.console import Console

from kylo_outbox.local.paths import data_dir
from kylo_outbox.model.errors import KyloError
from scripts.bench import flow_suite, registry, suite
from scripts.bench.peers import installed
from scripts.bench.report import docs, page, table
from scripts.bench.stage import ROOT, BenchFailed, Options

_ROUNDS = 3
_USAGE = 2

talk = Console(stderr=True, highlight=False)


def main() -> int:
    """Run a suite; 0 when everything was measured, 1 when a bench failed or `flow` missed a target."""
    words = _words()
    # Ended from outside it still stops its servers.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if words.suite == "flow":
        return flow_suite.run(full=words.full, as_json=words.json)
    if words.install:
        return _install(_names(words.install))
    if words.write_docs is not None:
        return _write_docs(words.suite, words.write_docs)
    try:
        benches = registry.chosen(words.suite, _names(words.only), full=words.full)
        options = Options(full=words.full, peers=frozenset(installed.require(_names(words.peers))))
        found, path = suite.run(
            words.suite,
            benches,
            rounds=words.rounds,
            scale=words.scale,
            options=options,
            into=data_dir() / "bench",
            say=lambda line: talk.print(line, markup=False),
        )
    except ValueError as wrong:
        talk.print(str(wrong), style="red", markup=False)
        return _USAGE
    except (KyloError, BenchFailed) as failed:
        talk.print(str(failed), style="red", markup=False)
        return 1
    drawn = page.write(found, path.with_suffix(".html"))
    if words.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        table.show(found, Console(highlight=False, width=None if sys.stdout.isatty() else 150))
    talk.print(f"figures: {path}\npage:    {drawn}", markup=False, soft_wrap=True)
    return 1 if any(result["failure"] for result in found["results"]) else 0


def _words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dev.py bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python3 scripts/dev.py bench relay --only drain,latency --rounds 5",
        allow_abbrev=False,
    )
    parser.add_argument("suite", nargs="?", default="flow", choices=["flow", *registry.SUITES])
    parser.add_argument("--full", action="store_true", help="add what is long")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--only", default="", metavar="NAME[,NAME]", help="these benches of the suite")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="rounds of each comparison")
    parser.add_argument("--scale", type=float, default=1.0, help="sizes as a share of the usual ones")
    parser.add_argument("--install", default="", metavar="PEER[,PEER]", help="measure nothing: install these peers")
    parser.add_argument("--with", dest="peers", default="", metavar="PEER[,PEER]", help="debezium, faststream")
    parser.add_argument(
        "--write-docs",
        nargs="?",
        const="",
        metavar="JSON[,JSON]",
        help="measure nothing: write the figures of a run (the last one) into docs/performance.md; of several, each "
        "bench from the last one that has it",
    )
    words = parser.parse_args()
    if words.rounds < 1 or words.scale <= 0:
        parser.error("--rounds and --scale must be above 0")
    return words


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _install(peers: list[str]) -> int:
    try:
        for peer in installed.known(peers):
            installed.install(peer, lambda line: talk.print(line, markup=False))
    except (ValueError, BenchFailed) as failed:
        talk.print(str(failed), style="red", markup=False)
        return 1
    return 0


def _write_docs(name: str, given: str) -> int:
    runs = sorted((data_dir() / "bench").glob(f"{name}-*.json"))
    if not given and not runs:
        talk.print(f"there is no run yet: python3 scripts/dev.py bench {name}", style="red", markup=False)
        return 1
    sources = [Path(name) for name in _names(given)] or runs[-1:]
    docs.write([json.loads(each.read_text(encoding="utf-8")) for each in sources], ROOT / "docs" / "performance.md")
    talk.print(f"docs/performance.md shows {', '.join(each.name for each in sources)}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
