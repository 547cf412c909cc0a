"""Whether a tab holds every open row is known of the tab itself: names and workbooks may change around it."""

from __future__ import annotations

import pytest

from kylo_outbox.flows.post_sheet import AnnounceUnposted
from kylo_outbox.sheets.standin import background
from kylo_outbox.store import migrate
from kylo_outbox.store.backlog import read_backlog, read_posted_upto
from tests.helpers import tabs

TITLE = "710 Pending"
NOTHING_BEHIND: tuple[list[str], int] = ([], 0)


@pytest.fixture
def office(control_db, tmp_path):
    """A company whose two open rows are in its tab."""
    with background.running(tmp_path) as url:
        for made in tabs.office(control_db, url):
            made.leave_open(2)
            made.post()
            assert behind(made) == NOTHING_BEHIND
            yield made


def behind(office):
    """(companies that the scheduled job announces, what `kylo_sheets_unposted_rows` says)."""
    job = AnnounceUnposted(control=office.database, stores=lambda: [(office.database, office.ids)])
    with office.database.transaction() as tx:
        posted = read_posted_upto(tx)
        unposted = read_backlog(tx, posted).unposted
    return job.run_once(), unposted


def rename(office, title, now):
    """A person renames a tab."""
    properties = {"sheetId": office.standin.tab(title)["sheetId"], "title": now}
    office.standin.people({"updateSheetProperties": {"properties": properties, "fields": "title"}})


def replace_by_copy(office):
    """A person goes on in a copy of the Pending tab."""
    tab = office.standin.tab(TITLE)["sheetId"]
    office.standin.people({"duplicateSheet": {"sourceSheetId": tab, "newSheetName": "Kopie"}})
    office.standin.people({"deleteSheet": {"sheetId": tab}})


def configure(office, **fields):
    """What `company set` does."""
    with office.database.transaction() as tx:
        for name, value in fields.items():
            tx.execute(f"update control.company_config set {name} = %s", (value,))


def test_a_full_tab_that_is_adopted_under_its_new_name_lacks_nothing(office):
    """Nothing had to be posted, so no post has the new name; later rows count as ever."""
    rename(office, TITLE, "Offen")
    office.desk.adopt("710")
    assert behind(office) == NOTHING_BEHIND
    office.leave_open(1)
    assert behind(office) == (["710"], 1)
    office.post()
    assert behind(office) == NOTHING_BEHIND


def test_a_full_copy_that_is_adopted_lacks_nothing(office):
    """Another tab, another id: what it holds was looked at."""
    replace_by_copy(office)
    office.desk.adopt("710", tab="Kopie")
    assert behind(office) == NOTHING_BEHIND


def test_a_full_tab_beside_rules_that_are_written_again_lacks_nothing(office):
    """The turn that adopts posts the Active tab only."""
    office.rules(1, "SHOP")
    office.post()
    replace_by_copy(office)
    assert office.desk.adopt("710", tab="Kopie") == {"pending": "Kopie", "active": "710 Active"}
    assert behind(office) == NOTHING_BEHIND


def test_a_name_in_the_settings_counts_once_the_tab_was_looked_at(office):
    """Until then nobody knows what a tab of that name holds."""
    rename(office, TITLE, "Offen")
    configure(office, tab_pending="Offen")
    assert behind(office) == (["710"], 2)
    office.post()
    assert office.aside() == {}
    assert behind(office) == NOTHING_BEHIND


def test_a_copy_of_the_workbook_is_announced_until_it_was_looked_at(office):
    """Afterwards its tab, which holds every row already, lacks nothing."""
    office.standin.people({"addSheet": {"properties": {"title": TITLE}}}, book="other")
    for row, line in enumerate(office.standin.tab(TITLE)["values"]):
        for column, text in enumerate(line):
            if text != "":
                office.standin.type_in(TITLE, row + 1, "ABCDEFGHIJK"[column], str(text), book="other")
    configure(office, spreadsheet_id="other")
    assert behind(office) == (["710"], 2)
    writes = office.standin.writes()
    office.post()
    assert office.standin.writes() == writes
    assert behind(office) == NOTHING_BEHIND


def test_what_one_tab_holds_is_not_believed_of_another(office, monkeypatch):
    """An empty tab was adopted and the process ended before it was filled: every row is missing."""
    office.standin.people({"addSheet": {"properties": {"title": "Leer"}}})
    with monkeypatch.context() as ended:
        ended.setattr(office.desk, "post", lambda _only: [])
        office.desk.adopt("710", tab="Leer")
    assert behind(office) == (["710"], 2)


def test_the_migration_takes_over_what_posts_tell(office):
    """An upgrade announces no tab that is complete."""
    migrate.migrate(office.database, "control", "control_0004")
    migrate.migrate(office.database, "control")
    assert behind(office) == NOTHING_BEHIND
