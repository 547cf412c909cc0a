"""A lane names the connection that took it, so that a newcomer sees when it is gone."""

from kylo_outbox.store.migrate import script

revision = "store_0012"
down_revision = "store_0011"

UP = """
alter table kylo.lanes add column session integer;
comment on column kylo.lanes.session is 'Process id of the connection that took the lane.';
"""
DOWN = "alter table kylo.lanes drop column session"


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
