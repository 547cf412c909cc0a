"""A company's own database is away: its tab waits for it, other companies' rows go out, and nothing is forgotten."""

from __future__ import annotations

from contextlib import closing
from uuid import uuid4

import pytest

from kylo_outbox import Event, Transient
from kylo_outbox.flows.post_sheet import AnnounceUnposted, announce, looking
from kylo_outbox.model.companies import new_company
from kylo_outbox.runtime.stop import Stop
from kylo_outbox.settings import load
from kylo_outbox.sheets.standin import background
from kylo_outbox.store.emit import emit_many
from kylo_outbox.store.sheet_tabs import AWAY, set_aside
from kylo_outbox.wiring import parts
from kylo_outbox.wiring import projectors as wired_projectors
from kylo_outbox.wiring import relays as wired_relays
from kylo_outbox.wiring.projectors import ProjectorProcess
from kylo_outbox.wiring.relays import RelayProcess
from tests.helpers import tabs
from tests.helpers.away import Switch


@pytest.fixture
def gone(make_database):
    """The database of 710 and 712, which can be taken away."""
    database = Switch(make_database().dsn, name="gone")
    yield database
    database.close()


@pytest.fixture
def office(control_db, gone, tmp_path):
    """Three companies in one workbook; 711 lives in the control database."""
    with background.running(tmp_path) as url:
        yield from tabs.office(control_db, url, ("710", "711", "712"), {"710": gone, "712": gone})


@pytest.fixture
def job(office, gone):
    """What tells the road which tabs are behind."""
    return AnnounceUnposted(
        control=office.database, stores=lambda: [(office.database, ["711"]), (gone, ["710", "712"])]
    )


def announced(database):
    """What lies in an outbox, as events."""
    with database.transaction() as tx:
        rows = tx.execute("select topic, key, type from outbox order by id").fetchall()
    return [Event(topic=topic, key=key, type=kind, payload={}, event_id=uuid4()) for topic, key, kind in rows]


def test_a_database_that_is_away_holds_only_its_companies_tabs(office, gone, job):
    """Others' rows go out at once; when it is back one event is told and the rows arrive, each once."""
    ids = {company: office.leave_open(2, company) for company in ("710", "711")}
    gone.away = True
    office.post("710", "711")
    assert office.standin.hashes("711 Pending") == ids["711"]
    assert {company: reason for company, (reason, _) in office.aside().items()} == {"710": AWAY}
    assert "PostgreSQL is not reachable" in office.aside()["710"][1]
    assert job.returned() == []
    assert set(office.aside()) == {"710"}
    gone.away = False
    assert job.returned() == ["710"]
    assert job.returned() == []
    assert office.aside() == {}
    told = announced(gone)
    assert [(event.topic, event.key) for event in told] == [("tabs.changed", "710")]
    for _ in range(2):
        office.poster.perform(told)
    assert office.standin.hashes("710 Pending") == ids["710"]


def test_a_post_ends_the_wait_too(office, gone, job):
    """An event that comes once the database is back brings the rows; then there is nothing to tell."""
    ids = office.leave_open(1, "710")
    gone.away = True
    office.post("710")
    gone.away = False
    office.post("710")
    assert office.standin.hashes("710 Pending") == ids
    assert office.aside() == {}
    assert job.returned() == []


def test_a_database_that_goes_away_again_meanwhile_is_not_forgotten(office, gone, job, monkeypatch):
    """Its event found the database away once more before the job came to its end: the company goes on waiting."""

    def tell_and_lose(tx, events):
        emit_many(tx, events)
        gone.away = True
        office.post("710")

    office.leave_open(1, "710")
    gone.away = True
    office.post("710")
    gone.away = False
    monkeypatch.setattr(announce, "emit_many", tell_and_lose)
    assert job.returned() == ["710"]
    assert set(office.aside()) == {"710"}


def test_who_waits_for_a_person_is_not_announced(office, gone, job):
    """A tab that was deleted is no matter of databases."""
    office.leave_open(1, "710")
    office.post("710")
    office.standin.people({"deleteSheet": {"sheetId": office.standin.tab("710 Pending")["sheetId"]}})
    office.post("710")
    assert "was deleted" in office.aside()["710"][0]
    assert job.returned() == []
    assert set(office.aside()) == {"710"}


def test_a_silent_database_is_asked_once_for_all_its_companies(office, gone):
    """Not to be answered takes seconds, and others wait for the workbook meanwhile."""
    gone.away = True
    office.post()
    assert gone.refused == 1
    assert set(office.aside()) == {"710", "712"}


def test_nobody_is_set_aside_because_of_the_control_database(office, monkeypatch):
    """It is everybody's: the turn is tried again as a whole."""

    def refuse(*_args):
        raise Transient("control: PostgreSQL asks to wait")

    office.leave_open(1, "711")
    with monkeypatch.context() as patched:
        patched.setattr(looking, "open_rows", refuse)
        with pytest.raises(Transient, match="asks to wait"):
            office.post("711")
    assert office.aside() == {}
    office.post("711")
    assert len(office.standin.hashes("711 Pending")) == 1


def projectors(built):
    """The process of the projector `sheets`."""
    return ProjectorProcess(built, ["sheets"])


@pytest.mark.parametrize("process", [projectors, RelayProcess])
def test_both_processes_that_post_look_whether_databases_are_back(control_db, tmp_path, monkeypatch, process):
    """On the road and on the direct path, within a minute; the event lies in the company's outbox."""
    jobs = {}

    class Planned:
        """A schedule that runs nothing."""

        def __init__(self, _stop):
            self.keep_running = self.start = self.stop = lambda *_: None

        def every(self, seconds, name, job, **_how):
            jobs[name] = (seconds, job)

    company = new_company("710", tabs.BOOK)
    with control_db.transaction() as tx:
        tx.execute(tabs.CONFIG, ("710", tabs.BOOK, company.tab_pending, company.tab_active))
        set_aside(tx, "710", tabs.BOOK, AWAY, "Mend it")
    told = {"PG_DSN_RW": control_db.dsn, "KAFKA_BROKERS": "127.0.0.1:1", "ROUTE_VIA_KAFKA": "0"}
    told |= {"KYLO_SHEETS_POST": "1", "KYLO_SHEETS_ENDPOINT": "http://127.0.0.1:1"}
    monkeypatch.setenv("PG_DSN_RW", control_db.dsn)
    for module in (wired_projectors, wired_relays):
        monkeypatch.setattr(module, "Schedule", Planned)
    stop = Stop()
    stop.set()
    with closing(parts.build(load(told, tmp_path / "none.env"))) as built:
        process(built).run(stop)
        seconds, job = jobs["tabs of stores that are back"]
        job()
    assert seconds <= 60
    assert [event.key for event in announced(control_db)] == ["710"]
