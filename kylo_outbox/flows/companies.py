"""Companies: add, show, change, pause, resume, remove. A row in the control database and views in the company's own."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kylo_outbox.model.companies import checked
from kylo_outbox.model.errors import Conflict, KyloError, Transient
from kylo_outbox.store import companies as table
from kylo_outbox.store import moves
from kylo_outbox.store.dsn import shown
from kylo_outbox.store.engine import Database
from kylo_outbox.store.migrate import require_head
from kylo_outbox.store.prepare import home_of, make_home

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kylo_outbox.model.companies import Company
    from kylo_outbox.model.topics import Topic


@dataclass(frozen=True, slots=True)
class Removed:
    """A company that is no longer configured; `left` says what stays behind and where."""

    company: Company
    left: str


class Companies:
    """The companies of one control database. Its schema must be at head; every method says so otherwise.

    Args:
        control: The control database.
        environ: Where `env:NAME` references are looked up.
        declared: Topics that every store must know.
    """

    def __init__(self, control: Database, environ: Mapping[str, str], declared: Sequence[Topic]) -> None:
        self._control = control
        self._environ = environ
        self._declared = declared

    def add(self, company: Company) -> bool:
        """Prepare the company's database (schema, topics, views), then store the company; True if it is new.

        The same company again changes nothing, so a broken attempt is finished by repeating it.

        Raises:
            Refused: a field cannot be accepted, or its schema is somebody else's.
            Conflict: there is a company with this id and other settings.
            Misconfigured: the reference to its database leads nowhere.
            Unreachable, NotReady: its database is away or refuses; nothing is stored.
        """
        checked(company)
        self._require_schema()
        former = None
        with self._control.begin() as connection:
            if table.known(connection, [company.company_id]):
                former = table.get(connection, company.company_id)
        if former is not None and former != replace(company, paused=former.paused):
            remedy = f"change them with `kylo-outbox company set {company.company_id}`"
            raise Conflict([f"company_id: {company.company_id!r} exists with other settings; {remedy}"])
        self._prepare(company)
        if former is not None:
            return False
        with self._control.begin() as connection:
            return table.upsert(connection, company)

    def all(self) -> list[Company]:
        """Every company by id."""
        self._require_schema()
        with self._control.begin() as connection:
            return table.all_companies(connection)

    def get(self, company_id: str) -> Company:
        """One company.

        Raises:
            Refused: the id is unknown.
        """
        self._require_schema()
        with self._control.begin() as connection:
            return table.get(connection, company_id)

    def change(self, company_id: str, **fields: str | bool | None) -> Company:
        """Change the given fields and return the company; a new database or schema is prepared first.

        Rows that lie in a former database stay there. The former schema of views is removed if nothing else uses it.

        Raises:
            Refused: the id is unknown, a field cannot be accepted, or the schema is somebody else's.
            Misconfigured: the reference to its database leads nowhere.
            Unreachable, NotReady: its database is away or refuses; nothing is stored.
        """
        former = self.get(company_id)
        given = {name: value for name, value in fields.items() if value is not None}
        wanted = replace(former, **given)  # type: ignore[arg-type]
        if (wanted.dsn_ref, wanted.schema) != (former.dsn_ref, former.schema):
            self._refuse_while_moving(company_id)
            self._prepare(checked(wanted))
        with self._control.begin() as connection:
            company = table.set_fields(connection, company_id, **given)
        if company.dsn_ref == former.dsn_ref and company.schema != former.schema:
            self._drop_views(former)
        return company

    def pause(self, company_id: str) -> Company:
        """Hold the company's flow; nothing is lost, and it stays held over restarts.

        Raises:
            Refused: the id is unknown.
        """
        return self.change(company_id, paused=True)

    def resume(self, company_id: str) -> Company:
        """Let the company's flow go on.

        Raises:
            Refused: the id is unknown.
        """
        return self.change(company_id, paused=False)

    def remove(self, company_id: str) -> Removed:
        """Forget the company and its views; its transactions, rules and tabs stay where they are.

        Raises:
            Refused: the id is unknown.
        """
        self._require_schema()
        with self._control.begin() as connection:
            company = table.remove(connection, company_id)
        where = shown(company.dsn_ref)
        dropped = self._drop_views(company)
        views = f"; {dropped}" if dropped else ""
        return Removed(company, f"its rows stay in {where}, its tabs in workbook {company.spreadsheet_id}{views}")

    def _refuse_while_moving(self, company_id: str) -> None:
        with self._control.transaction() as tx:
            if moves.open_move(tx, company_id) is not None:
                raise Conflict([f"company {company_id}: it is being moved; finish or cancel that first"])

    def _require_schema(self) -> None:
        require_head(self._control, "store")
        require_head(self._control, "control")

    def _prepare(self, company: Company) -> None:
        with self._home(company) as database:
            make_home(database, self._declared, company)

    def _drop_views(self, company: Company) -> str:
        """Remove the company's schema; what could not be done, in one line."""
        try:
            with self._home(company) as database, database.begin() as connection:
                table.drop_views(connection, company)
        except Transient:
            return f"schema {company.schema} stays, because its database is away"
        except KyloError as refused:
            return f"schema {company.schema} stays ({refused})"
        return ""

    @contextmanager
    def _home(self, company: Company) -> Iterator[Database]:
        dsn = home_of(company, self._environ)
        if dsn == self._control.dsn:
            yield self._control
            return
        database = Database(dsn, name=shown(dsn))
        try:
            yield database
        finally:
            database.close()
