"""What people do to tabs: recognised, told in plain words with a verb, and never a reason to stop other companies."""

from __future__ import annotations

import pytest

from kylo_outbox.model.errors import Refused, UnknownOutcome
from kylo_outbox.model.tabs import PENDING_COLUMNS
from kylo_outbox.sheets.standin import background
from tests.helpers import tabs
from tests.helpers.tabs import BOOK

TITLE = "710 Pending"


@pytest.fixture
def office(control_db, tmp_path):
    """Two companies in one workbook, posted once."""
    with background.running(tmp_path) as url:
        for made in tabs.office(control_db, url, ("710", "711")):
            made.leave_open(2, "710")
            made.leave_open(2, "711")
            made.post()
            yield made


def sheet_id(office, title=TITLE):
    """Google's id of a tab."""
    return office.standin.tab(title)["sheetId"]


def rename(office, title, now):
    """A person renames a tab."""
    properties = {"sheetId": sheet_id(office, title), "title": now}
    office.standin.people({"updateSheetProperties": {"properties": properties, "fields": "title"}})


def is_aside(office, reason, verb):
    """710 waits with this reason and this verb, while 711 goes on; then both have one more open row."""
    office.leave_open(1, "710")
    before = len(office.standin.hashes("711 Pending"))
    office.leave_open(1, "711")
    office.post()
    assert set(office.aside()) == {"710"}
    assert reason in office.aside()["710"][0]
    assert verb in office.aside()["710"][1]
    assert len(office.standin.hashes("711 Pending")) == before + 1


def test_a_renamed_tab_waits_for_adopt_or_its_old_name(office):
    """No second tab is made under the old name; adopt takes the new name into the settings and posts what waits."""
    rename(office, TITLE, "Offen")
    is_aside(office, "is now called 'Offen'", "sheets adopt 710")
    assert [one["problem"] for one in office.desk.plan(["710"])] == ["Tab '710 Pending' is now called 'Offen'"]
    assert office.desk.adopt("710") == {"pending": "Offen"}
    assert office.aside() == {}
    assert len(set(office.standin.hashes("Offen"))) == len(office.standin.hashes("Offen")) == 3
    assert office.must("710").tab_pending == "Offen"
    rename(office, "Offen", TITLE)
    is_aside(office, "is now called", "sheets adopt 710")
    rename(office, TITLE, "Offen")
    office.post()
    assert office.aside() == {}


def test_a_deleted_tab_waits_for_recreate(office):
    """The tab is not made anew by itself, because people may bring it back; the verb makes it with every open row."""
    office.standin.people({"deleteSheet": {"sheetId": sheet_id(office)}})
    is_aside(office, "was deleted", "sheets recreate 710")
    assert office.desk.recreate("710") == ["pending"]
    assert office.aside() == {}
    assert len(set(office.standin.hashes(TITLE))) == len(office.standin.hashes(TITLE)) == 3
    with pytest.raises(Refused, match="no tab of '710' is missing"):
        office.desk.recreate("710")


def test_another_tab_of_the_same_name_is_not_taken_silently(office):
    """A tab by another id under the right title waits for adopt, and is then filled with what it lacks."""
    office.standin.people(
        {"deleteSheet": {"sheetId": sheet_id(office)}}, {"addSheet": {"properties": {"title": TITLE}}}
    )
    is_aside(office, "is another one than before", "sheets adopt 710")
    office.desk.adopt("710")
    assert len(set(office.standin.hashes(TITLE))) == 3
    assert office.standin.tab(TITLE)["values"][0] == list(PENDING_COLUMNS)


def test_a_copy_of_a_tab_is_noticed(office):
    """While a copy with our rows is there nobody knows in which one people work; either may be kept."""
    office.standin.people({"duplicateSheet": {"sourceSheetId": sheet_id(office), "newSheetName": f"Kopie von {TITLE}"}})
    is_aside(office, "is a copy of '710 Pending'", "sheets adopt 710 --tab")
    office.standin.people({"deleteSheet": {"sheetId": sheet_id(office)}})
    assert office.desk.adopt("710", tab=f"Kopie von {TITLE}") == {"pending": f"Kopie von {TITLE}"}
    assert office.aside() == {}
    assert len(set(office.standin.hashes(f"Kopie von {TITLE}"))) == 3


def test_a_reordered_tab_is_the_same_tab(office):
    """Moving tabs about changes nothing: they are known by their ids."""
    properties = {"sheetId": sheet_id(office), "index": 0}
    office.standin.people({"updateSheetProperties": {"properties": properties, "fields": "index"}})
    office.leave_open(1, "710")
    office.post()
    assert office.aside() == {}
    assert len(office.standin.hashes(TITLE)) == 3


def test_a_tab_protected_against_us_is_told_before_anything_is_sent(office):
    """The company waits and costs no write; when the protection is gone it goes on by itself."""
    area = {"sheetId": sheet_id(office), "startColumnIndex": 2, "endColumnIndex": 3}
    protection = {"protectedRangeId": 77, "range": area, "description": "mine"}
    office.standin.people({"addProtectedRange": {"protectedRange": protection}})
    is_aside(office, "a protection (mine) keeps us from writing", "Add the account in use to its editors")
    writes = office.standin.writes()
    office.post("710")
    assert office.standin.writes() == writes
    office.standin.people({"deleteProtectedRange": {"protectedRangeId": 77}})
    office.post("710")
    assert office.aside() == {}
    assert len(office.standin.hashes(TITLE)) == 3


def test_a_protection_made_between_looking_and_writing_is_told_too(office, monkeypatch):
    """Google refuses the batch with 403 for one company's cells; the others' rows arrive in the same turn."""
    office.leave_open(1, "710")
    office.leave_open(1, "711")
    protection = {"range": {"sheetId": sheet_id(office)}}
    look = office.posting.looker.look

    def look_then_protect(*args, **kwargs):
        found = look(*args, **kwargs)
        office.standin.people({"addProtectedRange": {"protectedRange": protection}})
        return found

    with monkeypatch.context() as patched:
        patched.setattr(office.posting.looker, "look", look_then_protect)
        office.post()
    assert "a protection keeps us from writing" in office.aside()["710"][0]
    assert len(office.standin.hashes("711 Pending")) == 3


def test_moved_columns_are_told_with_the_cell(office):
    """A column of somebody's between ours stops this company, with the cell and the order that belongs there."""
    line = {"sheetId": sheet_id(office), "dimension": "COLUMNS", "startIndex": 2, "endIndex": 3}
    office.standin.people({"insertDimension": {"range": line}})
    is_aside(office, "cell C1 holds '' where 'Source' belongs", "Put the columns back")
    office.standin.people({"deleteDimension": {"range": line}})
    office.post()
    assert office.aside() == {}
    assert len(office.standin.hashes(TITLE)) == 3


def test_a_tab_deleted_while_a_post_is_under_way_is_not_filled_by_surprise(office):
    """The outcome was not known and then the tab went, with its marker: nothing is sent again before a person acts."""
    office.leave_open(1, "710")
    office.standin.fail("close", "after")
    with pytest.raises(UnknownOutcome):
        office.post("710")
    office.standin.people({"deleteSheet": {"sheetId": sheet_id(office)}})
    office.post("710")
    assert "was deleted" in office.aside()["710"][0]
    office.desk.recreate("710")
    assert len(set(office.standin.hashes(TITLE))) == len(office.standin.hashes(TITLE)) == 3


def test_a_company_that_moves_to_another_workbook_starts_there(office):
    """After `company set --spreadsheet` the new workbook gets every open row, and the old one stays as it is."""
    with office.database.transaction() as tx:
        tx.execute("update control.company_config set spreadsheet_id = 'other' where company_id = '710'")
    office.post("710")
    assert office.aside() == {}
    assert office.standin.hashes(TITLE, "other") == office.standin.hashes(TITLE, BOOK)
