"""A company's rows from one database to another: frozen at their origin, copied whole, removed when nobody needs them.

What belongs to a company is found in the catalog (tables of schema `kylo` with a company_id), so that a table added
later travels too. The positions of the company's projectors travel with the rows: what was applied in the old home is
a repeat in the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from kylo_outbox.model.errors import Conflict
from kylo_outbox.store.left import TAKEN_OUT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    import psycopg

# The company's own row stays: it is the fence.
TABLES = """
select c.relname, array_agg(a.attname order by a.attnum) filter (where a.attgenerated = ''),
       max(a.attname) filter (where a.attidentity <> '')
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where c.relnamespace = 'kylo'::regnamespace and c.relkind in ('r', 'p') and c.relname <> 'company_state'
   and exists (select from pg_attribute k where k.attrelid = c.oid and k.attname = 'company_id' and not k.attisdropped)
 group by c.relname order by c.relname
"""
_FROM = "from kylo.{table} where company_id = {company}"
FREEZE = """
insert into kylo.company_state (company_id, moved_by) values (%s, %s)
on conflict (company_id) do update set moved_by = excluded.moved_by
"""
UNFREEZE = "update kylo.company_state set moved_by = null where company_id = %s"
LOCK = "select arrived_by, moved_by from kylo.company_state where company_id = %s for update"
MAKE = "insert into kylo.company_state (company_id) values (%s) on conflict do nothing"
STATE = "select rules_version, moved_by from kylo.company_state where company_id = %s"
ARRIVE = "update kylo.company_state set rules_version = %s, moved_by = null, arrived_by = %s where company_id = %s"
POSITIONS = """
select projector, store_id, topic, key, generation, outbox_id, applied, digest, duplicates, moved_at
  from kylo.positions where key = %s and projector = any(%s)
"""
PUT_POSITION = """
insert into kylo.positions as p (projector, store_id, topic, key, generation, outbox_id, applied, digest, duplicates,
                                 moved_at)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
on conflict (projector, store_id, topic, key) do update
   set generation = excluded.generation, outbox_id = excluded.outbox_id, applied = excluded.applied,
       digest = excluded.digest, duplicates = excluded.duplicates, moved_at = excluded.moved_at
 where (excluded.generation, excluded.outbox_id) > (p.generation, p.outbox_id)
"""
# In the order of the projectors: positions first, then the company, so that none waits for the other crosswise.
LOCK_POSITIONS = """
select from kylo.positions where key = %s and projector = any(%s)
 order by projector, store_id, topic for update
"""
REMOVE_POSITIONS = "delete from kylo.positions where key = %s and projector = any(%s)"
# Numbers of open items keep their meaning for the tabs; what comes next in the new home must be above them.
RAISE = """
select setval(s.name, m.highest)
  from (select pg_get_serial_sequence(%s, %s)::regclass as name) s, (select %s::bigint as highest) m
 where m.highest > coalesce(pg_sequence_last_value(s.name), 0)
"""
PUBLISHED = f"""
select topic, max(id) from public.outbox o
 where key = %s and topic = any(%s) and processed_at is not null
   and not exists (select from ({TAKEN_OUT}) g where g.id = o.id)
 group by topic
"""  # noqa: S608 - a constant of the store
APPLIED = """
select topic, max(outbox_id) from kylo.positions
 where key = %s and projector = any(%s) and store_id = %s group by topic
"""
WAITING = """
select (select count(*) from public.outbox
         where processed_at is null and not (key = %(key)s and topic = any(%(hints)s)))
     + (select count(*) from kylo.outbox_delayed
         where not (key = convert_to(%(key)s, 'UTF8') and topic = any(%(hints)s)))
"""
# Their positions are passed already: in the new home nobody would ever ask for them.
OPEN_ENDS = """
select (select count(*) from kylo.dead_letters
         where key = %(key)s and stage = any(%(projectors)s) and (settled_at is null or retry_at is not null)),
       (select count(*) from kylo.held_events
         where key = %(key)s and projector = any(%(projectors)s) and kind = 'dead'),
       (select count(*) from kylo.holds
         where key = %(key)s and projector = any(%(projectors)s) and kind = 'dead')
"""

Table = tuple[str, list[str], str | None]
"""(name, columns, its identity column if it has one)."""


def freeze(tx: psycopg.Connection[Any], company_id: str, move_id: UUID, projectors: Sequence[str]) -> str:
    """Let nobody change the company's rows here any more; waits for whoever does.

    Returns:
        An empty text, or (and nothing is frozen) what would be left behind: see `open_ends`.
    """
    # Whoever buries or queues an event has its position locked: none comes up between the look and the freeze.
    tx.execute(LOCK_POSITIONS, (company_id, list(projectors)))
    left = open_ends(tx, company_id, projectors)
    if not left:
        tx.execute(FREEZE, (company_id, move_id))
    return left


def unfreeze(tx: psycopg.Connection[Any], company_id: str) -> None:
    """The company lives here after all."""
    tx.execute(UNFREEZE, (company_id,))


def copy(
    source: psycopg.Connection[Any],
    target: psycopg.Connection[Any],
    company_id: str,
    move_id: UUID,
    projectors: Sequence[str],
) -> Mapping[str, int]:
    """Copy a frozen company's rows and positions; rows by table. A move that has arrived already copies nothing.

    Raises:
        Conflict: the rows are not frozen by this move, or the two databases have different tables.
    """
    # A position only ever rises, so it may be put before it is known whether this copy is still wanted.
    for row in source.execute(POSITIONS, (company_id, list(projectors))).fetchall():
        target.execute(PUT_POSITION, row)
    target.execute(MAKE, (company_id,))
    if (found := target.execute(LOCK, (company_id,)).fetchone()) and found[0] == move_id:
        return {}
    state = source.execute(STATE, (company_id,)).fetchone()
    if state is None or state[1] != move_id:
        raise Conflict([f"company {company_id}: its rows are not frozen by this move; begin again"])
    tables: list[Table] = source.execute(TABLES).fetchall()
    if tables != target.execute(TABLES).fetchall():
        raise Conflict([f"company {company_id}: the two databases have different tables; `kylo-outbox migrate`"])
    copied = {}
    for table in tables:
        target.execute(_of_company(f"delete {_FROM}", table, company_id))
        copied[table[0]] = _copy_table(source, target, table, company_id)
    target.execute(ARRIVE, (state[0], move_id, company_id))
    return copied


def remove(tx: psycopg.Connection[Any], company_id: str, move_id: UUID, projectors: Sequence[str]) -> bool:
    """Remove what a company left behind; False (and nothing done) if its rows here are not those of this move."""
    tx.execute(LOCK_POSITIONS, (company_id, list(projectors)))
    found = tx.execute(LOCK, (company_id,)).fetchone()
    if found is None or found[1] != move_id:
        return False
    _remove(tx, company_id, projectors)
    return True


def take_back(tx: psycopg.Connection[Any], company_id: str, move_id: UUID, projectors: Sequence[str]) -> None:
    """Remove a copy that a cancelled move had made here; whatever else is here stays."""
    tx.execute(LOCK_POSITIONS, (company_id, list(projectors)))
    found = tx.execute(LOCK, (company_id,)).fetchone()
    if found is not None and found[0] == move_id:
        _remove(tx, company_id, projectors)
        tx.execute(FREEZE, (company_id, move_id))


def unapplied(
    control: psycopg.Connection[Any],
    source: psycopg.Connection[Any],
    company_id: str,
    store_id: str,
    readers: Mapping[str, str],
) -> list[str]:
    """Topics of which the company has published events that its home has not applied yet.

    Args:
        control: The control store, whose events they are.
        source: The company's home.
        company_id: The key.
        store_id: Name of the control store.
        readers: Topic by projector.
    """
    published = dict(control.execute(PUBLISHED, (company_id, list(readers.values()))).fetchall())
    applied = dict(source.execute(APPLIED, (company_id, list(readers), store_id)).fetchall())
    return sorted(topic for topic, newest in published.items() if applied.get(topic, -1) < newest)


def waiting_elsewhere(tx: psycopg.Connection[Any], company_id: str, hints: Sequence[str]) -> int:
    """Events of this store that wait for Kafka, without the company's own of topics that its new home tells anew."""
    row: Any = tx.execute(WAITING, {"key": company_id, "hints": list(hints)}).fetchone()
    return int(row[0])


def open_ends(tx: psycopg.Connection[Any], company_id: str, projectors: Sequence[str]) -> str:
    """Dead letters of the company that nobody has settled, and events that wait behind one; empty if there are none."""
    found: Any = tx.execute(OPEN_ENDS, {"key": company_id, "projectors": list(projectors)}).fetchone()
    letters, events, holds = found
    told = [f"{letters} dead letters"] if letters else []
    if events or (holds and not letters):
        told.append(f"{events} events that wait behind one")
    return " and ".join(told)


def _remove(tx: psycopg.Connection[Any], company_id: str, projectors: Sequence[str]) -> None:
    for table in tx.execute(TABLES).fetchall():
        tx.execute(_of_company(f"delete {_FROM}", table, company_id))
    tx.execute(REMOVE_POSITIONS, (company_id, list(projectors)))


def _copy_table(source: psycopg.Connection[Any], target: psycopg.Connection[Any], table: Table, company_id: str) -> int:
    name, columns, identity = table
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    out = _of_company(
        "copy (select {columns} from kylo.{table} where company_id = {company}) to stdout", table, company_id
    )
    into = sql.SQL("copy kylo.{} ({}) from stdin").format(sql.Identifier(name), listed)
    with source.cursor() as reading, target.cursor() as writing:
        with reading.copy(out) as rows, writing.copy(into) as copy:
            for data in rows:
                copy.write(data)
        count = writing.rowcount
    if identity is not None:
        highest = _of_company(f"select max({{identity}}) {_FROM}", table, company_id)
        [newest] = target.execute(highest).fetchone() or (None,)
        target.execute(RAISE, (f"kylo.{name}", identity, newest or 0))
    return count


def _of_company(text: LiteralString, table: Table, company_id: str) -> sql.Composed:
    name, columns, identity = table
    return sql.SQL(text).format(
        table=sql.Identifier(name),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        identity=sql.Identifier(identity or "company_id"),
        company=sql.Literal(company_id),
    )
