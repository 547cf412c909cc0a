"""People and the system in one Pending tab: what people typed stays, and system columns end on their own lines."""

from __future__ import annotations

import time

import pytest

from kylo_outbox.flows.post_sheet import ReadApprovals
from kylo_outbox.model.marks import Marks
from kylo_outbox.sheets.standin import background
from kylo_outbox.store import sheet_tabs
from tests.helpers import tabs

TITLE = "710 Pending"
RULE = "1c9b0f6e-5a7c-5d55-9c39-6a6b4e1b2c3d"
AT = "2025-08-27T10:00:00Z"


@pytest.fixture
def office(control_db, tmp_path):
    """One company with six open rows in its tab."""
    with background.running(tmp_path) as url:
        for made in tabs.office(control_db, url):
            made.ids_open = made.leave_open(6)
            made.post()
            yield made


@pytest.fixture
def meanwhile(office, monkeypatch):
    """Let people do something between the poster's look and its next write, once."""

    def arrange(*requests):
        send, todo = office.gateway.batch_update, list(requests)

        def people_first(spreadsheet_id, batch):
            if todo:
                office.standin.people(*todo)
                todo.clear()
            return send(spreadsheet_id, batch)

        monkeypatch.setattr(office.gateway, "batch_update", people_first)

    return arrange


def sheet_id(office):
    """Google's id of the tab."""
    return office.standin.tab(TITLE)["sheetId"]


def say(office, marks):
    """Decide what lines should say, as the approvals do."""
    with office.database.transaction() as tx:
        sheet_tabs.put_marks(tx, "710", marks)


def by_hash(office):
    """Lines of ours by Row_Hash."""
    return {line[0]: line for line in office.standin.lines(TITLE) if line[0]}


def insert_rows(office, at, count=1):
    """People insert rows."""
    area = {"sheetId": sheet_id(office), "dimension": "ROWS", "startIndex": at, "endIndex": at + count}
    return {"insertDimension": {"range": area}}


def sort_by(office, column, order="ASCENDING"):
    """People sort the tab."""
    area = {"sheetId": sheet_id(office), "startRowIndex": 1}
    return {"sortRange": {"range": area, "sortSpecs": [{"dimensionIndex": column, "sortOrder": order}]}}


def own_line(office, row, **cells):
    """People write a line of their own."""
    values = [{"userEnteredValue": {"stringValue": cells[c]}} if c in cells else {} for c in "ABCDEFGHIJK"]
    start = {"sheetId": sheet_id(office), "rowIndex": row - 1, "columnIndex": 0}
    return {"updateCells": {"start": start, "rows": [{"values": values}], "fields": "userEnteredValue"}}


def test_marks_are_written_once_and_cleared_again(office):
    """Notes, rule and time appear on their own line in one write, a second look writes nothing, and they can go."""
    first, second = office.ids_open[:2]
    say(office, {first: Marks("unknown Target_Sheet 'X'"), second: Marks(rule_id=RULE, processed_at=AT)})
    writes = office.standin.writes()
    office.post()
    assert office.standin.writes() == writes + 1
    assert by_hash(office)[first][7] == "Kylo: unknown Target_Sheet 'X'"
    assert by_hash(office)[second][9:] == [RULE, AT]
    office.post()
    assert office.standin.writes() == writes + 1
    say(office, {})
    office.post()
    assert {tuple(line[7:8] + line[9:]) for line in by_hash(office).values()} == {("", "", "")}


def test_a_resolved_row_is_marked_and_an_undone_one_unmarked(office):
    """A promotion resolves: the line says when. An undo opens it again: the line says nothing. No line moves."""
    order = office.standin.hashes(TITLE)
    office.resolve(office.ids_open[:2])
    office.post()
    assert by_hash(office)[office.ids_open[0]][10].startswith("20")
    office.reopen(office.ids_open[:2])
    office.post()
    assert by_hash(office)[office.ids_open[0]][10] == ""
    assert office.standin.hashes(TITLE) == order


def test_a_person_s_text_in_a_system_column_stays(office):
    """Where somebody typed into Match_Notes the system does not write over it, whatever it has to say."""
    row = office.standin.hashes(TITLE).index(office.ids_open[0]) + 2
    office.standin.type_in(TITLE, row, "H", "ask Anna")
    say(office, {office.ids_open[0]: Marks("unknown Target_Sheet", RULE)})
    writes = office.standin.writes()
    office.post()
    assert office.standin.writes() == writes + 1
    line = by_hash(office)[office.ids_open[0]]
    assert (line[7], line[9]) == ("ask Anna", RULE)
    say(office, {})
    office.post()
    assert by_hash(office)[office.ids_open[0]][7] == "ask Anna"


@pytest.mark.parametrize("what", ["insert", "sort", "delete"])
def test_marks_end_on_their_own_line_whatever_people_do_meanwhile(office, meanwhile, what):
    """People move rows between the look and the write: texts that landed on other lines are put right at once."""
    office.standin.people(own_line(office, 8, C="zz my own line", H="my own note", F="mine"))
    ids = office.standin.hashes(TITLE)
    area = {"sheetId": sheet_id(office), "dimension": "ROWS", "startIndex": 1, "endIndex": 2}
    does = {
        "insert": insert_rows(office, 1),
        "sort": sort_by(office, 0, "DESCENDING"),
        "delete": {"deleteDimension": {"range": area}},
    }
    meanwhile(does[what])
    say(office, {ids[1]: Marks("note of the second", RULE, AT), ids[5]: Marks("note of the sixth")})
    office.post()
    lines = by_hash(office)
    assert lines[ids[1]][7:] == ["Kylo: note of the second", False, RULE, AT]
    assert lines[ids[5]][7] == "Kylo: note of the sixth"
    assert [line[0] for line in lines.values() if line[7]] == [one for one in lines if one in {ids[1], ids[5]}]
    own = [line for line in office.standin.lines(TITLE) if line[2] == "zz my own line"]
    assert [(line[5], line[7], line[9]) for line in own] == [("mine", "my own note", "")]
    assert set(lines) == set(ids)


def test_rows_people_insert_sort_and_delete_cost_nothing_of_theirs(office):
    """Sorted, with rows between and below: new rows go below everything, and people's cells are as they were."""
    row = office.standin.hashes(TITLE).index(office.ids_open[3]) + 2
    for column, text in (("F", "PETTY CASH"), ("G", "00123"), ("I", "TRUE")):
        office.standin.type_in(TITLE, row, column, text)
    office.standin.people(insert_rows(office, 3, 2), sort_by(office, 1), own_line(office, 20, C="below"))
    more = office.leave_open(2)
    office.post()
    line = by_hash(office)[office.ids_open[3]]
    assert (line[5], line[6], line[8]) == ("PETTY CASH", 123, True)
    values = office.standin.tab(TITLE)["values"]
    assert values[19][2] == "below"
    assert [line[0] for line in values[20:]] == more


def test_approvals_are_read_back_as_people_left_them(office, control_db):
    """Each line of ours comes with what people typed, whatever its place; their own lines are not ours to judge."""
    seen = []

    def take(company_id, lines):
        seen.append((company_id, {line.row_hash: line for line in lines}))
        return {line.row_hash: Marks("no") for line in lines if line.approved is True}

    job = ReadApprovals(
        control=control_db,
        looker=office.posting.looker,
        take=take,
        companies=lambda: [office.must("710")],
    )
    row = office.standin.hashes(TITLE).index(office.ids_open[2]) + 2
    for column, text in (("F", "PETTY CASH"), ("G", "Food"), ("I", "TRUE")):
        office.standin.type_in(TITLE, row, column, text)
    office.standin.people(own_line(office, 30, A="not-a-hash", I="TRUE"))
    assert job.run_once() == {"710": 1}
    company, lines = seen[0]
    assert company == "710"
    assert set(lines) == set(office.ids_open)
    found = lines[office.ids_open[2]]
    assert (found.approved, found.target_sheet, found.target_header, found.row) == (True, "PETTY CASH", "Food", row)
    assert [line.approved for line in lines.values()].count(False) == 5
    events = office.rows("select topic, key from outbox")
    assert events == [("tabs.changed", "710")]
    assert job.run_once() == {"710": 0}
    assert office.rows("select count(*) from outbox") == [(1,)]
    office.post()
    assert by_hash(office)[office.ids_open[2]][7] == "Kylo: no"


def test_one_changed_row_of_twenty_thousand_costs_one_write(office, monkeypatch):
    """A tab of 20,000 rows: marking one of them is one small batch, and the rest is not sent again."""
    ids = office.leave_open(20_000 - 6)
    office.post()
    assert len(set(office.standin.hashes(TITLE))) == 20_000
    sizes = []
    send = office.gateway.batch_update

    def watch(spreadsheet_id, requests):
        sizes.append(len(str(requests)))
        return send(spreadsheet_id, requests)

    monkeypatch.setattr(office.gateway, "batch_update", watch)
    say(office, {ids[12_345]: Marks("look at this")})
    office.post()
    assert len(sizes) == 1
    assert sizes[0] < 2_000
    assert by_hash(office)[ids[12_345]][7] == "Kylo: look at this"


def test_the_first_four_thousand_rows_and_a_hundred_a_day(office):
    """The former system was to take 10 and 2 minutes: here they are two writes and one."""
    for rows, writes, seconds in ((4_000, 2, 600.0), (100, 1, 120.0)):
        office.leave_open(rows, description="POS PURCHASE SHOP")
        before, started = office.standin.writes(), time.monotonic()
        office.post()
        took = time.monotonic() - started
        print(f"{rows} rows: {took:.1f} s")
        assert office.standin.writes() - before <= writes
        assert took < seconds
    assert len(set(office.standin.hashes(TITLE))) == 4_106


def test_texts_arrive_as_they_were(office):
    """What looks like a formula, a date or a number stands in the tab as the text that it is."""
    texts = ["=IMPORTXML(A1)", "1-2", "1E5", "00123", "+1", "@x", "'q"]
    for text in texts:
        office.leave_open(1, description=text)
    office.post()
    assert [line[2] for line in office.standin.lines(TITLE)][-len(texts) :] == texts
    assert "formulaValue" not in str(office.standin.ask("v4/spreadsheets/book?includeGridData=true"))


def test_a_text_over_googles_limit_is_cut_and_says_so(office):
    """50,000 characters and no more reach the tab; Match_Notes says where the whole text is, and stays there."""
    (long,) = office.leave_open(1, description="x" * 60_000)
    office.post()
    office.post()
    line = by_hash(office)[long]
    assert len(line[2]) == 50_000
    assert "cut at 50,000 characters" in line[7]
