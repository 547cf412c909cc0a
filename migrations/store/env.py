"""Alembic asks here how to run; the connection and the transaction belong to `kylo_outbox.store.migrate`."""

from kylo_outbox.store.migrate import run_versions

run_versions()
