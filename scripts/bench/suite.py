"""Runs the benches of one suite and keeps what they found, after each bench, so that a long run loses nothing."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from confluent_kafka import KafkaException

from kylo_outbox.model.errors import KyloError
from scripts.bench import machine, relays
from scripts.bench.figures import Result
from scripts.bench.stage import BenchFailed, stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from scripts.bench.registry import Bench
    from scripts.bench.stage import Options, Stage

_WARM_UPS, _WARM_UP_ROWS = 2, 50_000
# What a server that is away or too slow makes of a bench; a mistake in a bench ends the run.
_FAILURES = (BenchFailed, KyloError, KafkaException, psycopg.Error, subprocess.TimeoutExpired)


def run(
    suite: str,
    benches: Sequence[Bench],
    *,
    rounds: int,
    scale: float,
    options: Options,
    into: Path,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], Path]:
    """Run the benches one after the other; the whole run and the JSON file it lies in.

    A bench that fails is told and the next one runs: its failure stands in the report.
    """
    begun = datetime.now(UTC)
    path = into / f"{suite}-{begun:%Y%m%d-%H%M%S}.json"
    say("starting PostgreSQL and Kafka ...")
    with stage(options, say) as made:
        found: dict[str, Any] = {
            "suite": suite,
            "begun": begun.isoformat(timespec="seconds"),
            "rounds": rounds,
            "scale": scale,
            "full": options.full,
            "machine": machine.facts(made),
            "load_before": machine.load(),
            "load_after": {},
            "results": [],
        }
        say("warming up ...")
        _warm_up(made)
        for bench in benches:
            say(f"{bench.name}: {bench.title} ...")
            result = Result(
                bench.name, bench.title, command(suite, bench.name, rounds=rounds, scale=scale, options=options)
            )
            clock = time.monotonic()
            try:
                result.figures = bench.run(made, rounds, scale)
            except _FAILURES as failed:
                result.failure = str(failed)
                say(f"{bench.name} failed: {failed}")
            result.seconds = round(time.monotonic() - clock, 1)
            found["results"].append(asdict(result))
            found["load_after"] = machine.load()
            keep(path, found)
    return found, path


def _warm_up(made: Stage) -> None:
    """A cold JVM works at half its speed, and the first pages of a new database are dear."""
    with made.database() as database, made.topic() as topic:
        for _ in range(_WARM_UPS):
            relays.drain_backlog(made, database, topic, _WARM_UP_ROWS)


def command(suite: str, bench: str, *, rounds: int, scale: float, options: Options) -> str:
    """The command that repeats one bench as it was run."""
    words = ["python3 scripts/dev.py bench", suite, "--only", bench, "--rounds", str(rounds)]
    words += ["--scale", f"{scale:g}"] if scale != 1 else []
    words += ["--full"] if options.full else []
    words += ["--with", ",".join(sorted(options.peers))] if options.peers else []
    return " ".join(words)


def keep(path: Path, found: dict[str, Any]) -> None:
    """Write the run so that a reader sees the old or the new file, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fresh.replace(path)
