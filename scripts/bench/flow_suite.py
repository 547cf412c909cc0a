"""How long this machine takes from a POST to the tabs, against the targets of the people who use it.

The suite `flow`. It keeps to `.kylo/bench/flow` and ends what it started.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from kylo_outbox.local.paths import data_dir
from kylo_outbox.local.stack import Stack
from kylo_outbox.model.errors import KyloError
from scripts import flow

_WORKBOOK = "bench"
_A_REQUEST = 1_000
_GIVE_UP = 2.0

talk = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Load:
    """One load: how many rows of how many companies, and the seconds within which they must be in the tabs."""

    name: str
    rows: int
    companies: int
    limit: float


@dataclass(frozen=True)
class Result:
    """What one load took, in seconds from its first POST."""

    name: str
    rows: int
    companies: int
    answered: float
    in_tabs: float
    limit: float

    @property
    def good(self) -> bool:
        """Whether the target was met."""
        return self.in_tabs <= self.limit


_LOADS = (Load("daily rows", 100, 2, 120), Load("first rows", 4_000, 20, 600))
_LONG = (Load("a hundred companies", 20_000, 100, 1_800),)


def run(*, full: bool, as_json: bool) -> int:
    """Run the loads and print what they took; 0 when every target was met."""
    stack = Stack(data_dir() / "bench" / "flow", isolated=True, say=lambda line: talk.print(line, markup=False))
    results: list[Result] = []
    try:
        stack.up(fresh=True)
        for load in (*_LOADS, *(_LONG if full else ())):
            talk.print(f"{load.name}: {load.rows} rows of {load.companies} companies ...")
            results.append(_load(stack, load))
    except KyloError as error:
        talk.print(str(error), style="red", markup=False)
        return 1
    finally:
        stack.down()
    if as_json:
        print(json.dumps([asdict(result) | {"good": result.good} for result in results], indent=2))
    else:
        Console(highlight=False).print(_table(results))
    return 0 if all(result.good for result in results) else 1


def _load(stack: Stack, load: Load) -> Result:
    """Post a load and wait until every row is in its tab."""
    companies = [f"{load.companies}{number:04}" for number in range(load.companies)]
    flow.add_companies(stack, companies, workbook=_WORKBOOK)
    rows = [
        {
            "id": f"b{number}",
            "company_id": companies[number % load.companies],
            "date": "2025-08-26",
            "amount": f"{number % 977}.{number % 100:02}",
            "description": f"bench row {number}",
        }
        for number in range(load.rows)
    ]
    expected = Counter(row["company_id"] for row in rows)
    begun = time.monotonic()
    for first in range(0, load.rows, _A_REQUEST):
        flow.post(stack, rows[first : first + _A_REQUEST])
    answered = time.monotonic() - begun
    waiting = set(companies)

    def arrived() -> bool:
        for company in sorted(waiting):
            found = len(flow.tab(stack, f"{_WORKBOOK}-{company}", f"{company} Pending")) - 1
            if found < expected[company]:
                return False
            waiting.discard(company)
        return True

    flow.wait_for(stack, arrived, what=f"{load.rows} rows in the tabs", timeout=load.limit * _GIVE_UP)
    took = time.monotonic() - begun
    return Result(load.name, load.rows, load.companies, round(answered, 2), round(took, 2), load.limit)


def _table(results: list[Result]) -> Table:
    table = Table(title="From the first POST to the tabs", title_justify="left")
    for name in ("load", "rows", "companies", "all answered", "all in their tabs", "rows/s", "target", ""):
        table.add_column(name, justify="left" if name == "load" else "right")
    for each in results:
        verdict = "[green]met[/]" if each.good else "[red]missed[/]"
        figures = (f"{each.answered:.1f} s", f"{each.in_tabs:.1f} s", f"{each.rows / each.in_tabs:.0f}")
        table.add_row(each.name, str(each.rows), str(each.companies), *figures, f"{each.limit:.0f} s", verdict)
    return table
