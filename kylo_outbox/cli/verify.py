"""The verb `verify`: what was saved against what became of it, with every difference named by key and ids."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kylo_outbox.cli.actor import who
from kylo_outbox.cli.context import Context, opened
from kylo_outbox.cli.dlq import Since, StoreId, moment
from kylo_outbox.cli.errors import FAILED, PARTLY
from kylo_outbox.cli.output import AsJson, DryRun, Yes, confirmed, print_json, print_table, say
from kylo_outbox.cli.stores import ask_all
from kylo_outbox.model.errors import Misconfigured, Refused
from kylo_outbox.store import audit, findings
from kylo_outbox.store.engine import psycopg_of
from kylo_outbox.wiring import projectors
from kylo_outbox.wiring.parts import require_schema
from kylo_outbox.wiring.verify import tab_differences, verifier

if TYPE_CHECKING:
    from datetime import datetime

    from kylo_outbox.flows.verify import StoreVerdict, Verdict
    from kylo_outbox.model.verifying import Finding


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(verify)


def verify(
    *,
    since: Since = None,
    projector: Annotated[
        list[str] | None, typer.Option(metavar="MODULE:CLASS", help="Look for the effects of this projector, too.")
    ] = None,
    tabs: Annotated[bool, typer.Option(help="Compare tabs, where KYLO_SHEETS_POST=1.")] = True,
    accept: Annotated[int | None, typer.Option(metavar="ID", help="It is known: do not tell it any more.")] = None,
    store: StoreId = None,
    reason: Annotated[str | None, typer.Option(help="Why it is accepted; for the audit.")] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Compare the outbox with the log, with what projectors took, with their effects, and with the tabs.

    Without --since it goes on where the last pass ended, the scheduled one included; differences found before are
    looked at again and told as long as they are there. With --since everything saved since then is compared once more.
    Exits with 1 on any difference, with 4 if something could not be compared.

    Example: kylo-outbox verify --since 2d
    """
    from_when = moment(since, "--since")
    with opened() as context:
        require_schema(context.parts)
        if accept is not None:
            _accept(context, accept, store, reason, yes=yes, dry_run=dry_run)
            return
        names = dict.fromkeys((*projectors.TELLING, *(projector or ())))
        chosen = [projectors.named(context.parts, name) for name in names]
        if silent := [each.name for each in chosen if not each.tells_effects]:
            raise Misconfigured(f"--projector: {', '.join(silent)} does not tell its effects; write `effects`")
        verdict = verifier(context.parts, chosen).run(from_when)
        if tabs and context.settings.sheets_post:
            in_tabs, problems = tab_differences(context.parts)
        else:
            in_tabs, problems = [], []
    told = [_shape(each.finding, name, each.id, each.found_at) for name, each in verdict.differences]
    told += [_shape(finding) for finding in in_tabs]
    verdict.problems += problems
    if as_json:
        stores = [_figures(each) for each in verdict.stores]
        print_json({"equal": not told, "differences": told, "stores": stores, "problems": verdict.problems})
    else:
        _print(verdict, told)
    if told:
        raise typer.Exit(FAILED)
    if verdict.problems:
        raise typer.Exit(PARTLY)


def _print(verdict: Verdict, told: list[dict[str, Any]]) -> None:
    columns = ("id", "store", "part", "anomaly", "projector", "topic", "key", "outbox_ids", "event_ids", "detail")
    if told:
        rows = [[_words(each[column]) for column in columns] for each in told]
        print_table([column.replace("_", " ") for column in columns], rows)
    for each in verdict.stores:
        log, positions = each.log, each.positions
        effects = ", ".join(f"{name} {figures.events}" for name, figures in each.effects.items())
        say(
            f"store {each.store}: {log.events} new events, {log.records} records on the log ({log.repeats} repeats), "
            f"{positions.positions} positions, effects: {effects or 'none'}"
        )
        say_if = ((log.waiting, "wait to be published"), (log.direct, "were handed over directly"))
        for number, what in (*say_if, (log.taken_out, "were taken out before they were published")):
            if number:
                say(f"store {each.store}: {number} events {what}")
        for unknown in each.unknown:
            say(f"store {each.store}: cannot be known: {unknown}")
    for problem in verdict.problems:
        say(problem)
    say(f"{len(told)} differences" if told else "no differences")


def _words(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _figures(verdict: StoreVerdict) -> dict[str, Any]:
    effects = {name: asdict(figures) for name, figures in verdict.effects.items()}
    return {
        "store": verdict.store,
        "log": asdict(verdict.log),
        "positions": asdict(verdict.positions),
        "effects": effects,
        "accepted": sum(each.accepted for each in verdict.open),
        "unknown": verdict.unknown,
    }


def _shape(
    finding: Finding, store: str | None = None, number: int | None = None, found_at: datetime | None = None
) -> dict[str, Any]:
    return {
        "id": number,
        "store": store,
        "part": finding.part,
        "anomaly": finding.anomaly,
        "projector": finding.projector or None,
        "topic": finding.topic,
        "key": finding.key,
        "outbox_ids": list(finding.outbox_ids),
        "event_ids": [str(event_id) for event_id in finding.event_ids],
        "detail": finding.detail,
        "found_at": found_at,
    }


def _accept(context: Context, number: int, store: str | None, reason: str | None, *, yes: bool, dry_run: bool) -> None:
    def here(connection: Any) -> list[Finding]:
        opened = findings.still_open(psycopg_of(connection))
        return [each.finding for each in opened if each.id == number and not each.accepted]

    found = [(name, finding) for name, listed in ask_all(context, here, only=store)[0] for finding in listed]
    if len(found) != 1:
        raise Refused(
            [
                f"--accept: {number} is open in {len(found)} stores; --store names one"
                if found
                else f"--accept: no difference {number} is open"
            ]
        )
    [(name, finding)] = found
    if reason is None:
        raise Misconfigured("--reason: say why; it goes into the audit")
    if not confirmed(f"accept {finding.line()}", yes=yes, dry_run=dry_run):
        return

    def do(connection: Any) -> None:
        tx = psycopg_of(connection)
        if (taken := findings.accept(tx, number)) is not None:
            ids, before = taken.outbox_ids, asdict(taken)
            audit.write(
                tx,
                who=who(),
                verb="verify accept",
                topic=taken.topic,
                key=taken.key,
                ids=ids,
                reason=reason,
                before=before,
            )

    ask_all(context, do, only=name)
    say(f"accepted: {finding.line()}")
