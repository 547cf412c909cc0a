"""What the planner asks of Google for every state that a tab can be in."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kylo_outbox.model.tabs import PENDING_COLUMNS, PendingRow
from kylo_outbox.sheets import cells, marking
from kylo_outbox.sheets.errors import TabProblem
from kylo_outbox.sheets.planner import plan_pending
from kylo_outbox.sheets.standin import schema
from kylo_outbox.sheets.tab import Marker, Protection, TabContents, TabInfo

if TYPE_CHECKING:
    from kylo_outbox.sheets.plan import PostPlan

TITLE = "710 Pending"
SHAPED = TabInfo(
    sheet_id=7,
    title=TITLE,
    index=0,
    row_count=100,
    column_count=11,
    frozen_rows=1,
    protections=(Protection(1, "", (0, 1), whole_height=True), Protection(2, "", (10, 11), whole_height=True)),
    markers=(),
)
EMPTY = TabContents(PENDING_COLUMNS, ())


def rows(*uids: str) -> list[PendingRow]:
    """Rows of company 710."""
    return [PendingRow(uid, "2025-01-31", f"text of {uid}", "710", 100) for uid in uids]


def plan(wanted: list[PendingRow], tab: TabInfo | None = SHAPED, contents: TabContents | None = EMPTY) -> PostPlan:
    """Plan, and judge the body by the discovery document."""
    found = plan_pending(company_id="710", title=TITLE, ordinal=5, tab=tab, contents=contents, wanted=wanted)
    assert found is not None
    schema.check("BatchUpdateSpreadsheetRequest", {"requests": list(found.requests)})
    return found


def kinds(found: PostPlan) -> list[str]:
    """Kinds of the sub-requests in order."""
    return [next(iter(request)) for request in found.requests]


def body(found: PostPlan, kind: str) -> dict[str, Any]:
    """First sub-request of a kind."""
    held: dict[str, Any] = next(request[kind] for request in found.requests if kind in request)
    return held


def test_a_missing_tab_is_made_shaped_filled_and_marked_in_one_batch():
    """Without a tab the batch adds it, gives it its header and protections, the rows and the marker."""
    found = plan(rows("a", "b"), tab=None, contents=None)
    assert kinds(found) == [
        "addSheet",
        "updateCells",
        "addProtectedRange",
        "addProtectedRange",
        "appendCells",
        "createDeveloperMetadata",
    ]
    made = body(found, "addSheet")["properties"]
    assert made["title"] == TITLE
    assert made["gridProperties"]["frozenRowCount"] == 1
    assert made["sheetId"] == found.sheet_id == body(found, "appendCells")["sheetId"]
    assert found.hashes == ("a", "b")


def test_a_shaped_tab_gets_rows_and_marker_only():
    """A tab that has its shape is not formatted again."""
    assert kinds(plan(rows("a"))) == ["appendCells", "createDeveloperMetadata"]


def test_nothing_missing_is_no_post():
    """When every hash stands in column A there is no plan, wherever it stands and whatever the shape."""
    held = TabContents(PENDING_COLUMNS, ("", "b", "x", "a"))
    bare = replace(SHAPED, frozen_rows=0, protections=())
    for tab in (SHAPED, bare):
        found = plan_pending(
            company_id="710", title=TITLE, ordinal=5, tab=tab, contents=held, wanted=rows("a", "b", "a")
        )
        assert found is None


def test_only_missing_rows_once_each_and_in_order():
    """Rows that are there stay untouched; a row wanted twice is written once."""
    found = plan(rows("c", "a", "b", "c"), contents=TabContents(PENDING_COLUMNS, ("a",)))
    assert found.hashes == ("c", "b")


@pytest.mark.parametrize(
    ("change", "added"),
    [
        ({"frozen_rows": 0}, ["updateSheetProperties"]),
        ({"protections": SHAPED.protections[:1]}, ["addProtectedRange"]),
        ({"protections": (Protection(9, "whole tab", None, whole_height=True),)}, []),
        ({"protections": (Protection(9, "part", (0, 11), whole_height=False),)}, ["addProtectedRange"] * 2),
    ],
)
def test_only_the_missing_part_of_the_shape_is_written(change, added):
    """Each part of the shape is judged by what the tab has."""
    assert kinds(plan(rows("a"), tab=replace(SHAPED, **change)))[:-2] == added


def test_an_empty_first_row_gets_the_header_and_a_narrow_tab_its_columns():
    """A blank tab of three columns grows to eleven before the header is written."""
    found = plan(rows("a"), tab=replace(SHAPED, column_count=3), contents=TabContents((), ()))
    assert kinds(found)[:2] == ["appendDimension", "updateCells"]
    assert body(found, "appendDimension")["length"] == 8


@pytest.mark.parametrize("header", [PENDING_COLUMNS[1:], ("Mine", *PENDING_COLUMNS[1:]), PENDING_COLUMNS[:9]])
def test_moved_or_renamed_columns_are_never_written_into(header):
    """Another first row sets the company aside with the cell and the remedy in plain words."""
    with pytest.raises(TabProblem, match=r"cell [A-K]1 holds .*Put the columns back"):
        plan(rows("a"), contents=TabContents(header, ()))


def test_own_columns_to_the_right_are_welcome():
    """People may add columns behind ours."""
    assert plan(rows("a"), contents=TabContents((*PENDING_COLUMNS, "my note"), ())).hashes == ("a",)


def test_texts_are_texts_and_never_formulas():
    """What looks like a formula, a date or a number goes out as a stringValue."""
    texts = ["=IMPORTXML(A1)", "1-2", "1E5", "00123", "+1", "'x", "TRUE"]
    wanted = [replace(rows(str(i))[0], source=text) for i, text in enumerate(texts)]
    sent = [line["values"][2]["userEnteredValue"] for line in body(plan(wanted), "appendCells")["rows"]]
    assert sent == [{"stringValue": text} for text in texts]
    assert "formulaValue" not in json.dumps(plan(wanted).requests)


def test_approved_is_a_strict_box_on_its_own_row_only():
    """The TRUE/FALSE rule rides with the row, so that no empty row ever looks used."""
    line = body(plan(rows("a")), "appendCells")["rows"][0]["values"]
    assert line[8] == {
        "userEnteredValue": {"boolValue": False},
        "dataValidation": {"condition": {"type": "BOOLEAN"}, "strict": True},
    }
    assert [cell for cell in line if "dataValidation" in cell] == [line[8]]
    assert line[4] == {"userEnteredValue": {"numberValue": 1.0}}


def test_a_large_difference_is_cut_under_the_size_google_advises():
    """A body stays under 2 MB however long the texts are, and the plan says how many rows remain."""
    wanted = [replace(row, source="é" * 900) for row in rows(*map(str, range(1_000)))]
    found = plan(wanted)
    assert len(json.dumps({"requests": found.requests})) < 2_000_000
    assert found.remaining == 1_000 - len(found.hashes) > 0


def test_four_thousand_ordinary_rows_go_in_one_post():
    """The first load of a company is one call for up to 4,000 rows of ordinary length."""
    wanted = [PendingRow(f"{i:036d}", "2025-01-31", "POS PURCHASE", "710", -i) for i in range(4_500)]
    found = plan_pending(company_id="710", title=TITLE, ordinal=1, tab=SHAPED, contents=EMPTY, wanted=wanted)
    assert found is not None
    assert len(json.dumps({"requests": found.requests})) < 2_000_000
    assert len(found.hashes) > 3_900
    assert len(found.hashes) + found.remaining == 4_500


def test_one_giant_row_still_goes():
    """A row larger than the room for a body is sent alone instead of never."""
    assert len(plan([replace(rows("a")[0], source="é" * 49_000)]).hashes) == 1


def test_the_same_rows_under_another_ordinal_are_another_post():
    """A, B, A: the third post has its own marker and its own id, so the first answers for none but itself."""
    first = plan(rows("a"))
    again = plan_pending(company_id="710", title=TITLE, ordinal=6, tab=SHAPED, contents=EMPTY, wanted=rows("a"))
    assert again is not None
    assert again.marker != first.marker
    ids = {body(p, "createDeveloperMetadata")["developerMetadata"]["metadataId"] for p in (first, again)}
    assert len(ids) == 2


def test_old_markers_beyond_the_kept_ones_are_removed_by_id():
    """Markers stay bounded: the oldest of ours go, by ordinal, and foreign ones stay."""
    old = (*(Marker(100 + i, f"{i}.sig") for i in (3, 1, 2, 10)), Marker(999, "foreign"))
    many = (*old, *(Marker(200 + i, f"{i}.sig") for i in range(11, 11 + marking.KEPT_MARKERS - 3)))
    found = plan(rows("a"), tab=replace(SHAPED, markers=many))
    gone = [
        request["deleteDeveloperMetadata"]["dataFilter"]["developerMetadataLookup"]["metadataId"]
        for request in found.requests
        if "deleteDeveloperMetadata" in request
    ]
    assert gone == [102, 101]
    assert len(many) - 1 - len(gone) + 1 == marking.KEPT_MARKERS


def test_a_tab_needs_its_contents():
    """Planning over a tab that was not read would write rows twice: refused."""
    with pytest.raises(ValueError, match="contents of the tab"):
        plan(rows("a"), contents=None)


def test_cells_become_typed_values():
    """Each kind of cell has its own typed value; empty cells are empty."""
    assert cells.row_data((None, "", "x", True, 2.5))["values"] == [
        {},
        {},
        {"userEnteredValue": {"stringValue": "x"}},
        {"userEnteredValue": {"boolValue": True}},
        {"userEnteredValue": {"numberValue": 2.5}},
    ]
