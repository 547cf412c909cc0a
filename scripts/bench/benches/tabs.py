"""Tables to tabs through the official client and the stand-in: the first rows, a day's rows, one changed row."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kylo_outbox.model.marks import Marks
from kylo_outbox.sheets.standin import background
from kylo_outbox.store import sheet_tabs
from scripts.bench.figures import Figure, Goal
from tests.helpers.tabs import Office, Standin

if TYPE_CHECKING:
    from kylo_outbox.store.engine import Database
    from scripts.bench.stage import Stage

FIRST, DAILY, LARGE = 4_000, 100, 20_000
# What the former system was to keep; Google's own time for a call comes on top of ours.
FIRST_SECONDS, DAILY_SECONDS = 600.0, 120.0


def run(stage: Stage, rounds: int, scale: float) -> list[Figure]:
    """One company with a tab of its own in each round."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, value in _round(stage, max(1_000, int(LARGE * scale))).items():
            found.setdefault(name, []).append(value)

    def of(name: str, unit: str, most: float | None = None) -> Figure:
        goal = Goal("Sheets", most, at_least=False) if most is not None else None
        return Figure(name, unit, tuple(found[name]), goal)

    return [
        of("first 4,000 rows", "s", FIRST_SECONDS),
        of("100 rows more", "s", DAILY_SECONDS),
        of("writes of first 4,000 rows", "calls", 2),
        of("writes of 100 rows more", "calls", 1),
        of("writes of one changed row in a large tab", "calls", 1),
        of("bytes of that write", "B", 2_000),
        of("one changed row in a large tab", "s"),
    ]


def _round(stage: Stage, large: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, stage.database() as database, background.running(Path(folder)) as url:
        office = Office(database, Standin(url))
        with closing(office.gateway):
            return _measured(office, database, large)


def _measured(office: Office, database: Database, large: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for rows, name in ((FIRST, "first 4,000 rows"), (DAILY, "100 rows more")):
        office.leave_open(rows)
        found[name], found[f"writes of {name}"], _ = _post(office)
    ids = office.leave_open(max(1, large - FIRST - DAILY))
    _post(office)
    with database.transaction() as tx:
        sheet_tabs.put_marks(tx, "710", {ids[len(ids) // 2]: Marks("look at this")})
    name = "one changed row in a large tab"
    found[name], found[f"writes of {name}"], found["bytes of that write"] = _post(office)
    return found


def _post(office: Office) -> tuple[float, float, float]:
    """(seconds, write calls, bytes of their requests) of one turn."""
    send, sizes = office.gateway.batch_update, []

    def watched(spreadsheet_id: str, requests: Any) -> Any:
        sizes.append(len(str(requests)))
        return send(spreadsheet_id, requests)

    office.gateway.batch_update = watched  # type: ignore[method-assign]
    begun = time.perf_counter()
    office.post()
    took = time.perf_counter() - begun
    office.gateway.batch_update = send  # type: ignore[method-assign]
    return took, float(len(sizes)), float(sum(sizes))
