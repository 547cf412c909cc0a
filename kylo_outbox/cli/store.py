"""The verbs `store show / rename / adopt`: the name that every record of a database carries."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from kylo_outbox.cli.context import Context, opened
from kylo_outbox.cli.errors import PARTLY
from kylo_outbox.cli.output import AsJson, DryRun, Yes, confirmed, print_json, print_table, say
from kylo_outbox.cli.stores import ask_all
from kylo_outbox.flows.companies import Companies
from kylo_outbox.store import identity
from kylo_outbox.store.engine import Database
from kylo_outbox.store.prepare import home_of, refusals

if TYPE_CHECKING:
    from collections.abc import Iterator

_group = typer.Typer(help="The names of the databases: copies and restores need a decision.", no_args_is_help=True)

Company = Annotated[str | None, typer.Option(help="The database of this company; else the control database.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    app.add_typer(_group, name="store")


@_group.command()
def show(*, as_json: AsJson = False) -> None:
    """Show each store: its name, its generation, and whether the name was given to this very database.

    Exits with 4 if one is a copy or a restore, or could not be asked.

    Example: kylo-outbox store show --json
    """
    with opened() as context:
        answers, complete = ask_all(context, identity.identity)
    rows = [
        {
            "store": found.store.store_id,
            "generation": found.store.generation,
            "database": found.database,
            "own": found.own,
        }
        for _, found in answers
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(("store", "generation", "database", "own name"), [tuple(row.values()) for row in rows])
    for row in rows:
        if not row["own"]:
            say(f"{row['database']} is a copy or a restore: `kylo-outbox store rename` or `kylo-outbox store adopt`")
    if not complete or not all(row["own"] for row in rows):
        raise typer.Exit(PARTLY)


@_group.command()
def rename(*, company: Company = None, yes: Yes = False, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Give a copied database a new name. What waits in it belongs to its origin and is not published from here.

    Example: kylo-outbox store rename --dry-run
    """
    with opened() as context, _database(context, company) as database:
        with refusals(database), database.begin() as connection:
            former, count = identity.identity(connection), identity.waiting(connection)
        what = f"give {former.database} a new name in the place of {former.store.store_id} and count {count} waiting "
        if not confirmed(what + "events as done, because its origin publishes them", yes=yes, dry_run=dry_run):
            return
        with refusals(database), database.begin() as connection:
            store = identity.rename(connection)
    _print(former.database, store, as_json=as_json)


@_group.command()
def adopt(*, company: Company = None, yes: Yes = False, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Let a restored database go on under its name, as a new generation. What waits in it is published.

    Example: kylo-outbox store adopt --dry-run
    """
    with opened() as context, _database(context, company) as database:
        with refusals(database), database.begin() as connection:
            former, count = identity.identity(connection), identity.waiting(connection)
        what = (
            f"let {former.database} go on as {former.store.store_id}, generation {former.store.generation + 1}, "
            f"and publish {count} waiting events"
        )
        if not confirmed(what, yes=yes, dry_run=dry_run):
            return
        with refusals(database), database.begin() as connection:
            store = identity.adopt(connection)
    _print(former.database, store, as_json=as_json)


@contextmanager
def _database(context: Context, company_id: str | None) -> Iterator[Database]:
    if company_id is None:
        yield context.parts.control
        return
    flow = Companies(context.parts.control, context.settings.environ, context.declared)
    dsn = home_of(flow.get(company_id), context.settings.environ)
    database = Database(dsn, name=f"the database of company {company_id}")
    try:
        yield database
    finally:
        database.close()


def _print(database: str, store: identity.StoreId, *, as_json: bool) -> None:
    if as_json:
        print_json({"store": store.store_id, "generation": store.generation, "database": database, "own": True})
    else:
        say(f"{database} is store {store.store_id}, generation {store.generation}")
