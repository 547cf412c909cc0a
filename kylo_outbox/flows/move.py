"""A company moves to another database: pause, wait, freeze, copy, switch, tidy up. Every step may be repeated.

What keeps it right is the fence, not the pause: once a company's rows are frozen, every handler that still believes
in the old home is told to wait, until its directory shows the new one. The positions travel with the rows, so what
was applied before is a repeat afterwards. The pause and the wait only spare other companies that share a partition.

A crash at any point leaves the company in one of the two homes, whole; the same command goes on where it stopped.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from kylo_outbox.model.companies import checked
from kylo_outbox.model.errors import Conflict, KyloError, Transient
from kylo_outbox.model.messages import tabs_changed
from kylo_outbox.model.topics import PENDING_READY, TABS_CHANGED
from kylo_outbox.store import carrying, companies, identity, moves
from kylo_outbox.store.dsn import resolve, shown
from kylo_outbox.store.emit import emit_many
from kylo_outbox.store.engine import Database
from kylo_outbox.store.migrate import require_head
from kylo_outbox.store.prepare import make_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kylo_outbox.model.companies import Company
    from kylo_outbox.model.topics import Topic
    from kylo_outbox.store.moves import Move

log = logging.getLogger(__name__)
_HINTS: Final = (PENDING_READY, TABS_CHANGED)
_LOOK_EVERY: Final = 0.2


@dataclass(frozen=True, slots=True)
class Moved:
    """A company in its new home: rows that were copied by this very call, by table; `left` says what stays behind."""

    company: Company
    rows: Mapping[str, int]
    left: str = ""


class MoveCompany:
    """Moves companies between databases.

    Args:
        control: The control database.
        environ: Where `env:NAME` references are looked up.
        declared: Topics that every store must know.
        readers: The topic of each projector whose effect lies in the companies' databases.
        patience: Seconds to wait until what is under way has been applied.
        tell: Called with what is being done, for people.
    """

    def __init__(
        self,
        control: Database,
        environ: Mapping[str, str],
        declared: Sequence[Topic],
        readers: Mapping[str, str],
        *,
        patience: float = 60.0,
        tell: Callable[[str], None] = log.info,
    ) -> None:
        self._control, self._environ, self._declared = control, environ, declared
        self._readers, self._patience, self._tell = readers, patience, tell

    def move(self, company_id: str, dsn_ref: str, schema: str | None = None) -> Moved:
        """Move a company with all its rows; the same call again goes on, or finds it done.

        Raises:
            NotFound: the company is unknown.
            Refused, Conflict: its new home cannot be accepted, it is on its way elsewhere, or has open dead letters.
            Misconfigured: a reference leads nowhere.
            Transient, NotReady: a database is away, or what is under way was not applied in time. The company is
                paused then and the move goes on with the next call.
        """
        require_head(self._control, "store")
        require_head(self._control, "control")
        with self._control.begin() as connection:
            company = companies.get(connection, company_id)
        with self._control.transaction() as tx:
            move = moves.open_move(tx, company_id)
        wanted = checked(replace(company, dsn_ref=dsn_ref, schema=schema or company.schema))
        if move is None:
            if (wanted.dsn_ref, wanted.schema) == (company.dsn_ref, company.schema):
                return Moved(company, {})
            with self._home(company.dsn_ref) as source, self._home(dsn_ref) as target:
                make_home(target, self._declared, wanted)
                if _name(source) == _name(target):
                    return self._rename(source, company, wanted)
                self._refuse_open_ends(source, company_id)
            with self._control.transaction() as tx:
                move = moves.begin(tx, company, wanted.dsn_ref, wanted.schema)
        elif (move.to_dsn, move.to_schema) != (wanted.dsn_ref, wanted.schema) or move.step == "cancelling":
            where = f"{shown(move.to_dsn)}, schema {move.to_schema}"
            raise Conflict([f"company {company_id}: it is on its way to {where}; finish that, or cancel it"])
        return self._go_on(move, wanted)

    def cancel(self, company_id: str) -> Company:
        """Stay in the old home, as long as the new one is not in force; a move that is not under way is no error.

        Raises:
            NotFound: the company is unknown.
            Conflict: it lives in its new home already; `move` finishes the rest.
            Transient, NotReady: a database is away; call again.
        """
        with self._control.begin() as connection:
            company = companies.get(connection, company_id)
        with self._control.transaction() as tx:
            move = moves.open_move(tx, company_id)
            if move is not None:
                move = moves.step(tx, move, "cancelling", "waiting", "frozen", "copied")
        if move is not None:
            with self._home(move.to_dsn) as target, target.transaction() as tx:
                carrying.take_back(tx, company_id, move.move_id, list(self._readers))
        with self._home(company.dsn_ref) as source, source.transaction() as tx:
            carrying.unfreeze(tx, company_id)
        if move is not None:
            with self._control.transaction() as tx:
                moves.give_up(tx, move)
        with self._control.begin() as connection:
            return companies.get(connection, company_id)

    def _go_on(self, move: Move, wanted: Company) -> Moved:
        company_id, names = move.company_id, list(self._readers)
        rows: Mapping[str, int] = {}
        with self._home(move.from_dsn) as source, self._home(move.to_dsn) as target:
            if move.step == "waiting":
                self._wait_until_quiet(move, source)
                self._tell(f"company {company_id}: freezing its rows in {shown(source.dsn)}")
                with source.transaction() as tx:
                    left = carrying.freeze(tx, company_id, move.move_id, names)
                if left:
                    raise _waits(company_id, _settle(company_id, left))
                move = self._step(move, "frozen", "waiting")
            if move.step == "frozen":
                self._tell(f"company {company_id}: copying its rows to {shown(target.dsn)}")
                with source.transaction() as origin, target.transaction() as tx:
                    rows = carrying.copy(origin, tx, company_id, move.move_id, names)
                    # Whatever its former home had not told yet: look at both tabs.
                    emit_many(tx, [tabs_changed(company_id, "pending"), tabs_changed(company_id, "active")])
                move = self._step(move, "copied", "frozen")
            if move.step == "copied":
                with self._control.transaction() as tx:
                    move = moves.switch(tx, move)
                self._tell(f"company {company_id} lives in {shown(target.dsn)} now")
            left = self._tidy_up(move, source, wanted)
        with self._control.begin() as connection:
            return Moved(companies.get(connection, company_id), rows, left)

    def _step(self, move: Move, to: str, former: str) -> Move:
        with self._control.transaction() as tx:
            return moves.step(tx, move, to, former)

    def _tidy_up(self, move: Move, source: Database, wanted: Company) -> str:
        """Remove what stays behind in the old home; what could not be removed, in one line."""
        former = replace(wanted, dsn_ref=move.from_dsn, schema=move.from_schema)
        try:
            with source.transaction() as tx:
                carrying.remove(tx, move.company_id, move.move_id, list(self._readers))
            with source.begin() as connection:
                companies.drop_views(connection, former)
        except Transient:
            return f"its rows stay in {shown(source.dsn)}, which is away; the same command removes them later"
        except KyloError as refused:
            self._step(move, "done", "switched")
            return f"schema {move.from_schema} stays ({refused})"
        self._step(move, "done", "switched")
        return ""

    def _wait_until_quiet(self, move: Move, source: Database) -> None:
        """Wait until what was published before the pause is applied; then no batch of others has to wait for us."""
        until = time.monotonic() + self._patience
        while reason := self._busy(move, source):
            if time.monotonic() >= until:
                raise _waits(move.company_id, reason)
            time.sleep(_LOOK_EVERY)

    def _busy(self, move: Move, source: Database) -> str:
        """What is still under way, or an empty text."""
        control_name = _name(self._control)
        with self._control.transaction() as control, source.transaction() as tx:
            topics = carrying.unapplied(control, tx, move.company_id, control_name, self._readers)
            left = carrying.open_ends(tx, move.company_id, list(self._readers))
        if left:
            return _settle(move.company_id, left)
        if topics:
            return f"events of {', '.join(topics)} are not applied yet (does `kylo-outbox project --all` run?)"
        if _name(source) != control_name and not self._others_in(move):
            with source.transaction() as tx:
                count = carrying.waiting_elsewhere(tx, move.company_id, _HINTS)
            if count:
                return f"{count} events of its database, which nobody will read afterwards, are not published yet"
        return ""

    def _others_in(self, move: Move) -> bool:
        home = resolve(move.from_dsn, self._environ, f"company {move.company_id}, db_dsn_rw")
        with self._control.begin() as connection:
            others = [each for each in companies.all_companies(connection) if each.company_id != move.company_id]
        return any(self._leads_to(other, home) for other in others)

    def _leads_to(self, company: Company, home: str) -> bool:
        try:
            return resolve(company.dsn_ref, self._environ, company.company_id) == home
        except KyloError:
            return False

    def _rename(self, database: Database, company: Company, wanted: Company) -> Moved:
        """The new reference leads to the very same database: only the row and the views change."""
        with self._control.begin() as connection:
            companies.set_fields(connection, company.company_id, dsn_ref=wanted.dsn_ref, schema=wanted.schema)
        if company.schema != wanted.schema:
            with database.begin() as connection:
                companies.drop_views(connection, company)
        return Moved(wanted, {})

    def _refuse_open_ends(self, source: Database, company_id: str) -> None:
        with source.transaction() as tx:
            left = carrying.open_ends(tx, company_id, list(self._readers))
        if left:
            raise Conflict([f"company {company_id}: it has {_settle(company_id, left)}"])

    @contextmanager
    def _home(self, dsn_ref: str) -> Iterator[Database]:
        dsn = resolve(dsn_ref, self._environ, "dsn")
        if dsn == self._control.dsn:
            yield self._control
            return
        database = Database(dsn, name=shown(dsn), pool_size=1)
        try:
            yield database
        finally:
            database.close()


def _settle(company_id: str, left: str) -> str:
    return (
        f"{left}; settle them before it moves (`kylo-outbox dlq ls --company {company_id}`, then `dlq release` or "
        "`dlq discard`, with `kylo-outbox project` running)"
    )


def _waits(company_id: str, reason: str) -> Transient:
    return Transient(f"company {company_id}: {reason}; it stays paused, and the same command goes on with its move")


def _name(database: Database) -> str:
    with database.begin() as connection:
        return identity.require_own(connection).store_id
