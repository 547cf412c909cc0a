"""What was received: one row a transaction, one batch a request, and which transactions a batch brought."""

from kylo_outbox.store.migrate import script

revision = "control_0002"
down_revision = "control_0001"

UP = """
create schema intake;
create table intake.batches (
    ingest_batch_id bigint generated always as identity primary key,
    batch_id uuid not null unique,
    request_digest bytea not null unique,
    idempotency_key text unique,
    source text not null,
    answer jsonb not null,
    received_at timestamptz not null default now()
);
comment on column intake.batches.request_digest is
    'SHA-256 of the canonical request: an identical repeat finds its first answer here and adds nothing.';

create table intake.transactions (
    company_id text not null,
    txn_id text not null,
    txn_uid uuid not null,
    content_digest bytea not null,
    occurred_at date not null,
    amount_cents bigint not null,
    description text not null,
    description_norm text not null,
    first_batch bigint not null references intake.batches,
    primary key (company_id, txn_id)
);

create table intake.batch_items (
    ingest_batch_id bigint not null references intake.batches,
    company_id text not null,
    txn_id text not null,
    primary key (ingest_batch_id, company_id, txn_id),
    foreign key (company_id, txn_id) references intake.transactions
);

create table intake.slices (
    ingest_batch_id bigint not null references intake.batches,
    company_id text not null,
    event_id uuid not null unique,
    slice_signature text not null,
    rows integer not null,
    primary key (ingest_batch_id, company_id)
);
comment on table intake.slices is 'One company''s part of a batch and the event that announced it.';
"""

DOWN = "drop schema intake cascade;"


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
