"""`kylo.emit`: the one door through which events enter the outbox, in the caller's transaction."""

from kylo_outbox.store.migrate import script

revision = "store_0002"
down_revision = "store_0001"

UP = r"""
create function kylo.uuid_v7() returns uuid language sql volatile parallel safe as $$
    select encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                    placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                    from 1 for 6),
            52, 1), 53, 1), 'hex')::uuid
$$;

-- One expression and not strict, so that the planner puts it in place instead of calling it.
create function kylo.slot_of(topic text, key bytea) returns smallint language sql stable parallel safe as $$
    select (('x' || left(encode(sha256(convert_to(topic, 'UTF8') || '\x1f'::bytea || key), 'hex'), 4))::bit(16)::integer
            >> 6)::smallint
$$;
comment on function kylo.slot_of is
    'One of 1,024 slots of a topic and key: the lock that orders its commits, the lane that relays it.';

create function kylo.refuse_event(
    p_topic text, p_key text, p_type text, p_payload bytea, p_headers jsonb, p_limit integer)
returns void language plpgsql immutable as $$
-- Refuses what Kafka would refuse later, with the name of the argument. NUL characters, lone surrogates and broken
-- UTF-8 cannot reach this point inside text: PostgreSQL refuses them at the door.
declare
    size integer;
begin
    if p_topic is null or p_topic !~ '^[a-zA-Z0-9._-]{1,249}$' or p_topic in ('.', '..') then
        raise exception 'topic: must be 1 to 249 letters, digits, dots, dashes or underscores'
            using errcode = '22023';
    end if;
    if p_key is null or p_key = '' then
        raise exception 'key: must not be null or empty: it decides the order and the partition'
            using errcode = '22023';
    end if;
    if octet_length(p_key) > 1024 then
        raise exception 'key: % bytes, the limit is 1024', octet_length(p_key) using errcode = '22023';
    end if;
    if p_type is null or p_type !~ '^[^[:cntrl:]]{1,200}$' then
        raise exception 'type: must be 1 to 200 printable characters' using errcode = '22023';
    end if;
    if p_payload is null then
        raise exception 'payload: must not be null' using errcode = '22023';
    end if;
    if p_headers is not null and p_headers <> '{}' then
        if jsonb_typeof(p_headers) <> 'object' then
            raise exception 'headers: must be an object of strings' using errcode = '22023';
        end if;
        if p_headers @? '$.keyvalue() ? (@.value.type() != "string" || @.key == "kylo" || @.key == "")' then
            raise exception 'headers: every value must be a string, and the name "kylo" is taken'
                using errcode = '22023';
        end if;
    end if;
    -- 300 bytes stand for our own header and Kafka's record and batch overhead.
    size := octet_length(p_payload) + octet_length(p_key) + octet_length(coalesce(p_headers::text, '')) + 300;
    if size > p_limit then
        raise exception 'payload: % bytes with key and headers, topic % takes %', size, p_topic, p_limit
            using errcode = '22023';
    end if;
end $$;

-- What nearly every event is: put in place by the planner, true only if `refuse_event` would find nothing.
create function kylo.is_plain_event(
    p_topic text, p_key text, p_type text, p_payload bytea, p_headers jsonb, p_limit integer)
returns boolean language sql immutable as $$
    select p_topic ~ '^[a-zA-Z0-9._-]{1,249}$' and p_topic not in ('.', '..')
       and p_key <> '' and octet_length(p_key) <= 1024
       and p_type ~ '^[^[:cntrl:]]{1,200}$'
       and (p_headers is null or p_headers = '{}')
       and octet_length(p_payload) + octet_length(p_key) + 302 <= p_limit
$$;

create function kylo.default_limit(topic text) returns integer language sql immutable parallel safe as $$
    -- A dead letter carries its source's record and the headers that say why.
    select case when topic like '%.dlq' then 2000000 else 1000000 end
$$;

create function kylo.emit_raw(
    p_topic text, p_key text, p_type text, p_payload bytea, p_headers jsonb default null, p_event_id uuid default null)
returns uuid language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
-- The order matters: the transaction gets its xid, then the lock of the slot, then the id. So for one topic and key
-- the order of ids is the order of commits, because the lock is held until the commit is visible.
declare
    v_xid xid8;
    v_slot smallint;
    v_key bytea;
    v_limit integer;
    v_ordered boolean;
    v_event_id uuid := coalesce(p_event_id, kylo.uuid_v7());
begin
    select max_bytes, ordered into v_limit, v_ordered from kylo.topics where topic = p_topic;
    v_limit := coalesce(v_limit, kylo.default_limit(p_topic));
    if kylo.is_plain_event(p_topic, p_key, p_type, p_payload, p_headers, v_limit) is not true then
        perform kylo.refuse_event(p_topic, p_key, p_type, p_payload, p_headers, v_limit);
    end if;
    if current_setting('synchronous_commit') = 'off' then
        -- A published event must survive a server crash: its transaction waits for the disk after all.
        perform set_config('synchronous_commit', 'on', true);
    end if;
    v_xid := pg_current_xact_id();
    if p_event_id is not null then
        insert into kylo.event_ids (topic, event_id) values (p_topic, p_event_id) on conflict do nothing;
        if not found then
            return p_event_id;
        end if;
    end if;
    v_key := convert_to(p_key, 'UTF8');
    v_slot := kylo.slot_of(p_topic, v_key);
    if coalesce(v_ordered, true) then
        perform pg_advisory_xact_lock(1802068079, v_slot);
    end if;
    insert into kylo.outbox_log (xid, event_id, created_at, slot, topic, key, type, payload, headers)
    values (v_xid, v_event_id, clock_timestamp(), v_slot, p_topic, v_key, p_type, p_payload, nullif(p_headers, '{}'));
    return v_event_id;
end $$;

create function kylo.check_json(p_payload text) returns void language plpgsql immutable as $$
begin
    if p_payload is null then
        return;
    end if;
    begin
        perform p_payload::jsonb;
    exception when others then
        raise exception 'payload: %', sqlerrm using errcode = '22023';
    end;
    if length(p_payload) - length(translate(p_payload, '[{', '')) > 128
       and jsonb_path_exists(p_payload::jsonb, 'strict $.**{129}') then
        raise exception 'payload: nested deeper than 128 levels' using errcode = '22023';
    end if;
end $$;

create function kylo.emit(topic text, key text, type text, payload text,
                          headers jsonb default '{}', event_id uuid default null)
returns uuid language plpgsql volatile as $$
begin
    perform kylo.check_json(payload);
    return kylo.emit_raw(topic, key, type, convert_to(payload, 'UTF8'), headers, event_id);
end $$;

create function kylo.emit(topic text, key text, type text, payload jsonb,
                          headers jsonb default '{}', event_id uuid default null)
returns uuid language plpgsql volatile as $$
begin
    perform kylo.check_json(payload::text);
    return kylo.emit_raw(topic, key, type, convert_to(payload::text, 'UTF8'), headers, event_id);
end $$;

create function kylo.emit(topic text, key text, type text, payload json,
                          headers jsonb default '{}', event_id uuid default null)
returns uuid language plpgsql volatile as $$
begin
    perform kylo.check_json(payload::text);
    return kylo.emit_raw(topic, key, type, convert_to(payload::text, 'UTF8'), headers, event_id);
end $$;

create function kylo.emit(topic text, key text, type text, payload bytea,
                          headers jsonb default '{}', event_id uuid default null)
returns uuid language plpgsql volatile as $$
begin
    return kylo.emit_raw(topic, key, type, payload, headers, event_id);
end $$;
comment on function kylo.emit(text, text, text, text, jsonb, uuid) is
    'Saves an event in the caller''s transaction; returns its id. Text must be JSON and is published byte for byte.';

create function kylo.emit_many(
    p_topics text[], p_keys text[], p_types text[], p_payloads bytea[], p_headers jsonb[], p_event_ids uuid[])
returns uuid[] language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
-- Many events in one statement: locks are taken in the order of slots, so that two such calls never deadlock;
-- ids are drawn in the order given. Event ids chosen by the caller that are known already add nothing.
declare
    v_xid xid8;
    v_ids uuid[];
    v_fresh boolean[];
    v_slots smallint[];
begin
    perform kylo.refuse_event(e.topic, e.key, e.type, e.payload, e.headers,
                              coalesce(t.max_bytes, kylo.default_limit(e.topic)))
       from unnest(p_topics, p_keys, p_types, p_payloads, p_headers) as e(topic, key, type, payload, headers)
       left join kylo.topics t on t.topic = e.topic
      where kylo.is_plain_event(e.topic, e.key, e.type, e.payload, e.headers,
                                coalesce(t.max_bytes, kylo.default_limit(e.topic))) is not true;
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    v_xid := pg_current_xact_id();
    with claimed as (
        insert into kylo.event_ids (topic, event_id)
        select distinct e.topic, e.id from unnest(p_topics, p_event_ids) as e(topic, id)
        where e.id is not null order by 1, 2
        on conflict do nothing returning topic, event_id
    )
    select array_agg(coalesce(e.id, kylo.uuid_v7()) order by e.n),
           array_agg(e.id is null or (c.event_id is not null and e.nth = 1) order by e.n)
      into v_ids, v_fresh
      from (select topic, id, n, row_number() over (partition by topic, id order by n) as nth
              from unnest(p_topics, p_event_ids) with ordinality as given(topic, id, n)) e
      left join claimed c on c.topic = e.topic and c.event_id = e.id;
    select array_agg(kylo.slot_of(e.topic, convert_to(e.key, 'UTF8')) order by e.n) into v_slots
      from unnest(p_topics, p_keys) with ordinality as e(topic, key, n);
    perform pg_advisory_xact_lock(1802068079, slot)
       from (select distinct e.slot
               from unnest(p_topics, v_slots, v_fresh) as e(topic, slot, fresh)
               left join kylo.topics t on t.topic = e.topic
              where e.fresh and coalesce(t.ordered, true)
              order by 1) slots;
    insert into kylo.outbox_log (xid, event_id, created_at, slot, topic, key, type, payload, headers)
    select v_xid, e.id, clock_timestamp(), e.slot, e.topic,
           convert_to(e.key, 'UTF8'), e.type, e.payload, nullif(e.headers, '{}')
      from unnest(p_topics, p_keys, p_types, p_payloads, p_headers, v_ids, v_fresh, v_slots)
           with ordinality as e(topic, key, type, payload, headers, id, fresh, slot, n)
     where e.fresh
     order by e.n;
    return v_ids;
end $$;
create function kylo.emit_change() returns trigger language plpgsql as $$
-- Arguments: topic, key column, type (empty: the operation). The payload is {op, table, before, after}.
declare
    v_before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    v_after jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
begin
    perform kylo.emit(
        tg_argv[0], coalesce(v_after, v_before) ->> tg_argv[1],
        coalesce(nullif(tg_argv[2], ''), tg_table_name || '.' || lower(tg_op)),
        jsonb_build_object('op', lower(tg_op), 'table', tg_table_schema || '.' || tg_table_name,
                           'before', v_before, 'after', v_after));
    return null;
end $$;

create function kylo.emit_on_change(p_table regclass, p_topic text, p_key_column text, p_type text default null)
returns void language plpgsql as $$
begin
    if not exists (select from pg_attribute
                    where attrelid = p_table and attname = p_key_column and attnum > 0 and not attisdropped) then
        raise exception 'key column: % has no column %', p_table, p_key_column using errcode = '22023';
    end if;
    execute format('create or replace trigger kylo_emit after insert or update or delete on %s '
                   'for each row execute function kylo.emit_change(%L, %L, %L)',
                   p_table, p_topic, p_key_column, coalesce(p_type, ''));
end $$;
comment on function kylo.emit_on_change is
    'Emits an event for each changed row of a table, in the changing transaction; drop trigger kylo_emit ends it.';
revoke insert, update, delete, truncate on kylo.outbox_log from public;
"""

DOWN = """
drop function kylo.emit_on_change(regclass, text, text, text);
drop function kylo.emit_change();
drop function kylo.emit_many(text[], text[], text[], bytea[], jsonb[], uuid[]);
drop function kylo.emit(text, text, text, bytea, jsonb, uuid);
drop function kylo.emit(text, text, text, json, jsonb, uuid);
drop function kylo.emit(text, text, text, jsonb, jsonb, uuid);
drop function kylo.emit(text, text, text, text, jsonb, uuid);
drop function kylo.check_json(text);
drop function kylo.emit_raw(text, text, text, bytea, jsonb, uuid);
drop function kylo.default_limit(text);
drop function kylo.is_plain_event(text, text, text, bytea, jsonb, integer);
drop function kylo.refuse_event(text, text, text, bytea, jsonb, integer);
drop function kylo.slot_of(text, bytea);
drop function kylo.uuid_v7();
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
