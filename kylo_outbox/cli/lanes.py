"""The verb `lanes`: who relays which slots of each store, and how far."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kylo_outbox.cli.context import Context, opened
from kylo_outbox.cli.errors import PARTLY
from kylo_outbox.cli.output import AsJson, duration, print_json, print_table, say
from kylo_outbox.cli.stores import ask_all
from kylo_outbox.store.engine import psycopg_of
from kylo_outbox.store.standing import standing

if TYPE_CHECKING:
    from kylo_outbox.store.standing import Standing

_group = typer.Typer(help="Who relays which slots of each store, and how far.", invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add this group to the command."""
    app.add_typer(_group, name="lanes")


@_group.callback()
def lanes(
    ctx: typer.Context,
    *,
    rate: Annotated[bool, typer.Option("--rate", help="Look twice, a second apart, and tell the rate.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show each lane: its slots, who holds it, for how long still, its cursor and what it has acknowledged.

    Exits with 4 if a store could not be asked.

    Example: kylo-outbox lanes --rate
    """
    if ctx.invoked_subcommand is not None:
        return
    with opened() as context:
        before, began = (_standing(context)[0], time.monotonic()) if rate else ({}, 0.0)
        if rate:
            time.sleep(1)
        now, complete = _standing(context)
        seconds = time.monotonic() - began
    rows = [
        {
            "store": place[0],
            **lane._asdict(),
            "led": lane.led,
            "rate": (lane.acknowledged - before[place].acknowledged) / seconds if place in before else None,
        }
        for place, lane in now.items()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(
            ("store", "lane", "slots", "holder", "epoch", "lease left", "cursor", "acknowledged", "per second"),
            [_cells(row) for row in rows],
        )
    for row in rows:
        if not row["led"]:
            say(f"{row['store']}/{row['lane']}: nobody leads; start `kylo-outbox relay`")
    if not complete:
        raise typer.Exit(PARTLY)


def _standing(context: Context) -> tuple[dict[tuple[str, int], Standing], bool]:
    answers, complete = ask_all(context, lambda connection: standing(psycopg_of(connection)))
    return {(store, lane.lane): lane for store, found in answers for lane in found}, complete


def _cells(row: dict[str, Any]) -> list[Any]:
    side = f" (side of {row['parent']})" if row["parent"] is not None else ""
    return [
        row["store"],
        f"{row['lane']}{side}",
        f"{row['slot_from']}-{row['slot_to'] - 1}",
        row["holder"] if row["led"] else None,
        row["epoch"],
        duration(row["lease_left"]) if row["led"] else "",
        row["high_water"],
        row["acknowledged"],
        None if row["rate"] is None else f"{row['rate']:.0f}",
    ]
