"""The view `outbox` on the default search path, for people and for the runbooks' queries."""

from kylo_outbox.store.migrate import script

revision = "store_0003"
down_revision = "store_0002"

# A union of "not yet" and "behind the cursor" and not a CASE per row: asking for open rows then reads only those.
# The second branch's processed_at comes from kylo.marks alone, so the planner settles "is null" there before it
# touches a single event. `id + 0` keeps the planner from walking history by id: late rows are found by xid. The view
UP = """
create table kylo.outbox_held (
    id bigint primary key,
    event_id uuid not null,
    created_at timestamptz not null,
    slot smallint not null,
    topic text not null,
    key bytea not null,
    type text not null,
    payload bytea not null,
    headers jsonb,
    reason text not null,
    retry boolean not null default false,
    held_at timestamptz not null default now()
);
create index outbox_held_key on kylo.outbox_held (topic, key, id);
comment on table kylo.outbox_held is
    'Events that Kafka refused and those of the same key behind them, copied out in order.';

create function kylo.readable(payload bytea) returns text language plpgsql immutable as $$
begin
    return convert_from(payload, 'UTF8');
exception when character_not_in_repertoire or untranslatable_character then
    return 'base64:' || encode(payload, 'base64');
end $$;

create view public.outbox as
select o.id, o.topic, convert_from(o.key, 'UTF8') as key, o.type, o.event_id, kylo.readable(o.payload) as payload,
       coalesce(o.headers, '{}'::jsonb) as headers, o.created_at, null::timestamptz as processed_at
  from kylo.lanes l
  join kylo.outbox_log o on o.id > l.high_water and o.slot >= l.slot_from and o.slot < l.slot_to
 where not exists (select from kylo.outbox_held h where h.id = o.id)
union all
select o.id, o.topic, convert_from(o.key, 'UTF8'), o.type, o.event_id, kylo.readable(o.payload),
       coalesce(o.headers, '{}'::jsonb), o.created_at, null
  from kylo.lanes l
  join kylo.outbox_log o on o.xid >= pg_snapshot_xmax(l.snapshot)
                        and o.id + 0 <= l.high_water and o.slot >= l.slot_from and o.slot < l.slot_to
 where not exists (select from kylo.outbox_held h where h.id = o.id)
union all
select o.id, o.topic, convert_from(o.key, 'UTF8'), o.type, o.event_id, kylo.readable(o.payload),
       coalesce(o.headers, '{}'::jsonb), o.created_at, null
  from kylo.lanes l
  join kylo.outbox_log o on o.xid = any (array(select pg_snapshot_xip(l.snapshot)))
                        and o.id + 0 <= l.high_water and o.slot >= l.slot_from and o.slot < l.slot_to
 where not exists (select from kylo.outbox_held h where h.id = o.id)
union all
select h.id, h.topic, convert_from(h.key, 'UTF8'), h.type, h.event_id, kylo.readable(h.payload),
       coalesce(h.headers, '{}'::jsonb), h.created_at, null
  from kylo.outbox_held h
union all
select o.id, o.topic, convert_from(o.key, 'UTF8'), o.type, o.event_id, kylo.readable(o.payload),
       coalesce(o.headers, '{}'::jsonb), o.created_at, m.at
  from kylo.lanes l
  join kylo.marks m using (lane)
  join kylo.outbox_log o on m.ids @> o.id and o.slot >= l.slot_from and o.slot < l.slot_to
 where pg_visible_in_snapshot(o.xid, l.snapshot)
   and not exists (select from kylo.outbox_held h where h.id = o.id);
create view kylo.outbox as select * from public.outbox;
comment on view public.outbox is
    'Every stored event; processed_at is null until Kafka (or the direct path) has taken it, '
    'then the second in which the cursor passed the id.';
"""

DOWN = """
drop view kylo.outbox;
drop view public.outbox;
drop function kylo.readable(bytea);
drop table kylo.outbox_held;
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
