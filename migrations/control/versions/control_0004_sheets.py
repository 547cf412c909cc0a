"""Which tab of which workbook is a company's own, what is set aside, and the quota that all processes share."""

from kylo_outbox.store.migrate import script

revision = "control_0004"
down_revision = "control_0003"

UP = """
create table control.sheet_tabs (
    company_id varchar(50) not null,
    kind text not null check (kind in ('pending', 'active')),
    spreadsheet_id varchar(100) not null,
    sheet_id bigint not null,
    title varchar(100) not null,
    guards jsonb,
    seen_at timestamptz not null default now(),
    primary key (company_id, kind)
);
comment on table control.sheet_tabs is
    'The tab of a company by Google''s own id: a title may be given to another tab, an id never.';

comment on column control.sheet_tabs.guards is
    'What people had typed in system columns before the system last wrote there by row number; put back if lost.';

create table control.sheets_aside (
    company_id varchar(50) primary key,
    spreadsheet_id varchar(100) not null,
    reason text not null,
    remedy text not null,
    since timestamptz not null default now(),
    times integer not null default 1
);
comment on table control.sheets_aside is
    'Companies whose tabs cannot be written until a person acts; others go on. Nothing of theirs is lost.';

create table control.sheet_marks (
    company_id varchar(50) not null,
    row_hash text not null,
    match_notes text not null default '',
    rule_id text not null default '',
    processed_at text not null default '',
    primary key (company_id, row_hash)
);
comment on table control.sheet_marks is 'What the system columns of a row of a Pending tab should say about approvals.';

create table control.sheets_quota (
    account text not null,
    kind text not null check (kind in ('read', 'write')),
    grants timestamptz[] not null default '{}',
    not_before timestamptz not null default 'epoch',
    primary key (account, kind)
) with (fillfactor = 50);
comment on table control.sheets_quota is
    'When each call of the last minute was allowed, by Google account; shared by all processes.';

alter table control.sheet_posts add column sheet_id bigint, add column ruleset_version integer;

do $$
declare
    name text;
begin
    foreach name in array array['sheet_tabs', 'sheets_aside', 'sheet_marks'] loop
        execute format('alter table control.%I enable row level security', name);
        execute format('create policy company_only on control.%I '
                       'using (company_id = current_setting(''kylo.company'', true)) '
                       'with check (company_id = current_setting(''kylo.company'', true))', name);
    end loop;
end $$;
"""

DOWN = """
alter table control.sheet_posts drop column sheet_id, drop column ruleset_version;
drop table control.sheets_quota, control.sheet_marks, control.sheets_aside, control.sheet_tabs;
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
