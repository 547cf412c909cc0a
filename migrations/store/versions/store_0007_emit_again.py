"""Emit: cheaper, delayed events, a hint for a relay that sleeps, and the life of the database in every row."""

import re

from alembic import context

from kylo_outbox.store.migrate import script

revision = "store_0007"
down_revision = "store_0006"

LIVES = """
create function kylo.timeline() returns integer language sql volatile as $$
    select ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
$$;
comment on function kylo.timeline is
    'The timeline the server writes; it changes when a standby is promoted and when a backup is recovered.';

alter table kylo.store add column timeline integer;
update kylo.store set timeline = kylo.timeline();
alter table kylo.store alter column timeline set not null;

do $$
begin
    execute (select format('alter table kylo.outbox_log add column generation integer not null default %s', generation)
               from kylo.store);
end $$;
alter table kylo.outbox_log alter column generation set default 1;
alter table kylo.outbox_held add column generation integer not null default 1;
update kylo.outbox_held h set generation = o.generation from kylo.outbox_log o where o.id = h.id;
comment on column kylo.outbox_log.generation is
    'Which life of the database the id comes from: a promoted or recovered one draws ids that the lost life had drawn.';

create table kylo.witnesses (
    store_id text primary key,
    timeline integer not null,
    flushed bigint not null,
    at timestamptz not null default now()
);
comment on table kylo.witnesses is
    'How far the logs of other stores were on disk: one that is shorter now was put back to an earlier time.';
"""

DELAYED = """
create table kylo.outbox_delayed (
    id bigint generated always as identity primary key,
    available_at timestamptz not null,
    event_id uuid not null,
    created_at timestamptz not null default clock_timestamp(),
    slot smallint not null,
    topic text not null,
    key bytea not null,
    type text not null,
    payload bytea not null,
    headers jsonb
);
create index outbox_delayed_due on kylo.outbox_delayed (available_at, id);
create index outbox_delayed_event_id on kylo.outbox_delayed (event_id);
comment on table kylo.outbox_delayed is
    'Events that may not be published before available_at; kylo.release_delayed moves them into the outbox.';
revoke insert, update, delete, truncate on kylo.outbox_delayed from public;
"""

CHECKS = r"""
-- The last part of a random id has the place of the variant already; the time and the version are put before it.
create or replace function kylo.uuid_v7() returns uuid language sql volatile parallel safe as $$
    select (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
            || substr(gen_random_uuid()::text, 16))::uuid
$$;

-- Lengths are counted and not written into the expressions: `{1,249}` there costs 45 microseconds a call.
create or replace function kylo.is_plain_event(
    p_topic text, p_key text, p_type text, p_payload bytea, p_headers jsonb, p_limit integer)
returns boolean language sql immutable as $$
    select p_topic !~ '[^a-zA-Z0-9._-]' and octet_length(p_topic) between 1 and 249 and p_topic not in ('.', '..')
       and p_key <> '' and octet_length(p_key) <= 1024
       and p_type !~ '[[:cntrl:]]' and char_length(p_type) between 1 and 200
       and (p_headers is null or p_headers = '{}')
       and octet_length(p_payload) + octet_length(p_key) + 302 <= p_limit
$$;
"""

WAKE = """
create function kylo.wake_relay(p_slot smallint) returns void language plpgsql volatile as $$
-- A relay that is awake holds the lock of the bucket and finds the event by itself; only one that sleeps is called,
-- because commits with a NOTIFY queue behind each other. The lock is given back at once: an open transaction that
-- kept it would keep the relay from saying that it is awake. PREPARE TRANSACTION refuses a transaction with a NOTIFY,
-- so where transactions can be prepared there is no hint; the relay's own clock finds the event then.
begin
    if current_setting('max_prepared_transactions') = '0'
       and pg_try_advisory_lock_shared(1802068090, p_slot >> 6) then
        perform pg_advisory_unlock_shared(1802068090, p_slot >> 6);
        perform pg_notify('kylo_outbox', (p_slot >> 6)::text);
    end if;
end $$;
comment on function kylo.wake_relay is 'Hurries a relay that sleeps; carries no work and may be left out at any time.';
"""

DROP_FORMER = """
drop function kylo.emit(text, text, text, bytea, jsonb, uuid);
drop function kylo.emit(text, text, text, json, jsonb, uuid);
drop function kylo.emit(text, text, text, jsonb, jsonb, uuid);
drop function kylo.emit(text, text, text, text, jsonb, uuid);
drop function kylo.emit_raw(text, text, text, bytea, jsonb, uuid);
drop function kylo.emit_many(text[], text[], text[], bytea[], jsonb[], uuid[]);
"""

EMIT = """
create function kylo.emit_raw(
    p_topic text, p_key text, p_type text, p_payload bytea, p_headers jsonb default null, p_event_id uuid default null,
    p_available_at timestamptz default null)
returns uuid language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
-- The order matters: the transaction gets its xid, then the lock of the slot, then the id. So for one topic and key
-- the order of ids is the order of commits, because the lock is held until the commit is visible.
declare
    v_xid xid8;
    v_slot smallint;
    v_key bytea;
    v_limit integer;
    v_ordered boolean;
    v_generation integer;
    v_event_id uuid := coalesce(p_event_id, kylo.uuid_v7());
begin
    select max_bytes, ordered into v_limit, v_ordered from kylo.topics where topic = p_topic;
    v_limit := coalesce(v_limit, kylo.default_limit(p_topic));
    if kylo.is_plain_event(p_topic, p_key, p_type, p_payload, p_headers, v_limit) is not true then
        perform kylo.refuse_event(p_topic, p_key, p_type, p_payload, p_headers, v_limit);
    end if;
    if not isfinite(p_available_at) then
        raise exception 'available_at: must be a point in time' using errcode = '22023';
    end if;
    if current_setting('synchronous_commit') = 'off' then
        -- A published event must survive a server crash: its transaction waits for the disk after all.
        perform set_config('synchronous_commit', 'on', true);
    end if;
    v_xid := pg_current_xact_id();
    -- On a timeline that no relay has met yet the ids belong to the next generation already.
    select generation + (timeline <> kylo.timeline())::integer into v_generation from kylo.store;
    if p_event_id is not null then
        insert into kylo.event_ids (topic, event_id) values (p_topic, p_event_id) on conflict do nothing;
        if not found then
            return p_event_id;
        end if;
    end if;
    v_key := convert_to(p_key, 'UTF8');
    v_slot := kylo.slot_of(p_topic, v_key);
    if v_ordered is not false then
        perform pg_advisory_xact_lock(1802068079, v_slot);
    end if;
    if p_available_at is not null then
        insert into kylo.outbox_delayed (available_at, event_id, slot, topic, key, type, payload, headers)
        values (p_available_at, v_event_id, v_slot, p_topic, v_key, p_type, p_payload, nullif(p_headers, '{}'));
        return v_event_id;
    end if;
    insert into kylo.outbox_log (xid, event_id, created_at, slot, topic, key, type, payload, headers, generation)
    values (v_xid, v_event_id, clock_timestamp(), v_slot, p_topic, v_key, p_type, p_payload, nullif(p_headers, '{}'),
            v_generation);
    perform kylo.wake_relay(v_slot);
    return v_event_id;
end $$;
"""

_DOOR = """
create function kylo.emit(topic text, key text, type text, payload {type},
                          headers jsonb default '{{}}', event_id uuid default null,
                          available_at timestamptz default null)
returns uuid language plpgsql volatile as $$
begin
    {check}return kylo.emit_raw(topic, key, type, {bytes}, headers, event_id, available_at);
end $$;
"""
_TEXT = "perform kylo.check_json(payload{cast});\n    "
DOORS = "".join(
    [
        _DOOR.format(type="text", check=_TEXT.format(cast=""), bytes="convert_to(payload, 'UTF8')"),
        _DOOR.format(type="jsonb", check=_TEXT.format(cast="::text"), bytes="convert_to(payload::text, 'UTF8')"),
        _DOOR.format(type="json", check=_TEXT.format(cast="::text"), bytes="convert_to(payload::text, 'UTF8')"),
        _DOOR.format(type="bytea", check="", bytes="payload"),
        """
comment on function kylo.emit(text, text, text, text, jsonb, uuid, timestamptz) is
    'Saves an event in the caller''s transaction; returns its id. Text must be JSON and is published byte for byte.';
""",
    ]
)

MANY = """
create function kylo.emit_many(
    p_topics text[], p_keys text[], p_types text[], p_payloads bytea[], p_headers jsonb[] default null,
    p_event_ids uuid[] default null, p_available_at timestamptz[] default null)
returns uuid[] language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
-- Many events in one statement: locks are taken in the order of slots, so that two such calls never deadlock; ids are
-- drawn in the order given, because a scan of arrays keeps it. Event ids that are known already add nothing.
declare
    v_generation integer := (select s.generation + (s.timeline <> kylo.timeline())::integer from kylo.store s);
    v_xid xid8;
    v_time text := lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') || '7';
    v_ids uuid[];
    v_slots smallint[];
    v_locks smallint[];
    v_plain boolean;
    v_fresh boolean[];
    v_slot smallint;
begin
    select array_agg(coalesce(e.id, (v_time || substr(gen_random_uuid()::text, 16))::uuid) order by e.n),
           array_agg(kylo.slot_of(e.topic, convert_to(e.key, 'UTF8')) order by e.n),
           bool_and(kylo.is_plain_event(e.topic, e.key, e.type, e.payload, e.headers,
                                        coalesce(t.max_bytes, kylo.default_limit(e.topic))) is true)
      into v_ids, v_slots, v_plain
      from unnest(p_topics, p_keys, p_types, p_payloads, p_headers, p_event_ids)
           with ordinality as e(topic, key, type, payload, headers, id, n)
      left join kylo.topics t on t.topic = e.topic;
    if not v_plain then
        perform kylo.refuse_event(e.topic, e.key, e.type, e.payload, e.headers,
                                  coalesce(t.max_bytes, kylo.default_limit(e.topic)))
           from unnest(p_topics, p_keys, p_types, p_payloads, p_headers) as e(topic, key, type, payload, headers)
           left join kylo.topics t on t.topic = e.topic;
    end if;
    if not (select bool_and(isfinite(at)) from unnest(p_available_at) at) then
        raise exception 'available_at: must be a point in time' using errcode = '22023';
    end if;
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    v_xid := pg_current_xact_id();
    if array_remove(p_event_ids, null) <> '{}' then
        with claimed as (
            insert into kylo.event_ids (topic, event_id)
            select distinct e.topic, e.id from unnest(p_topics, p_event_ids) as e(topic, id)
             where e.id is not null order by 1, 2
            on conflict do nothing returning topic, event_id
        )
        select array_agg(e.id is null or (c.event_id is not null and e.nth = 1) order by e.n)
          into v_fresh
          from (select topic, id, n, row_number() over (partition by topic, id order by n) as nth
                  from unnest(p_topics, p_event_ids) with ordinality as given(topic, id, n)) e
          left join claimed c on c.topic = e.topic and c.event_id = e.id;
    end if;
    select array_agg(e.slot order by e.slot) into v_locks
      from (select distinct e.slot from unnest(p_topics, v_slots, v_fresh) as e(topic, slot, fresh)
              left join kylo.topics t on t.topic = e.topic
             where t.ordered is not false and e.fresh is not false) e;
    foreach v_slot in array coalesce(v_locks, '{}') loop
        perform pg_advisory_xact_lock(1802068079, v_slot);
    end loop;
    insert into kylo.outbox_log (xid, event_id, created_at, slot, topic, key, type, payload, headers, generation)
    select v_xid, e.id, clock_timestamp(), e.slot, e.topic,
           convert_to(e.key, 'UTF8'), e.type, e.payload, nullif(e.headers, '{}'), v_generation
      from unnest(p_topics, p_keys, p_types, p_payloads, p_headers, v_ids, v_slots, v_fresh, p_available_at)
           as e(topic, key, type, payload, headers, id, slot, fresh, at)
     where e.fresh is not false and e.at is null;
    if array_remove(p_available_at, null) <> '{}' then
        insert into kylo.outbox_delayed (available_at, event_id, slot, topic, key, type, payload, headers)
        select e.at, e.id, e.slot, e.topic, convert_to(e.key, 'UTF8'), e.type, e.payload, nullif(e.headers, '{}')
          from unnest(p_topics, p_keys, p_types, p_payloads, p_headers, v_ids, v_slots, v_fresh, p_available_at)
               as e(topic, key, type, payload, headers, id, slot, fresh, at)
         where e.fresh is not false and e.at is not null;
    end if;
    perform kylo.wake_relay(b.first)
       from (select min(e.slot) as first from unnest(v_slots, v_fresh, p_available_at) as e(slot, fresh, at)
              where e.fresh is not false and e.at is null group by e.slot >> 6 order by e.slot >> 6) b;
    return v_ids;
end $$;
"""

RELEASE = """
create function kylo.release_delayed(
    p_limit integer, p_without smallint[] default '{}', p_slot smallint default null,
    out released integer, out busy smallint[])
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
-- Moves events that are due into the outbox, by available_at and then in the order of their emits; one chunk, one
-- transaction, one process at a time. Slots whose lock somebody holds come back in `busy` and are left as they are,
-- so that a writer with an open transaction holds back its own keys alone; with p_slot the lock is waited for.
declare
    v_due bigint[];
    v_slots smallint[];
    v_mine bigint[];
    v_generation integer;
    v_xid xid8;
    v_slot smallint;
begin
    released := 0;
    busy := '{}';
    if not pg_try_advisory_xact_lock(1802068083, 0) then
        return;
    end if;
    select array_agg(d.id order by d.available_at, d.id), array_agg(distinct d.slot)
      into v_due, v_slots
      from (select id, slot, available_at from kylo.outbox_delayed
             where available_at <= statement_timestamp()
               and slot <> all (p_without) and slot = coalesce(p_slot, slot)
             order by available_at, id limit p_limit) d;
    if v_due is null then
        return;
    end if;
    v_xid := pg_current_xact_id();
    foreach v_slot in array v_slots loop
        if p_slot is not null then
            perform pg_advisory_xact_lock(1802068079, v_slot);
        elsif not pg_try_advisory_xact_lock(1802068079, v_slot) then
            busy := busy || v_slot;
        end if;
    end loop;
    -- A row that somebody is cancelling holds back what is due after it on its slot, and nothing else.
    select array_agg(d.id) into v_mine
      from (select id from kylo.outbox_delayed where id = any (v_due) and slot <> all (busy)
               for update skip locked) d;
    select s.generation + (s.timeline <> kylo.timeline())::integer into v_generation from kylo.store s;
    with due as (
        select d.*, g.n, bool_and(d.id = any (v_mine)) over (partition by d.slot order by g.n) as clear
          from unnest(v_due) with ordinality as g(id, n) join kylo.outbox_delayed d using (id)
         where d.slot <> all (busy)
    ), moved as (
        delete from kylo.outbox_delayed d using due where d.id = due.id and due.clear
    ), added as (
        insert into kylo.outbox_log (xid, event_id, created_at, slot, topic, key, type, payload, headers, generation)
        select v_xid, event_id, clock_timestamp(), slot, topic, key, type, payload, headers, v_generation
          from due where clear order by n
        returning slot
    )
    select count(*), array_agg(distinct slot) into released, v_slots from added;
    perform kylo.wake_relay(b.first)
       from (select min(slot) as first from unnest(v_slots) slot group by slot >> 6) b;
end $$;

create function kylo.cancel_delayed(p_event_id uuid) returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    -- In the caller's transaction. The id is free again, so that the event can be emitted anew for another time.
    with gone as (
        delete from kylo.outbox_delayed where event_id = p_event_id returning topic
    ), forgotten as (
        delete from kylo.event_ids i using gone where i.topic = gone.topic and i.event_id = p_event_id
    )
    select count(*) > 0 from gone
$$;
comment on function kylo.cancel_delayed is 'Takes back a delayed event; false if there is none (any more).';
"""

UP = LIVES + DELAYED + CHECKS + WAKE + DROP_FORMER + EMIT + DOORS + MANY + RELEASE

DOWN = """
drop function kylo.cancel_delayed(uuid);
drop function kylo.release_delayed(integer, smallint[], smallint);
drop function kylo.emit(text, text, text, bytea, jsonb, uuid, timestamptz);
drop function kylo.emit(text, text, text, json, jsonb, uuid, timestamptz);
drop function kylo.emit(text, text, text, jsonb, jsonb, uuid, timestamptz);
drop function kylo.emit(text, text, text, text, jsonb, uuid, timestamptz);
drop function kylo.emit_raw(text, text, text, bytea, jsonb, uuid, timestamptz);
drop function kylo.emit_many(text[], text[], text[], bytea[], jsonb[], uuid[], timestamptz[]);
drop function kylo.wake_relay(smallint);
drop table kylo.outbox_delayed;
drop table kylo.witnesses;
alter table kylo.outbox_held drop column generation;
alter table kylo.outbox_log drop column generation;
alter table kylo.store drop column timeline;
drop function kylo.timeline();
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
    script(_former("store_0002", "uuid_v7", "is_plain_event", "emit_raw", "emit", "emit_many"))


def _former(version: str, *names: str) -> str:
    """The functions as an earlier version made them."""
    up = context.script.get_revision(version).module.UP
    functions = re.findall(rf"create function kylo\.(?:{'|'.join(names)})\(.*?\n(?:end )?\$\$;\n", up, re.DOTALL)
    comments = re.findall(rf"comment on function kylo\.(?:{'|'.join(names)})\(.*?';\n", up, re.DOTALL)
    return "".join(functions + comments).replace("create function", "create or replace function")
