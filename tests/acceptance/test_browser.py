"""A bookkeeper's story in a real browser: rows appear, targets are typed, Approved is ticked, and all of it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kylo_outbox.flows.post_sheet import ReadApprovals
from kylo_outbox.model.marks import ApprovalLine, Marks
from kylo_outbox.sheets.standin import background
from tests.helpers import browser, tabs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playwright.sync_api import Locator, Page

TITLE = "710 Pending"


@pytest.fixture
def office(control_db, tmp_path):
    """Company 710 with three open transactions."""
    with background.running(tmp_path) as url:
        yield from tabs.office(control_db, url)


def cell(page: Page, tab: dict, row: int, column: str) -> Locator:
    """A cell by its place as people see it."""
    place = f'[data-row="{row - 1}"][data-column="{ord(column) - ord("A")}"]'
    return page.locator(f'td[data-sheet="{tab["sheetId"]}"]{place}')


def type_in(page: Page, tab: dict, row: int, column: str, text: str) -> None:
    """Double-click, type, Enter, and wait until the server has it."""
    cell(page, tab, row, column).dblclick()
    page.keyboard.type(text)
    with page.expect_response("**/cells") as answered:
        page.keyboard.press("Enter")
    assert answered.value.ok


@pytest.mark.timeout(600)
def test_rows_appear_are_approved_and_are_read_back_twice_without_doubles(office):
    """Three rows are posted, one is approved on the page, the approval is read; everything again changes nothing."""
    taken: list[list[ApprovalLine]] = []

    def take(company_id: str, lines: Sequence[ApprovalLine]) -> dict[str, Marks]:
        assert company_id == "710"
        taken.append([line for line in lines if line.approved is True])
        return {line.row_hash: Marks("Not taken: nobody is there yet") for line in taken[-1]}

    read = ReadApprovals(
        control=office.database,
        looker=office.posting.looker,
        take=take,
        companies=lambda: [office.must("710")],
    )
    ids = office.leave_open(3, description="STARBUCKS")
    for _ in range(2):
        office.post()
    tab = office.standin.tab(TITLE)
    with browser.page() as page:
        page.goto(f"{office.standin.url}/")
        page.get_by_role("link", name="book").click()
        page.get_by_role("link", name=TITLE).wait_for()
        assert cell(page, tab, 3, "A").inner_text() == ids[1]
        type_in(page, tab, 3, "F", "PETTY CASH")
        type_in(page, tab, 3, "G", "Food")
        with page.expect_response("**/cells"):
            cell(page, tab, 3, "I").get_by_role("checkbox").check()
        cell(page, tab, 3, "A").dblclick()
        assert cell(page, tab, 3, "A").locator("input").count() == 0
        page.reload()
        assert cell(page, tab, 3, "I").get_by_role("checkbox").is_checked()
        for _ in range(2):
            read.run_once()
            office.post()
        # The page shows what the system said by itself, without being loaded again.
        page.wait_for_function("() => document.body.innerText.includes('Not taken: nobody is there yet')")
    assert [(line.row_hash, line.row, line.target_sheet, line.target_header) for line in taken[1]] == [
        (ids[1], 3, "PETTY CASH", "Food")
    ]
    assert taken[0] == taken[1]
    assert office.standin.hashes(TITLE) == ids
    assert office.rows("select count(*) from outbox") == [(1,)]


@pytest.mark.timeout(600)
def test_an_edit_that_is_refused_is_told_and_undone(office):
    """The strict TRUE/FALSE rule speaks on the page, and the cell shows what it held before."""
    office.leave_open(1)
    office.post()
    tab = office.standin.tab(TITLE)
    row = {"sheetId": tab["sheetId"], "startRowIndex": 1, "endRowIndex": 2, "startColumnIndex": 5, "endColumnIndex": 6}
    rule = {"condition": {"type": "BOOLEAN"}, "strict": True}
    with browser.page() as page:
        page.goto(f"{office.standin.url}/sheets/book")
        shown = cell(page, tab, 2, "F")
        shown.dblclick()
        office.standin.people({"setDataValidation": {"range": row, "rule": rule}})
        page.keyboard.type("perhaps")
        page.keyboard.press("Enter")
        page.get_by_text("violates the data validation rules").wait_for()
    assert office.standin.lines(TITLE)[0][5] == ""


def test_a_missing_browser_fails_with_its_remedy(monkeypatch):
    """Nobody may take a test that did not run for one that passed."""
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"), browser.page():
        pass
