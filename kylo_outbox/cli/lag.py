"""The verb `lag`: how far every stage is behind, the relay (group `kafka-publisher`) and each consumer group."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kylo_outbox.cli.context import Context, opened
from kylo_outbox.cli.errors import PARTLY
from kylo_outbox.cli.output import AsJson, duration, print_json, print_table, say
from kylo_outbox.cli.stores import ask_all
from kylo_outbox.kafka.lag import Lag
from kylo_outbox.model.errors import Misconfigured, Transient
from kylo_outbox.store import waiting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RELAY_GROUP: Final = "kafka-publisher"


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(lag)


def lag(
    *,
    group: Annotated[list[str] | None, typer.Option(help="Only these groups; may be repeated.")] = None,
    topic: Annotated[list[str] | None, typer.Option(help="With a group of your own: its topics.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Show partitions without lag as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is unread: per group, topic and partition, in messages and seconds.

    The relay appears as group kafka-publisher with what waits in each store. Seconds are the age of the first unread
    record; empty where it could not be told within two seconds. Exits with 4 if Kafka or a store could not be asked.

    Example: kylo-outbox lag --json
    """
    with opened() as context:
        groups = _groups(context, group or [], topic or [])
        rows, complete = _relay(context) if not group or RELAY_GROUP in group else ([], True)
        try:
            rows += [{"store": None, **asdict(each)} for each in Lag(context.kafka).of(groups)] if groups else []
        except Transient as away:
            if not rows and complete:
                raise
            say(str(away))
            complete = False
    if as_json:
        print_json(rows)
    else:
        shown = [row for row in rows if every or row["messages"]]
        if shown:
            print_table(
                ("group", "store", "topic", "partition", "messages", "seconds"),
                [
                    (r["group"], r["store"], r["topic"], r["partition"], r["messages"], duration(r["seconds"]))
                    for r in shown
                ],
            )
        behind = sum(row["messages"] for row in rows)
        say(f"{behind} unread in {len({row['group'] for row in rows})} groups")
    if not complete:
        raise typer.Exit(PARTLY)


def _relay(context: Context) -> tuple[list[dict[str, Any]], bool]:
    answers, complete = ask_all(context, waiting.backlog)
    rows = [
        {
            "store": store,
            "group": RELAY_GROUP,
            "topic": each.topic,
            "partition": None,
            "committed": None,
            "end": None,
            "messages": each.messages,
            "seconds": each.oldest_age,
        }
        for store, backlog in answers
        for each in backlog
    ]
    return rows, complete


def _groups(context: Context, only: Sequence[str], topics: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Topics by group: those of our projectors, or the ones that were asked for."""
    from kylo_outbox.wiring import projectors  # noqa: PLC0415 - loads Google's client, which no other verb here needs

    # Names are wanted, no calls: without this the Sheets projector would look for Google's credentials.
    quiet = replace(context.parts, settings=context.settings.model_copy(update={"sheets_post": False}))
    known: dict[str, Sequence[str]] = {}
    for name in projectors.NAMES:
        projector = projectors.named(quiet, name)
        known[projector.group or projector.name] = projector.topics
    if not only:
        return known
    asked = [name for name in only if name != RELAY_GROUP]
    strange = [name for name in asked if name not in known]
    if strange and not topics:
        raise Misconfigured(f"lag: {', '.join(strange)} is no group of ours; say its topics with --topic")
    return {name: known.get(name, topics) for name in asked}
