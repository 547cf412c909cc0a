"""The story of one ingest, on real servers: from a POST to rows in two tabs, and what a second identical POST does.

Run it with `python3 scripts/dev.py demo`. It needs no server, keeps to `.kylo/demo`, and ends what it started.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from rich.console import Console
from rich.table import Table

from kylo_outbox.local.paths import data_dir
from kylo_outbox.local.stack import Stack
from kylo_outbox.model.errors import KyloError
from kylo_outbox.model.tabs import PENDING_COLUMNS
from kylo_outbox.model.transactions import txn_uid
from scripts import flow

if TYPE_CHECKING:
    from types import FrameType

_WORKBOOK = "demo"
_COMPANIES = ("710", "711")
# The payload of the runbook.
_TRANSACTIONS = [
    {"id": "t1", "company_id": "710", "date": "2025-08-26", "amount": -12.34, "description": "STARBUCKS"},
    {"id": "t2", "company_id": "711", "date": "2025-08-26", "amount": 45.67, "description": "WALMART"},
    {"id": "t3", "company_id": "710", "date": "2025-08-26", "amount": 10.00, "description": "UNKNOWN"},
]
_STAGES = {
    "saved": "stored with its event, in one transaction",
    "published": "acknowledged by Kafka, and noted by the relay",
    "applied": "in pending_txns",
    "posted": "in the tab",
}
_FLOW_SECONDS = 60.0
# How long the second post is watched for a change that must not come.
_QUIET_SECONDS = 1.5

talk = Console(stderr=True, highlight=False)
show = Console(highlight=False)


def main() -> int:
    """Tell the story; 0 when all of it was true."""
    keep = "--keep" in sys.argv[1:]
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    stack = Stack(data_dir() / "demo", isolated=True, say=_Steps())
    try:
        stack.up(fresh=True, meanwhile=lambda: flow.add_companies(stack, _COMPANIES, workbook=_WORKBOOK))
        served = time.monotonic()
        show.print(f"\nReal PostgreSQL, real Kafka and the pipeline serve after {served - begun:.1f} s.\n")
        _story(stack)
    except KyloError as error:
        talk.print(str(error), style="red", markup=False)
        stack.down()
        return 1
    except KeyboardInterrupt:
        talk.print("ending ...")
        stack.down()
        return 1
    if keep:
        _addresses(stack)
    else:
        stack.down()
    show.print(f"All of it took {time.monotonic() - begun:.1f} s.")
    return 0


def _story(stack: Stack) -> None:
    first = flow.post(stack, _TRANSACTIONS)
    show.print(f"POST {flow.WEBHOOK} with {len(_TRANSACTIONS)} transactions answered {json.dumps(first)}")
    flow.wait_for(stack, lambda: _tabs_are_right(stack), what="the rows in the tabs", timeout=_FLOW_SECONDS)
    before = (_tabs(stack), flow.writes(stack))
    second = flow.post(stack, _TRANSACTIONS)
    # The other door knows the same content too, and names the batch that it has been since the first POST.
    batch = str(flow.post(stack, _TRANSACTIONS, door=flow.API)["batch_id"])
    flow.wait_for(
        stack, lambda: _is_whole(_road(stack, batch)), what="the last stage of the road", timeout=_FLOW_SECONDS
    )
    road = _road(stack, batch)
    _print_road(road)
    time.sleep(_QUIET_SECONDS)  # an event that must not come cannot be awaited
    if second != first or before != (_tabs(stack), flow.writes(stack)) or road != _road(stack, batch):
        raise KyloError(f"a second identical POST changed something; logs are in {stack.log_file('api').parent}")
    show.print("\nThe same POST again got the same answer and changed nothing: no new row, no write to any tab.\n")
    for company in _COMPANIES:
        _print_tab(stack, company)


def _expected(company: str) -> list[list[Any]]:
    """Return what identifies the rows of a company's tab: Row_Hash, Date, Source, Company_ID, Amount."""
    return sorted(
        [str(txn_uid(company, str(t["id"]))), t["date"], t["description"], company, t["amount"]]
        for t in _TRANSACTIONS
        if t["company_id"] == company
    )


def _tabs_are_right(stack: Stack) -> bool:
    tabs = _tabs(stack)
    return all(
        tabs[company][:1] == [list(PENDING_COLUMNS)]
        and sorted(row[:5] for row in tabs[company][1:]) == _expected(company)
        for company in _COMPANIES
    )


def _tabs(stack: Stack) -> dict[str, list[flow.Row]]:
    return {c: flow.tab(stack, f"{_WORKBOOK}-{c}", f"{c} Pending") for c in _COMPANIES}


def _road(stack: Stack, batch_id: str) -> dict[str, str]:
    """Return the stages of the first company's event with the moment (ISO) that each was reached."""
    batch = flow.call(stack, f"/v1/batches/{batch_id}")
    mine = next(each for each in batch["companies"] if each["company_id"] == _COMPANIES[0])
    return {each["stage"]: each["at"] for each in mine["stages"] if each["at"]}


def _is_whole(road: dict[str, str]) -> bool:
    return all(stage in road for stage in _STAGES)


def _print_road(road: dict[str, str]) -> None:
    table = Table(title="The road of t1 (company 710)", title_justify="left")
    for name in ("stage", "what", "since the POST", "this stage"):
        table.add_column(name, justify="right" if name.startswith(("since", "this")) else "left")
    # In the order of the clock: the relay's note may be written after a projector has applied the event.
    reached = sorted((datetime.fromisoformat(road[stage]), stage) for stage in _STAGES)
    start = last = reached[0][0]
    for at, stage in reached:
        table.add_row(stage, _STAGES[stage], _ms(start, at), _ms(last, at))
        last = at
    show.print(table)


def _ms(since: datetime, at: datetime) -> str:
    return f"{(at - since).total_seconds() * 1000:.0f} ms"


def _print_tab(stack: Stack, company: str) -> None:
    head, *rows = _tabs(stack)[company]
    table = Table(title=f"{company} Pending", title_justify="left")
    # Eleven columns are too wide for a terminal; the empty ones are for people to fill in.
    shown = [i for i, name in enumerate(head) if any(i < len(row) and row[i] != "" for row in rows)]
    for i in shown:
        table.add_column(str(head[i]), overflow="fold")
    for row in rows:
        table.add_row(*(str(row[i]) if i < len(row) else "" for i in shown))
    show.print(table)


def _addresses(stack: Stack) -> None:
    env = stack.env()
    show.print(f"\nIt goes on running. API: {env['KYLO_API_URL']}  health: {env['KYLO_API_URL']}/health/kafka")
    show.print(f"Tabs: {env['KYLO_SHEETS_ENDPOINT']}")
    command = Path(sys.executable).with_name("kylo-outbox")
    show.print(f"Settings: KYLO_DATA_DIR={env['KYLO_DATA_DIR']} {command} env")
    show.print(f"End it:   KYLO_DATA_DIR={env['KYLO_DATA_DIR']} {command} down\n", soft_wrap=True)


class _Steps:
    """Says what happens with the time since the start; in a terminal, counting lines replace one another."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def __call__(self, line: str) -> None:
        """Say one line."""
        counting = " of " in line
        if not counting or talk.is_terminal or line.split(" of ", maxsplit=1)[0].endswith("0"):
            end = "\r" if counting and talk.is_terminal else "\n"
            talk.print(f"{time.monotonic() - self._begun:6.1f} s  {line}", markup=False, end=end)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
