"""What waits behind a dead letter or an absent store, what operators did about it, and what projectors noticed."""

from kylo_outbox.store.migrate import script

revision = "store_0010"
down_revision = "store_0009"

UP = """
create table kylo.holds (
    projector text not null,
    kind text not null check (kind in ('dead', 'away')),
    store_id text not null,
    topic text not null,
    key text not null,
    reason text not null,
    dead_letter_id bigint,
    since timestamptz not null default now(),
    released_at timestamptz,
    primary key (projector, kind, store_id, topic, key)
);
create index holds_released on kylo.holds (projector, released_at) where released_at is not null;
comment on table kylo.holds is
    'Keys whose later events wait: behind a dead letter (dead), or for the database of their company (away, in the '
    'control store). Whoever queues locks the row for share, whoever lets go for update.';

create table kylo.held_events (
    n bigint generated always as identity primary key,
    projector text not null,
    kind text not null,
    store_id text not null,
    topic text not null,
    key text not null,
    generation integer not null,
    outbox_id bigint,
    event_id uuid,
    type text not null,
    payload bytea not null,
    headers jsonb not null,
    created_at timestamptz,
    partition_number integer,
    partition_offset bigint,
    held_at timestamptz not null default now()
);
create unique index held_events_once on kylo.held_events (
    projector, kind, store_id, topic, key, generation, outbox_id,
    (case when store_id = '' then partition_number end), (case when store_id = '' then partition_offset end)
) nulls not distinct;
create index held_events_queue on kylo.held_events (projector, kind, store_id, topic, key, n);
comment on table kylo.held_events is 'Events that wait behind a hold, in the order of n, with bytes and coordinates.';

alter table kylo.dead_letters
    add column created_at timestamptz,
    add column policy text not null default 'skip' check (policy in ('hold', 'skip')),
    add column outcome text check (outcome in ('applied', 'discarded')),
    add column retry_at timestamptz,
    add column releases integer not null default 0,
    add column original bytea;
create index dead_letters_retry on kylo.dead_letters (stage) where retry_at is not null;
comment on column kylo.dead_letters.original is 'The payload as it came, where an operator put another in its place.';
comment on column kylo.dead_letters.releases is 'How often it was tried again in vain.';

create table kylo.in_hand (
    projector text not null,
    topic text not null,
    partition_number integer not null,
    first_offset bigint not null,
    last_offset bigint not null,
    deaths integer not null default 0,
    since timestamptz not null default now(),
    primary key (projector, topic, partition_number)
);
comment on table kylo.in_hand is
    'Written before the first records of a partition are worked on, removed after: what is left names the records that '
    'a process had in hand when it died. In the control store.';

create table kylo.notices (
    projector text not null,
    kind text not null,
    subject text not null,
    detail text not null,
    figures jsonb not null default '{}',
    since timestamptz not null default now(),
    seen_at timestamptz not null default now(),
    accepted_at timestamptz,
    primary key (projector, kind, subject)
);
comment on table kylo.notices is
    'What a projector wants people to know: its circuit is open, records were lost to retention, partitions changed.';

create table kylo.read_topics (
    projector text not null,
    topic text not null,
    partitions integer not null,
    since timestamptz not null default now(),
    primary key (projector, topic)
);
comment on table kylo.read_topics is
    'How many partitions a topic had when a projector first read it: more of them mean that keys have moved.';
"""

DOWN = """
drop table kylo.read_topics, kylo.notices, kylo.in_hand;
drop index kylo.dead_letters_retry;
alter table kylo.dead_letters drop column created_at, drop column policy, drop column outcome, drop column retry_at,
    drop column releases, drop column original;
drop table kylo.held_events, kylo.holds;
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
