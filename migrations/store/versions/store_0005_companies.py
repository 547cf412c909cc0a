"""Kylo's tables of the companies that live in this database, and the views people query."""

from kylo_outbox.store.migrate import script

revision = "store_0005"
down_revision = "store_0004"

# One physical table a subject, the company in every key; `app.*` shows all companies stored here and `app_710.*` one.
UP = """
create table kylo.transactions (
    company_id text not null,
    txn_uid uuid not null,
    txn_id text not null,
    occurred_at date not null,
    amount_cents bigint not null,
    description text not null,
    description_norm text not null,
    first_seen_batch bigint not null,
    last_seen_batch bigint not null,
    created_at timestamptz not null default now(),
    primary key (company_id, txn_uid)
);

create table kylo.pending_txns (
    company_id text not null,
    txn_uid uuid not null,
    seq bigint generated always as identity,
    first_seen_batch bigint not null,
    last_seen_batch bigint not null,
    occurred_at date not null,
    description text not null,
    description_norm text not null,
    amount_cents bigint not null,
    status text not null default 'open' check (status in ('open', 'resolved')),
    created_at timestamptz not null default now(),
    resolved_at timestamptz,
    primary key (company_id, txn_uid)
);
create index pending_txns_open on kylo.pending_txns (company_id, description_norm) where status = 'open';
create index pending_txns_seq on kylo.pending_txns (company_id, seq);

create table kylo.rules_active (
    company_id text not null,
    version integer not null,
    position integer not null,
    source text not null,
    source_norm text not null,
    target_sheet text not null,
    target_header text not null,
    match_notes text,
    created_at timestamptz not null default now(),
    primary key (company_id, version, position)
);
create index rules_active_source on kylo.rules_active (company_id, version, source_norm);
comment on table kylo.rules_active is
    'Rule sets by version; the newest version of a company is in force; the last duplicate source wins.';

create table kylo.sort_queue (
    company_id text not null,
    txn_uid uuid not null,
    reason text not null,
    batch_id text not null,
    target_sheet text,
    target_header text,
    rules_version integer,
    queued_at timestamptz not null default now(),
    primary key (company_id, txn_uid, reason)
);
comment on table kylo.sort_queue is 'Transactions that a rule matched, with where they belong.';

create table kylo.triage_runs (
    company_id text not null,
    ingest_batch_id bigint not null,
    batch_id uuid not null,
    rules_version integer not null,
    matched integer not null,
    unmatched integer not null,
    at timestamptz not null default now(),
    primary key (company_id, ingest_batch_id)
);

create schema app;
create view app.transactions with (security_invoker = true) as select * from kylo.transactions;
create view app.pending_txns with (security_invoker = true) as
select txn_uid, company_id, first_seen_batch, last_seen_batch, occurred_at, description_norm, amount_cents, status,
       description, created_at, resolved_at
  from kylo.pending_txns;
create view app.rules_active with (security_invoker = true) as
select company_id, version, source, target_sheet, target_header, created_at, source_norm, match_notes
  from kylo.rules_active r
 where version = (select max(version) from kylo.rules_active newest where newest.company_id = r.company_id);
create view app.sort_queue with (security_invoker = true) as select * from kylo.sort_queue;

create function kylo.make_company_views(p_company text, p_schema text) returns void
language plpgsql as $$
declare
    subject text;
begin
    if p_schema !~ '^[a-z][a-z0-9_]{0,40}$' then
        raise exception 'schema: must match ^[a-z][a-z0-9_]{0,40}$' using errcode = '22023';
    end if;
    if p_schema in ('app', 'kylo', 'control', 'public') then
        return;
    end if;
    execute format('create schema if not exists %I', p_schema);
    foreach subject in array array['transactions', 'pending_txns', 'rules_active', 'sort_queue'] loop
        execute format('create or replace view %I.%I with (security_invoker = true) as '
                       'select * from app.%I where company_id = %L',
                       p_schema, subject, subject, p_company);
    end loop;
    execute format('comment on schema %I is %L', p_schema, 'kylo company ' || p_company);
end $$;
comment on function kylo.make_company_views is 'The per-company schema (app_710) as views over the shared tables.';
"""

DOWN = """
do $$
declare
    name text;
begin
    for name in select nspname from pg_namespace n join pg_description d on d.objoid = n.oid
                 where d.description like 'kylo company %' and d.classoid = 'pg_namespace'::regclass loop
        execute format('drop schema %I cascade', name);
    end loop;
end $$;
drop function kylo.make_company_views(text, text);
drop schema app cascade;
drop table kylo.triage_runs, kylo.sort_queue, kylo.rules_active, kylo.pending_txns, kylo.transactions;
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
