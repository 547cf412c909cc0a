"""Which company lives in which store: `control.company_config`, read again every few seconds.

A store is a database. Two connection strings are one store when the name inside the database is the same
(`localhost`, `127.0.0.1` and `env:PG_DSN_RW` are one), because two relays on one outbox would be the result otherwise.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kylo_outbox.model.errors import Misconfigured, NotReady, Transient
from kylo_outbox.store import companies
from kylo_outbox.store.dsn import resolve, shown
from kylo_outbox.store.engine import Database
from kylo_outbox.store.identity import require_own
from kylo_outbox.store.isolation import require_unbound
from kylo_outbox.store.migrate import require_head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kylo_outbox.model.companies import Company

log = logging.getLogger(__name__)
REFRESH = 5.0
_AT_MOST = 0.5
_AWAY = 2.0


@dataclass(frozen=True, slots=True)
class Store:
    """One database with the companies in it; `problem` says why it cannot be used now (None: it can)."""

    database: Database
    companies: tuple[str, ...]
    problem: str | None = None


class Directory:
    """Companies and their stores. Safe to share between threads; keeps connections only to stores in use."""

    def __init__(self, control: Database, environ: Mapping[str, str]) -> None:
        self.control = control
        self._environ = environ
        self._lock = threading.RLock()
        self._read_at = -REFRESH
        self._companies: dict[str, Company] = {}
        self._by_dsn: dict[str, Database] = {control.dsn: control}
        self._names: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._away: dict[str, tuple[float, str]] = {}
        self._stores: list[Store] = []
        self._homes: dict[str, Store] = {}
        self._looked = self._look_again_at = 0.0

    def company(self, company_id: str) -> Company | None:
        """The company's row as of at most `REFRESH` seconds ago; one that is unknown is asked for again."""
        self._refresh(REFRESH)
        if company_id not in self._companies:
            self._refresh(_AT_MOST)
        return self._companies.get(company_id)

    def companies(self) -> list[Company]:
        """Every company as of at most `REFRESH` seconds ago, by id."""
        self._refresh(REFRESH)
        return list(self._companies.values())

    def is_known(self, company_id: str) -> bool:
        """Whether the company is configured."""
        return self.company(company_id) is not None

    def database_of(self, company_id: str) -> Database:
        """The company's store; the control database for a company that is not configured.

        Raises:
            Transient: its store cannot be used now (unreachable, not migrated, connection string unreadable).
        """
        company = self.company(company_id)
        if company is None:
            return self.control
        with self._lock:
            self._look()
            store = self._homes.get(company_id)
        if store is None:
            raise Transient(f"company {company_id}: its store is not known yet")
        if store.problem:
            raise Transient(f"company {company_id}: {store.problem}")
        return store.database

    def stores(self) -> list[Store]:
        """Every store once, the control database first; one that cannot be used is listed with its problem."""
        self._refresh(REFRESH)
        with self._lock:
            self._look()
            return list(self._stores)

    def close(self) -> None:
        """Close every connection of every store, the control database's too."""
        with self._lock:
            for database in self._by_dsn.values():
                database.close()

    def _look(self) -> None:
        """Find the store of each company: once for each reading of the companies, twice a second while one is away."""
        if self._looked == self._read_at and time.monotonic() < self._look_again_at:
            return
        control_name, problem = self._name_of(self.control)
        found: dict[str, tuple[Database, list[str], str | None]] = {
            control_name or self.control.dsn: (self.control, [], problem)
        }
        for company in self._companies.values():
            try:
                database = self._database(company)
            except Misconfigured as unreadable:
                self._tell(company.company_id, str(unreadable))
                continue
            name, problem = self._name_of(database)
            entry = found.setdefault(name or database.dsn, (database, [], problem))
            entry[1].append(company.company_id)
        self._stores = [Store(database, tuple(sorted(ids)), why) for database, ids, why in found.values()]
        self._homes = {company: store for store in self._stores for company in store.companies}
        self._looked = self._read_at
        away = any(store.problem for store in self._stores)
        self._look_again_at = time.monotonic() + _AT_MOST if away else math.inf

    def _refresh(self, older_than: float) -> None:
        with self._lock:
            if time.monotonic() - self._read_at < older_than:
                return
            with self.control.begin() as connection:
                self._companies = {company.company_id: company for company in companies.all_companies(connection)}
            self._read_at = time.monotonic()

    def _database(self, company: Company) -> Database:
        dsn = resolve(company.dsn_ref, self._environ, f"company {company.company_id}, db_dsn_rw")
        if dsn not in self._by_dsn:
            self._by_dsn[dsn] = Database(dsn, name=f"store {shown(dsn)}")
        return self._by_dsn[dsn]

    def _name_of(self, database: Database) -> tuple[str | None, str | None]:
        """(store id, problem). A name once read is kept: it changes only with an operator's verb and a restart."""
        if database.dsn in self._names:
            return self._names[database.dsn], None
        # A database that does not answer costs its time-out once in a while, not once a question.
        until, problem = self._away.get(database.dsn, (0.0, ""))
        if time.monotonic() < until:
            return None, problem
        try:
            with database.begin() as connection:
                # A copy brings its origin's name with it: it must not be taken for its origin.
                store_id = require_own(connection).store_id
                require_unbound(connection)
            require_head(database, "store")
        except (Transient, NotReady) as not_now:
            self._away[database.dsn] = (time.monotonic() + _AWAY, str(not_now))
            return None, self._tell(database.name, str(not_now))
        self._told.pop(database.name, None)
        self._names[database.dsn] = store_id
        return store_id, None

    def _tell(self, who: str, problem: str) -> str:
        if self._told.get(who) != problem:
            self._told[who] = problem
            log.warning("%s", problem)
        return problem
