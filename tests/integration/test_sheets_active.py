"""The Active tab, comparing tabs with tables, and the verbs of it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from kylo_outbox.cli import app
from kylo_outbox.model.errors import Refused, UnknownOutcome
from kylo_outbox.model.marks import Marks
from kylo_outbox.model.tabs import ACTIVE_COLUMNS
from kylo_outbox.sheets.standin import background
from kylo_outbox.store import sheet_tabs
from tests.helpers import tabs

TITLE = "710 Active"
PENDING = "710 Pending"


@pytest.fixture
def office(control_db, tmp_path):
    """One company."""
    with background.running(tmp_path) as url:
        yield from tabs.office(control_db, url)


def shown(office):
    """(version, source) of each line of the tab that holds anything."""
    return [(line[0], line[3]) for line in office.standin.lines(TITLE) if any(line)]


def versions(office):
    """Versions in the order in which they were posted."""
    return [row[0] for row in office.rows("select ruleset_version from control.sheet_posts order by ordinal")]


def only(office, version, *sources):
    """Make this version the one in force, as an undo that takes the newer one away."""
    with office.database.transaction() as tx:
        tx.execute("delete from kylo.rules_active where company_id = '710' and version >= %s", (version,))
    office.rules(version, *sources)


def test_rules_a_b_and_a_again_post_three_times(office):
    """The former system saw "posted before" and left B standing; a true repeat posts nothing."""
    for version, sources in ((1, ["A"]), (2, ["A", "B"]), (1, ["A"])):
        only(office, version, *sources)
        office.post()
        office.post()
        assert shown(office) == [(version, source) for source in sources]
    assert versions(office) == [1, 2, 1]
    assert office.standin.writes() == 3


def test_fewer_rules_empty_the_rest_without_deleting_rows(office):
    """Google refuses to delete all rows that are not frozen: the range is written and what lies below is emptied."""
    only(office, 1, *[f"s{number:03d}" for number in range(150)])
    office.post()
    assert len(shown(office)) == 150
    assert office.standin.tab(TITLE)["rowCount"] == 151
    only(office, 2, "one")
    office.post()
    assert shown(office) == [(2, "one")]
    assert office.standin.tab(TITLE)["rowCount"] == 151
    with office.database.transaction() as tx:
        tx.execute("delete from kylo.rules_active")
    office.post()
    assert shown(office) == []


def test_more_rules_than_a_batch_holds_go_in_several(office, monkeypatch):
    """7,000 rules are sent in parts under 2 MB; the marker lies in the last one."""
    only(office, 1, *[f"{'s' * 200}{number}" for number in range(7_000)])
    sizes = []
    send = office.gateway.batch_update

    def watch(spreadsheet_id, requests):
        sizes.append(len(json.dumps(requests)))
        return send(spreadsheet_id, requests)

    monkeypatch.setattr(office.gateway, "batch_update", watch)
    office.post()
    assert len(sizes) == 3
    assert max(sizes) < 2_000_000
    assert len({source for _, source in shown(office)}) == 7_000


def test_shape_is_made_once_and_is_a_no_op_afterwards(office, monkeypatch):
    """Header, frozen row and the protection of the whole tab come with the first post and never again."""
    only(office, 1, "A")
    office.post()
    tab = office.standin.tab(TITLE)
    assert tab["values"][0] == list(ACTIVE_COLUMNS)
    assert (tab["frozenRows"], tab["protected"]) == (1, ["kylo: rules in force, written by the system"])
    kinds: list[str] = []
    send = office.gateway.batch_update

    def watch(spreadsheet_id, requests):
        kinds.extend(next(iter(request)) for request in requests)
        return send(spreadsheet_id, requests)

    monkeypatch.setattr(office.gateway, "batch_update", watch)
    only(office, 2, "A", "B")
    office.post()
    assert kinds == ["updateCells", "createDeveloperMetadata"]


def test_both_tabs_ride_one_batch_and_an_unknown_outcome_is_settled_for_both(office):
    """Pending and Active of a company are one write; after a dropped answer both markers are found."""
    office.leave_open(2)
    only(office, 1, "A")
    office.standin.fail("503", "after")
    with pytest.raises(UnknownOutcome):
        office.post()
    office.post()
    assert office.standin.writes() == 1
    assert office.rows("select state, row_count from control.sheet_posts order by row_count") == [
        ("posted", 1),
        ("posted", 2),
    ]


def test_reconcile_tells_every_difference_and_mends_what_it_may(office):
    """Missing, double, stray, wrong and unknown: each is told; repair leaves people's work as it is."""
    ids = office.leave_open(5)
    only(office, 1, "A")
    office.post()
    with office.database.transaction() as tx:
        sheet_tabs.put_marks(tx, "710", {ids[4]: Marks("Not taken: x")})
    office.standin.type_in(PENDING, 4, "F", "FOOD")
    sheet = office.standin.tab(PENDING)["sheetId"]
    active = office.standin.tab(TITLE)["sheetId"]
    copy = {"values": [{"userEnteredValue": {"stringValue": ids[1]}}]}
    typed = {"values": [{"userEnteredValue": {"stringValue": text}} for text in (ids[2], "", "", "", "", "PETTY")]}
    stray = {"values": [*({} for _ in range(7)), {"userEnteredValue": {"stringValue": "Kylo: astray"}}]}
    unknown = {"values": [{"userEnteredValue": {"stringValue": "no-hash"}}]}
    office.standin.people(
        {"deleteDimension": {"range": {"sheetId": sheet, "dimension": "ROWS", "startIndex": 1, "endIndex": 2}}},
        {"appendCells": {"sheetId": sheet, "rows": [copy, typed, stray, unknown], "fields": "userEnteredValue"}},
        {"repeatCell": {"range": {"sheetId": active, "startRowIndex": 1}, "cell": {}, "fields": "userEnteredValue"}},
    )
    office.standin.people(
        {
            "updateCells": {
                "start": {"sheetId": sheet, "rowIndex": 3, "columnIndex": 2},
                "rows": [{"values": [{"userEnteredValue": {"stringValue": "edited"}}]}],
                "fields": "userEnteredValue",
            }
        }
    )
    found = {(one.what, one.mends) for one in office.desk.reconcile()[0].findings}
    assert found == {
        ("missing", True),
        ("unknown", False),
        ("double", True),
        ("double", False),
        ("system column", True),
        ("stray text", True),
        ("changed", False),
        ("differs", True),
    }
    plan = office.desk.plan()[0]["changes"]
    assert {change["change"] for change in plan} == {"append", "write"}
    left = office.desk.reconcile(repair=True)[0].findings
    assert {(one.what, one.mends) for one in left} == {("unknown", False), ("double", False), ("changed", False)}
    lines = office.standin.lines(PENDING)
    assert [line[5] for line in lines if line[0] == ids[2]] == ["FOOD", "PETTY"]
    assert sum(line[0] == ids[1] for line in lines) == 1
    assert shown(office) == [(1, "A")]


def test_verbs_refuse_unknown_companies(office):
    """A typing error in an id is told with the remedy."""
    with pytest.raises(Refused, match="company list"):
        office.desk.plan(["71O"])
    with pytest.raises(Refused, match="company list"):
        office.desk.adopt("71O")


def test_the_command_plans_posts_compares_and_tells_who_waits(office, control_db, monkeypatch):
    """The verbs of the command, with their exit codes and JSON."""
    monkeypatch.setenv("PG_DSN_RW", control_db.dsn)
    monkeypatch.setenv("KYLO_SHEETS_ENDPOINT", office.standin.url)
    monkeypatch.setenv("KYLO_SHEETS_POST", "1")
    ids = office.leave_open(2)

    def run(*words, code=0):
        done = CliRunner().invoke(app, ["sheets", *words])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if "--json" in words else done.output

    planned = run("plan", "--json")[0]["changes"]
    assert [change["change"] for change in planned] == ["make the tab", "append", "append"]
    run("post", "--dry-run")
    assert office.standin.writes() == 0
    assert run("reconcile", "--json", code=1)[0]["findings"][0]["what"] == "missing"
    assert run("post", "710", "--json") == []
    assert office.standin.hashes(PENDING) == ids
    assert run("reconcile", "--json")[0]["findings"] == []
    office.standin.people({"deleteSheet": {"sheetId": office.standin.tab(PENDING)["sheetId"]}})
    assert "was deleted" in run("post", "--json", code=4)[0]["reason"]
    assert "sheets recreate 710" in run("aside", code=4)
    assert run("recreate", "710", "--json") == {"company_id": "710", "made": ["pending"]}
    assert run("adopt", "710", "--json")["tabs"] == {"pending": PENDING}
    assert run("aside", "--json") == []
    monkeypatch.setenv("KYLO_SHEETS_POST", "0")
    assert "shadow mode" in run("post", code=2)
