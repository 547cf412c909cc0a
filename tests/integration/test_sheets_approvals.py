"""Approvals from the tab to a rule and back to the tab, as wired: what people tick, fill in, and move meanwhile."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing

import pytest

from kylo_outbox.model.normalise import normalise
from kylo_outbox.model.rules import Rule
from kylo_outbox.model.transactions import txn_uid
from kylo_outbox.settings import load
from kylo_outbox.sheets.standin import background
from kylo_outbox.wiring import parts, sheets
from tests.helpers import tabs
from tests.helpers.rules import ingest, promote, rows, staged, undo

TITLE = "710 Pending"
TEXTS = ("STARBUCKS", "Starbucks!", "Walmart", "Shell", "Corner shop")
UIDS = [str(txn_uid("710", f"t{n}")) for n in range(len(TEXTS))]
COFFEE = str(Rule("starbucks", "PETTY CASH", "Coffee").rule_id)


class Bookkeeper:
    """Company 710 with its tab, the wired reader of approvals, and somebody who types."""

    def __init__(self, office: tabs.Office) -> None:
        self.office = office
        settings = {"PG_DSN_RW": office.database.dsn, "KYLO_SHEETS_ENDPOINT": office.standin.url}
        self.parts = parts.build(load({**settings, "KYLO_SHEETS_POST": "1"}))
        self.reader = sheets.read_approvals(self.parts)
        ingest(office.database, [staged("710", f"t{n}", text) for n, text in enumerate(TEXTS)])
        office.post()

    def round(self) -> None:
        """The schedule reads, the poster writes."""
        self.reader.run_once()
        self.office.post()

    def lines(self) -> dict[str, list]:
        """Our lines by Row_Hash."""
        found = self.office.standin.lines(TITLE)
        hashes = [line[0] for line in found if line[0]]
        assert len(set(hashes)) == len(hashes), "a line stands twice"
        return {line[0]: line for line in found if line[0]}

    def row(self, uid: str) -> int:
        """Where a line is now, as people count."""
        tab = self.office.standin.tab(TITLE)["values"]
        return next(number for number, line in enumerate(tab, start=1) if line and line[0] == uid)

    def fill(self, uid: str, sheet: str = "PETTY CASH", header: str = "Coffee", approved: str = "TRUE") -> None:
        """Type the three cells that belong to people."""
        for column, text in (("F", sheet), ("G", header), ("I", approved)):
            self.office.standin.type_in(TITLE, self.row(uid), column, text)

    def people(self, *requests) -> None:
        """Do something to the tab."""
        self.office.standin.people(*requests)

    def area(self, **bounds) -> dict:
        """A range of the tab."""
        return {"sheetId": self.office.standin.tab(TITLE)["sheetId"], **bounds}

    def put(self, uid: str, column: int, value: dict) -> None:
        """Paste a value, past the rules of the page."""
        start = {"sheetId": self.area()["sheetId"], "rowIndex": self.row(uid) - 1, "columnIndex": column}
        cells = [{"values": [{"userEnteredValue": value}]}]
        self.people({"updateCells": {"start": start, "rows": cells, "fields": "userEnteredValue"}})

    def states(self) -> Counter:
        """How many proposals are in which state."""
        return Counter(row[0] for row in rows(self.office.database, "select state from kylo.rules_proposals"))

    def approved(self) -> set[tuple[str, str]]:
        """(source, header) of what a promotion would take."""
        ask = "select source_norm, target_header from kylo.rules_proposals where state = 'approved'"
        return set(rows(self.office.database, ask))


@pytest.fixture
def keeper(control_db, tmp_path):
    """Five open lines in the tab, nothing ticked."""
    with background.running(tmp_path) as url:
        for office in tabs.office(control_db, url):
            made = Bookkeeper(office)
            with closing(made.parts):
                yield made


def sort_by(keeper, column, order="ASCENDING"):
    """People sort the tab."""
    spec = {"dimensionIndex": column, "sortOrder": order}
    return {"sortRange": {"range": keeper.area(startRowIndex=1), "sortSpecs": [spec]}}


def rows_of(keeper, kind, start, end):
    """People insert or delete rows."""
    return {kind: {"range": keeper.area(dimension="ROWS", startIndex=start, endIndex=end)}}


def test_a_tick_is_promoted_and_marked_and_a_second_round_writes_nothing(keeper):
    """Every line that the rule resolves gets Rule_ID and Processed_At; what was typed stays; again: no write."""
    keeper.fill(UIDS[0])
    for _ in range(2):
        keeper.round()
    assert keeper.approved() == {("starbucks", "Coffee")}
    assert promote(keeper.office.database, "710").resolved == 2
    keeper.round()
    lines = keeper.lines()
    assert [lines[uid][9] for uid in UIDS] == [COFFEE, COFFEE, "", "", ""]
    assert [bool(lines[uid][10]) for uid in UIDS] == [True, True, False, False, False]
    assert lines[UIDS[0]][5:9] == ["PETTY CASH", "Coffee", "", True]
    assert lines[UIDS[1]][5:9] == ["", "", "", False]
    writes = keeper.office.standin.writes()
    events = rows(keeper.office.database, "select count(*) from outbox")
    for _ in range(2):
        keeper.round()
    assert promote(keeper.office.database, "710").resolved == 0
    keeper.round()
    assert keeper.office.standin.writes() == writes
    assert rows(keeper.office.database, "select count(*) from outbox") == events
    assert keeper.lines() == lines


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"stringValue": "yes"}, "'yes'"),
        ({"stringValue": "true"}, "'true'"),
        ({"numberValue": 1}, "'1'"),
    ],
)
def test_only_true_and_false_count(keeper, value, shown):
    """What was pasted past the tick box gets its reason and approves nothing; with a real tick the reason goes."""
    keeper.fill(UIDS[2], approved="FALSE")
    keeper.put(UIDS[2], 8, value)
    keeper.round()
    assert keeper.lines()[UIDS[2]][7] == f"Not taken: Approved must be TRUE or FALSE, not {shown}"
    assert keeper.approved() == set()
    keeper.fill(UIDS[2])
    keeper.round()
    assert keeper.lines()[UIDS[2]][7] == ""
    assert keeper.approved() == {("walmart", "Coffee")}


def test_an_unknown_target_is_told_until_it_is_mended(keeper):
    """The reason names what is known; the approval is taken once the target is one of them; others are not held up."""
    with keeper.office.database.transaction() as tx:
        tx.execute("insert into control.rule_targets (company_id, target_sheet) values ('710', 'PETTY CASH')")
    keeper.fill(UIDS[2], sheet="PETY CASH")
    keeper.fill(UIDS[3])
    keeper.round()
    assert keeper.lines()[UIDS[2]][7] == "Not taken: unknown Target_Sheet 'PETY CASH'; known: 'PETTY CASH'"
    assert keeper.approved() == {("shell", "Coffee")}
    keeper.fill(UIDS[2])
    keeper.round()
    assert keeper.lines()[UIDS[2]][7] == ""
    assert keeper.approved() == {("shell", "Coffee"), ("walmart", "Coffee")}


def test_two_opinions_on_one_source_take_neither(keeper):
    """Both lines are told, also when people have sorted meanwhile; one of them gives in and the other is taken."""
    keeper.fill(UIDS[0])
    keeper.fill(UIDS[1], header="Food")
    told = f"Not taken: rows {keeper.row(UIDS[0])}, {keeper.row(UIDS[1])} approve different targets for one source"
    keeper.reader.run_once()
    keeper.people(sort_by(keeper, 2, "DESCENDING"))
    keeper.office.post()
    lines = keeper.lines()
    assert [uid for uid in UIDS if lines[uid][7]] == UIDS[:2]
    assert {lines[uid][7] for uid in UIDS[:2]} == {told}
    assert keeper.approved() == set()
    assert promote(keeper.office.database, "710").resolved == 0
    keeper.fill(UIDS[0], approved="FALSE")
    keeper.round()
    assert keeper.approved() == {("starbucks", "Food")}
    assert {line[7] for line in keeper.lines().values()} == {""}


def test_a_note_of_somebody_s_own_stays_beside_a_fault(keeper):
    """Match_Notes that people filled in is theirs, whatever the system has to say about the line."""
    keeper.office.standin.type_in(TITLE, keeper.row(UIDS[2]), "H", "ask Ann")
    keeper.fill(UIDS[2], sheet="")
    keeper.round()
    assert keeper.lines()[UIDS[2]][7] == "ask Ann"
    assert keeper.approved() == set()


def test_an_undone_rule_unmarks_its_lines_and_waits_for_a_new_tick(keeper):
    """Rule_ID and Processed_At go, the line says what to do, and a tick made anew approves again."""
    keeper.fill(UIDS[0])
    keeper.round()
    promote(keeper.office.database, "710")
    keeper.round()
    assert undo(keeper.office.database, "710").reopened == 2
    keeper.round()
    lines = keeper.lines()
    assert [lines[uid][9:] for uid in UIDS[:2]] == [["", ""], ["", ""]]
    assert "was undone; untick Approved and tick it again" in lines[UIDS[0]][7]
    assert promote(keeper.office.database, "710").resolved == 0
    keeper.fill(UIDS[0], approved="FALSE")
    keeper.round()
    keeper.fill(UIDS[0])
    keeper.round()
    assert promote(keeper.office.database, "710").resolved == 2


def test_a_deleted_line_comes_back_unticked_and_approves_nothing(keeper):
    """The transaction is still open: its line is posted again, and with the tick the approval is gone."""
    keeper.fill(UIDS[2])
    keeper.round()
    at = keeper.row(UIDS[2])
    keeper.people(rows_of(keeper, "deleteDimension", at - 1, at))
    keeper.round()
    assert keeper.lines()[UIDS[2]][5:9] == ["", "", "", False]
    keeper.round()
    assert keeper.approved() == set()
    assert keeper.states() == {"withdrawn": 1}


def test_a_line_that_people_copied_approves_once(keeper):
    """The copy is told nothing while it agrees or is not ticked; with another target both are told."""
    keeper.fill(UIDS[2])
    at = keeper.row(UIDS[2])
    copied = [{"stringValue": str(text)} for text in keeper.lines()[UIDS[2]][:8]] + [{"boolValue": True}]
    start = {"sheetId": keeper.area()["sheetId"], "rowIndex": 19, "columnIndex": 0}
    cells = [{"values": [{"userEnteredValue": value} for value in copied]}]
    keeper.people({"updateCells": {"start": start, "rows": cells, "fields": "userEnteredValue"}})
    keeper.reader.run_once()
    assert keeper.approved() == {("walmart", "Coffee")}
    keeper.office.standin.type_in(TITLE, 20, "G", "Food")
    keeper.round()
    told = [line[7] for line in keeper.office.standin.lines(TITLE) if line[0] == UIDS[2]]
    assert told == [f"Not taken: rows {at}, 20 approve different targets for one source"] * 2
    assert keeper.approved() == set()


@pytest.mark.parametrize("what", ["insert", "sort", "delete"])
@pytest.mark.parametrize("when", ["before the post", "between look and write"])
def test_what_is_said_ends_on_its_own_line_whatever_people_move(keeper, monkeypatch, what, when):
    """Reasons and marks stand beside their Row_Hash, what people typed beside theirs, and approvals are as ticked."""
    keeper.fill(UIDS[0])
    keeper.fill(UIDS[2], sheet="")
    keeper.round()
    keeper.fill(UIDS[3], header="")
    own = [
        {"userEnteredValue": {"stringValue": text}} for text in ("", "", "zz own line", "", "", "own", "", "own note")
    ]
    keeper.people({"appendCells": {**keeper.area(), "rows": [{"values": own}], "fields": "userEnteredValue"}})
    last = keeper.row(UIDS[4])
    does = {
        "insert": rows_of(keeper, "insertDimension", 1, 3),
        "sort": sort_by(keeper, 2, "DESCENDING"),
        "delete": rows_of(keeper, "deleteDimension", last - 1, last),
    }[what]
    promote(keeper.office.database, "710")
    keeper.reader.run_once()
    if when == "before the post":
        keeper.people(does)
    else:
        _once_before_a_write(keeper, monkeypatch, does)
    keeper.office.post()
    keeper.round()
    lines = keeper.lines()
    assert set(lines) == set(UIDS)
    assert [lines[uid][9] for uid in UIDS] == [COFFEE, COFFEE, "", "", ""]
    assert lines[UIDS[2]][7] == "Not taken: Target_Sheet must be filled in"
    assert lines[UIDS[3]][7] == "Not taken: Target_Header must be filled in"
    assert [lines[uid][7] for uid in (UIDS[0], UIDS[1], UIDS[4])] == ["", "", ""]
    assert lines[UIDS[0]][5:7] == ["PETTY CASH", "Coffee"]
    assert (lines[UIDS[2]][6], lines[UIDS[3]][5]) == ("Coffee", "PETTY CASH")
    assert [lines[uid][8] for uid in UIDS] == [True, False, True, True, False]
    owns = [line for line in keeper.office.standin.lines(TITLE) if line[2] == "zz own line"]
    assert [(line[5], line[7], line[9], line[10]) for line in owns] == [("own", "own note", "", "")]


def _once_before_a_write(keeper, monkeypatch, does):
    send, todo = keeper.office.gateway.batch_update, [does]

    def people_first(spreadsheet_id, batch):
        if todo:
            keeper.people(todo.pop())
        return send(spreadsheet_id, batch)

    monkeypatch.setattr(keeper.office.gateway, "batch_update", people_first)


@pytest.mark.parametrize("seed", range(3))
def test_any_walk_ends_with_what_the_tab_says(keeper, seed):
    """People tick, fill, untick, sort, insert and delete between readings and promotions; in the end all agrees."""
    dice = random.Random(seed)
    for _ in range(25):
        _somebody(keeper, dice)
        act = dice.random()
        if act < 0.5:
            keeper.reader.run_once()
        elif act < 0.8:
            keeper.office.post()
        elif act < 0.9:
            promote(keeper.office.database, "710")
    for _ in range(2):
        keeper.round()
    states = dict(rows(keeper.office.database, "select txn_uid::text, status from kylo.pending_txns"))
    lines = keeper.lines()
    _check_open(keeper, [line for uid, line in lines.items() if states[uid] == "open"])
    resolved = [lines[uid] for uid, status in states.items() if status == "resolved" and uid in lines]
    assert [line for line in resolved if line[7] or not line[9] or not line[10]] == []
    writes = keeper.office.standin.writes()
    keeper.round()
    assert keeper.office.standin.writes() == writes


def _check_open(keeper, lines):
    """What is approved is what the lines say, and each line says what is wrong with it and no more."""
    wanted: dict[str, set] = {}
    ticked = [line for line in lines if line[8] is True]
    for line in ticked:
        if line[5] and line[6]:
            wanted.setdefault(normalise(line[2]), set()).add(line[6])
    assert keeper.approved() == {(source, *headers) for source, headers in wanted.items() if len(headers) == 1}
    for line in lines:
        empty = line in ticked and not (line[5] and line[6])
        conflict = line in ticked and not empty and len(wanted[normalise(line[2])]) > 1
        assert ("different targets" in line[7], "must be filled in" in line[7]) == (conflict, empty), line
        assert line[9:] == ["", ""], line


def _somebody(keeper, dice):
    """One act of people in the tab."""
    uid = dice.choice([line[0] for line in keeper.office.standin.lines(TITLE) if line[0]])
    at = keeper.row(uid)
    last = len(keeper.office.standin.tab(TITLE)["values"])
    acts = {
        "fill": lambda: keeper.fill(uid, header=dice.choice(["Coffee", "Coffee", "Food"])),
        "untick": lambda: keeper.office.standin.type_in(TITLE, at, "I", "FALSE"),
        "empty": lambda: keeper.office.standin.type_in(TITLE, at, dice.choice("FG"), ""),
        "sort": lambda: keeper.people(sort_by(keeper, dice.choice((0, 2, 5, 8)))),
        "insert": lambda: keeper.people(rows_of(keeper, "insertDimension", last - 1, last)),
        "delete": lambda: keeper.people(rows_of(keeper, "deleteDimension", at - 1, at)),
    }
    acts[dice.choices(list(acts), [5, 2, 2, 2, 1, 1])[0]]()
