"""The verbs `sheets plan / post / reconcile / aside / adopt / recreate / approvals / conformance`."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kylo_outbox.cli.context import Context, opened
from kylo_outbox.cli.output import AsJson, DryRun, print_json, print_table, say
from kylo_outbox.sheets import conformance as cases
from kylo_outbox.sheets.gateway import GoogleSheets
from kylo_outbox.wiring import sheets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kylo_outbox.flows.post_sheet.desk import Compared
    from kylo_outbox.store.sheet_tabs import Aside

_FAILED, _UNREACHABLE, _PARTLY = 1, 3, 4
_group = typer.Typer(help="Google Sheets: what tabs lack, what people approved, what went wrong.", no_args_is_help=True)

Companies = Annotated[list[str] | None, typer.Argument(metavar="[COMPANY]...", help="By default all.")]
One = Annotated[str, typer.Argument(metavar="COMPANY", help="The company's id.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    app.add_typer(_group, name="sheets")


@_group.command()
def plan(companies: Companies = None, *, as_json: AsJson = False) -> None:
    """Show what a post would change, line by line; nothing is written.

    Example: kylo-outbox sheets plan 710
    """
    with opened() as context:
        found = sheets.desk(context.parts).plan(companies or ())
    if as_json:
        print_json(found)
    else:
        print_table(("company", "tab", "change", "what"), [line for one in found for line in _lines(one)])
    if any(one["problem"] for one in found):
        raise typer.Exit(_PARTLY)


@_group.command()
def post(companies: Companies = None, *, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Bring tabs up to date now, once each; exit code 4 when some company is set aside.

    Example: kylo-outbox sheets post 710
    """
    if dry_run:
        plan(companies, as_json=as_json)
        return
    with opened() as context:
        _must_post(context)
        aside = sheets.desk(context.parts).post(companies or ())
    _print_aside(aside, as_json=as_json)


@_group.command()
def aside(*, as_json: AsJson = False) -> None:
    """List companies whose tabs wait for a person, why, and what to do.

    Example: kylo-outbox sheets aside
    """
    with opened() as context:
        found = sheets.desk(context.parts).aside()
    _print_aside(found, as_json=as_json)


@_group.command()
def reconcile(
    companies: Companies = None,
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be without touching people's work.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare tabs with tables, cell by cell; exit code 1 when they differ.

    Example: kylo-outbox sheets reconcile 710 --repair
    """
    with opened() as context:
        if repair:
            _must_post(context)
        found = sheets.desk(context.parts).reconcile(companies or (), repair=repair)
    if as_json:
        print_json([_compared(one) for one in found])
    else:
        print_table(
            ("company", "tab", "row", "what", "detail", "--repair mends it"),
            [
                (one.company_id, each.tab, each.row, each.what, each.detail or each.row_hash, each.mends)
                for one in found
                for each in one.findings
            ]
            + [
                (one.company_id, None, None, "problem", f"{one.problem}. {one.remedy}", False)
                for one in found
                if one.problem
            ],
        )
    if any(one.findings or one.problem for one in found):
        raise typer.Exit(_FAILED)


@_group.command()
def adopt(
    company_id: One,
    *,
    tab: Annotated[str | None, typer.Option(help="Title of the tab that becomes the Pending tab.")] = None,
    as_json: AsJson = False,
) -> None:
    """Go on with tabs as people left them: a new name is taken over, or another tab becomes the company's own.

    Example: kylo-outbox sheets adopt 710
    """
    with opened() as context:
        _must_post(context)
        taken = sheets.desk(context.parts).adopt(company_id, tab=tab)
    if as_json:
        print_json({"company_id": company_id, "tabs": taken})
    else:
        print_table(("tab", "title"), list(taken.items()))


@_group.command()
def recreate(company_id: One, *, as_json: AsJson = False) -> None:
    """Make tabs that were deleted anew, with every open row and the rules in force.

    Example: kylo-outbox sheets recreate 710
    """
    with opened() as context:
        _must_post(context)
        made = sheets.desk(context.parts).recreate(company_id)
    if as_json:
        print_json({"company_id": company_id, "made": made})
    else:
        say(f"company {company_id}: made {', '.join(made)}")


@_group.command("approvals")
def read_approvals(companies: Companies = None, *, as_json: AsJson = False) -> None:
    """Read now what people approved in Pending tabs; it also happens by itself every KYLO_SHEETS_APPROVALS_EVERY.

    Approved lines become approved rules, faulty ones get their reason in Match_Notes with the next post.

    Example: kylo-outbox sheets approvals 710
    """
    with opened() as context:
        changed = sheets.read_approvals(context.parts).run_once(companies or ())
    if as_json:
        print_json(changed)
    else:
        print_table(("company", "lines that say something new"), sorted(changed.items()))


@_group.command()
def conformance(
    *,
    live: Annotated[
        bool, typer.Option("--live", help="Run against Google too (needs an account), and compare.")
    ] = False,
    spreadsheet: Annotated[
        str | None, typer.Option(help="With --live: a workbook to work in; by default a new one is made.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the same cases against the stand-in and Google, and compare the answers field by field.

    Example: kylo-outbox sheets conformance --live --spreadsheet 1AbC
    """
    mine = _standin_outcomes()
    if not live:
        if as_json:
            print_json({"standin": mine})
        else:
            lines = [(case, field, str(value)[:80]) for case, found in mine.items() for field, value in found.items()]
            print_table(("case", "field", "stand-in"), lines)
        return
    with opened() as context:
        google = sheets.gateway(context.parts)
        with contextlib.closing(google):
            book = spreadsheet or google.create("kylo-outbox conformance")
            say(f"working in workbook {book}; a new one may be deleted afterwards")
            theirs = cases.run(google, book)
    differ = list(cases.differences(theirs, mine))
    if as_json:
        print_json({"standin": mine, "google": theirs, "differences": [asdict(one) for one in differ]})
    else:
        print_table(
            ("case", "field", "Google", "stand-in"), [(one.case, one.field, one.google, one.standin) for one in differ]
        )
        say(f"{len(cases.CASES)} cases, {len(differ)} differences")
    if differ:
        raise typer.Exit(_FAILED)


def _standin_outcomes() -> dict[str, dict[str, Any]]:
    if find_spec("jinja2") is None:
        say("The stand-in needs jinja2: pip install 'kylo-outbox[local]'")
        raise typer.Exit(_UNREACHABLE)
    # Imported here: other verbs must work without the extra.
    from kylo_outbox.sheets.standin import background  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder, background.running(Path(folder)) as url:
        standin = GoogleSheets(url)
        with contextlib.closing(standin):
            return cases.run(standin, "conformance")


def _must_post(context: Context) -> None:
    if not context.settings.sheets_post:
        say("KYLO_SHEETS_POST is 0 (shadow mode): set it to 1 to write to tabs")
        raise typer.Exit(2)


def _lines(one: dict[str, Any]) -> list[tuple[Any, ...]]:
    own = one["company_id"]
    if one["problem"]:
        return [(own, None, "set aside", f"{one['problem']}. {one['remedy']}")]
    return [(own, change["tab"], change["change"], _what(change)) for change in one["changes"]]


def _what(change: dict[str, Any]) -> str:
    if "row_hash" in change:
        return f"{change['row_hash']} {change['source'][:60]}"
    if "column" in change:
        return f"row {change['row']}, {change['column']}: {change['from']!r} -> {change['to']!r}"
    if "to_version" in change:
        return f"ruleset {change['from_version'] or '-'} -> {change['to_version']}, {change['rules']} rules"
    return f"{change['more_rows']} more rows" if "more_rows" in change else ""


def _compared(one: Compared) -> dict[str, Any]:
    return {
        "company_id": one.company_id,
        "problem": one.problem,
        "remedy": one.remedy,
        "findings": [each._asdict() for each in one.findings],
    }


def _print_aside(found: Sequence[Aside], *, as_json: bool) -> None:
    if as_json:
        print_json([one._asdict() for one in found])
    else:
        columns = ("company", "workbook", "since", "why", "what to do")
        print_table(columns, [(one.company_id, one.spreadsheet_id, one.since, one.reason, one.remedy) for one in found])
    if found:
        raise typer.Exit(_PARTLY)
