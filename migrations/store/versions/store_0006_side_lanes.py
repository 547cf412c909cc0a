"""Side lanes for keys with a long backlog, held events that only wait, and the view that knows both."""

from kylo_outbox.store.migrate import script

revision = "store_0006"
down_revision = "store_0005"

# A lane of its own for one slot, as long as its backlog would keep the others of its lane waiting. It belongs to the
# lane named by `parent` and shares its epoch; the parent leaves the slot out meanwhile.
_LANES = """
alter table kylo.lanes
    add column parent smallint references kylo.lanes (lane) on delete cascade,
    add column except_slots smallint[] not null default '{}';
alter table kylo.outbox_held add column waits boolean not null default false;
update kylo.outbox_held set waits = true where reason like 'waits behind%';
create index outbox_held_blocked on kylo.outbox_held (topic, key, id) where not waits and not retry;
comment on column kylo.outbox_held.waits is
    'Held only because an earlier event of its key is; `retry`: the relay tries it again by itself.';
"""

_ROW = """
select o.id, o.topic, convert_from(o.key, 'UTF8') as key, o.type, o.event_id, kylo.readable(o.payload) as payload,
       coalesce(o.headers, '{}'::jsonb) as headers, o.created_at,"""
_NOT_HELD = "not exists (select from kylo.outbox_held h where h.id = o.id)"


def _view(mine: str) -> str:
    """The view of store_0003; `mine` says which rows `o` of the outbox belong to lane `l`."""
    return f"""
create or replace view public.outbox as
{_ROW} null::timestamptz as processed_at
  from kylo.lanes l join kylo.outbox_log o on o.id > l.high_water and {mine}
 where {_NOT_HELD}
union all
{_ROW} null
  from kylo.lanes l
  join kylo.outbox_log o on o.xid >= pg_snapshot_xmax(l.snapshot) and o.id + 0 <= l.high_water and {mine}
 where {_NOT_HELD}
union all
{_ROW} null
  from kylo.lanes l
  join kylo.outbox_log o on o.xid = any (array(select pg_snapshot_xip(l.snapshot)))
                        and o.id + 0 <= l.high_water and {mine}
 where {_NOT_HELD}
union all
{_ROW} null
  from kylo.outbox_held o
union all
{_ROW} m.at
  from kylo.lanes l
  join kylo.marks m using (lane)
  join kylo.outbox_log o on m.ids @> o.id and {mine}
 where pg_visible_in_snapshot(o.xid, l.snapshot) and {_NOT_HELD};
"""  # noqa: S608 - constants of this file


_RANGE = "o.slot >= l.slot_from and o.slot < l.slot_to"
UP = _LANES + _view(f"{_RANGE} and o.slot <> all (l.except_slots)")
# A side lane goes back to its parent, from the lowest id and the oldest snapshot of the family on (of two snapshots
# with one xmax the older one has more transactions running), so that nothing is passed over.
DOWN = (
    """
with family as (
    select coalesce(parent, lane) as lane, min(high_water) as high_water,
           (array_agg(snapshot order by pg_snapshot_xmax(snapshot),
                                        (select count(*) from pg_snapshot_xip(snapshot)) desc))[1] as snapshot
      from kylo.lanes group by 1 having count(*) > 1
)
update kylo.lanes l set high_water = f.high_water, snapshot = f.snapshot, epoch = l.epoch + 1
  from family f where f.lane = l.lane;
delete from kylo.marks where lane in (select lane from kylo.lanes where parent is not null);
delete from kylo.lanes where parent is not null;
"""  # noqa: S608 - no value is put in
    + _view(_RANGE)
    + """
alter table kylo.lanes drop column parent, drop column except_slots;
alter table kylo.outbox_held drop column waits;
"""
)


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
