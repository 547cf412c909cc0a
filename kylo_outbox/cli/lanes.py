"""The verb `lanes`: who relays which slots of each store, and how far."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kylo_outbox.cli.context import Context, opened
from kylo_outbox.cli.errors import PARTLY
from kylo_outbox.cli.output import AsJson, duration, print_json, print_table, say
from kylo_outbox.cli.stores import ask_all
from kylo_outbox.model.errors import Misconfigured
from kylo_outbox.store import sides
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


@_group.command("set")
def set_lanes(
    count: Annotated[int, typer.Argument(help="How many lanes, 1 to 16.", min=1, max=sides.MOST_LANES)],
    *,
    only: Annotated[str | None, typer.Option("--store", help="This store alone.", metavar="STORE_ID")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Cut a store into so many lanes, so that several relay processes can share its work.

    Running relays lose their lanes and take the new ones within a second; what they had sent beyond the slowest
    lane's cursor is sent again under the same ids, in order. More lanes than relay processes gain nothing.

    Example: kylo-outbox lanes set 4 --yes
    """
    if not yes and not dry_run:
        raise Misconfigured("lanes set: running relays start over; pass --yes to do it, or --dry-run to look")

    def cut(connection: Any) -> list[tuple[int, int, int]]:
        return sides.cut(count) if dry_run else sides.set_lanes(psycopg_of(connection), count)

    with opened() as context:
        answers, complete = ask_all(context, cut, only=only)
    made = [(store, *lane) for store, found in answers for lane in found]
    if as_json:
        print_json([dict(zip(("store", "lane", "slot_from", "slot_to"), each, strict=True)) for each in made])
    else:
        print_table(
            ("store", "lane", "slots"), [(store, lane, f"{first}-{end - 1}") for store, lane, first, end in made]
        )
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
