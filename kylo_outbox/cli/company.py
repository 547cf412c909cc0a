"""The verbs `company add / list / show / set / pause / resume / remove`."""

from __future__ import annotations

from typing import Annotated

import typer

from kylo_outbox.cli.context import Context, opened
from kylo_outbox.cli.output import AsJson, DryRun, Yes, confirmed, print_json, print_table, say
from kylo_outbox.flows.companies import Companies
from kylo_outbox.flows.move import MoveCompany
from kylo_outbox.model.companies import Company, new_company
from kylo_outbox.model.errors import Misconfigured
from kylo_outbox.store.dsn import shown
from kylo_outbox.web.shapes import company_shape

_group = typer.Typer(help="Companies: where each one lives and which workbook shows it.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The company's id.")]
Dsn = Annotated[str | None, typer.Option(help="Its database: env:NAME, file:PATH or a connection string.")]
Schema = Annotated[str | None, typer.Option(help="The schema of its views, by default app_ID.")]
TabPending = Annotated[str | None, typer.Option(help='By default "ID Pending".')]
TabActive = Annotated[str | None, typer.Option(help='By default "ID Active".')]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    app.add_typer(_group, name="company")


@_group.command()
def add(
    company_id: Id,
    *,
    spreadsheet: Annotated[str, typer.Option(help="Id of the Google workbook.")],
    dsn: Dsn = None,
    schema: Schema = None,
    tab_pending: TabPending = None,
    tab_active: TabActive = None,
    as_json: AsJson = False,
) -> None:
    """Add a company and prepare its database; the same call again changes nothing.

    Example: kylo-outbox company add 710 --spreadsheet 1AbC --dsn env:PG_DSN_710
    """
    company = new_company(
        company_id, spreadsheet, dsn_ref=dsn, schema=schema, tab_pending=tab_pending, tab_active=tab_active
    )
    with opened() as context:
        new = _flow(context).add(company)
    say(f"company {company_id} {'added' if new else 'is there already, nothing changed'}")
    _print(company, as_json=as_json)


@_group.command("list")
def list_companies(*, as_json: AsJson = False) -> None:
    """List the companies.

    Example: kylo-outbox company list --json
    """
    with opened() as context:
        companies = _flow(context).all()
    if as_json:
        print_json([company_shape(company) for company in companies])
    else:
        print_table(
            ("company", "database", "schema", "spreadsheet", "paused"),
            [(c.company_id, shown(c.dsn_ref), c.schema, c.spreadsheet_id, c.paused) for c in companies],
        )


@_group.command()
def show(company_id: Id, *, as_json: AsJson = False) -> None:
    """Show one company.

    Example: kylo-outbox company show 710
    """
    with opened() as context:
        _print(_flow(context).get(company_id), as_json=as_json)


@_group.command("set")
def change(
    company_id: Id,
    *,
    spreadsheet: Annotated[str | None, typer.Option(help="Id of the Google workbook.")] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    tab_pending: TabPending = None,
    tab_active: TabActive = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Change a company. Another database needs --yes: rows that lie in the former one stay there.

    Example: kylo-outbox company set 710 --tab-pending "Open items"
    """
    with opened() as context:
        flow = _flow(context)
        if dsn is not None and dsn != flow.get(company_id).dsn_ref:
            what = (
                f"move company {company_id} to another database and leave its rows behind in {_home(flow, company_id)}"
            )
            if not confirmed(what, yes=yes, dry_run=dry_run):
                return
        elif dry_run:
            say("would change the given fields; nothing was changed")
            return
        company = flow.change(
            company_id,
            spreadsheet_id=spreadsheet,
            dsn_ref=dsn,
            schema=schema,
            tab_pending=tab_pending,
            tab_active=tab_active,
        )
    _print(company, as_json=as_json)


@_group.command()
def move(
    company_id: Id,
    *,
    dsn: Dsn = None,
    schema: Schema = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stay in the old home, if it still lives there.")] = False,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to wait until what is under way is applied.")] = 60.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Move a company to another database with all its rows; after a crash the same call goes on.

    It is paused meanwhile; nothing is lost and nothing is applied twice. Tabs and sheet posts stay as they are.

    Example: kylo-outbox company move 710 --dsn env:PG_DSN_710 --yes
    """
    if cancel == (dsn is not None):
        raise Misconfigured("company move: give --dsn, or --cancel")
    with opened() as context:
        flow = _mover(context, patience)
        home = _home(_flow(context), company_id)
        if dsn is None:
            company = flow.cancel(company_id)
            say(f"company {company_id} stays in {home}")
        else:
            what = f"move company {company_id} from {home} to {shown(dsn)}"
            if not confirmed(what, yes=yes, dry_run=dry_run):
                return
            moved = flow.move(company_id, dsn, schema)
            company = moved.company
            say(f"company {company_id} lives in {shown(company.dsn_ref)}; {sum(moved.rows.values())} rows copied")
            if moved.left:
                say(moved.left)
    _print(company, as_json=as_json)


@_group.command()
def pause(company_id: Id, *, as_json: AsJson = False) -> None:
    """Hold a company's flow: nothing is lost, and it stays held over restarts until `resume`.

    Example: kylo-outbox company pause 710
    """
    with opened() as context:
        _print(_flow(context).pause(company_id), as_json=as_json)


@_group.command()
def resume(company_id: Id, *, as_json: AsJson = False) -> None:
    """Let a company's flow go on.

    Example: kylo-outbox company resume 710
    """
    with opened() as context:
        _print(_flow(context).resume(company_id), as_json=as_json)


@_group.command()
def remove(company_id: Id, *, yes: Yes = False, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Forget a company; its transactions, rules and tabs stay where they are.

    Example: kylo-outbox company remove 710 --dry-run
    """
    with opened() as context:
        flow = _flow(context)
        company = flow.get(company_id)
        if not confirmed(
            f"forget company {company_id} and drop the views in {company.schema}", yes=yes, dry_run=dry_run
        ):
            return
        removed = flow.remove(company_id)
    say(f"company {company_id} is forgotten; {removed.left}")
    _print(removed.company, as_json=as_json)


def _flow(context: Context) -> Companies:
    return Companies(context.parts.control, context.settings.environ, context.declared)


def _mover(context: Context, patience: float) -> MoveCompany:
    readers = {"txns": context.settings.topic_txns, "promote": context.settings.topic_promote}
    return MoveCompany(
        context.parts.control, context.settings.environ, context.declared, readers, patience=patience, tell=say
    )


def _home(flow: Companies, company_id: str) -> str:
    return shown(flow.get(company_id).dsn_ref)


def _print(company: Company, *, as_json: bool) -> None:
    if as_json:
        print_json(company_shape(company))
    else:
        print_table(("field", "value"), list(company_shape(company).items()))
