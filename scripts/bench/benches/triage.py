"""Triage and replay of many transactions against many rules, beside a plain COPY of the same rows."""

from __future__ import annotations

import time
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

from kylo_outbox.model.rules import Rule
from kylo_outbox.model.transactions import txn_uid
from kylo_outbox.store import company_state, pending, proposals, rules
from scripts.bench.figures import Figure, ratios
from scripts.bench.rounds import interleaved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

ROWS, RULES, FEW_RULES = 50_000, 5_000, 50
_PLAIN = """
create temporary table plain (batch bigint, company_id text, txn_uid uuid, txn_id text, occurred_at date,
                              amount_cents bigint, description text, description_norm text) on commit drop
"""
_COPY = "copy plain from stdin"


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """A fresh database for each measurement: half of the rows match, the other half is resolved by a promotion."""
    count = max(2_000, int(ROWS * scale))
    many = max(200, int(RULES * scale))
    replayed: list[float] = []
    found = interleaved(
        rounds,
        {
            "copy": partial(_copied, stage, count),
            "few": partial(_triaged, stage, count, FEW_RULES, []),
            "many": partial(_triaged, stage, count, many, replayed),
        },
    )
    return [
        Figure(f"{many:,} rules / {FEW_RULES} rules", "x", ratios(found["many"], found["few"])),
        Figure("triage / plain COPY of the same rows", "x", ratios(found["many"], found["copy"])),
        Figure(
            f"triage against {many:,} rules", "transactions/s", tuple(found["many"]), note=f"{count:,} rows at once"
        ),
        Figure(f"triage against {FEW_RULES} rules", "transactions/s", tuple(found["few"])),
        Figure("replay after a promotion", "resolved items/s", tuple(replayed), note="half of the rows"),
        Figure("plain COPY", "rows/s", tuple(found["copy"])),
    ]


def _slice(count: int, sources: int) -> list[pending.Staged]:
    texts = [f"shop {number}" for number in range(2 * sources)]
    at = date(2025, 8, 26)
    return [
        pending.Staged(1, "710", txn_uid("710", f"t{n}"), f"t{n}", at, n, texts[n % len(texts)], texts[n % len(texts)])
        for n in range(count)
    ]


def _promote(database: Database, sources: Sequence[str]) -> int:
    new = [Rule(source, "PETTY CASH", "Food") for source in sources]
    with database.transaction() as tx:
        version = company_state.lock(tx, ["710"])["710"]
        made, _ = proposals.propose(tx, "710", new, "bench")
        proposals.approve(tx, "710", [each.proposal for each in made], "bench")
        return rules.promote(tx, "710", version, request_id=None, asked_by="bench").resolved


def _triaged(stage: Stage, count: int, sources: int, replayed: list[float]) -> float:
    rows = _slice(count, sources)
    with stage.database() as database:
        _promote(database, [f"shop {number}" for number in range(sources)])
        begun = time.perf_counter()
        with database.transaction() as tx:
            pending.triage(tx, rows)
        between = time.perf_counter()
        resolved = _promote(database, [f"shop {number}" for number in range(sources, 2 * sources)])
        replayed.append(resolved / (time.perf_counter() - between))
    return count / (between - begun)


def _copied(stage: Stage, count: int) -> float:
    rows = _slice(count, FEW_RULES)
    with stage.database() as database, database.transaction() as tx:
        tx.execute(_PLAIN)
        begun = time.perf_counter()
        with tx.cursor() as cursor, cursor.copy(_COPY) as copy:
            for row in rows:
                copy.write_row(row)
        return count / (time.perf_counter() - begun)
