"""The verdict over a run: the writers' ledger against what an independent consumer finds in the log."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from tests.helpers.broker import first_appearances, inversions, read_all
from tests.helpers.lane_watch import owned_twice

if TYPE_CHECKING:
    from tests.helpers.broker import Seen
    from tests.helpers.writers import Writers

_HELD = "select convert_from(key, 'UTF8'), id, event_id::text from kylo.outbox_held where topic = %s"


@dataclass(frozen=True)
class Verdict:
    """Figures of a run; `found` names what is wrong."""

    committed: int
    records: int
    duplicates: int
    # Committed, and neither in the log nor held for a reason that people can read.
    lost: int
    # In the log and never committed.
    ghosts: int
    # First appearances of a key after a later one of it, or before one of it that is held.
    inversions: int
    # Wallets whose events do not count 1, 2, 3 ... up to what their row says.
    uncounted: int
    owned_twice: tuple[str, ...]

    @property
    def found(self) -> set[str]:
        """The promises that were broken."""
        names = ("lost", "ghosts", "inversions", "uncounted", "owned_twice")
        return {name for name in names if getattr(self, name)}


def judge(bootstrap: str, topic: str, dsn: str, ledger: Writers | set[str]) -> Verdict:
    """Read everything and compare."""
    records = read_all(bootstrap, topic)
    with psycopg.connect(dsn) as connection:
        held = connection.execute(_HELD, (topic,)).fetchall()
        wallets: dict[str, int] = {}
        if connection.execute("select to_regclass('wallets_of_test')").fetchone() != (None,):
            wallets = dict(connection.execute("select key, version from wallets_of_test").fetchall())
    expected = ledger if isinstance(ledger, set) else ledger.committed
    seen = {record.event_id for record in records}
    unseen = expected - seen
    waiting = {event_id for _, _, event_id in held}
    firsts = first_appearances(records)
    return Verdict(
        committed=len(expected),
        records=len(records),
        duplicates=len(records) - len(firsts),
        lost=len(unseen - waiting),
        ghosts=len(seen - expected),
        inversions=inversions(records) + _passed(firsts, [(key, number) for key, number, _ in held]),
        uncounted=_uncounted(firsts, wallets) if not waiting else 0,
        owned_twice=tuple(owned_twice(dsn)),
    )


def _passed(firsts: list[Seen], held: list[tuple[str, int]]) -> int:
    """How many records are in the log although an earlier one of their key is held."""
    oldest: dict[str, int] = {}
    for key, number in held:
        oldest[key] = min(number, oldest.get(key, number))
    return sum(1 for record in firsts if record.outbox_id > oldest.get(record.key, record.outbox_id))


def _uncounted(firsts: list[Seen], wallets: dict[str, int]) -> int:
    versions: dict[str, list[int]] = defaultdict(list)
    for record in firsts:
        if record.key in wallets:
            versions[record.key].append(json.loads(record.value)["version"])
    return sum(versions[key] != list(range(1, version + 1)) for key, version in wallets.items())
