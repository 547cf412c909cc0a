"""The database names itself, and the outbox with what the relay remembers about it."""

from kylo_outbox.store.migrate import script

revision = "store_0001"
down_revision = None

UP = """
create table kylo.store (
    only_one boolean primary key default true check (only_one),
    store_id text not null,
    generation integer not null default 1,
    system_identifier bigint not null,
    database_oid oid not null,
    created_at timestamptz not null default now()
);
comment on table kylo.store is
    'The name of this database: two stores are equal by store_id, never by connection string.';
insert into kylo.store (store_id, system_identifier, database_oid)
select substr(replace(gen_random_uuid()::text, '-', ''), 1, 12), system_identifier,
       (select oid from pg_database where datname = current_database())
from pg_control_system();

create table kylo.topics (
    topic text primary key check (topic ~ '^[a-zA-Z0-9._-]{1,249}$' and topic not in ('.', '..')),
    partitions integer not null check (partitions > 0),
    retention_ms bigint not null,
    max_bytes integer not null check (max_bytes > 0),
    ordered boolean not null default true,
    on_poison text not null default 'hold' check (on_poison in ('hold', 'skip')),
    dead_letter_topic text not null
);
comment on table kylo.topics is 'Declared topics; emit uses the size limit, an undeclared topic gets the defaults.';

create table kylo.outbox_log (
    id bigint generated always as identity (cache 1),
    xid xid8 not null,
    event_id uuid not null,
    created_at timestamptz not null,
    slot smallint not null,
    topic text not null,
    key bytea not null,
    type text not null,
    payload bytea not null,
    headers jsonb,
    primary key (id)
) partition by range (id);
create index outbox_log_xid on kylo.outbox_log (xid, id);
comment on table kylo.outbox_log is
    'Append-only events as published. Written by kylo.emit alone; never updated; left by dropping partitions.';

create table kylo.event_ids (
    topic text not null,
    event_id uuid not null,
    created_at timestamptz not null default now(),
    primary key (topic, event_id)
);
create index event_ids_created_at on kylo.event_ids (created_at);
comment on table kylo.event_ids is 'Event ids that callers chose, so that a second emit adds nothing.';

create table kylo.lanes (
    lane smallint primary key,
    slot_from smallint not null,
    slot_to smallint not null,
    epoch bigint not null default 0,
    holder text,
    lease_until timestamptz not null default '-infinity',
    high_water bigint not null default 0,
    snapshot pg_snapshot not null default '3:3:',
    acknowledged bigint not null default 0,
    moved_at timestamptz not null default now()
) with (fillfactor = 10);
comment on table kylo.lanes is
    'The cursor: each event with id <= high_water that snapshot shows is acknowledged. Leased with an epoch.';
insert into kylo.lanes (lane, slot_from, slot_to) values (0, 0, 1024);

create table kylo.marks (
    lane smallint not null,
    low bigint not null,
    high bigint not null,
    since timestamptz not null,
    at timestamptz not null,
    ids int8range generated always as (int8range(low, high, '[]')) stored,
    primary key (lane, high)
);
create index marks_ids on kylo.marks using gist (ids);
comment on table kylo.marks is
    'When the cursor passed which ids, to the second: what the view outbox shows as processed_at.';

create function kylo.extend_outbox(ahead bigint, width bigint default 1000000) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
-- Keeps bounded partitions for `ahead` ids beyond the newest one, behind them one up to MAXVALUE so that a writer
-- never misses one. The last partition is replaced only while it is empty; it is locked for that moment alone.
declare
    newest bigint := coalesce(pg_sequence_last_value(pg_get_serial_sequence('kylo.outbox_log', 'id')::regclass), 0);
    edge bigint;
    made integer := 0;
    used boolean := false;
begin
    if to_regclass('kylo.outbox_log_last') is not null then
        select (regexp_match(pg_get_expr(relpartbound, oid), 'FROM \\(''?(\\d+)'))[1]::bigint
          into edge from pg_class where oid = 'kylo.outbox_log_last'::regclass;
    end if;
    edge := coalesce(edge, 1);
    if to_regclass('kylo.outbox_log_last') is not null then
        if edge > newest + ahead then
            return 0;
        end if;
        execute 'select exists (select from kylo.outbox_log_last)' into used;
        if used then
            return 0;  -- too late for this round: rows lie in it, and they are served from there as well
        end if;
        alter table kylo.outbox_log detach partition kylo.outbox_log_last;
    else
        create table kylo.outbox_log_last (like kylo.outbox_log including defaults including constraints);
    end if;
    while edge <= newest + ahead loop
        execute format('create table kylo.outbox_log_%s '
                       '(like kylo.outbox_log including defaults including constraints)', edge);
        execute format('alter table kylo.outbox_log attach partition kylo.outbox_log_%s for values from (%s) to (%s)',
                       edge, edge, edge + width);
        edge := edge + width;
        made := made + 1;
    end loop;
    execute format('alter table kylo.outbox_log attach partition kylo.outbox_log_last '
                   'for values from (%s) to (maxvalue)', edge);
    return made;
end $$;
select kylo.extend_outbox(4000000);
"""

DOWN = """
drop function kylo.extend_outbox(bigint, bigint);
drop table kylo.marks, kylo.lanes, kylo.event_ids, kylo.outbox_log, kylo.topics, kylo.store;
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
