"""Which company lives where: looked up for every event, so it must cost nothing, however many companies there are."""

from __future__ import annotations

import pytest

from kylo_outbox import Transient
from kylo_outbox.model.companies import Company
from kylo_outbox.store import companies, directory


@pytest.fixture
def resolved(monkeypatch):
    """Every connection string that is read, and a clock that stands still."""
    seen: list[str] = []
    resolve = directory.resolve

    def noted(reference, environ, name):
        seen.append(name)
        return resolve(reference, environ, name)

    monkeypatch.setattr(directory, "resolve", noted)
    return seen


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes when it is told to."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(directory, "time", made)
    return made


@pytest.fixture
def homes(control_db, clock):
    """The directory of a control database."""
    return directory.Directory(control_db, {})


def configure(database, number, dsn=None):
    """So many companies, all in one database."""
    with database.begin() as connection:
        for n in range(number):
            companies.upsert(connection, Company(str(100 + n), dsn or database.dsn, f"app_{n}", f"s{n}", "a", "b"))


def test_a_connection_string_is_read_once_however_often_it_is_asked_for(control_db, homes, resolved):
    """A batch with an event of each of 200 companies asks 200 times."""
    configure(control_db, 200)
    assert {homes.database_of(str(100 + n)) for n in range(200)} == {control_db}
    assert len(homes.stores()[0].companies) == 200
    assert len(resolved) == 200


def test_a_company_that_changes_its_home_is_found_with_the_next_reading(control_db, homes, clock, make_database):
    """As the companies themselves are: after five seconds."""
    configure(control_db, 1)
    assert homes.database_of("100") is control_db
    configure(control_db, 1, "postgresql://u@127.0.0.1:1/gone")
    assert homes.database_of("100") is control_db
    clock.now += directory.REFRESH
    with pytest.raises(Transient, match="100"):
        homes.database_of("100")
    homes.close()


def test_a_store_that_is_away_is_looked_for_again_soon(control_db, homes, clock, resolved, monkeypatch):
    """Not for each event, and not only with the next reading of the companies."""
    configure(control_db, 1)
    name_of = homes._name_of
    monkeypatch.setattr(homes, "_name_of", lambda _database: (None, "away"))
    for _ in range(10):
        with pytest.raises(Transient, match="away"):
            homes.database_of("100")
    assert len(resolved) == 1
    monkeypatch.setattr(homes, "_name_of", name_of)
    clock.now += 0.6
    assert homes.database_of("100") is control_db
    assert len(resolved) == 2
