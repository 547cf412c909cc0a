"""Databases for tests: migrated once into a template, cloned in milliseconds for each test that asks.

A pytest plugin. Each clone gets a store name of its own, because a copied database is refused otherwise.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import pytest

from kylo_outbox.local.locks import exclusive
from kylo_outbox.store import fixtures
from kylo_outbox.testing.servers import run_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kylo_outbox.local.postgres import LocalPostgres
    from kylo_outbox.store.engine import Database

TEMPLATE = "kylo_template"


@pytest.fixture(scope="session")
def template_database(postgres_server: LocalPostgres) -> str:
    """Name of the database that holds both schema trees at their heads; made once a session."""
    with exclusive(run_folder() / "template.lock"):
        fixtures.ensure_template(postgres_server.dsn("postgres"), postgres_server.dsn(TEMPLATE), TEMPLATE)
    return TEMPLATE


@pytest.fixture
def make_database(postgres_server: LocalPostgres, template_database: str) -> Iterator[Callable[[], Database]]:
    """Make as many migrated databases as the test wants; dropped afterwards."""
    made: list[tuple[str, Database]] = []

    def make() -> Database:
        name = f"t_{os.getpid()}_{uuid.uuid4().hex[:10]}"
        database = fixtures.clone(postgres_server.dsn("postgres"), postgres_server.dsn(name), template_database, name)
        made.append((name, database))
        return database

    yield make
    for name, database in made:
        database.close()
        fixtures.drop(postgres_server.dsn("postgres"), name)


@pytest.fixture
def control_db(make_database: Callable[[], Database]) -> Database:
    """One migrated database: control and store trees, empty, with a store name of its own."""
    return make_database()
