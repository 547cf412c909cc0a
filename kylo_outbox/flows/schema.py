"""Schema: bring the control database and every company database to this release, and tell where each one stands.

One database that cannot be reached or refuses is reported and stops no other; doing it again goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kylo_outbox.model.errors import KyloError
from kylo_outbox.store import companies as table
from kylo_outbox.store import identity
from kylo_outbox.store.dsn import shown
from kylo_outbox.store.engine import Database
from kylo_outbox.store.migrate import Tree, Version, tree_of, version
from kylo_outbox.store.prepare import Home, bring_to, homes, settle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kylo_outbox.model.companies import Company
    from kylo_outbox.model.topics import Topic

STORE: Tree = "store"
CONTROL: Tree = "control"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One database: where its trees stand, which companies live there, and what went wrong (nothing: empty)."""

    database: str
    versions: tuple[Version, ...] = ()
    moved: bool = False
    companies: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Schema:
    """Migrates everything that the control database knows of.

    Args:
        control: The control database.
        environ: Where `env:NAME` references are looked up.
        declared: Topics that every store must know.
    """

    def __init__(self, control: Database, environ: Mapping[str, str], declared: Sequence[Topic]) -> None:
        self._control = control
        self._environ = environ
        self._declared = declared

    def migrate(self, to: str = "head") -> list[Outcome]:
        """Bring every database to `to`: `head` for both trees, or a revision for the tree that it belongs to.

        Returns:
            One outcome a database, the control database first. At head the declared topics are registered and the
            views of every company are made, so an INSERT into control.company_config followed by this is enough.

        Raises:
            Misconfigured: there is no such revision.
            Unreachable, NotReady: the control database is away or refuses; nothing else was tried.
        """
        only = None if to == "head" else tree_of(to)
        steps = [bring_to(self._control, tree, to) for tree in (STORE, CONTROL) if only in {None, tree}]
        own = Outcome(CONTROL, tuple(after for _, after in steps), any(before != after for before, after in steps))
        if only == CONTROL or not version(self._control, CONTROL).current:
            return [own]
        here, elsewhere, away = self._homes()
        outcomes = [self._finished(self._control, here, own)]
        for home, database in elsewhere:
            try:
                outcomes.append(self._company_database(database, home, to))
            finally:
                database.close()
        return outcomes + away

    def goes_back(self, to: str) -> bool:
        """Whether `migrate(to)` would take something away somewhere.

        Raises:
            Misconfigured: there is no such revision.
        """
        if to == "head":
            return False
        tree = tree_of(to)
        # Revisions of a tree are numbered with leading zeros: the order of their names is their own.
        stand = [each.at for outcome in self.status() for each in outcome.versions if each.tree == tree]
        return any(at is not None and to < at for at in stand)

    def status(self) -> list[Outcome]:
        """Where every database stands; nothing is changed.

        Raises:
            Unreachable: the control database is away.
        """
        versions = tuple(version(self._control, tree) for tree in (STORE, CONTROL))
        if not versions[1].current:
            return [Outcome(CONTROL, versions)]
        here, elsewhere, away = self._homes()
        outcomes = [Outcome(CONTROL, versions, companies=_ids(here))]
        for home, database in elsewhere:
            found = (version(database, STORE),)
            outcomes.append(Outcome(shown(home.dsn), found, companies=_ids(home.companies)))
            database.close()
        return outcomes + away

    def _company_database(self, database: Database, home: Home, to: str) -> Outcome:
        outcome = Outcome(shown(home.dsn), companies=_ids(home.companies))
        try:
            before, after = bring_to(database, STORE, to)
        except KyloError as failed:
            return replace(outcome, problems=(str(failed),))
        return self._finished(database, home.companies, replace(outcome, versions=(after,), moved=before != after))

    def _finished(self, database: Database, companies: Sequence[Company], outcome: Outcome) -> Outcome:
        """At head: topics, views, and whether the name is its own. Below it there is nothing to put them in."""
        problems: tuple[str, ...] = ()
        if all(each.current for each in outcome.versions if each.tree == STORE):
            try:
                found = settle(database, self._declared, companies)
                problems = tuple(f"company {company_id}: {why}" for company_id, why in found.items())
                with database.begin() as connection:
                    identity.require_own(connection)
            except KyloError as failed:
                problems = (*problems, str(failed))
        return replace(outcome, companies=_ids(companies), problems=problems)

    def _homes(self) -> tuple[tuple[Company, ...], list[tuple[Home, Database]], list[Outcome]]:
        """Companies of the control database, every other database once, and what could not be looked at.

        Two connection strings may lead to one database: what counts is what the server says of it.
        """
        with self._control.begin() as connection:
            here = identity.place(connection)
            found, nowhere = homes(table.all_companies(connection), self._environ)
        own: tuple[Company, ...] = ()
        elsewhere: dict[tuple[int, int], tuple[Home, Database]] = {}
        away = [Outcome("(unknown)", companies=(company,), problems=(why,)) for company, why in nowhere.items()]
        for home in found:
            database = Database(home.dsn, name=shown(home.dsn))
            try:
                with database.begin() as connection:
                    place = identity.place(connection)
            except KyloError as unreachable:
                away.append(Outcome(shown(home.dsn), companies=_ids(home.companies), problems=(str(unreachable),)))
                database.close()
                continue
            if place == here:
                own += home.companies
                database.close()
            elif place in elsewhere:
                first, kept = elsewhere[place]
                elsewhere[place] = (Home(first.dsn, first.companies + home.companies), kept)
                database.close()
            else:
                elsewhere[place] = (home, database)
        return own, list(elsewhere.values()), away


def _ids(companies: Sequence[Company]) -> tuple[str, ...]:
    return tuple(company.company_id for company in companies)
