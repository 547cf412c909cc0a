"""The verbs `dlq ls / show / held / preview / notices`: dead letters and what waits behind them, in every store."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kylo_outbox.cli.context import opened
from kylo_outbox.cli.errors import PARTLY
from kylo_outbox.cli.output import AsJson, print_json, print_table, say
from kylo_outbox.cli.stores import ask_all
from kylo_outbox.model.errors import Misconfigured, Refused
from kylo_outbox.store import desk, notices
from kylo_outbox.store.engine import psycopg_of

if TYPE_CHECKING:
    from kylo_outbox.cli.context import Context
    from kylo_outbox.store.desk import Filter, HeldKey, Letter, WholeLetter

group = typer.Typer(help="Dead letters and the events that wait behind them.", no_args_is_help=True)

Topic = Annotated[str | None, typer.Option(help="Only this topic.")]
Company = Annotated[str | None, typer.Option("--company", "--key", help="Only this key, such as a company's id.")]
Stage = Annotated[str | None, typer.Option(help="Only this projector, or `relay`.")]
Like = Annotated[str | None, typer.Option(help="Only those whose reason contains this text.")]
Since = Annotated[str | None, typer.Option(help="Not older than: 30m, 2h, 7d, or 2026-11-21T08:00.")]
Until = Annotated[str | None, typer.Option(help="Older than, in the same forms.")]
StoreId = Annotated[str | None, typer.Option("--store", help="Only this store, by its id.")]
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@group.command()
def ls(
    *,
    topic: Topic = None,
    company: Company = None,
    stage: Stage = None,
    like: Like = None,
    since: Since = None,
    until: Until = None,
    store: StoreId = None,
    settled: Annotated[bool, typer.Option("--all", help="Settled ones too.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many of each store.", min=1)] = 100,
    as_json: AsJson = False,
) -> None:
    """List dead letters that nobody has settled, the oldest first, and how many events wait behind each.

    Exits with 4 if a store could not be asked.

    Example: kylo-outbox dlq ls --topic txns.company.batches --like "unknown company" --json
    """
    wanted = desk.Filter(
        stage=stage,
        topic=topic,
        key=company,
        like=like,
        since=moment(since, "--since"),
        until=moment(until, "--until"),
        settled=settled,
        limit=limit,
    )
    with opened() as context:
        found, complete = letters_of(context, wanted, store)
        open_notices = _notices(context)
    if as_json:
        print_json([shape(name, letter) for name, letter in found])
    else:
        print_table(
            ("id", "store", "stage", "topic", "key", "reason", "attempts", "at", "waiting behind"),
            [(x.id, name, x.stage, x.topic, x.key, x.reason, x.attempts, x.at, x.waiting_behind) for name, x in found],
        )
        say(f"{len(found)} dead letters")
    for notice in open_notices:
        say(f"{notice.projector}: {notice.detail}")
    if not complete:
        raise typer.Exit(PARTLY)


@group.command()
def show(
    letter: Annotated[int, typer.Argument(metavar="ID", help="Its number in `dlq ls`.")],
    *,
    store: StoreId = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter whole: payload, headers, where it came from, the stack of its error.

    Example: kylo-outbox dlq show 12
    """
    with opened() as context:
        name, found = one(context, letter, store)
    whole = {
        **shape(name, found.letter),
        "payload": text_of(found.payload),
        "original": text_of(found.original),
        "headers": found.headers,
        "created_at": found.created_at,
        "detail": found.detail,
    }
    if as_json:
        print_json(whole)
    else:
        print_table(("field", "value"), list(whole.items()))


@group.command()
def held(
    *,
    topic: Topic = None,
    company: Company = None,
    stage: Stage = None,
    store: StoreId = None,
    as_json: AsJson = False,
) -> None:
    """List keys whose events wait: behind a dead letter, or because the database of their company is away.

    Example: kylo-outbox dlq held --company 710
    """
    wanted = desk.Filter(stage=stage, topic=topic, key=company)
    with opened() as context:
        answers, complete = ask_all(context, lambda connection: desk.held(psycopg_of(connection), wanted))
    found = [(name, each) for name, listed in answers if store in {None, name} for each in listed]
    if as_json:
        print_json([_held_shape(name, each) for name, each in found])
    else:
        print_table(
            ("store", "stage", "topic", "key", "waiting", "since", "behind", "why"),
            [(name, e.projector, e.topic, e.key, e.waiting, e.since, e.dead_letter_id, e.reason) for name, e in found],
        )
    if not complete:
        raise typer.Exit(PARTLY)


@group.command("notices")
def list_notices(*, as_json: AsJson = False) -> None:
    """List what projectors want people to know: an open circuit, records lost to retention, changed partitions.

    Example: kylo-outbox dlq notices
    """
    with opened() as context:
        found = _notices(context)
    if as_json:
        print_json([asdict(notice) for notice in found])
    else:
        print_table(
            ("stage", "kind", "about", "since", "detail"),
            [(n.projector, n.kind, n.subject, n.since, n.detail) for n in found],
        )


def letters_of(context: Context, wanted: Filter, store: str | None) -> tuple[list[tuple[str, Letter]], bool]:
    """(store id, dead letter) of every store that answers, and whether all did."""
    answers, complete = ask_all(context, lambda connection: desk.find(psycopg_of(connection), wanted))
    return [(name, letter) for name, listed in answers if store in {None, name} for letter in listed], complete


def one(context: Context, letter: int, store: str | None) -> tuple[str, WholeLetter]:
    """The dead letter of this number.

    Raises:
        Refused: there is none.
        Misconfigured: several stores have one.
    """
    answers, complete = ask_all(context, partial(_whole, letter=letter))
    found = [(name, each) for name, each in answers if each is not None and store in {None, name}]
    if not found:
        where = "" if complete else " in the stores that answered"
        raise Refused([f"{letter}: there is no such dead letter{where}; `kylo-outbox dlq ls --all` lists them"])
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        raise Misconfigured(f"{letter}: several stores have this number; say --store with one of {names}")
    return found[0]


def shape(store: str, letter: Letter) -> dict[str, Any]:
    """A dead letter as `dlq ls --json` prints it; names are promises."""
    return {
        "id": letter.id,
        "stage": letter.stage,
        "topic": letter.topic,
        "key": letter.key,
        "event_id": letter.event_id,
        "outbox_id": letter.outbox_id,
        "reason": letter.reason,
        "error_class": letter.error_class,
        "attempts": letter.attempts,
        "at": letter.at,
        "waiting_behind": letter.waiting_behind,
        "store": store,
        "type": letter.type,
        "policy": letter.policy,
        "outcome": letter.outcome,
        "settled_at": letter.settled_at,
        "releases": letter.releases,
        "released": letter.released,
        "partition": letter.partition,
        "offset": letter.offset,
    }


def moment(text: str | None, option: str) -> datetime | None:
    """A time as people write it: an age (30m, 2h, 7d) or a date with or without a time (UTC unless it says more).

    Raises:
        Misconfigured: it is neither.
    """
    if text is None:
        return None
    try:
        if text[-1:] in _UNITS and text[:-1].isdigit():
            return datetime.now(UTC) - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise Misconfigured(f"{option}: {text} is no time; write 30m, 2h, 7d or 2026-11-21T08:00") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def text_of(payload: bytes | None) -> str | None:
    """Bytes as people can read them."""
    return None if payload is None else payload.decode("utf-8", "backslashreplace")


def _whole(connection: Any, letter: int) -> WholeLetter | None:
    return desk.whole(psycopg_of(connection), letter)


def _notices(context: Context) -> list[notices.Notice]:
    with context.parts.control.transaction() as tx:
        return [notice for notice in notices.read(tx) if notice.accepted_at is None]


def _held_shape(store: str, held_key: HeldKey) -> dict[str, Any]:
    found = asdict(held_key)
    found["stage"] = found.pop("projector")
    now = datetime.now(UTC)
    return {
        "store": store,
        **found,
        "oldest_age_seconds": (now - held_key.oldest).total_seconds() if held_key.oldest else None,
    }
