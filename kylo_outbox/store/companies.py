"""control.company_config: which companies there are, where each one lives, and the schema of views that is its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from kylo_outbox.model.companies import Company, checked
from kylo_outbox.model.errors import NotFound, Refused
from kylo_outbox.store.tables import company_config as table

if TYPE_CHECKING:
    from collections.abc import Iterable

_COLUMNS = {
    "company_id": table.c.company_id,
    "dsn_ref": table.c.db_dsn_rw,
    "schema": table.c.db_schema,
    "spreadsheet_id": table.c.spreadsheet_id,
    "tab_pending": table.c.tab_pending,
    "tab_active": table.c.tab_active,
    "paused": table.c.paused,
}
_VIEWS = ("transactions", "pending_txns", "rules_active", "sort_queue")
_SHARED = frozenset({"app"})
_LOCK = 1802068082
_OWNER = "kylo company "


def all_companies(connection: sa.Connection) -> list[Company]:
    """Every company, paused ones included, by id. Rows that people wrote are returned as they are, checked or not."""
    return [_company(row) for row in connection.execute(_select().order_by(table.c.company_id))]


def known(connection: sa.Connection, company_ids: Iterable[str]) -> set[str]:
    """Which of the ids are companies of ours."""
    found = connection.scalars(sa.select(table.c.company_id).where(table.c.company_id.in_(list(company_ids))))
    return set(found)


def get(connection: sa.Connection, company_id: str) -> Company:
    """One company.

    Raises:
        Refused: there is none with this id; the message has the remedy.
    """
    # PostgreSQL refuses to compare with what no text of its can hold; no company has such an id.
    row = None
    if "\x00" not in company_id:
        row = connection.execute(_select().where(table.c.company_id == company_id)).one_or_none()
    if row is None:
        raise unknown(company_id)
    return _company(row)


def unknown(company_id: str) -> Refused:
    """The error for an id that no company has."""
    return NotFound([f"company_id: {company_id!r} is unknown; `kylo-outbox company list` shows the known ones"])


def upsert(connection: sa.Connection, company: Company) -> bool:
    """Store a company; True if it is new, False if the row was there and now says the same as `company`.

    Raises:
        Refused: the company is not acceptable (see `model.companies.checked`).
    """
    values = _values(checked(company))
    statement = insert(table).values(values)
    changed = {name: statement.excluded[name] for name in values if name != "company_id"}
    # xmax is 0 in a row that this statement inserted and not updated.
    written = connection.scalar(
        statement.on_conflict_do_update(
            index_elements=[table.c.company_id], set_={**changed, "updated_at": sa.func.now()}
        ).returning(sa.literal_column("xmax = 0"))
    )
    return bool(written)


def set_fields(connection: sa.Connection, company_id: str, **fields: str | bool | None) -> Company:
    """Change the given fields (names of `Company`) of a company and return it; None leaves a field as it is.

    A row that people wrote and that we would not accept can still be paused and resumed.

    Raises:
        Refused: the id is unknown, or the company would not be acceptable.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    connection.execute(sa.select(table.c.company_id).where(table.c.company_id == company_id).with_for_update())
    former = get(connection, company_id)
    company = Company(**{**{name: getattr(former, name) for name in _COLUMNS}, **given})
    if company != former:
        if given.keys() - {"paused"}:
            checked(company)
        values = {name: value for name, value in _values(company).items() if name != "company_id"}
        connection.execute(
            sa.update(table).where(table.c.company_id == company_id).values(**values, updated_at=sa.func.now())
        )
    return company


def pause(connection: sa.Connection, company_id: str) -> Company:
    """Hold the company's flow; nothing is lost. Pausing twice is no error."""
    return set_fields(connection, company_id, paused=True)


def resume(connection: sa.Connection, company_id: str) -> Company:
    """Let the company's flow go on; resuming what runs is no error."""
    return set_fields(connection, company_id, paused=False)


def remove(connection: sa.Connection, company_id: str) -> Company:
    """Forget where the company lives and return what it was; its transactions and rules stay in their database.

    Raises:
        Refused: the id is unknown.
    """
    company = get(connection, company_id)
    connection.execute(sa.delete(table).where(table.c.company_id == company_id))
    return company


def make_views(connection: sa.Connection, company: Company) -> None:
    """Make the company's own schema in its own database: views of its rows alone. Doing it again is no error.

    Raises:
        Refused: the schema belongs to another company, or somebody else keeps things in it.
    """
    checked(company)
    if company.schema in _SHARED:
        return
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    owner, foreign = _inside(connection, company.schema)
    if owner is not None and owner.startswith(_OWNER) and owner != _OWNER + company.company_id:
        other = owner.removeprefix(_OWNER)
        raise Refused([f"schema: {company.schema} belongs to company {other!r}; choose another with --schema"])
    if foreign:
        raise Refused(
            [f"schema: {company.schema} holds {foreign} things that are not ours; choose another with --schema"]
        )
    connection.execute(
        sa.text("select kylo.make_company_views(:company, :schema)"),
        {"company": company.company_id, "schema": company.schema},
    )


def drop_views(connection: sa.Connection, company: Company) -> bool:
    """Remove the company's own schema from its database if it is ours; False if there was none of ours.

    Raises:
        Refused: somebody keeps things in it, or built upon its views; nothing was removed.
    """
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    owner, foreign = _inside(connection, company.schema)
    if owner != _OWNER + company.company_id:
        return False
    if foreign or _built_upon(connection, company.schema):
        raise Refused([f"schema: {company.schema} is used by other things of yours; drop those first"])
    connection.execute(sa.schema.DropSchema(company.schema, cascade=True))
    return True


def _inside(connection: sa.Connection, schema: str) -> tuple[str | None, int]:
    """Whose schema it is by its comment, and how many things other than our views lie in it."""
    owner, foreign = connection.execute(
        sa.text(
            "select obj_description(n.oid, 'pg_namespace'),"
            " (select count(*) from pg_class c where c.relnamespace = n.oid and c.relkind in ('r','p','v','m','S','f')"
            "     and not (c.relkind = 'v' and c.relname = any(:ours)))"
            " + (select count(*) from pg_proc p where p.pronamespace = n.oid)"
            " from (select 1) one left join pg_namespace n on n.nspname = :schema"
        ),
        {"schema": schema, "ours": list(_VIEWS)},
    ).one()
    return owner, foreign or 0


def _built_upon(connection: sa.Connection, schema: str) -> bool:
    """Whether a view elsewhere reads one of the schema's views."""
    return bool(
        connection.scalar(
            sa.text(
                "select exists (select from pg_depend d join pg_rewrite r on r.oid = d.objid"
                " join pg_class reader on reader.oid = r.ev_class join pg_class view on view.oid = d.refobjid"
                " join pg_namespace n on n.oid = view.relnamespace"
                " where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass"
                " and n.nspname = :schema and reader.relnamespace <> view.relnamespace)"
            ),
            {"schema": schema},
        )
    )


def _select() -> sa.Select[Any]:
    return sa.select(*(column.label(name) for name, column in _COLUMNS.items()))


def _company(row: sa.Row[Any]) -> Company:
    return Company(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name


def _values(company: Company) -> dict[str, Any]:
    return {column.name: getattr(company, name) for name, column in _COLUMNS.items()}
