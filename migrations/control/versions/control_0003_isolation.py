"""Where rules may point to, moves of companies, and the rows of companies kept apart in the control database too."""

from kylo_outbox.store.migrate import script

revision = "control_0003"
down_revision = "control_0002"

UP = """
create table control.rule_targets (
    company_id varchar(50) not null,
    target_sheet text not null,
    target_header text not null default '',
    primary key (company_id, target_sheet, target_header)
);
comment on table control.rule_targets is
    'Where rules of a company may point to; an empty header means any header of the sheet. No row: anywhere.';

create table control.company_moves (
    move_id uuid primary key,
    company_id varchar(50) not null,
    from_dsn text not null,
    from_schema varchar(50) not null,
    to_dsn text not null,
    to_schema varchar(50) not null,
    was_paused boolean not null,
    step text not null check (step in ('waiting', 'frozen', 'copied', 'switched', 'done',
                                        'cancelling', 'cancelled')),
    begun_at timestamptz not null default now(),
    moved_at timestamptz not null default now()
);
create unique index company_moves_open on control.company_moves (company_id) where step not in ('done', 'cancelled');
comment on table control.company_moves is 'Companies on their way to another database: the last step that is done.';

do $$
declare
    name text;
begin
    foreach name in array array['control.company_config', 'control.sheet_posts', 'control.rule_targets',
                                'control.company_moves', 'intake.transactions', 'intake.batch_items', 'intake.slices']
    loop
        execute format('alter table %s enable row level security', name);
        execute format('create policy company_only on %s using (company_id = current_setting(''kylo.company'', true)) '
                       'with check (company_id = current_setting(''kylo.company'', true))', name);
    end loop;
end $$;
"""

DOWN = """
drop table control.rule_targets, control.company_moves;
do $$
declare
    name text;
begin
    foreach name in array array['control.company_config', 'control.sheet_posts', 'intake.transactions',
                                'intake.batch_items', 'intake.slices'] loop
        execute format('drop policy company_only on %s', name);
        execute format('alter table %s disable row level security', name);
    end loop;
end $$;
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
