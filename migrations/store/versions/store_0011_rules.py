"""Rules from proposal to promotion and back, and rows of companies kept apart by PostgreSQL itself."""

from kylo_outbox.store.migrate import script

revision = "store_0011"
down_revision = "store_0010"

# A role is the whole server's: it may be there, and it outlives this version.
ROLE = """
do $$
begin
    if not exists (select from pg_roles where rolname = 'kylo_company') then
        begin
            create role kylo_company nologin;
        exception when duplicate_object or unique_violation then
            null;  -- somebody made it at this very moment
        end;
    end if;
    if not pg_has_role(current_user, 'kylo_company',
                       case when current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end) then
        grant kylo_company to current_user;
    end if;
exception when insufficient_privilege then
    raise exception 'this user may not make the role that keeps companies apart; as an administrator run: '
                    'create role kylo_company nologin; grant kylo_company to %', current_user
        using errcode = '42501';
end $$;
"""

RULES = """
create table kylo.company_state (
    company_id text primary key,
    rules_version integer not null default 0,
    moved_by uuid,
    arrived_by uuid
) with (fillfactor = 50);
comment on table kylo.company_state is
    'One row a company, locked by whoever changes its rows: ingest, promotion and undo never overlap. rules_version is '
    'the version in force (0: none); with moved_by the rows are frozen, because the company moves or has moved away.';

create table kylo.rules_versions (
    company_id text not null,
    version integer not null check (version > 0),
    former integer not null,
    created_at timestamptz not null default now(),
    primary key (company_id, version)
);
comment on table kylo.rules_versions is
    'Every rule set that ever was; former is the one it was built upon and to which an undo goes back (0: no rules).';
insert into kylo.rules_versions (company_id, version, former, created_at)
select company_id, version, coalesce(lag(version) over (partition by company_id order by version), 0), min(created_at)
  from kylo.rules_active group by company_id, version;
insert into kylo.company_state (company_id, rules_version)
select company_id, max(version) from kylo.rules_active group by company_id;

alter table kylo.rules_active
    add column rule_id uuid,
    add constraint rules_active_of_version foreign key (company_id, version)
        references kylo.rules_versions deferrable initially deferred;
comment on table kylo.rules_active is
    'Rule sets by version, immutable; kylo.company_state says which one is in force; the last duplicate source wins.';
create function kylo.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '%: a stored version never changes; promote or undo makes what comes next', tg_table_name
        using errcode = '23001';
end $$;
create trigger immutable before update on kylo.rules_active for each row execute function kylo.refuse_change();
create trigger immutable before update on kylo.rules_versions for each row execute function kylo.refuse_change();

create or replace view app.rules_active with (security_invoker = true) as
select distinct on (r.company_id, r.source_norm)
       r.company_id, r.version, r.source, r.target_sheet, r.target_header, r.created_at, r.source_norm, r.match_notes
  from kylo.company_state s
  join kylo.rules_active r on r.company_id = s.company_id and r.version = s.rules_version
 order by r.company_id, r.source_norm, r.position desc;

create table kylo.rules_proposals (
    company_id text not null,
    proposal integer not null,
    rule_id uuid not null,
    source text not null,
    source_norm text not null check (source_norm <> ''),
    target_sheet text not null,
    target_header text not null,
    match_notes text,
    state text not null check (state in ('proposed', 'approved', 'promoted', 'undone', 'withdrawn')),
    proposed_by text not null,
    proposed_at timestamptz not null default now(),
    approved_by text,
    approved_at timestamptz,
    version integer,
    settled_at timestamptz,
    primary key (company_id, proposal)
);
create unique index rules_proposals_open on kylo.rules_proposals (company_id, rule_id)
 where state in ('proposed', 'approved');
create unique index rules_proposals_approved on kylo.rules_proposals (company_id, source_norm)
 where state = 'approved';
comment on table kylo.rules_proposals is
    'Rules that people want: proposed, approved, promoted into a version, undone with it, or withdrawn. At most one '
    'approved for a source.';

create table kylo.sheet_approvals (
    company_id text not null,
    txn_uid uuid not null,
    proposal integer not null,
    taken_at timestamptz not null default now(),
    primary key (company_id, txn_uid)
);
comment on table kylo.sheet_approvals is 'Rows of the Pending tab that were read as approved, each with its proposal.';

create table kylo.promotions (
    company_id text not null,
    number integer not null,
    act text not null check (act in ('promote', 'undo')),
    request_id uuid,
    asked_by text,
    former integer not null,
    version integer not null,
    rules integer not null,
    resolved integer not null,
    reopened integer not null,
    at timestamptz not null default now(),
    primary key (company_id, number)
);
create index promotions_request on kylo.promotions (company_id, request_id);
comment on table kylo.promotions is 'What promotions and undos did, in order; rules: how many are in force since.';

alter table kylo.pending_txns add column rule_id uuid, add column rules_version integer;
comment on column kylo.pending_txns.rule_id is 'The rule that resolved it.';
create index sort_queue_version on kylo.sort_queue (company_id, rules_version);
"""

# The owner of the tables is not bound: projectors work on many companies in one statement. Whoever acts for one
# company does so as kylo_company (store/isolation.py); any other role sees nothing until it says for whom it acts.
ISOLATION = """
create function kylo.cover_company_table(p_table regclass) returns void language plpgsql as $$
begin
    execute format('alter table %s enable row level security', p_table);
    execute format('create policy company_only on %s using (company_id = current_setting(''kylo.company'', true)) '
                   'with check (company_id = current_setting(''kylo.company'', true))', p_table);
end $$;
comment on function kylo.cover_company_table is 'Lets an ordinary role see and write the rows of one company alone.';

select kylo.cover_company_table(format('kylo.%I', name)::regclass)
  from unnest(array['transactions', 'pending_txns', 'rules_active', 'sort_queue', 'triage_runs', 'company_state',
                    'rules_versions', 'rules_proposals', 'sheet_approvals', 'promotions']) as name;

grant usage on schema kylo, app to kylo_company;
grant select on kylo.transactions, kylo.triage_runs to kylo_company;
grant select, insert on kylo.rules_active, kylo.rules_versions, kylo.promotions to kylo_company;
grant select, insert, update on kylo.pending_txns, kylo.rules_proposals, kylo.company_state to kylo_company;
grant select, insert, update, delete on kylo.sort_queue, kylo.sheet_approvals to kylo_company;
grant select on all tables in schema app to kylo_company;
"""

UP = ROLE + RULES + ISOLATION

DOWN = """
create or replace view app.rules_active with (security_invoker = true) as
select company_id, version, source, target_sheet, target_header, created_at, source_norm, match_notes
  from kylo.rules_active r
 where version = (select max(version) from kylo.rules_active newest where newest.company_id = r.company_id);
revoke all on all tables in schema app, kylo from kylo_company;
revoke all on schema kylo, app from kylo_company;
do $$
declare
    name text;
begin
    foreach name in array array['transactions', 'pending_txns', 'rules_active', 'sort_queue', 'triage_runs'] loop
        execute format('drop policy company_only on kylo.%I', name);
        execute format('alter table kylo.%I disable row level security', name);
    end loop;
end $$;
drop function kylo.cover_company_table(regclass);
drop index kylo.sort_queue_version;
alter table kylo.pending_txns drop column rule_id, drop column rules_version;
drop trigger immutable on kylo.rules_active;
alter table kylo.rules_active drop constraint rules_active_of_version, drop column rule_id;
comment on table kylo.rules_active is
    'Rule sets by version; the newest version of a company is in force; the last duplicate source wins.';
drop table kylo.promotions, kylo.sheet_approvals, kylo.rules_proposals, kylo.rules_versions, kylo.company_state;
drop function kylo.refuse_change();
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
