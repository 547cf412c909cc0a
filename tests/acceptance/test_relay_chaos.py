"""The relay under fire: two processes, badly behaved writers, and everything killed, stopped and cut off in turn."""

from __future__ import annotations

import random
from statistics import median

import pytest

from kylo_outbox.store import migrate
from kylo_outbox.store.engine import Database
from tests.helpers.arena import Arena
from tests.helpers.faults import Faults
from tests.helpers.lane_watch import takeovers
from tests.helpers.writers import Writers

# (seed, faults, longest stop of a process in seconds)
SHORT = (1, 12, 2.5)
LONG = [(2, 60, 10.0), (3, 250, 10.0)]


@pytest.fixture
def arena(own_postgres, own_kafka, tmp_path):
    """Two relays on a PostgreSQL and a Kafka that may be killed."""
    database = Database(own_postgres.dsn(), name="tests")
    migrate.migrate(database, "store")
    migrate.migrate(database, "control")
    database.close()
    return Arena(own_postgres.dsn(), own_kafka.bootstrap, tmp_path)


@pytest.mark.alone
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("seed", "count", "longest"), [SHORT, *(pytest.param(*run, marks=pytest.mark.full) for run in LONG)]
)
def test_nothing_is_lost_or_reordered_under_fire(arena, own_postgres, own_kafka, seed, count, longest):
    """50 keys, late commits, rollbacks: lost 0, invented 0, inversions 0, no lane owned twice; repeats do happen."""
    print(f"seed {seed}, {count} faults")
    faults = Faults(arena, own_postgres, own_kafka, random.Random(seed), longest=longest)
    writers = Writers(arena.dsn, arena.topic, keys=50, seed=seed, wallets=True, survive=True, most=4)
    with arena.running():
        with writers.running():
            faults.run(count)
        arena.drain()
        assert [relay.end() for relay in arena.relays] == [0, 0]
        verdict = arena.judge(writers)
    print(f"{verdict}\n{takeovers(arena.dsn)} takeovers, {writers.interrupted} transactions cut off")
    for name, times in sorted(faults.times.items()):
        print(f"{name}: {len(times)} times, publishing again after {median(times):.2f} s, at most {max(times):.2f} s")
    assert writers.failed == []
    assert verdict.found == set()
    assert verdict.duplicates > 0
    assert verdict.committed > 20 * count
