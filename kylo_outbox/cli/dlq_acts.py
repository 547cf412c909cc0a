"""The verbs `dlq release / discard / edit / replay / accept`: each act is audited with who, when and why."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kylo_outbox.cli import dlq
from kylo_outbox.cli.actor import who
from kylo_outbox.cli.context import opened
from kylo_outbox.cli.dlq_preview import preview_of, store_id
from kylo_outbox.cli.errors import FAILED, PARTLY
from kylo_outbox.cli.output import AsJson, DryRun, Yes, confirmed, print_json, say
from kylo_outbox.cli.stores import ask_all
from kylo_outbox.model.errors import Misconfigured, Refused
from kylo_outbox.model.payloads import to_bytes
from kylo_outbox.store import audit, desk, notices
from kylo_outbox.store.engine import psycopg_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kylo_outbox.cli.context import Context
    from kylo_outbox.store.desk import Done, Filter, Letter

Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID...]", help="Numbers in `dlq ls`; or say filters.")]
Why = Annotated[str | None, typer.Option("--reason", help="Why, for the audit.")]
MustWhy = Annotated[str, typer.Option("--reason", help="Why, for the audit.")]
Show = Annotated[bool, typer.Option("--preview", help="Try it, take everything back, and tell what it would change.")]
Class = Annotated[
    str | None,
    typer.Option("--projector", help="For --preview: package.module:Class of a projector of your own."),
]
Again = Annotated[bool, typer.Option("--again", help=f"Also those that were tried {desk.LOOP} times in vain.")]
Wait = Annotated[float, typer.Option(help="Seconds to wait for the projector and to tell how it ended.", min=0)]
_LOOK = 0.2
_BULK = 10_000


def register(app: typer.Typer) -> None:
    """Add the group `dlq` to the command."""
    for verb in (release, discard, edit, replay, accept):
        dlq.group.command()(verb)
    app.add_typer(dlq.group, name="dlq")


def release(  # noqa: PLR0913 - its options
    ids: Ids = None,
    *,
    topic: dlq.Topic = None,
    company: dlq.Company = None,
    stage: dlq.Stage = None,
    like: dlq.Like = None,
    since: dlq.Since = None,
    until: dlq.Until = None,
    store: dlq.StoreId = None,
    reason: Why = None,
    preview: Show = False,
    projector: Class = None,
    again: Again = False,
    wait: Wait = 0.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Let the running projector try dead letters again, and then what waits behind them, in order.

    What still cannot be applied waits on. Asking twice changes nothing. Exits with 1 if --wait saw one fail again.
    Those of stage relay never reached Kafka and nothing waits for them: `dlq replay` sends them again.

    Example: kylo-outbox dlq release --like "unknown company" --reason "710 is configured now" --yes
    """
    with opened() as context:
        chosen, complete = _chosen(context, _filter(ids, topic, company, stage, like, since, until), store, again=again)
        if preview:
            preview_of(context, chosen, projector, as_json=as_json)
            return
        _only_of_projectors(ids, chosen)
        if not confirmed(f"release {_named(chosen)}", yes=yes, dry_run=dry_run):
            return
        done = _act(context, chosen, lambda tx, letters: desk.release(tx, letters, who=who(), reason=reason))
        _tell(done, "released", as_json=as_json)
        failed = _wait(context, chosen, done, wait)
    _leave(complete=complete, failed=failed)


def discard(  # noqa: PLR0913 - its options
    ids: Ids = None,
    *,
    reason: MustWhy,
    topic: dlq.Topic = None,
    company: dlq.Company = None,
    stage: dlq.Stage = None,
    like: dlq.Like = None,
    since: dlq.Since = None,
    until: dlq.Until = None,
    store: dlq.StoreId = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Give dead letters up: a declared gap with its reason. What waits behind them goes on.

    The audit keeps the payload; for 30 days `dlq replay` can still bring one back.

    Example: kylo-outbox dlq discard 12 --reason "sent twice by the bank" --yes
    """
    with opened() as context:
        chosen, complete = _chosen(context, _filter(ids, topic, company, stage, like, since, until), store, again=True)
        if not confirmed(f"discard {_named(chosen)}", yes=yes, dry_run=dry_run):
            return
        done = _act(context, chosen, lambda tx, letters: desk.discard(tx, letters, who=who(), reason=reason))
        _tell(done, "discarded", as_json=as_json)
    _leave(complete=complete)


def edit(
    letter: Annotated[int, typer.Argument(metavar="ID", help="Its number in `dlq ls`.")],
    *,
    payload: Annotated[str, typer.Option(help="A file with the new payload (JSON), or - for stdin.")],
    reason: MustWhy,
    store: dlq.StoreId = None,
    keep_waiting: Annotated[bool, typer.Option("--keep-waiting", help="Do not release it yet.")] = False,
    wait: Wait = 0.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Put another payload in the place of a dead letter's and release it. The original is kept beside it.

    One of stage relay is sent again, behind what its key has had since.

    Example: kylo-outbox dlq edit 12 --payload fixed.json --reason "amount was empty" --yes
    """
    new = _payload(payload)
    with opened() as context:
        name, found = dlq.one(context, letter, store)
        chosen = [(name, found.letter)]
        if not confirmed(
            f"edit {'' if keep_waiting else 'and release '}dead letter {letter}", yes=yes, dry_run=dry_run
        ):
            return

        def act(tx: Any, letters: Sequence[Letter]) -> Done:
            if not desk.edit(tx, letters[0], new, who=who(), reason=reason):
                raise Refused([f"{letter}: it is settled; an applied event is not changed"])
            if keep_waiting:
                return desk.Done([letter])
            again = desk.replay if letters[0].of_relay else desk.release
            return again(tx, letters, who=who(), reason=reason)

        done = _act(context, chosen, act)
        after = "sent again" if found.letter.of_relay else "released"
        _tell(done, "edited" if keep_waiting else after, as_json=as_json)
        failed = _wait(context, chosen, done, 0.0 if keep_waiting else wait)
    _leave(complete=True, failed=failed)


def replay(  # noqa: PLR0913 - its options
    ids: Ids = None,
    *,
    topic: dlq.Topic = None,
    company: dlq.Company = None,
    stage: dlq.Stage = None,
    like: dlq.Like = None,
    since: dlq.Since = None,
    until: dlq.Until = None,
    store: dlq.StoreId = None,
    reason: Why = None,
    preview: Show = False,
    projector: Class = None,
    again: Again = False,
    wait: Wait = 0.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Let the running projector try single dead letters once more: skipped or discarded ones, out of their order.

    Harmless twice: one that was applied is not applied again. One that its key waits for is to be released instead.
    One of stage relay is saved anew, with its event id: the relay sends it behind what its key has had since.

    Example: kylo-outbox dlq replay --stage sheets --since 2h --yes
    """
    with opened() as context:
        wanted = replace(_filter(ids, topic, company, stage, like, since, until), settled=True)
        chosen, complete = _chosen(context, wanted, store, again=again)
        if preview:
            preview_of(context, chosen, projector, as_json=as_json, behind=0)
            return
        if not confirmed(f"replay {_named(chosen)}", yes=yes, dry_run=dry_run):
            return
        done = _act(context, chosen, lambda tx, letters: desk.replay(tx, letters, who=who(), reason=reason))
        _tell(done, "to be tried", as_json=as_json)
        failed = _wait(context, chosen, done, wait)
    _leave(complete=complete, failed=failed)


def accept(
    stage: Annotated[str, typer.Argument(metavar="PROJECTOR", help="The projector that told it.")],
    *,
    kind: Annotated[str | None, typer.Option(help="Only circuit, lost or partitions.")] = None,
    reason: MustWhy,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Say that a notice is known. After an open circuit the projector then sets aside what fails, however much it is.

    Example: kylo-outbox dlq accept balances --kind circuit --reason "the import is broken, all of it" --yes
    """
    with opened() as context:
        if not confirmed(f"accept the notices of {stage}", yes=yes, dry_run=dry_run):
            return
        with context.parts.control.transaction() as tx:
            accepted = notices.accept(tx, stage, kind)
            if accepted:
                before = {"notices": [list(each) for each in accepted]}
                audit.write(tx, who=who(), verb="dlq accept", topic=None, reason=reason, before=before)
    if not accepted:
        raise Refused([f"{stage}: there is no such notice; `kylo-outbox dlq notices` lists them"])
    say(f"{len(accepted)} accepted")


def _filter(
    ids: Sequence[int] | None,
    topic: str | None,
    company: str | None,
    stage: str | None,
    like: str | None,
    since: str | None,
    until: str | None,
) -> Filter:
    if not ids and not any((topic, company, stage, like, since, until)):
        raise Misconfigured("which ones? give their numbers, or filters such as --topic, --company, --like")
    return desk.Filter(
        ids=ids or None,
        topic=topic,
        key=company,
        stage=stage,
        like=like,
        since=dlq.moment(since, "--since"),
        until=dlq.moment(until, "--until"),
        settled=bool(ids),
        limit=_BULK,
    )


def _chosen(
    context: Context, wanted: Filter, store: str | None, *, again: bool
) -> tuple[list[tuple[str, Letter]], bool]:
    found, complete = dlq.letters_of(context, wanted, store)
    ids = set(wanted.ids or [])
    missing = sorted(ids - {letter.id for _, letter in found})
    if missing and complete:
        raise Refused(
            [f"{each}: there is no such dead letter; `kylo-outbox dlq ls --all` lists them" for each in missing]
        )
    if ids and len(found) > len(ids):
        names = ", ".join(sorted({name for name, _ in found}))
        raise Misconfigured(f"several stores have these numbers; say --store with one of {names}")
    tired = [str(letter.id) for _, letter in found if letter.releases >= desk.LOOP]
    if tired and not ids and not again:
        say(f"left out, because they failed {desk.LOOP} times already (--again takes them): {', '.join(tired)}")
        found = [(name, letter) for name, letter in found if letter.releases < desk.LOOP]
    return found, complete


def _act(context: Context, chosen: Sequence[tuple[str, Letter]], act: Callable[[Any, Sequence[Letter]], Done]) -> Done:
    """Act on what was chosen, in one transaction a store."""
    done = desk.Done()
    for store in context.parts.directory.stores():
        if store.problem:
            continue
        with store.database.begin() as connection:
            name = store_id(connection)
            letters = [letter for home, letter in chosen if home == name]
            found = act(psycopg_of(connection), letters) if letters else desk.Done()
        done.ids += found.ids
        done.left |= found.left
    return done


def _payload(source: str) -> bytes:
    if source == "-":
        text = sys.stdin.read()
    else:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as unreadable:
            raise Misconfigured(f"--payload: {source} cannot be read ({type(unreadable).__name__})") from None
    return to_bytes(text)


def _only_of_projectors(ids: Sequence[int] | None, chosen: Sequence[tuple[str, Letter]]) -> None:
    """Whoever names one of the relay is told what to do instead; among filtered ones it is left out with the same."""
    if ids and (told := [f"{letter.id}: {desk.GONE_ON.format(letter.id)}" for _, letter in chosen if letter.of_relay]):
        raise Refused(told)


def _wait(context: Context, chosen: Sequence[tuple[str, Letter]], done: Done, seconds: float) -> list[int]:
    """Wait until the projector has tried them; the ids of those that failed again."""
    until = time.monotonic() + seconds
    former = {letter.id: letter.releases for _, letter in chosen if letter.id in done.ids}
    failed: list[int] = []
    wanted = desk.Filter(ids=done.ids, settled=True, limit=_BULK)
    while former and time.monotonic() < until:
        answers, _ = ask_all(context, lambda connection: desk.find(psycopg_of(connection), wanted))
        for letter in [letter for _, listed in answers for letter in listed if letter.id in former]:
            if letter.outcome is not None or letter.releases > former[letter.id]:
                del former[letter.id]
                say(f"{letter.id}: {letter.outcome or 'failed again: ' + letter.reason}")
                failed += [] if letter.outcome else [letter.id]
        time.sleep(_LOOK)
    if former and seconds:
        say(f"{len(former)} not tried within {seconds:g} s; is `kylo-outbox project` running?")
    return failed


def _tell(done: Done, verb: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"ids": done.ids, "left": {str(number): why for number, why in done.left.items()}})
    say(f"{len(done.ids)} {verb}")
    for number, why in done.left.items():
        say(f"{number}: {why}")


def _leave(*, complete: bool, failed: Sequence[int] = ()) -> None:
    if failed:
        raise typer.Exit(FAILED)
    if not complete:
        raise typer.Exit(PARTLY)


def _named(chosen: Sequence[tuple[str, Letter]]) -> str:
    waiting = sum(letter.waiting_behind for _, letter in chosen)
    return f"{len(chosen)} dead letters ({waiting} events wait behind them)"
