"""What the verifier remembers of a store: how far it has compared, totals by key, and the differences it found."""

from kylo_outbox.store.migrate import script

revision = "store_0013"
down_revision = "store_0012"

UP = """
create table kylo.outbox_left (
    topic text not null,
    key text not null,
    events bigint not null,
    digest numeric(40) not null,
    generation integer not null,
    outbox_id bigint not null,
    primary key (topic, key)
) with (fillfactor = 70);
comment on table kylo.outbox_left is
    'Events that left with their partitions, by key: how many, the sum of their ids, the newest one. Written in the '
    'transaction that lets a partition go, without what operators took out before it was published.';

create table kylo.verify_state (
    only_one boolean primary key default true check (only_one),
    store_id text,
    generation integer,
    era integer not null default 0,
    passes bigint not null default 0,
    snapshot pg_snapshot,
    counted_from bigint not null,
    folded_below bigint not null default 0,
    left_unverified bigint not null default 0,
    repeats bigint not null default 0,
    at timestamptz
);
comment on table kylo.verify_state is
    'Every event that snapshot shows has been compared. Ids below counted_from left before anybody counted them; those '
    'below folded_below are in kylo.outbox_left. era: how often the comparison began anew (another life of the store).';
insert into kylo.verify_state (counted_from, folded_below)
select coalesce(min(low), 1), coalesce(min(low), 0) from kylo.outbox_partitions;

create table kylo.verify_keys (
    topic text not null,
    key text not null,
    events bigint not null,
    digest numeric(40) not null,
    generation integer not null,
    outbox_id bigint not null,
    log_generation integer not null default -1,
    log_outbox_id bigint not null default -1,
    primary key (topic, key)
) with (fillfactor = 70);
comment on table kylo.verify_keys is
    'Totals of what was compared, by key: events, sum of ids, the newest one, and the newest one met on the log.';

create table kylo.verify_open (
    outbox_id bigint primary key,
    generation integer not null,
    topic text not null,
    key text not null,
    event_id uuid not null,
    created_at timestamptz not null
);
comment on table kylo.verify_open is 'Events that were not on the log yet when it was last read.';

create table kylo.verify_gaps (outbox_id bigint primary key);
comment on table kylo.verify_gaps is 'Events that operators or a policy took out before they were published.';

create table kylo.verify_offsets (
    topic text not null,
    partition_number integer not null,
    next_offset bigint not null,
    primary key (topic, partition_number)
);
comment on table kylo.verify_offsets is 'How far the log was read for this store.';

create table kylo.verify_reads (
    reader text primary key,
    snapshot pg_snapshot not null,
    at timestamptz not null default now()
);
comment on table kylo.verify_reads is
    'effects of NAME: events of this store whose effects were looked for. positions in STORE: a snapshot of that '
    'store; positions written since are compared next.';

create table kylo.verify_behind (
    projector text not null,
    topic text not null,
    key text not null,
    generation integer not null,
    outbox_id bigint not null,
    primary key (projector, topic, key)
);
comment on table kylo.verify_behind is
    'The first event of a key that its projector had not taken when effects were looked for.';

create table kylo.verify_bases (
    projector text not null,
    topic text not null,
    key text not null,
    era integer not null,
    events bigint not null,
    digest numeric(40) not null,
    primary key (projector, topic, key)
);
comment on table kylo.verify_bases is
    'Positions whose beginning nobody can compare (events that had left before): the difference at the first look, or '
    'one that a person accepted. Counts from there on must agree.';

create table kylo.verify_findings (
    id bigint generated always as identity primary key,
    part text not null check (part in ('log', 'positions', 'effects')),
    anomaly text not null,
    projector text not null,
    topic text not null,
    key text not null,
    generation integer not null,
    outbox_ids bigint[] not null,
    event_ids uuid[] not null,
    detail text not null,
    found_at timestamptz not null default clock_timestamp(),
    seen_at timestamptz not null default clock_timestamp(),
    over_at timestamptz,
    accepted_at timestamptz,
    first_id bigint generated always as (coalesce(outbox_ids[1], -1)) stored
);
create unique index verify_findings_once on kylo.verify_findings (
    part, anomaly, projector, topic, key, generation, first_id) where over_at is null;
comment on table kylo.verify_findings is
    'Differences by key and ids. Open until they are gone (over_at) or a person has accepted them.';
"""

DOWN = """
drop table kylo.verify_findings, kylo.verify_bases, kylo.verify_behind, kylo.verify_reads, kylo.verify_offsets,
           kylo.verify_gaps, kylo.verify_open, kylo.verify_keys, kylo.verify_state, kylo.outbox_left;
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
