"""control.company_moves: companies on their way to another database, the last step done, and how to find them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kylo_outbox.model.errors import Conflict

if TYPE_CHECKING:
    from uuid import UUID

    import psycopg

    from kylo_outbox.model.companies import Company

_COLUMNS = "move_id, company_id, from_dsn, from_schema, to_dsn, to_schema, was_paused, step"
OPEN = f"""
select {_COLUMNS} from control.company_moves where company_id = %s and step not in ('done', 'cancelled')
"""  # noqa: S608 - the only thing put in is a constant of this file
# The company stands still from the moment its move is known.
BEGIN = f"""
with held as (
    update control.company_config c set paused = true, updated_at = now()
      from (select company_id, paused from control.company_config where company_id = %(company)s for update) former
     where c.company_id = former.company_id
    returning c.company_id, c.db_dsn_rw, c.db_schema, former.paused
)
insert into control.company_moves (move_id, company_id, from_dsn, from_schema, to_dsn, to_schema, was_paused, step)
select kylo.uuid_v7(), company_id, db_dsn_rw, db_schema, %(dsn)s, %(schema)s, paused, 'waiting' from held
on conflict do nothing
returning {_COLUMNS}
"""  # noqa: S608 - the only thing put in is a constant of this file
STEP = "update control.company_moves set step = %s, moved_at = now() where move_id = %s and step = any(%s)"
SWITCH = """
update control.company_config c
   set db_dsn_rw = m.to_dsn, db_schema = m.to_schema, paused = m.was_paused, updated_at = now()
  from control.company_moves m where m.move_id = %s and c.company_id = m.company_id
"""
RESUME = """
update control.company_config c set paused = m.was_paused, updated_at = now()
  from control.company_moves m where m.move_id = %s and c.company_id = m.company_id
"""


class Move(NamedTuple):
    """A company's way from one home to another; its two connection strings are never shown."""

    move_id: UUID
    company_id: str
    from_dsn: str
    from_schema: str
    to_dsn: str
    to_schema: str
    was_paused: bool
    step: str

    def __repr__(self) -> str:
        return f"Move({self.company_id} {self.move_id} {self.step})"


def open_move(tx: psycopg.Connection[Any], company_id: str) -> Move | None:
    """The move of a company that is not over."""
    row = tx.execute(OPEN, (company_id,)).fetchone()
    return Move(*row) if row else None


def begin(tx: psycopg.Connection[Any], company: Company, to_dsn: str, to_schema: str) -> Move:
    """Pause the company and write down where it goes.

    Raises:
        Conflict: another move of it has just begun.
    """
    row = tx.execute(BEGIN, {"company": company.company_id, "dsn": to_dsn, "schema": to_schema}).fetchone()
    if row is None:
        raise Conflict([f"company {company.company_id}: another move has begun; the same command goes on with it"])
    return Move(*row)


def step(tx: psycopg.Connection[Any], move: Move, to: str, *former: str) -> Move:
    """Write down that a step is done; repeating it is no error.

    Raises:
        Conflict: the move is elsewhere by now (cancelled, or another operator goes on with it).
    """
    if tx.execute(STEP, (to, move.move_id, [*former, to])).rowcount != 1:
        raise Conflict([f"company {move.company_id}: its move was cancelled or finished by somebody else"])
    return move._replace(step=to)


def switch(tx: psycopg.Connection[Any], move: Move) -> Move:
    """From now on the company lives in its new home and flows as it did before the move."""
    moved = step(tx, move, "switched", "copied")
    tx.execute(SWITCH, (move.move_id,))
    return moved


def give_up(tx: psycopg.Connection[Any], move: Move) -> None:
    """The company stays where it is and flows as it did before the move."""
    step(tx, move, "cancelled", "cancelling")
    tx.execute(RESUME, (move.move_id,))
