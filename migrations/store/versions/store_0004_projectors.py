"""What projectors remember: how far each key is applied, and what could not be applied."""

from kylo_outbox.store.migrate import script

revision = "store_0004"
down_revision = "store_0003"

UP = """
create table kylo.positions (
    projector text not null,
    store_id text not null,
    topic text not null,
    key text not null,
    generation integer not null,
    outbox_id bigint not null,
    applied bigint not null default 0,
    digest numeric(40) not null default 0,
    duplicates bigint not null default 0,
    moved_at timestamptz not null default now(),
    primary key (projector, store_id, topic, key)
) with (fillfactor = 70);
comment on table kylo.positions is
    'Per projector and key: the newest applied event (generation, outbox id), how many, the sum of their ids, and how '
    'many repeats were absorbed. Records of other producers: store_id empty, key @partition, outbox_id = offset.';

create table kylo.dead_letters (
    id bigint generated always as identity primary key,
    stage text not null,
    topic text not null,
    key text,
    store_id text not null,
    generation integer not null,
    outbox_id bigint,
    event_id uuid,
    type text,
    payload bytea,
    headers jsonb not null,
    partition_number integer,
    partition_offset bigint,
    reason text not null,
    error_class text not null,
    detail text,
    attempts integer not null,
    at timestamptz not null default now(),
    settled_at timestamptz,
    unique nulls not distinct (stage, topic, store_id, generation, outbox_id, partition_number, partition_offset)
);
create index dead_letters_open on kylo.dead_letters (at) where settled_at is null;
comment on table kylo.dead_letters is 'Records that no attempt can apply, with their bytes, coordinates and reason.';
"""

DOWN = "drop table kylo.dead_letters, kylo.positions;"


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
