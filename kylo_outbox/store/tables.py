"""Table definitions for ordinary queries; the versions in `migrations/` make the tables, a test compares the two.

Only tables that SQLAlchemy speaks to or that people ask about stand here. The hot ones (outbox log, positions, intake)
are written by psycopg alone and are described by their version.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.types import UserDefinedType

METADATA: Final = sa.MetaData()


class Snapshot(UserDefinedType[str]):
    """PostgreSQL's `pg_snapshot`, as text in Python."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Name of the type in SQL."""
        return "pg_snapshot"


def _at(name: str, *, default: bool = True, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(
        name, sa.DateTime(timezone=True), nullable=nullable, server_default=sa.func.now() if default else None
    )


company_config = sa.Table(
    "company_config",
    METADATA,
    sa.Column("company_id", sa.String(50), primary_key=True),
    sa.Column(
        "db_dsn_rw",
        sa.Text,
        nullable=False,
        comment="A connection string or a reference: env:NAME, file:PATH. Messages and logs never carry it.",
    ),
    sa.Column("db_schema", sa.String(50), nullable=False),
    sa.Column("spreadsheet_id", sa.String(100), nullable=False),
    sa.Column("tab_pending", sa.String(100), nullable=False),
    sa.Column("tab_active", sa.String(100), nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),
    _at("created_at"),
    _at("updated_at"),
    schema="control",
)

sheet_posts = sa.Table(
    "sheet_posts",
    METADATA,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("company_id", sa.String(50), nullable=False),
    sa.Column("tab_name", sa.String(100), nullable=False),
    sa.Column("batch_signature", sa.Text, nullable=False),
    sa.Column("row_count", sa.Integer, nullable=False),
    _at("created_at"),
    sa.Column("ordinal", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("state", sa.Text, nullable=False, server_default="posted"),
    sa.Column("spreadsheet_id", sa.String(100), nullable=False, server_default=""),
    _at("posted_at", default=False, nullable=True),
    sa.Column("row_hashes", pg.ARRAY(sa.Text)),
    sa.Column("upto", sa.BigInteger, comment="pending_txns.seq up to which the tab is complete after this post."),
    sa.Column("sheet_id", sa.BigInteger),
    sa.Column("ruleset_version", sa.Integer),
    sa.UniqueConstraint("company_id", "tab_name", "batch_signature", name="sheet_posts_once"),
    sa.CheckConstraint("state in ('sending', 'unknown', 'posted')"),
    sa.Index(
        "sheet_posts_open", "company_id", "tab_name", unique=True, postgresql_where=sa.text("state <> 'posted'::text")
    ),
    sa.Index("sheet_posts_ordinal", "company_id", "tab_name", "ordinal"),
    schema="control",
)

sheet_tabs = sa.Table(
    "sheet_tabs",
    METADATA,
    sa.Column("company_id", sa.String(50), primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("spreadsheet_id", sa.String(100), nullable=False),
    sa.Column("sheet_id", sa.BigInteger, nullable=False),
    sa.Column("title", sa.String(100), nullable=False),
    sa.Column(
        "guards",
        pg.JSONB,
        comment="What people had typed in system columns before the system last wrote there by row number; "
        "put back if lost.",
    ),
    _at("seen_at"),
    sa.Column(
        "upto",
        sa.BigInteger,
        comment="pending_txns.seq up to which this very tab holds every open row; null where nobody has looked yet.",
    ),
    sa.CheckConstraint("kind in ('pending', 'active')"),
    schema="control",
    comment="The tab of a company by Google's own id: a title may be given to another tab, an id never.",
)

sheets_aside = sa.Table(
    "sheets_aside",
    METADATA,
    sa.Column("company_id", sa.String(50), primary_key=True),
    sa.Column("spreadsheet_id", sa.String(100), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("remedy", sa.Text, nullable=False),
    _at("since"),
    sa.Column("times", sa.Integer, nullable=False, server_default="1"),
    schema="control",
    comment="Companies whose tabs cannot be written until a person acts; others go on. Nothing of theirs is lost.",
)

sheet_marks = sa.Table(
    "sheet_marks",
    METADATA,
    sa.Column("company_id", sa.String(50), primary_key=True),
    sa.Column("row_hash", sa.Text, primary_key=True),
    sa.Column("match_notes", sa.Text, nullable=False, server_default=""),
    sa.Column("rule_id", sa.Text, nullable=False, server_default=""),
    sa.Column("processed_at", sa.Text, nullable=False, server_default=""),
    schema="control",
    comment="What the system columns of a row of a Pending tab should say about approvals.",
)

heartbeats = sa.Table(
    "heartbeats",
    METADATA,
    sa.Column("part", sa.Text, primary_key=True),
    sa.Column("instance", sa.Text, primary_key=True),
    _at("started_at", default=False),
    _at("at", default=False),
    sa.Column("state", pg.JSONB, nullable=False),
    sa.Column("samples", pg.JSONB, nullable=False),
    schema="control",
    comment="Each running process, at most once a second: what it does and what it counted.",
)

store = sa.Table(
    "store",
    METADATA,
    sa.Column("only_one", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("store_id", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False, server_default="1"),
    sa.Column("system_identifier", sa.BigInteger, nullable=False),
    sa.Column("database_oid", pg.OID, nullable=False),
    _at("created_at"),
    sa.Column("timeline", sa.Integer, nullable=False),
    schema="kylo",
    comment="The name of this database: two stores are equal by store_id, never by connection string.",
)

topics = sa.Table(
    "topics",
    METADATA,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partitions", sa.Integer, nullable=False),
    sa.Column("retention_ms", sa.BigInteger, nullable=False),
    sa.Column("max_bytes", sa.Integer, nullable=False),
    sa.Column("ordered", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("on_poison", sa.Text, nullable=False, server_default="hold"),
    sa.Column("dead_letter_topic", sa.Text, nullable=False),
    schema="kylo",
    comment="Declared topics; emit uses the size limit, an undeclared topic gets the defaults.",
)

lanes = sa.Table(
    "lanes",
    METADATA,
    sa.Column("lane", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("slot_from", sa.SmallInteger, nullable=False),
    sa.Column("slot_to", sa.SmallInteger, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("holder", sa.Text),
    sa.Column(
        "lease_until",
        sa.DateTime(timezone=True),
        nullable=False,
        server_default=sa.text("'-infinity'::timestamp with time zone"),
    ),
    sa.Column("high_water", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("snapshot", Snapshot, nullable=False, server_default=sa.text("'3:3:'::pg_snapshot")),
    sa.Column("acknowledged", sa.BigInteger, nullable=False, server_default="0"),
    _at("moved_at"),
    sa.Column("parent", sa.SmallInteger, sa.ForeignKey("kylo.lanes.lane", ondelete="CASCADE")),
    sa.Column("except_slots", pg.ARRAY(sa.SmallInteger), nullable=False, server_default=sa.text("'{}'::smallint[]")),
    sa.Column("session", sa.Integer, comment="Process id of the connection that took the lane."),
    schema="kylo",
    comment="The cursor: each event with id <= high_water that snapshot shows is acknowledged. Leased with an epoch.",
)

outbox_held = sa.Table(
    "outbox_held",
    METADATA,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.Uuid, nullable=False),
    _at("created_at", default=False),
    sa.Column("slot", sa.SmallInteger, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("headers", pg.JSONB),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("retry", sa.Boolean, nullable=False, server_default=sa.false()),
    _at("held_at"),
    sa.Column(
        "waits",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="Held only because an earlier event of its key is; `retry`: the relay tries it again by itself.",
    ),
    sa.Column("generation", sa.Integer, nullable=False, server_default="1"),
    sa.Index("outbox_held_key", "topic", "key", "id"),
    sa.Index("outbox_held_blocked", "topic", "key", "id", postgresql_where=sa.text("not waits and not retry")),
    schema="kylo",
    comment="Events that Kafka refused and those of the same key behind them, copied out in order.",
)

dead_letters = sa.Table(
    "dead_letters",
    METADATA,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("store_id", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("outbox_id", sa.BigInteger),
    sa.Column("event_id", sa.Uuid),
    sa.Column("type", sa.Text),
    sa.Column("payload", sa.LargeBinary),
    sa.Column("headers", pg.JSONB, nullable=False),
    sa.Column("partition_number", sa.Integer),
    sa.Column("partition_offset", sa.BigInteger),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("error_class", sa.Text, nullable=False),
    sa.Column("detail", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    _at("at"),
    _at("settled_at", default=False, nullable=True),
    _at("created_at", default=False, nullable=True),
    sa.Column("policy", sa.Text, nullable=False, server_default="skip"),
    sa.Column("outcome", sa.Text),
    _at("retry_at", default=False, nullable=True),
    sa.Column(
        "releases", sa.Integer, nullable=False, server_default="0", comment="How often it was tried again in vain."
    ),
    sa.Column(
        "original", sa.LargeBinary, comment="The payload as it came, where an operator put another in its place."
    ),
    sa.Column("tried_by", sa.Uuid, comment="The worker that tries it again just now; nobody while it waits."),
    _at("tried_at", default=False, nullable=True),
    sa.Column(
        "deaths",
        sa.Integer,
        nullable=False,
        server_default="0",
        comment="How many processes died while trying it again.",
    ),
    sa.UniqueConstraint(
        *("stage", "topic", "store_id", "generation", "outbox_id", "partition_number", "partition_offset"),
        name="dead_letters_stage_topic_store_id_generation_outbox_id_part_key",
        postgresql_nulls_not_distinct=True,
    ),
    sa.Index("dead_letters_open", "at", postgresql_where=sa.text("settled_at is null")),
    sa.Index("dead_letters_retry", "stage", postgresql_where=sa.text("retry_at is not null")),
    schema="kylo",
    comment="Records that no attempt can apply, with their bytes, coordinates and reason.",
)

paused_keys = sa.Table(
    "paused_keys",
    METADATA,
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("key", sa.LargeBinary),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("paused_by", sa.Text, nullable=False),
    _at("paused_at"),
    sa.UniqueConstraint("topic", "key", name="paused_keys_once", postgresql_nulls_not_distinct=True),
    schema="kylo",
    comment="Topics (key null) and single keys whose events the relay holds until resumed.",
)

relay_policies = sa.Table(
    "relay_policies",
    METADATA,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("on_poison", sa.Text, nullable=False),
    sa.Column("set_by", sa.Text, nullable=False),
    _at("set_at"),
    schema="kylo",
    comment="What an operator chose for events of a topic that Kafka refuses; it goes before the declared on_poison.",
)

audit = sa.Table(
    "audit",
    METADATA,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("verb", sa.Text, nullable=False),
    sa.Column("store", sa.Text, nullable=False),
    sa.Column("topic", sa.Text),
    sa.Column("key", sa.Text),
    sa.Column("ids", pg.ARRAY(sa.BigInteger)),
    sa.Column("reason", sa.Text),
    sa.Column("before", pg.JSONB),
    sa.Index("audit_at", "at"),
    schema="kylo",
    comment="Every act of an operator: who, when, why, and in before what it changed; a discarded event lies there "
    "whole.",
)
