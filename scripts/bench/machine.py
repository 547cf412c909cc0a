"""What a run was made on: machine, versions, and how busy it was; a figure without them says nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import confluent_kafka
import psutil

from kylo_outbox.local import jars
from scripts.bench import rows

if TYPE_CHECKING:
    from scripts.bench.stage import Stage

_GIB = 1 << 30


def facts(stage: Stage) -> dict[str, str]:
    """Machine, system and versions, as lines for people."""
    with stage.database() as database, rows.connect(database) as connection:
        [postgres, fsync, commit] = connection.execute(
            "select current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')"
        ).fetchone() or ("", "", "")
    kafka = next(jar.version for jar in jars.pinned() if jar.artifact.startswith("kafka_"))
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / _GIB:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "PostgreSQL": f"{postgres}, fsync {fsync}, synchronous_commit {commit}, on the same machine",
        "Kafka": f"Apache Kafka {kafka}, one broker on the same machine, acks=all",
        "clients": f"confluent-kafka {metadata.version('confluent-kafka')} (librdkafka "
        f"{confluent_kafka.libversion()[0]}), psycopg {metadata.version('psycopg')}",
        "kylo-outbox": _commit(stage.root),
    }


def load() -> dict[str, float]:
    """How busy the machine is: the load averages, and the share of its CPU in use during half a second."""
    one, five, _ = psutil.getloadavg()
    return {"load 1 min": round(one, 2), "load 5 min": round(five, 2), "CPU in use, %": psutil.cpu_percent(0.5)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit(root: Path) -> str:
    argv = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        told = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return metadata.version("kylo-outbox")
    return f"commit {told}"


def as_lines(run: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts of a stored run with its load, as (name, text)."""
    before, after = run["load_before"], run["load_after"]
    busy = [f"{name} {before[name]:g} before, {after[name]:g} after" for name in before]
    return [*run["machine"].items(), ("load", "; ".join(busy))]
