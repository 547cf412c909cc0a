"""A bookkeeper's story in a real browser: rows appear, Approved is ticked, the rule is promoted, both tabs show it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from kylo_outbox.sheets.standin import background
from tests.helpers import browser, tabs
from tests.helpers.pipeline import Pipeline, transaction, wait_until
from tests.helpers.tabs import Standin

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

TITLE = "710 Pending"


@pytest.fixture
def pipeline(own_folder):
    """The whole stack with company 710, which looks for approvals every five seconds."""
    pipeline = Pipeline(own_folder, KYLO_SHEETS_POST="1", KYLO_SHEETS_APPROVALS_EVERY="5")
    pipeline.up()
    pipeline.ok("company", "add", "710", "--spreadsheet", "book")
    yield pipeline
    pipeline.tell()
    pipeline.down()


@pytest.fixture
def office(control_db, tmp_path):
    """Company 710, its tables and a poster, without the rest of the stack."""
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


def tick(page: Page, tab: dict, row: int, *, wanted: bool = True) -> None:
    """Tick or untick Approved, and wait until the server has it."""
    with page.expect_response("**/cells") as answered:
        cell(page, tab, row, "I").get_by_role("checkbox").set_checked(wanted)
    assert answered.value.ok


def wait_for_text(page: Page, tab: dict, row: int, column: str, pattern: str) -> None:
    """Wait until a cell shows something; the page looks for news by itself."""
    expect(cell(page, tab, row, column)).to_have_text(re.compile(f"^{pattern}$"), timeout=60_000)


def snapshot(pipeline: Pipeline) -> dict[str, Any]:
    """Everything that a second time must not change: both tabs, posts and rules."""
    return {
        "pending": pipeline.tab("book", TITLE),
        "active": pipeline.tab("book", "710 Active"),
        "posts": pipeline.rows("select tab_name, row_count, state from control.sheet_posts order by id"),
        "writes": Standin(pipeline.env()["KYLO_SHEETS_ENDPOINT"]).writes(),
        "rules": json.loads(pipeline.ok("rules", "list", "710", "--json")),
        "open": pipeline.rows("select txn_uid, status from kylo.pending_txns order by txn_uid"),
        "sorted": pipeline.rows("select txn_uid, target_header from kylo.sort_queue order by txn_uid"),
        "dead": pipeline.rows("select count(*) from kylo.dead_letters"),
    }


def approved(pipeline: Pipeline) -> list[str]:
    """Sources of the proposals that are approved and not promoted."""
    found = pipeline.get("/v1/companies/710/rules/proposals?state=approved")
    return [each["source"] for each in found["proposals"]]


@pytest.mark.timeout(900)
def test_from_three_transactions_to_a_rule_twice_without_doubles(pipeline):
    """Posted, ticked on the page, taken by the schedule, promoted, resolved, Active written; again: nothing moves."""
    batch = [transaction(n, "710", description=text) for n, text in enumerate(("STARBUCKS", "Starbucks!", "Walmart"))]
    pipeline.post(batch)
    wait_until(lambda: len(pipeline.tab("book", TITLE)) == 3, 60, "three rows are in the tab")
    url = pipeline.env()["KYLO_SHEETS_ENDPOINT"].rstrip("/")
    tab = Standin(url).tab(TITLE)
    place = {line[2]: row for row, line in enumerate(tab["values"], start=1)}
    good, faulty = place["STARBUCKS"], place["Walmart"]
    with browser.page() as page:
        page.goto(f"{url}/sheets/book")
        type_in(page, tab, good, "F", "PETTY CASH")
        type_in(page, tab, good, "G", "Coffee")
        tick(page, tab, good)
        tick(page, tab, faulty)
        # Nobody asks for it: the schedule reads the tab, and the page shows its answer without being loaded again.
        page.get_by_text("Not taken: Target_Sheet and Target_Header must be filled in").wait_for()
        wait_until(lambda: approved(pipeline) == ["STARBUCKS"], 60, "the approval is taken")
        tick(page, tab, faulty, wanted=False)
        page.wait_for_function("() => !document.body.innerText.includes('Not taken')")
        promoted = json.loads(pipeline.ok("rules", "promote", "710", "--wait", "120", "--json"))["outcome"]
        assert (promoted["version"], promoted["resolved"]) == (1, 2)
        for row in (good, place["Starbucks!"]):
            wait_for_text(page, tab, row, "J", r"[0-9a-f-]{36}")
            wait_for_text(page, tab, row, "K", r"20\d\d-\d\d-\d\dT.*Z")
        assert cell(page, tab, faulty, "J").inner_text() == ""
        active = Standin(url).tab("710 Active")
        wait_for_text(page, active, 2, "D", "STARBUCKS")
        assert cell(page, active, 2, "F").inner_text() == "Coffee"
        assert cell(page, tab, good, "I").get_by_role("checkbox").is_checked()
        assert cell(page, tab, good, "F").inner_text() == "PETTY CASH"
    assert [line[3:6] for line in pipeline.tab("book", "710 Active")] == [["STARBUCKS", "PETTY CASH", "Coffee"]]
    pipeline.ok("sheets", "approvals", "710")
    pipeline.ok("sheets", "post", "710")
    before = snapshot(pipeline)
    again(pipeline, batch)
    assert snapshot(pipeline) == before
    assert before["dead"] == [(0,)]
    assert len({line[0] for line in before["pending"]}) == len(before["pending"]) == 3


def again(pipeline: Pipeline, batch: list[dict[str, Any]]) -> None:
    """The same transactions, approvals, promotion and post once more, and as long as the schedule needs to look."""
    pipeline.post(batch)
    with browser.page() as page:
        url = pipeline.env()["KYLO_SHEETS_ENDPOINT"].rstrip("/")
        page.goto(f"{url}/sheets/book")
        tab = Standin(url).tab(TITLE)
        row = next(n for n, line in enumerate(tab["values"], start=1) if line[2] == "STARBUCKS")
        for wanted in (False, True):
            tick(page, tab, row, wanted=wanted)
    assert json.loads(pipeline.ok("sheets", "approvals", "710", "--json")) == {"710": 0}
    promoted = json.loads(pipeline.ok("rules", "promote", "710", "--wait", "120", "--json"))["outcome"]
    assert (promoted["version"], promoted["resolved"]) == (1, 0)
    pipeline.ok("sheets", "post", "710")
    unread = "select count(*) from outbox where processed_at is null"
    wait_until(lambda: pipeline.rows(unread) == [(0,)], 60, "everything is published")


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
