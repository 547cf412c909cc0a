"""What operators decide about the relay: paused keys, what a refused event becomes, and an audit of every act."""

from kylo_outbox.store.migrate import script

revision = "store_0009"
down_revision = "store_0008"

UP = """
create table kylo.paused_keys (
    topic text not null,
    key bytea,
    reason text not null,
    paused_by text not null,
    paused_at timestamptz not null default now(),
    constraint paused_keys_once unique nulls not distinct (topic, key)
);
comment on table kylo.paused_keys is 'Topics (key null) and single keys whose events the relay holds until resumed.';

create table kylo.relay_policies (
    topic text primary key,
    on_poison text not null check (on_poison in ('hold', 'skip')),
    set_by text not null,
    set_at timestamptz not null default now()
);
comment on table kylo.relay_policies is
    'What an operator chose for events of a topic that Kafka refuses; it goes before the declared on_poison.';

create table kylo.audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    who text not null,
    verb text not null,
    store text not null,
    topic text,
    key text,
    ids bigint[],
    reason text,
    before jsonb
);
create index audit_at on kylo.audit (at);
comment on table kylo.audit is
    'Every act of an operator: who, when, why, and in before what it changed; a discarded event lies there whole.';
"""

DOWN = "drop table kylo.audit, kylo.relay_policies, kylo.paused_keys;"


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
