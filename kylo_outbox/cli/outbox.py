"""The verbs `outbox ls / show`: events that Kafka has not acknowledged, in every store. Those that act: `holds`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from kylo_outbox.cli import holds
from kylo_outbox.cli.context import opened
from kylo_outbox.cli.errors import PARTLY
from kylo_outbox.cli.output import AsJson, duration, print_json, print_table, say
from kylo_outbox.cli.stores import ask_all
from kylo_outbox.model.errors import Misconfigured, Refused
from kylo_outbox.store import delayed as delayed_events
from kylo_outbox.store import waiting

if TYPE_CHECKING:
    from kylo_outbox.store.waiting import TopicBacklog, Waiting

_group = typer.Typer(help="Events that wait for Kafka.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    holds.register(_group)
    app.add_typer(_group, name="outbox")


@_group.command()
def ls(
    *,
    topic: Annotated[str | None, typer.Option(help="Only this topic.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this key, such as a company's id.")] = None,
    held: Annotated[bool, typer.Option("--held", help="Only events that are set aside, with the reason.")] = False,
    delayed: Annotated[bool, typer.Option("--delayed", help="Events that wait for their `available_at`.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many events of each store.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """List events that Kafka has not acknowledged, oldest first, and how old the oldest is.

    With --delayed those instead whose time has not come, the next one first. Exits with 4 if a store could not be
    asked.

    Example: kylo-outbox outbox ls --topic txns.company.batches --limit 5
    """
    if delayed:
        if held:
            raise Misconfigured("--held and --delayed are different lists; ask for one of them")
        _list_delayed(topic, key, limit, as_json=as_json)
        return

    def question(connection: Any) -> tuple[list[TopicBacklog], list[Waiting]]:
        listed = waiting.events(connection, topic=topic, key=key, held_only=held, limit=limit)
        return waiting.backlog(connection, topic=topic, key=key), listed

    with opened() as context:
        answers, complete = ask_all(context, question)
    count = sum(each.messages for _, (backlog, _) in answers for each in backlog)
    oldest = max((each.oldest_age for _, (backlog, _) in answers for each in backlog), default=None)
    events = [(store, event) for store, (_, listed) in answers for event in listed]
    if as_json:
        print_json(
            {
                "waiting": count,
                "oldest_age_seconds": oldest,
                "topics": [{"store": store, **asdict(each)} for store, (backlog, _) in answers for each in backlog],
                "events": [{"store": store, **asdict(event)} for store, event in events],
            }
        )
    else:
        if events:
            print_table(
                ("store", "id", "topic", "key", "type", "age", "held because"),
                [(store, e.id, e.topic, e.key, e.type, duration(e.age), e.held) for store, e in events],
            )
        age = f", the oldest for {duration(oldest)}" if oldest is not None else ""
        say(f"{count} events wait{age}")
    if not complete:
        raise typer.Exit(PARTLY)


def _list_delayed(topic: str | None, key: str | None, limit: int, *, as_json: bool) -> None:
    with opened() as context:
        answers, complete = ask_all(context, partial(delayed_events.events, topic=topic, key=key, limit=limit))
    count = sum(waits for _, (waits, _) in answers)
    events = [(store, event) for store, (_, listed) in answers for event in listed]
    if as_json:
        print_json({"delayed": count, "events": [{"store": store, **asdict(event)} for store, event in events]})
    else:
        if events:
            print_table(
                ("store", "topic", "key", "type", "event id", "available at"),
                [(store, e.topic, e.key, e.type, e.event_id, e.available_at) for store, e in events],
            )
        say(f"{count} events wait for their time")
    if not complete:
        raise typer.Exit(PARTLY)


@_group.command()
def show(
    event: Annotated[str, typer.Argument(metavar="ID", help="Its id in the outbox, or its event id.")],
    *,
    store: Annotated[str | None, typer.Option(help="Which store, if several have this id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show one event whole, published or not.

    Example: kylo-outbox outbox show 4711
    """
    _check_id(event)
    with opened() as context:
        answers, complete = ask_all(context, partial(waiting.event, wanted=event))
    found = [(name, each) for name, each in answers if each is not None and store in {None, name}]
    if not found:
        where = "" if complete else " in the stores that answered"
        raise Refused(
            [f"{event}: there is no such event{where}; old ones leave KYLO_OUTBOX_RETENTION after publishing"]
        )
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        raise Misconfigured(f"{event}: several stores have this id; say --store with one of {names}")
    [(name, whole)] = found
    shape = {"store": name, **asdict(whole)}
    if as_json:
        print_json(shape)
    else:
        print_table(("field", "value"), list(shape.items()))


def _check_id(event: str) -> None:
    if event.isdigit() and event.isascii() and len(event) < 19:  # noqa: PLR2004 - digits of a bigint
        return
    try:
        UUID(event)
    except ValueError:
        raise Misconfigured(f"{event}: neither an id of the outbox (digits) nor an event id (a UUID)") from None
