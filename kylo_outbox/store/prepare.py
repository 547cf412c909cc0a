"""Making a database a store of this release: schema, declared topics, the views of the companies that live in it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
from alembic.util.exc import CommandError

from kylo_outbox.model.errors import KyloError, Misconfigured, NotReady
from kylo_outbox.store import companies as table
from kylo_outbox.store import identity
from kylo_outbox.store import topics as registry
from kylo_outbox.store.dsn import resolve
from kylo_outbox.store.migrate import Tree, Version, migrate, version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from kylo_outbox.model.companies import Company
    from kylo_outbox.model.topics import Topic
    from kylo_outbox.store.engine import Database


@dataclass(frozen=True, slots=True)
class Home:
    """One connection string and the companies whose rows name it; kept out of `repr`, because it holds a password."""

    dsn: str = field(repr=False)
    companies: tuple[Company, ...]


def homes(companies: Iterable[Company], environ: Mapping[str, str]) -> tuple[list[Home], dict[str, str]]:
    """Group companies by where they live.

    Returns:
        The homes in the order of their first company, and for each company whose reference leads nowhere the reason.
    """
    found: dict[str, list[Company]] = {}
    problems: dict[str, str] = {}
    for company in companies:
        try:
            found.setdefault(home_of(company, environ), []).append(company)
        except Misconfigured as nowhere:
            problems[company.company_id] = str(nowhere)
    return [Home(dsn, tuple(members)) for dsn, members in found.items()], problems


def home_of(company: Company, environ: Mapping[str, str]) -> str:
    """The connection string of a company.

    Raises:
        Misconfigured: its reference leads nowhere or cannot be read; no part of it is shown.
    """
    return resolve(company.dsn_ref, environ, f"company {company.company_id}, db_dsn_rw")


def bring_to(database: Database, tree: Tree, to: str = "head") -> tuple[Version, Version]:
    """Migrate one tree; where it stood and where it stands. Nothing is written when it stands there already.

    Raises:
        NotReady: PostgreSQL refuses a step; the former version is whole.
        Transient: PostgreSQL is away.
    """
    with refusals(database):
        before = version(database, tree)
        if to == before.at or (to == "head" and before.current):
            return before, before
        return before, migrate(database, tree, to)


def make_home(database: Database, declared: Sequence[Topic], company: Company) -> None:
    """Bring a database to head and make it fit for one company: topics, its views, a store name of its own.

    Raises:
        Refused: the company's schema is somebody else's.
        NotReady: PostgreSQL refuses a step, or the database is a copy that has no name of its own.
        Transient: PostgreSQL is away.
    """
    bring_to(database, "store")
    register(database, declared)
    make_views(database, company)
    with database.begin() as connection:
        identity.require_own(connection)


def settle(database: Database, declared: Sequence[Topic], companies: Sequence[Company]) -> dict[str, str]:
    """Register the declared topics and make the companies' views in a database at head.

    Returns:
        For each company whose views cannot be made the reason; the others have theirs.
    """
    register(database, declared)
    problems = {}
    for company in companies:
        try:
            make_views(database, company)
        except KyloError as refused:
            problems[company.company_id] = str(refused)
    return problems


def register(database: Database, declared: Sequence[Topic]) -> None:
    """Make the store's registry say what is declared.

    Raises:
        NotReady: PostgreSQL refuses.
    """
    with refusals(database), database.begin() as connection:
        registry.sync(connection, declared)


def make_views(database: Database, company: Company) -> None:
    """Make the company's schema of views.

    Raises:
        Refused: the schema is somebody else's, or its name cannot be accepted.
        NotReady: PostgreSQL refuses.
    """
    with refusals(database), database.begin() as connection:
        table.make_views(connection, company)


@contextmanager
def refusals(database: Database) -> Iterator[None]:
    """Turn what PostgreSQL refuses (rights, a schema of somebody else) into one line that names the database.

    Raises:
        NotReady: in the place of the driver's error.
        Misconfigured: in the place of the migration tool's complaint about a revision.
    """
    try:
        yield
    except psycopg.Error as refused:
        said = refused.diag.message_primary or type(refused).__name__
        raise NotReady(f"{database.name}: PostgreSQL refuses: {said} ({refused.sqlstate})") from refused
    except CommandError as unknown:
        raise Misconfigured(f"migrate: {unknown}") from None
