"""The verb `migrate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from kylo_outbox.cli.context import opened
from kylo_outbox.cli.errors import FAILED, PARTLY
from kylo_outbox.cli.output import AsJson, DryRun, Yes, confirmed, print_json, print_table, say
from kylo_outbox.flows.schema import CONTROL, Outcome, Schema

if TYPE_CHECKING:
    from collections.abc import Sequence


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(migrate)


def migrate(
    *,
    status: Annotated[bool, typer.Option("--status", help="Only tell where each database stands.")] = False,
    to: Annotated[
        str, typer.Option("--to", metavar="REV", help="A revision such as store_0003; going back needs --yes.")
    ] = "head",
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Bring the schema of the control database and of every company database to this release.

    Makes the views of every company as well: an INSERT into control.company_config followed by this adds a company.
    Exit codes: 0 all done, 4 some databases could not be reached or refused, 3 the control database is away.

    Example: kylo-outbox migrate --status
    """
    with opened() as context:
        schema = Schema(context.parts.control, context.settings.environ, context.declared)
        if status or dry_run:
            outcomes = schema.status()
        else:
            what = f"go back to {to} and drop what came after it, rows too"
            if schema.goes_back(to) and not confirmed(what, yes=yes, dry_run=False):
                return
            outcomes = schema.migrate(to)
    _show(outcomes, as_json=as_json)
    if any(outcome.problems for outcome in outcomes):
        raise typer.Exit(PARTLY)
    if status and not all(version.current for outcome in outcomes for version in outcome.versions):
        raise typer.Exit(FAILED)


def _show(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "database": outcome.database,
                    "versions": [{**asdict(each), "current": each.current} for each in outcome.versions],
                    "moved": outcome.moved,
                    "companies": list(outcome.companies),
                    "problems": list(outcome.problems),
                }
                for outcome in outcomes
            ]
        )
        return
    print_table(
        ("database", "tree", "at", "head", "companies", ""),
        [
            (
                outcome.database,
                each.tree,
                each.at or "nothing",
                each.head,
                " ".join(outcome.companies) if each.tree != CONTROL else "",
                "migrated" if outcome.moved else "" if each.current else "behind: run `kylo-outbox migrate`",
            )
            for outcome in outcomes
            for each in outcome.versions
        ],
    )
    for outcome in outcomes:
        for problem in outcome.problems:
            say(problem)
