"""The old Kylo's known faults as far as records and tabs go; numbers as in `test_old_faults.py`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kylo_outbox.sheets.errors import WriteUnknown
from kylo_outbox.sheets.standin import background
from kylo_outbox.store import fixtures
from tests.helpers import tabs
from tests.helpers.projectors import TABLE, applied, ask, delivery, on

PENDING, ACTIVE = "710 Pending", "710 Active"
ROOT = Path(fixtures.__file__).parents[2]


@pytest.fixture
def office(control_db, tmp_path):
    """Company 710 with a tab."""
    with background.running(tmp_path) as url:
        yield from tabs.office(control_db, url)


def test_fault_1_one_bad_record_loses_the_rest_of_its_batch(control_db):
    """What stands before and behind it is applied, what is bad is a dead letter; the batch again adds nothing."""
    with control_db.transaction() as tx:
        tx.execute(TABLE)
    projection = on(control_db)
    batch = [delivery(n, f"k{n}", b'{"poison": true}' if n == 3 else b"{}") for n in range(1, 6)]
    for _ in range(2):
        projection.handle(batch)
    assert sorted(number for _, number in applied(control_db)) == [1, 2, 4, 5]
    assert ask(control_db, "select outbox_id, payload from kylo.dead_letters") == [(3, b'{"poison": true}')]


def test_fault_2_a_crash_between_post_and_record_posts_twice(office):
    """The answer is lost after Google applied the batch, and the poster dies: the next one finds its marker."""
    ids = office.leave_open(3)
    office.standin.fail("close", "after")
    with pytest.raises(WriteUnknown):
        office.post()
    assert office.rows("select state from control.sheet_posts where ruleset_version is null") == [("unknown",)]
    for _ in range(2):
        office.post()
    assert office.standin.hashes(PENDING) == ids
    assert office.rows("select state, row_count from control.sheet_posts") == [("posted", 3)]


def test_fault_3_rules_a_b_a_leave_the_tab_at_b(office):
    """Each of the three sets of rules is posted, and the tab shows the last one."""
    for version, sources in enumerate((("A",), ("B",), ("A",)), start=1):
        office.rules(version, *sources)
        for _ in range(2):
            office.post()
        assert [line[3] for line in office.standin.lines(ACTIVE) if line[0] != ""] == list(sources)
    assert office.rows("select ruleset_version from control.sheet_posts order by id") == [(1,), (2,), (3,)]


def test_fault_4_rewriting_by_deleting_every_row_is_refused(office):
    """Google refuses that, so fewer rules are written over the former ones without deleting a row."""
    sent: list[str] = []
    send = office.gateway.batch_update

    def watched(spreadsheet_id, requests):
        sent.extend(name for request in requests for name in request)
        return send(spreadsheet_id, requests)

    office.gateway.batch_update = watched
    office.rules(1, "A", "B", "C")
    office.post()
    office.rules(2, "D")
    office.post()
    assert [line[3] for line in office.standin.lines(ACTIVE) if line[0] != ""] == ["D"]
    assert "deleteDimension" not in sent
    assert office.aside() == {}


def test_fault_11_processes_are_ended_by_their_names():
    """Nothing of ours, and no guide, ends whatever happens to be called the same."""
    by_name = re.compile(r"\b(pkill|killall|taskkill\s+/im|Stop-Process\s+-Name)|Get-Process\s+\w+\s*\|", re.IGNORECASE)
    read = [
        path
        for place in ("kylo_outbox", "scripts", "docs", "deploy")
        for path in (ROOT / place).rglob("*")
        if path.suffix in {".py", ".md", ".sh", ".ps1", ".yml", ".service"}
    ]
    assert len(read) > 100
    assert [path.name for path in read if by_name.search(path.read_text(encoding="utf-8"))] == []
