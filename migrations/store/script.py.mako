"""${message}"""

from kylo_outbox.store.migrate import script

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    script("")


def downgrade() -> None:
    script("")
