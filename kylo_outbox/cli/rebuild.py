"""The verb `rebuild`: a projector's tables anew from history, compared, swapped, undone; or mended in place."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from kylo_outbox.cli.actor import who
from kylo_outbox.cli.context import Context, opened
from kylo_outbox.cli.errors import FAILED
from kylo_outbox.cli.output import AsJson, DryRun, Yes, confirmed, print_json, print_table, say
from kylo_outbox.flows.mend import Mend
from kylo_outbox.flows.rebuild import Rebuild
from kylo_outbox.kafka.tail import tail
from kylo_outbox.model.delivery import from_record
from kylo_outbox.model.errors import Misconfigured, Refused
from kylo_outbox.store import audit
from kylo_outbox.store.changes import KINDS
from kylo_outbox.wiring import history, projectors
from kylo_outbox.wiring.parts import require_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kylo_outbox.model.delivery import Delivery
    from kylo_outbox.model.events import Event
    from kylo_outbox.model.projector import Projector
    from kylo_outbox.store.engine import Database

Histories: TypeAlias = "Sequence[partial[Iterator[list[Delivery]]]]"

_BATCH = 1000


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(rebuild)


def rebuild(
    name: Annotated[str, typer.Argument(metavar="PROJECTOR", help="Its name, or package.module:Class.")],
    *,
    company: Annotated[
        str | None, typer.Option(help="For projectors in company databases: the database of this company.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Bring back the rows from before the last swap.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Build a projector's tables anew from the log and the outbox, beside the live ones; compare, then swap.

    The live tables serve meanwhile; the projector waits during the swap. Nothing is emitted again. --dry-run builds
    and compares only, and exits with 1 if there is a difference.

    A repeatable projector whose tables others write, too (txns), is mended in place: events whose effect is not whole
    are applied again, and nothing else is touched. With --company those of this company.

    Example: kylo-outbox rebuild my.module:Balances --dry-run
    """
    with opened() as context:
        require_schema(context.parts)
        projector = projectors.named(context.parts, name)
        database = _database(context, projector, company)
        histories = [partial(_stored, context, projector), *_log(context, projector)]
        if projector.repeatable and not projector.tables:
            note = partial(_note_mended, projector)
            mend = Mend(projector, database, histories, key=company, note=note)
            equal = _mend(mend, projector, undo=undo, yes=yes, dry_run=dry_run, as_json=as_json)
        elif undo:
            equal = True
            _undo(_flow(projector, database, histories), projector, database, yes=yes, dry_run=dry_run)
        else:
            flow = _flow(projector, database, histories)
            equal = _build(flow, projector, database, yes=yes, dry_run=dry_run, as_json=as_json)
    if not equal:
        raise typer.Exit(FAILED)


def _flow(projector: Projector, database: Database, histories: Histories) -> Rebuild:
    return Rebuild(projector, database, histories, lambda number: say(f"{number} events"))


def _undo(flow: Rebuild, projector: Projector, database: Database, *, yes: bool, dry_run: bool) -> None:
    if confirmed(f"bring back the former rows of {projector.name}", yes=yes, dry_run=dry_run):
        flow.undo()
        _write(database, "rebuild undo", projector, {})
        say("the former rows are back")


def _build(flow: Rebuild, projector: Projector, database: Database, *, yes: bool, dry_run: bool, as_json: bool) -> bool:
    """Whether the live tables are as they should be now."""
    if not dry_run:
        confirmed(f"rebuild and swap {', '.join(projector.tables)}", yes=yes, dry_run=False)
    done = flow.run(swap=not dry_run)
    shape = asdict(done)
    if done.swapped:
        _write(database, "rebuild", projector, shape)
    if as_json:
        print_json(shape)
    else:
        print_table(
            ("table", "live", "rebuilt", "only live", "only rebuilt"),
            [(each.table, each.live, each.rebuilt, each.only_live, each.only_rebuilt) for each in done.tables],
        )
    say(f"{done.events} events applied; {'the rebuilt rows are in place' if done.swapped else 'nothing was changed'}")
    return done.swapped or all(each.equal for each in done.tables)


def _mend(mend: Mend, projector: Projector, *, undo: bool, yes: bool, dry_run: bool, as_json: bool) -> bool:
    """Whether all is whole now."""
    if undo:
        raise Refused([f"--undo: {projector.name} is mended in place, former rows are not kept"])
    if not dry_run:
        confirmed(f"apply events of {projector.name} again", yes=yes, dry_run=False)
    done = mend.run(keep=not dry_run)
    lacking = [{"topic": each.topic, "key": each.key, "outbox_id": each.outbox_id} for each in done.lacking]
    failed = [{"outbox_id": each.outbox_id, "reason": reason} for each, reason in done.failed]
    if as_json:
        print_json({"events": done.events, "lacking": lacking, "failed": failed, "changes": done.changes})
    else:
        print_table(("table", *KINDS), [(table, *rows.values()) for table, rows in sorted(done.changes.items())])
        print_table(("topic", "key", "outbox id"), [tuple(each.values()) for each in lacking])
    for each in failed:
        say(f"#{each['outbox_id']} cannot be applied: {each['reason']}")
    mended = "nothing was changed" if dry_run else f"{len(lacking) - len(failed)} of them applied again"
    say(f"{done.events} events looked at, {len(lacking)} without their whole effect; {mended}")
    return not failed and not (dry_run and lacking)


def _note_mended(projector: Projector, tx: Any, events: Sequence[Event]) -> None:
    """One row in the audit for each transaction, so that what is mended is written down however the run ends."""
    ids = [each.outbox_id for each in events if each.outbox_id is not None]
    if ids:
        audit.write(tx, who=who(), verb="rebuild in place", ids=ids, reason=projector.name)


def _database(context: Context, projector: Projector, company: str | None) -> Database:
    if projector.store == "control":
        return context.parts.control
    if company is None:
        raise Misconfigured(f"--company: {projector.name} lives in company databases; say whose")
    return context.parts.directory.database_of(company)


def _stored(context: Context, projector: Projector) -> Iterator[list[Delivery]]:
    for topic in projector.topics:
        yield from history.stored_events(context.parts, topic)


def _log(context: Context, projector: Projector) -> list[partial[Iterator[list[Delivery]]]]:
    return [partial(_records, context, projector)] if context.settings.kafka_brokers else []


def _records(context: Context, projector: Projector) -> Iterator[list[Delivery]]:
    batch: list[Delivery] = []
    for topic in projector.topics:
        for record in tail(context.kafka, topic, from_beginning=True, max_n=None):
            batch.append(
                from_record(
                    topic=topic,
                    partition=record.partition,
                    offset=record.offset,
                    key=record.key,
                    value=record.value,
                    headers=record.headers,
                    at=record.at,
                )
            )
            if len(batch) == _BATCH:
                yield batch
                batch = []
    yield batch


def _write(database: Database, verb: str, projector: Projector, before: dict[str, object]) -> None:
    with database.transaction() as tx:
        audit.write(tx, who=who(), verb=verb, reason=projector.name, before=before)
