"""Where each company lives and which workbook is its own, what was posted there, and what runs."""

from kylo_outbox.store.migrate import script

revision = "control_0001"
down_revision = None

UP = """
create schema control;
create table control.company_config (
    company_id varchar(50) primary key,
    db_dsn_rw text not null,
    db_schema varchar(50) not null,
    spreadsheet_id varchar(100) not null,
    tab_pending varchar(100) not null,
    tab_active varchar(100) not null,
    paused boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on column control.company_config.db_dsn_rw is
    'A connection string or a reference: env:NAME, file:PATH. Messages and logs never carry it.';

create table control.sheet_posts (
    id bigint generated always as identity,
    company_id varchar(50) not null,
    tab_name varchar(100) not null,
    batch_signature text not null,
    row_count integer not null,
    created_at timestamptz not null default now(),
    ordinal bigint not null default 0,
    state text not null default 'posted' check (state in ('sending', 'unknown', 'posted')),
    spreadsheet_id varchar(100) not null default '',
    posted_at timestamptz,
    row_hashes text[],
    upto bigint,
    primary key (id),
    constraint sheet_posts_once unique (company_id, tab_name, batch_signature)
);
-- One post of a tab at a time, whoever makes it: the second poster finds the first one's claim.
create unique index sheet_posts_open on control.sheet_posts (company_id, tab_name) where state <> 'posted';
comment on column control.sheet_posts.upto is 'pending_txns.seq up to which the tab is complete after this post.';
create index sheet_posts_ordinal on control.sheet_posts (company_id, tab_name, ordinal);

create table control.heartbeats (
    part text not null,
    instance text not null,
    started_at timestamptz not null,
    at timestamptz not null,
    state jsonb not null,
    samples jsonb not null,
    primary key (part, instance)
) with (fillfactor = 50);
comment on table control.heartbeats is 'Each running process, at most once a second: what it does and what it counted.';
"""

DOWN = "drop schema control cascade;"


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
