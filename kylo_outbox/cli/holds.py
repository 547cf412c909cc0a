"""The verbs of `outbox` that act: held keys, release, discard, dead letters, pauses, and the audit of all of it."""

from __future__ import annotations

import getpass
import socket
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kylo_outbox.cli.context import opened
from kylo_outbox.cli.errors import PARTLY
from kylo_outbox.cli.output import AsJson, DryRun, Yes, confirmed, print_json, print_table, say
from kylo_outbox.cli.stores import ask_all
from kylo_outbox.flows import holds
from kylo_outbox.model.errors import Misconfigured
from kylo_outbox.store import audit as audits
from kylo_outbox.store import holds as held_events
from kylo_outbox.store import pauses, relay_dead
from kylo_outbox.store.engine import psycopg_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.flows.holds import Done

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The key, such as a company's id.")]
SomeKey = Annotated[str | None, typer.Argument(metavar="[KEY]", help="One key; without it the whole topic.")]
Store = Annotated[str | None, typer.Option(help="Only this store; else every one.")]
Why = Annotated[str, typer.Option(help="Why, for the audit.")]
RowId = Annotated[
    int | None, typer.Option("--id", help="This event, by its id in the outbox; else the one that blocks the key.")
]
Every = Annotated[bool, typer.Option("--all", help="Every event of the key that is held now.")]

_POLICIES = {"hold": "hold", "dead-letter": "skip"}


def register(group: typer.Typer) -> None:
    """Add these verbs to the group `outbox`."""
    for verb in (held, release, discard, pause, resume, paused, policy, audit):
        group.command()(verb)
    group.command("dead-letter")(dead_letter)


def held(*, topic: Annotated[str | None, typer.Option()] = None, store: Store = None, as_json: AsJson = False) -> None:
    """List held keys: why, since when, how many events wait, and whether the relay tries them again by itself.

    Exits with 4 if a store could not be asked.

    Example: kylo-outbox outbox held --json
    """
    rows, complete = _rows(
        lambda tx: [{**each._asdict(), "tried": each.tried} for each in held_events.held(tx, topic)], store
    )
    columns = ("store", "topic", "key", "waiting", "since", "tried", "paused", "reason")
    _show(rows, columns, as_json=as_json)
    say(f"{len(rows)} keys are held, {sum(row['waiting'] for row in rows)} events wait in them")
    _leave(complete=complete)


def release(topic: Topic, key: Key, *, store: Store = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Try a refused event again now, and what waits behind it. Mend the cause first: a refusal holds it again.

    Example: kylo-outbox outbox release txns.company.batches 710
    """
    act = partial(holds.release, topic=topic, key=key, who=_who(), dry_run=dry_run)
    _act("release", f"{topic} {key}", act, store, dry_run=dry_run, as_json=as_json)


def discard(
    topic: Topic,
    key: Key,
    *,
    reason: Why,
    row_id: RowId = None,
    every: Every = False,
    store: Store = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Declare a gap: held events leave for good, whole into the audit, and the key's next ones go on.

    Example: kylo-outbox outbox discard txns.company.batches 710 --reason "sent by hand" --dry-run
    """
    _choose(row_id, every=every)
    if not dry_run:
        confirmed(f"discard events of {topic} {key}", yes=yes, dry_run=False)
    act = partial(
        holds.discard, topic=topic, key=key, reason=reason, who=_who(), row_id=row_id, every=every, dry_run=dry_run
    )
    _act("discard", f"{topic} {key}", act, store, dry_run=dry_run, as_json=as_json)


def dead_letter(
    topic: Topic,
    key: Key,
    *,
    reason: Why,
    row_id: RowId = None,
    every: Every = False,
    store: Store = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make held events dead letters (a row and a record on the dead letter topic); the key's next ones go on.

    Example: kylo-outbox outbox dead-letter txns.company.batches 710 --reason "too large" --dry-run
    """
    _choose(row_id, every=every)
    if not dry_run:
        confirmed(f"make dead letters of events of {topic} {key}", yes=yes, dry_run=False)
    act = partial(
        holds.dead_letter, topic=topic, key=key, reason=reason, who=_who(), row_id=row_id, every=every, dry_run=dry_run
    )
    _act("make a dead letter of", f"{topic} {key}", act, store, dry_run=dry_run, as_json=as_json)


def pause(
    topic: Topic,
    key: SomeKey = None,
    *,
    reason: Why = "",
    store: Store = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Hold a topic, or one key of it. Within seconds the relay sets its events aside, in order, over restarts too.

    Example: kylo-outbox outbox pause txns.company.batches 710 --reason "wrong file"
    """
    act = partial(holds.pause, topic=topic, key=key, reason=reason, who=_who(), dry_run=dry_run)
    _act("pause", _what(topic, key), act, store, dry_run=dry_run, as_json=as_json)


def resume(
    topic: Topic, key: SomeKey = None, *, store: Store = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Let a paused topic or key go on, in order. Keys that were paused one by one are resumed one by one.

    Example: kylo-outbox outbox resume txns.company.batches 710
    """
    act = partial(holds.resume, topic=topic, key=key, who=_who(), dry_run=dry_run)
    _act("resume", _what(topic, key), act, store, dry_run=dry_run, as_json=as_json)


def paused(*, store: Store = None, as_json: AsJson = False) -> None:
    """List what is paused: topics, and keys of topics. Paused companies stand in `company list`.

    Example: kylo-outbox outbox paused
    """
    rows, complete = _rows(lambda tx: [each._asdict() for each in pauses.paused(tx)], store)
    _show(rows, ("store", "topic", "key", "paused_at", "paused_by", "reason"), as_json=as_json)
    _leave(complete=complete)


def policy(
    topic: Annotated[
        str | None, typer.Argument(metavar="[TOPIC]", help="The topic; without it all are listed.")
    ] = None,
    on_refused: Annotated[str | None, typer.Argument(metavar="[hold|dead-letter]", help="The new choice.")] = None,
    *,
    store: Store = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Show or choose what becomes of an event that Kafka refuses: its key is held, or it becomes a dead letter.

    Example: kylo-outbox outbox policy wallet-events dead-letter
    """
    if topic is not None and on_refused is not None:
        if on_refused not in _POLICIES:
            raise Misconfigured(f"{on_refused}: say one of {', '.join(_POLICIES)}")
        act = partial(holds.set_policy, topic=topic, on_poison=_POLICIES[on_refused], who=_who(), dry_run=dry_run)
        _act(f"choose {on_refused} for", topic, act, store, dry_run=dry_run, as_json=as_json)
        return
    names = {stored: said for said, stored in _POLICIES.items()}

    def listed(tx: Any) -> list[dict[str, Any]]:
        found = relay_dead.policies(tx) if topic is None else [relay_dead.policy(tx, topic)]
        return [{**each._asdict(), "on_poison": names[each.on_poison]} for each in found]

    rows, complete = _rows(listed, store)
    _show(rows, ("store", "topic", "on_poison", "dead_letter_topic", "chosen"), as_json=as_json)
    _leave(complete=complete)


def audit(
    *,
    store: Store = None,
    limit: Annotated[int, typer.Option(help="At most so many of each store.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """List acts of operators, newest first; --json shows what each one changed, discarded events whole.

    Example: kylo-outbox outbox audit --limit 5 --json
    """
    rows, complete = _rows(lambda tx: [_shape(each) for each in audits.read(tx, limit)], store)
    _show(rows, ("store", "at", "who", "verb", "topic", "key", "ids", "reason"), as_json=as_json)
    _leave(complete=complete)


def _act(verb: str, what: str, act: Callable[..., Done], store: str | None, *, dry_run: bool, as_json: bool) -> None:
    with opened() as context:
        answers, complete = ask_all(context, lambda connection: act(psycopg_of(connection)), only=store)
    if as_json:
        print_json({"dry_run": dry_run, "stores": [{"store": name, **asdict(done)} for name, done in answers]})
    changed = [(name, done) for name, done in answers if done.changed]
    for name, done in changed:
        events = f" (events {_shortened(done.ids)})" if done.ids else ""
        say(f"{name}: {'would ' if dry_run else ''}{verb} {what}{events}{': done' if not dry_run else ''}")
    if not changed:
        say(f"{verb} {what}: there is nothing to do")
    _leave(complete=complete)


def _rows(question: Callable[[Any], list[dict[str, Any]]], store: str | None) -> tuple[list[dict[str, Any]], bool]:
    with opened() as context:
        answers, complete = ask_all(context, lambda connection: question(psycopg_of(connection)), only=store)
    return [{"store": name, **row} for name, found in answers for row in found], complete


def _show(rows: Sequence[dict[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
    elif rows:
        print_table(columns, [[row[column] for column in columns] for row in rows])


def _leave(*, complete: bool) -> None:
    if not complete:
        raise typer.Exit(PARTLY)


def _shape(act: audits.Act) -> dict[str, Any]:
    return {name: value for name, value in asdict(act).items() if name != "store"}


def _choose(row_id: int | None, *, every: bool) -> None:
    if row_id is not None and every:
        raise Misconfigured("--id and --all: say one of them")


def _what(topic: str, key: str | None) -> str:
    return f"topic {topic}" if key is None else f"{topic} {key}"


def _shortened(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:5]))
    return f"{shown}, ... {len(ids)} in all" if len(ids) > 5 else shown  # noqa: PLR2004 - a line has its length


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
