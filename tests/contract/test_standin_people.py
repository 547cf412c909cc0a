"""The stand-in as a tool: people, protections, quota, sharing and copies, as far as Google's behaviour is known."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request

import pytest

from kylo_outbox.sheets import conformance, errors
from kylo_outbox.sheets.gateway import GoogleSheets
from kylo_outbox.sheets.standin.background import running
from kylo_outbox.sheets.standin.errors import ApiError
from kylo_outbox.sheets.standin.limits import Limits
from kylo_outbox.sheets.standin.typing_in import entered
from kylo_outbox.sheets.tab import GridArea
from tests.helpers.tabs import Standin

BOOK = "book"
PROTECT = {"addProtectedRange": {"protectedRange": {"range": {"sheetId": 0, "endColumnIndex": 1}, "description": "x"}}}


@pytest.fixture
def url(tmp_path):
    """A stand-in on a free port."""
    with running(tmp_path) as address:
        yield address


@pytest.fixture
def sheets(url):
    """The official client on it."""
    gateway = GoogleSheets(url, timeout=5.0)
    with contextlib.closing(gateway):
        gateway.tabs(BOOK)
        yield gateway


def code_of(standin, *asked):
    """HTTP status and message of a refusal."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        standin.ask(*asked)
    with refused.value as answer:
        return answer.code, json.load(answer)["error"]["message"]


def note(text):
    """A sub-request that appends one row."""
    row = {"values": [{"userEnteredValue": {"stringValue": text}}]}
    return {"appendCells": {"sheetId": 0, "rows": [row], "fields": "userEnteredValue"}}


def test_what_the_api_protects_keeps_the_person_out_and_not_the_api(url, sheets):
    """The person is told Google's words with 403; other columns and the API's own writes go on."""
    sheets.batch_update(BOOK, [PROTECT])
    standin = Standin(url)
    edit = {"sheetId": 0, "row": 0, "column": 0, "text": "mine"}
    code, message = code_of(standin, f"_standin/sheets/{BOOK}/cells", edit)
    assert (code, "protected cell" in message) == (403, True)
    standin.ask(f"_standin/sheets/{BOOK}/cells", {**edit, "column": 1})
    sheets.batch_update(BOOK, [note("ours")])
    assert sheets.tabs(BOOK)["Sheet1"].protections[0].can_edit


def test_what_the_owner_protects_keeps_the_api_out(url, sheets):
    """The API gets 403 with the position of the sub-request, nothing is applied, and it can see it beforehand."""
    Standin(url).people(PROTECT)
    with pytest.raises(errors.Rejected, match="protected cell") as refused:
        sheets.batch_update(BOOK, [{"addSheet": {"properties": {"title": "T"}}}, note("ours")])
    assert refused.value.index == 1
    assert list(sheets.tabs(BOOK)) == ["Sheet1"]
    assert not sheets.tabs(BOOK)["Sheet1"].protections[0].can_edit


def test_quota_windows_answer_as_google_does(url, sheets):
    """More writes than allowed in a minute get Google's 429 with the limit; reads are counted apart."""
    standin = Standin(url)
    standin.ask("_standin/quota", {"per_minute": 3}, "PUT")
    for number in range(3):
        sheets.batch_update(BOOK, [note(str(number))])
    with pytest.raises(errors.QuotaExceeded, match="Write requests per minute"):
        sheets.batch_update(BOOK, [note("x")])
    sheets.tabs(BOOK)
    assert standin.ask("_standin/requests")["busiest_minute"]["write"] == 3
    assert code_of(standin, "_standin/quota", {"per_minute": 0}, "PUT")[0] == 400


def test_a_quota_lasts_a_minute():
    """Calls leave the window after sixty seconds; a refused one is not counted."""
    now = [0.0]
    limits = Limits(2, clock=lambda: now[0])
    limits.admit(None, write=True)
    now[0] = 30.0
    limits.admit(None, write=True)
    for _ in range(5):
        with pytest.raises(ApiError):
            limits.admit(None, write=True)
    now[0] = 60.0
    limits.admit(None, write=True)
    with pytest.raises(ApiError):
        limits.admit(None, write=True)


def test_a_workbook_that_is_not_shared_is_403(url, sheets):
    """Sharing can be taken away and given back."""
    standin = Standin(url)
    standin.ask(f"_standin/sharing/{BOOK}", {"shared": False}, "PUT")
    with pytest.raises(errors.SheetUnavailable, match="Share it with"):
        sheets.tabs(BOOK)
    standin.ask(f"_standin/sharing/{BOOK}", {"shared": True}, "PUT")
    assert list(sheets.tabs(BOOK)) == ["Sheet1"]


def test_a_page_from_elsewhere_cannot_edit(url, sheets):
    """A body that is not declared as JSON, as a form of another site would send it, is refused."""
    sheets.batch_update(BOOK, [note("a")])
    body = json.dumps({"sheetId": 0, "row": 0, "column": 0, "text": "evil"}).encode()
    plain = urllib.request.Request(f"{url}_standin/sheets/{BOOK}/cells", body, {"content-type": "text/plain"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(plain)
    refused.value.close()
    assert sheets.column(BOOK, "Sheet1") == ["a"]


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("", {}),
        ("true", {"boolValue": True}),
        ("12.5", {"numberValue": 12.5}),
        ("'00123", {"stringValue": "00123"}),
        ("=1+1", {"formulaValue": "=1+1"}),
        ("PETTY CASH", {"stringValue": "PETTY CASH"}),
        ("1-2", {"stringValue": "1-2"}),
    ],
)
def test_what_a_person_types(typed, value):
    """Typed text becomes what people expect of a sheet."""
    assert entered(typed) == value


def test_a_copy_has_cells_protections_and_markers(url, sheets):
    """The copy has ids of its own for everything."""
    marker = {"metadataKey": "kylo.post", "metadataValue": "1.x", "visibility": "DOCUMENT", "location": {"sheetId": 0}}
    sheets.batch_update(BOOK, [note("a"), PROTECT, {"createDeveloperMetadata": {"developerMetadata": marker}}])
    sheets.batch_update(BOOK, [{"duplicateSheet": {"sourceSheetId": 0, "newSheetId": 9}}])
    copy = sheets.tabs(BOOK)["Copy of Sheet1"]
    assert sheets.find_markers(BOOK, ["1.x"]) == {"1.x": {0, 9}}
    assert [held.description for held in copy.protections] == ["x"]
    assert sheets.column(BOOK, "Copy of Sheet1") == ["a"]


def test_areas_are_read_by_the_id_of_the_tab(url, sheets):
    """Values come by id in the order asked, whatever the tabs are called; a tab that went asks to look again."""
    sheets.batch_update(BOOK, [note("a"), {"addSheet": {"properties": {"sheetId": 5, "title": "T"}}}])
    areas = [GridArea(5, 0, 1, 0, 1), GridArea(0, 0, 2, 0, 3), GridArea(0, 3, 3, 0, 1)]
    assert sheets.grids(BOOK, areas) == [[], [["a"]], []]
    with pytest.raises(errors.ReadFailed, match="changed meanwhile"):
        sheets.grids(BOOK, [GridArea(77, 0, 1, 0, 1)])


def test_conformance_cases_agree_with_themselves_and_show_a_difference(sheets):
    """Two runs against the stand-in are the same; one changed field is found by case and field."""
    first = conformance.run(sheets, "one")
    second = conformance.run(sheets, "two")
    assert list(conformance.differences(first, second)) == []
    assert len(first) == len(conformance.CASES)
    assert "non-frozen rows" in first["deleting all rows that are not frozen"]["refused 1"]
    assert first["a marker's id twice in two batches"]["values"] == [["a"]]
    second["sorting moves cells"]["grid"] = [1, 1, 1]
    (found,) = conformance.differences(first, second)
    assert (found.case, found.field, found.google) == ("sorting moves cells", "grid", [5, 4, 1])
