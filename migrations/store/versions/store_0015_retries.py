"""Who tries a released key or dead letter again, since when, and how many processes died over it."""

from kylo_outbox.store.migrate import script

revision = "store_0015"
down_revision = "store_0014"

UP = """
alter table kylo.holds
    add column tried_by uuid,
    add column tried_at timestamptz,
    add column deaths integer not null default 0;
comment on column kylo.holds.tried_by is 'The worker that goes on with the key just now; nobody while it waits.';
comment on column kylo.holds.deaths is 'How many processes died while going on, since an event last passed.';

alter table kylo.dead_letters
    add column tried_by uuid,
    add column tried_at timestamptz,
    add column deaths integer not null default 0;
comment on column kylo.dead_letters.tried_by is 'The worker that tries it again just now; nobody while it waits.';
comment on column kylo.dead_letters.deaths is 'How many processes died while trying it again.';
"""

DOWN = """
alter table kylo.dead_letters drop column deaths, drop column tried_at, drop column tried_by;
alter table kylo.holds drop column deaths, drop column tried_at, drop column tried_by;
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
