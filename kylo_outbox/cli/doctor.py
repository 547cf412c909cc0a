"""The verb `doctor`: the whole chain checked, each finding with its cause and remedy."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from kylo_outbox.cli.context import Context
from kylo_outbox.cli.errors import AWAY, FAILED
from kylo_outbox.cli.output import AsJson, print_json, print_table, say
from kylo_outbox.flows.doctor import Report, kafka, processes, sheets, store
from kylo_outbox.kafka.topics import Topics
from kylo_outbox.settings import Settings, load
from kylo_outbox.store import companies
from kylo_outbox.store.sessions import OLD

if TYPE_CHECKING:
    from kylo_outbox.model.companies import Company

_ORDER: Final = ("away", "error", "warning", "note")
_COUNTED: Final = {"away": "not reachable", "error": "wrong", "warning": "worth a look", "note": "to be remembered"}


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(doctor)


def doctor(
    *,
    older_than: Annotated[float, typer.Option(help="Seconds after which an open transaction is named.", min=0)] = OLD,
    as_json: AsJson = False,
) -> None:
    """Check the whole chain: settings, databases, relay, Kafka, projectors, Google Sheets. Changes nothing.

    Exits with 0 (no errors; there may be warnings), 1 (something is wrong) or 3 (something does not answer).

    Example: kylo-outbox doctor
    """
    report = Report()
    settings = report.ask("settings", "", load)
    if settings is not None:
        context = Context(settings)
        try:
            _examine(report, context, older_than)
        finally:
            context.close()
    _print(report, as_json=as_json)
    if report.worst("away"):
        raise typer.Exit(AWAY)
    if report.worst("error"):
        raise typer.Exit(FAILED)


def _examine(report: Report, context: Context, older_than: float) -> None:
    settings = context.settings
    parts = report.ask("settings", "PG_DSN_RW", lambda: context.parts)
    known: list[Company] = []
    if parts is not None and store.examine(report, parts.control, old_transaction=older_than, control=True):
        known = report.ask("companies", "", partial(_companies, context)) or []
        report.look("companies", "", lambda: store.homes(known, settings.environ))
        for each in report.ask("stores", "", parts.directory.stores) or []:
            if each.database is not parts.control:
                store.examine(report, each.database, old_transaction=older_than)
        report.look("relay", "", lambda: processes.relay(parts.control))
        report.look("projectors", "", lambda: processes.projectors(parts.control))
        report.look("stuck", "", lambda: processes.stuck(parts.control))
    if settings.route_via_kafka or settings.kafka_brokers is not None:
        _examine_kafka(report, context)
    _examine_sheets(report, settings, known)


def _companies(context: Context) -> list[Company]:
    with context.parts.control.begin() as connection:
        return companies.all_companies(connection)


def _examine_kafka(report: Report, context: Context) -> None:
    from kylo_outbox.wiring.projectors import groups  # noqa: PLC0415 - loads Google's client, which few verbs need

    address = report.ask("settings", "KAFKA_BROKERS", lambda: context.kafka)
    if address is None:
        return
    if report.look("topics", address.brokers, lambda: kafka.topics(Topics(address), context.declared)):
        report.look("groups", address.brokers, lambda: kafka.groups(address, groups(context.settings)))


def _examine_sheets(report: Report, settings: Settings, known: list[Company]) -> None:
    if not settings.sheets_post:
        report.look("sheets", "", sheets.shadow)
        return
    from kylo_outbox.sheets.gateway import GoogleSheets  # noqa: PLC0415 - loads Google's client

    gateway = partial(GoogleSheets, settings.sheets_endpoint, settings.google_credentials, 10.0)
    report.look("sheets", "", lambda: sheets.workbooks(gateway, known))


def _print(report: Report, *, as_json: bool) -> None:
    findings = sorted(report.findings, key=lambda finding: _ORDER.index(finding.level))
    if as_json:
        healthy = not report.worst("away", "error")
        print_json({"ok": healthy, "checked": report.checked, "findings": [asdict(each) for each in findings]})
    elif findings:
        columns = ("", "check", "where", "what", "what to do")
        print_table(columns, [(each.level, each.check, each.subject, each.cause, each.remedy) for each in findings])
    counts = ", ".join(
        f"{number} {_COUNTED[level]}" for level in _ORDER if (number := sum(each.level == level for each in findings))
    )
    say(f"{len(report.checked)} checks: {counts or 'nothing found'}")
